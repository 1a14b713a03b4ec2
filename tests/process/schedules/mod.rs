//! Random schedules of what peers and handlers may do to each other, against what must hold under all of them: no
//! client gets another's bytes, nothing is lost without a reason, each session's `on_close` is called once, no key is
//! used twice, no descriptor is left.
//!
//! The only test of its process: it counts the process's descriptors.

mod world;

use std::{
    fs,
    net::Shutdown,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use crate::support::turns::{PATIENCE, settle};
use ipc_reactor::{Builder, Limits, Listener, Reactor, Turn};
use proptest::prelude::*;
use world::World;

use crate::support::isolated::{Case, cases};

pub(crate) const CASES: &[Case] = cases![nothing_is_misdelivered_lost_or_left_behind];

/// What a request asks its handler to do. A number names another client, past ones included.
#[derive(Debug, Clone, Copy)]
enum Do {
    Reply,
    ReplyLarge,
    /// The request is the reply, which then need not be copied.
    Echo,
    EchoInPieces,
    EchoAndReply,
    ReplyAndEcho,
    EchoAndSendToSelf,
    EchoAndFinish,
    EchoAndPanic,
    ReplyWithDescriptor,
    /// Messages per visit, and the high-water mark.
    Limits(usize, usize),
    Send(u8),
    Close(u8),
    Abort(u8),
    Finish,
    FinishTwice,
    AbortSelf,
    Adopt,
    Broadcast,
    TellAll,
    Panic,
    Fail,
    Timer(Then),
}

/// What a session's timer does.
#[derive(Debug, Clone, Copy)]
enum Then {
    Reply,
    Finish,
    Abort,
    Panic,
}

/// One step of a schedule. Numbers choose among the peers that there are.
#[derive(Debug, Clone)]
enum Step {
    /// A new client, with its first requests in the socket before it is accepted.
    Connect(Vec<Do>),
    Request(u8, Vec<Do>),
    /// A request in two pieces, the reactor turned between them.
    InPieces(u8, Do),
    Read(u8),
    HalfClose(u8),
    Leave(u8),
    Turn,
}

fn action() -> impl Strategy<Value = Do> {
    let then = prop_oneof![Just(Then::Reply), Just(Then::Finish), Just(Then::Abort), Just(Then::Panic)];
    prop_oneof![
        6 => Just(Do::Reply),
        4 => Just(Do::ReplyLarge),
        8 => Just(Do::Echo),
        3 => Just(Do::EchoInPieces),
        2 => Just(Do::EchoAndReply),
        2 => Just(Do::ReplyAndEcho),
        2 => Just(Do::EchoAndSendToSelf),
        1 => Just(Do::EchoAndFinish),
        1 => Just(Do::EchoAndPanic),
        1 => Just(Do::ReplyWithDescriptor),
        1 => (0usize..5, 0usize..60).prop_map(|(messages, bytes)| Do::Limits(messages, bytes)),
        4 => any::<u8>().prop_map(Do::Send),
        3 => any::<u8>().prop_map(Do::Close),
        3 => any::<u8>().prop_map(Do::Abort),
        1 => Just(Do::Finish),
        1 => Just(Do::FinishTwice),
        1 => Just(Do::AbortSelf),
        3 => Just(Do::Adopt),
        2 => Just(Do::Broadcast),
        2 => Just(Do::TellAll),
        1 => Just(Do::Panic),
        1 => Just(Do::Fail),
        3 => then.prop_map(Do::Timer),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let actions = || prop::collection::vec(action(), 1..6);
    prop_oneof![
        4 => prop::collection::vec(action(), 0..4).prop_map(Step::Connect),
        8 => (any::<u8>(), actions()).prop_map(|(who, actions)| Step::Request(who, actions)),
        2 => (any::<u8>(), action()).prop_map(|(who, action)| Step::InPieces(who, action)),
        3 => any::<u8>().prop_map(Step::Read),
        1 => any::<u8>().prop_map(Step::HalfClose),
        1 => any::<u8>().prop_map(Step::Leave),
        5 => Just(Step::Turn),
    ]
}

fn run(steps: &[Step], builder: Builder<World>, mut world: World) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut reactor = builder.build().unwrap();
    reactor
        .listen(Listener::unix(&path).unwrap(), world.framing(), |_, world: &mut World| {
            let tag = world.connecting.pop_front().expect("accepted in the order of connecting");
            Ok(world.session(tag))
        })
        .unwrap();
    for step in steps {
        let of = |who: &u8, world: &World| usize::from(*who) % world.outer.len().max(1);
        match step {
            Step::Connect(actions) => {
                let stream = match UnixStream::connect(&path) {
                    Err(_) if world.draining => continue,
                    connected => connected.unwrap(),
                };
                let tag = world.connection(stream);
                world.connecting.push_back(tag);
                world.send(tag, actions);
            }
            Step::Turn => drop(reactor.turn(Some(Duration::ZERO), &mut world).unwrap()),
            _ if world.outer.is_empty() => {}
            Step::Request(who, actions) => {
                let tag = of(who, &world);
                world.send(tag, actions);
            }
            Step::InPieces(who, action) => {
                let tag = of(who, &world);
                let Some(request) = world.request(tag, *action) else { continue };
                if world.write(tag, &request[..request.len() / 2]) {
                    let _ = reactor.turn(Some(Duration::ZERO), &mut world).unwrap();
                    // Whatever has become of it meanwhile: to be whole, it needs the rest.
                    let mut whole = world.write(tag, &request[request.len() / 2..]);
                    while !whole && world.inner[tag].closed.is_empty() && !world.inner[tag].lossy {
                        world.read(tag);
                        if reactor.turn(Some(Duration::ZERO), &mut world).unwrap() == Turn::Stopped {
                            break;
                        }
                        whole = world.write(tag, &request[request.len() / 2..]);
                    }
                    world.outer[tag].requested += usize::from(whole);
                }
            }
            Step::Read(who) => world.read(of(who, &world)),
            Step::HalfClose(who) => {
                let tag = of(who, &world);
                if let Some(stream) = &world.outer[tag].stream {
                    let _ = stream.shutdown(Shutdown::Write);
                }
            }
            Step::Leave(who) => {
                let tag = of(who, &world);
                world.outer[tag].stream = None;
            }
        }
        assert!(world.faults.is_empty(), "{:#?}", world.faults);
    }
    come_to_rest(&mut reactor, &mut world);
    reckon(&reactor, &world);
    // Some have sessions that make new connections when they end.
    while reactor.stats().clients > 0 {
        world.outer.iter_mut().for_each(|outer| outer.stream = None);
        settle(&mut reactor, &mut world);
    }
    assert!(world.faults.is_empty(), "{:#?}", world.faults);
    for (tag, inner) in world.inner.iter().enumerate() {
        assert_eq!(inner.closed.len(), usize::from(world.was_accepted(tag)), "{tag}: {:?}", inner.closed);
    }
    assert_eq!(world.sessions.get(), 0, "sessions left");
    assert_eq!(reactor.stats().panics, world.panics);
    assert_eq!(reactor.stats().closed, (world.inner.len() - world.connecting.len()) as u64);
    assert_eq!(reactor.stats().requests, world.inner.iter().map(|inner| inner.handled as u64).sum::<u64>());
}

/// Turns, and has all peers read, until nothing moves any more.
fn come_to_rest(reactor: &mut Reactor<World>, world: &mut World) {
    let end = Instant::now() + PATIENCE;
    loop {
        let before = reactor.stats().bytes_out;
        settle(reactor, world);
        (0..world.outer.len()).for_each(|tag| world.read(tag));
        settle(reactor, world);
        let stopped = reactor.turn(Some(Duration::ZERO), world).unwrap() == Turn::Stopped;
        if reactor.stats().bytes_out != before || (reactor.timers() > 0 && !stopped) {
            continue;
        }
        (0..world.outer.len()).for_each(|tag| world.read(tag));
        // Descriptors in flight are limited for each user, and other tests have some, too (`ETOOMANYREFS`): a timer of the
        // reactor tries again.
        let failed = reactor.stats().errors().next().is_some();
        if failed && !stopped && world.is_behind() && Instant::now() < end {
            let _ = reactor.turn(Some(Duration::from_millis(10)), world).unwrap();
            continue;
        }
        return;
    }
}

/// Nothing is lost without a reason.
fn reckon(reactor: &Reactor<World>, world: &World) {
    let open = world.inner.iter().filter(|inner| inner.closed.is_empty()).count();
    assert_eq!(reactor.stats().clients, open - world.connecting.len());
    for (tag, (outer, inner)) in world.outer.iter().zip(&world.inner).enumerate() {
        let cause = inner.closed.first().map(String::as_str);
        if !world.was_accepted(tag) {
            continue;
        }
        if matches!(cause, None | Some("Peer" | "Reset" | "Drain")) {
            assert_eq!(inner.handled, outer.requested, "{tag} ({cause:?}): requests");
        }
        if outer.stream.is_none() {
            assert!(cause.is_some(), "{tag} has left, and its session has not heard of it");
        } else {
            assert_eq!(outer.ended, cause.is_some(), "{tag} ({cause:?}): end of file");
            if !inner.lossy {
                assert_eq!(outer.received, inner.accepted.len(), "{tag} ({cause:?}): messages");
                assert!(outer.unparsed.is_empty(), "{tag} ({cause:?}): half a message");
            }
        }
    }
}

fn descriptors() -> Vec<String> {
    let mut open: Vec<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| Some(fs::read_link(entry.unwrap().path()).ok()?.display().to_string()))
        .collect();
    open.sort_unstable();
    open
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

        fn nothing_is_misdelivered_lost_or_left_behind(
        steps in prop::collection::vec(step(), 1..120),
        messages_per_visit in 0usize..5,
        bytes_per_visit in 1usize..500,
        accepts_per_visit in 1usize..4,
        output_high_water in prop_oneof![Just(64usize << 10), 0usize..100],
        idle in any::<bool>(),
        read_buffer in 64usize..256,
        events in 1usize..20,
        fixed in any::<bool>(),
        drain_at in prop::option::of(1u64..200),
    ) {
        let limits = Limits {
            messages_per_visit,
            bytes_per_visit,
            accepts_per_visit,
            output_high_water,
            idle: idle.then_some(Duration::from_secs(3_600)),
            output_max: 256 << 10,
            ..Limits::default()
        };
        let builder = Reactor::<World>::builder().limits(limits).read_buffer(read_buffer).events(events);
        let before = descriptors();
        run(&steps, builder, World { fixed, drain_at, ..World::default() });
        prop_assert_eq!(descriptors(), before);
    }
}
