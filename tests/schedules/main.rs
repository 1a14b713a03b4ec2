//! Random schedules of what peers and handlers may do to each other, against what must hold under all of them: nobody gets
//! what is another's, nothing is lost without a reason, each session is told of its end once, no key comes twice,
//! nothing stays behind.
//!
//! The only test of its process: it counts the process's descriptors.

#[path = "../turns/mod.rs"]
mod turns;

mod world;

use std::{fs, net::Shutdown, os::unix::net::UnixStream, time::Duration};

use ipc_reactor::{Builder, Framing, Limits, Listener, Reactor};
use proptest::prelude::*;
use turns::settle;
use world::World;

/// What a request asks its handler to do. A number names another client, past ones included.
#[derive(Debug, Clone, Copy)]
enum Do {
    Reply,
    ReplyLarge,
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
    /// A newcomer, with its first requests in the socket before it is accepted.
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

fn run(steps: &[Step], builder: Builder<World>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut world = World::default();
    let mut reactor = builder.build().unwrap();
    reactor
        .listen(Listener::unix(&path).unwrap(), Framing::lines(), |_, world: &mut World| {
            let tag = world.connecting.pop_front().expect("accepted in the order of connecting");
            Ok(world.session(tag))
        })
        .unwrap();
    for step in steps {
        let of = |who: &u8, world: &World| usize::from(*who) % world.outer.len().max(1);
        match step {
            Step::Connect(actions) => {
                let tag = world.connection(UnixStream::connect(&path).unwrap());
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
                    while !world.write(tag, &request[request.len() / 2..]) {
                        if !world.inner[tag].closed.is_empty() || world.inner[tag].lossy {
                            break;
                        }
                        world.read(tag);
                        let _ = reactor.turn(Some(Duration::ZERO), &mut world).unwrap();
                    }
                    world.outer[tag].requested += 1;
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
        assert_eq!(inner.closed.len(), 1, "{tag}: {:?}", inner.closed);
    }
    assert_eq!(world.sessions.get(), 0, "sessions left");
    assert_eq!(reactor.stats().panics, world.panics);
    assert_eq!(reactor.stats().closed, world.inner.len() as u64);
    assert_eq!(reactor.stats().srms, world.inner.iter().map(|inner| inner.handled as u64).sum::<u64>());
}

/// Turns, and has all peers read, until nothing moves any more.
fn come_to_rest(reactor: &mut Reactor<World>, world: &mut World) {
    loop {
        let before = reactor.stats().bytes_out;
        settle(reactor, world);
        (0..world.outer.len()).for_each(|tag| world.read(tag));
        settle(reactor, world);
        if reactor.stats().bytes_out == before && reactor.timers() == 0 {
            return (0..world.outer.len()).for_each(|tag| world.read(tag));
        }
    }
}

/// Nothing is lost without a reason.
fn reckon(reactor: &Reactor<World>, world: &World) {
    let open = world.inner.iter().filter(|inner| inner.closed.is_empty()).count();
    assert_eq!(reactor.stats().clients, open);
    for (tag, (outer, inner)) in world.outer.iter().zip(&world.inner).enumerate() {
        let cause = inner.closed.first().map(String::as_str);
        if matches!(cause, None | Some("Peer" | "Reset")) {
            assert_eq!(inner.handled, outer.requested, "{tag} ({cause:?}): requests");
        }
        if outer.stream.is_none() {
            assert!(cause.is_some(), "{tag} has left, and its session has not heard of it");
        } else {
            assert_eq!(outer.ended, cause.is_some(), "{tag} ({cause:?}): end of file");
            if !inner.lossy {
                assert_eq!(outer.received, inner.accepted, "{tag} ({cause:?}): messages");
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

    #[test]
    fn nothing_is_misdelivered_lost_or_left_behind(
        steps in prop::collection::vec(step(), 1..120),
        messages_per_visit in 1usize..5,
        bytes_per_visit in 1usize..500,
        accepts_per_visit in 1usize..4,
        read_buffer in 64usize..256,
        events in 1usize..20,
    ) {
        let limits = Limits {
            messages_per_visit,
            bytes_per_visit,
            accepts_per_visit,
            output_high_water: 64 << 10,
            output_max: 256 << 10,
            ..Limits::default()
        };
        let builder = Reactor::<World>::builder().limits(limits).read_buffer(read_buffer).events(events);
        let before = descriptors();
        run(&steps, builder);
        prop_assert_eq!(descriptors(), before);
    }
}
