//! Whatever a handler does, the result is the same whether its client is served at once, on its event, or visited in
//! its turn.

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    panic::resume_unwind,
    time::{Duration, Instant},
};

use ipc_reactor::{
    Cause, Context, Detail, Framing, HalfClose, Key, Limit, Limits, Observer, Reactor, Seen, Session,
    SlowConsumer, TimerKey,
};
use proptest::prelude::*;

use crate::support::turns::{self, available, settle};

/// What a handler does.
#[derive(Debug, Clone)]
enum Do {
    /// The next bytes of the request, behind those that were replied last.
    Next(usize),
    /// Bytes of its own.
    Reply(usize),
    ReplyFrame,
    ReplyWithDescriptor,
    SendSelf(usize),
    SendOther(usize),
    Broadcast,
    Finish,
    CloseByKey,
    Abort,
    CloseOther,
    AbortOther,
    Adopt,
    AbortAdopted,
    HighWater(usize),
    OutputMax(usize),
    MessagesPerVisit(usize),
    Idle(bool),
    Timer,
    Drain,
    Stop,
    Fail,
    Panic,
}

const ADOPTED: usize = 20;
/// More than a socket takes. How much it takes of that, the kernel decides anew each time.
const LARGE: usize = 300_000;

#[derive(Debug, Default)]
struct World {
    /// What the operations returned.
    answers: Vec<String>,
    closed: Vec<String>,
    other: Option<Key>,
    adopted: Vec<Key>,
    peers: Vec<UnixStream>,
}

type Cx<'a> = Context<'a, World>;

/// Runs the script that the request's first byte names.
struct Scripted(Vec<Vec<Do>>);

impl Scripted {
    fn act(
        act: &Do,
        request: &[u8],
        at: &mut usize,
        cx: &mut Cx<'_>,
        world: &mut World,
    ) -> io::Result<String> {
        let own = cx.key();
        let set = |cx: &mut Cx<'_>, change: &dyn Fn(&mut Limits)| {
            let mut limits = cx.limits().clone();
            change(&mut limits);
            cx.set_limits(limits);
        };
        match *act {
            Do::Next(count) => {
                let next = &request[*at..(*at + count).min(request.len())];
                *at += next.len();
                cx.reply(next)?;
            }
            Do::Reply(count) => cx.reply(&vec![b'r'; count])?,
            Do::ReplyFrame => cx.reply_frame(b"framed")?,
            Do::ReplyWithDescriptor => {
                cx.reply_with(b"with", vec![OwnedFd::from(File::open("/dev/null")?)])?;
            }
            Do::SendSelf(count) => {
                cx.client(own).ok_or(io::ErrorKind::NotFound)?.send(&vec![b's'; count])?;
            }
            Do::SendOther(count) => {
                let other = world.other.and_then(|key| cx.client(key));
                other.ok_or(io::ErrorKind::NotFound)?.send(&vec![b'o'; count])?;
            }
            Do::Broadcast => return Ok(cx.broadcast(b"all").to_string()),
            Do::Finish => cx.finish(),
            Do::CloseByKey => return Ok(cx.close(own).to_string()),
            Do::Abort => return Ok(cx.abort(own).to_string()),
            Do::CloseOther => return Ok(world.other.is_some_and(|key| cx.close(key)).to_string()),
            Do::AbortOther => return Ok(world.other.is_some_and(|key| cx.abort(key)).to_string()),
            Do::Adopt if world.adopted.is_empty() => {
                // The peers of clients that are gone: other tests of this process need descriptors, too.
                world.peers.clear();
                for _ in 0..ADOPTED {
                    let (peer, ours) = UnixStream::pair()?;
                    world.peers.push(peer);
                    world.adopted.push(cx.adopt(ours, Framing::raw(), Scripted(Vec::new()))?);
                }
            }
            Do::Adopt => {}
            Do::AbortAdopted => world.adopted.drain(..).for_each(|key| {
                cx.abort(key);
            }),
            Do::HighWater(bytes) => set(cx, &|limits| limits.output_high_water = bytes),
            Do::OutputMax(bytes) => set(cx, &|limits| limits.output_max = bytes),
            Do::MessagesPerVisit(count) => set(cx, &|limits| limits.messages_per_visit = count),
            Do::Idle(on) => set(cx, &|limits| limits.idle = on.then_some(Duration::from_secs(3_600))),
            Do::Timer => drop(cx.wake_after(Duration::ZERO)),
            Do::Drain => cx.drain(Duration::from_secs(60))?,
            Do::Stop => cx.stop(),
            Do::Fail => return Err(io::Error::other("asked for")),
            Do::Panic => resume_unwind(Box::new("asked for")),
        }
        Ok(String::new())
    }
}

impl Session<World> for Scripted {
    fn on_request(&mut self, request: &[u8], cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        let script = &self.0[usize::from(request.first().copied().unwrap_or(0)) % self.0.len()];
        let mut at = 0;
        for act in script {
            let answer = Scripted::act(act, request, &mut at, cx, world);
            let key = cx.key();
            let unsent = cx.client(key).map(|client| client.unsent().min(LARGE / 10));
            world
                .answers
                .push(format!("{act:?}: {answer:?}, unsent {unsent:?}, {} clients", cx.clients().count()));
            if matches!(act, Do::Fail) {
                return Err(io::Error::other("asked for"));
            }
        }
        Ok(())
    }

    fn on_timer(&mut self, _: TimerKey, cx: &mut Cx<'_>, _: &mut World) -> io::Result<()> {
        cx.reply(b"timer")
    }

    fn on_flushed(&mut self, cx: &mut Cx<'_>, _: &mut World) -> io::Result<()> {
        cx.reply(b"flushed")
    }

    fn on_half_close(&mut self, cx: &mut Cx<'_>, _: &mut World) -> io::Result<HalfClose> {
        cx.reply(b"goodbye")?;
        Ok(HalfClose::Close)
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        world.closed.push(format!("{} {cause:?}", cx.key()));
    }
}

/// An observer of messages: with it, every client is visited in its turn.
struct Curious;

impl Observer for Curious {
    fn observe(&mut self, _: &Seen<'_>) {}

    fn detail(&self) -> Detail {
        Detail::Messages
    }
}

/// The results of a run.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// By the acting client's peer, and by the other's.
    received: [String; 2],
    ended: [bool; 2],
    answers: Vec<String>,
    closed: Vec<String>,
    counts: Vec<(&'static str, u64)>,
}

fn outcome(case: &Case, observer: Option<Curious>) -> Outcome {
    let builder = Reactor::<World>::builder().limits(case.limits.clone()).read_buffer(case.read_buffer);
    let mut reactor = builder.build().unwrap();
    if let Some(observer) = observer {
        reactor.observe(observer);
    }
    let mut world = World::default();
    let (other, key) = turns::client(&mut reactor, Framing::raw(), Scripted(Vec::new()));
    world.other = Some(key);
    let (peer, own) = turns::client(&mut reactor, case.framing.clone(), Scripted(case.scripts.clone()));
    let (mut received, mut ended) = ([Vec::new(), Vec::new()], [false; 2]);
    for write in [&[][..]].into_iter().chain(case.writes.iter().map(Vec::as_slice)) {
        // It may have been closed by now.
        let _ = (&peer).write_all(write);
        let mut moves = true;
        while moves {
            settle(&mut reactor, &mut world);
            moves = false;
            for (at, peer) in [&peer, &other].into_iter().enumerate() {
                let (bytes, end) = available(peer);
                moves |= !bytes.is_empty();
                received[at].extend(bytes);
                ended[at] = end;
            }
        }
    }
    for (at, (peer, key)) in [(&peer, own), (&other, key)].into_iter().enumerate() {
        let deadline = Instant::now() + turns::PATIENCE;
        // Where descriptors may be unread, another thread closes the client.
        while !ended[at] && !reactor.clients().any(|client| client == key) {
            assert!(Instant::now() < deadline, "client {key} was closed, and its peer sees no end");
            let (bytes, end) = available(peer);
            received[at].extend(bytes);
            ended[at] = end;
        }
    }
    let stats = reactor.stats();
    let counts = vec![
        ("srms", stats.requests),
        ("bytes in", stats.bytes_in),
        ("closed", stats.closed),
        ("drained", stats.drained),
        ("panics", stats.panics),
        ("handler errors", stats.handler_errors),
        ("trips of output", stats.limit_count(Limit::Output)),
        ("trips of slow consumers", stats.limit_count(Limit::SlowConsumer)),
    ];
    let received =
        received.map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(LARGE / 3)]).into_owned());
    let (answers, mut closed) = (world.answers, world.closed);
    closed.sort_unstable();
    Outcome { received, ended, answers, closed, counts }
}

#[derive(Debug, Clone)]
struct Case {
    limits: Limits,
    read_buffer: usize,
    framing: Framing,
    scripts: Vec<Vec<Do>>,
    writes: Vec<Vec<u8>>,
}

fn act() -> impl Strategy<Value = Do> {
    let size = || prop_oneof![8 => 0usize..60, 1 => Just(LARGE)];
    prop_oneof![
        30 => (0usize..30).prop_map(Do::Next),
        8 => size().prop_map(Do::Reply),
        4 => Just(Do::ReplyFrame),
        4 => Just(Do::ReplyWithDescriptor),
        6 => size().prop_map(Do::SendSelf),
        6 => size().prop_map(Do::SendOther),
        3 => Just(Do::Broadcast),
        1 => Just(Do::Finish),
        1 => Just(Do::CloseByKey),
        1 => Just(Do::Abort),
        1 => Just(Do::CloseOther),
        1 => Just(Do::AbortOther),
        2 => Just(Do::Adopt),
        2 => Just(Do::AbortAdopted),
        3 => (0usize..100).prop_map(Do::HighWater),
        2 => (0usize..200).prop_map(Do::OutputMax),
        2 => (0usize..4).prop_map(Do::MessagesPerVisit),
        2 => any::<bool>().prop_map(Do::Idle),
        3 => Just(Do::Timer),
        1 => Just(Do::Drain),
        1 => Just(Do::Stop),
        1 => Just(Do::Fail),
        1 => Just(Do::Panic),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let limits = (
        0usize..6,
        200usize..600,
        prop_oneof![0usize..100, Just(256 << 10)],
        prop_oneof![0usize..200, Just(8 << 20)],
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(messages, bytes, high_water, most, idles, pauses)| Limits {
            messages_per_visit: if messages == 5 { 1_024 } else { messages },
            bytes_per_visit: bytes,
            output_high_water: high_water,
            output_max: most,
            idle: idles.then_some(Duration::from_secs(3_600)),
            slow_consumer: if pauses { SlowConsumer::Pause } else { SlowConsumer::Disconnect },
            ..Limits::default()
        });
    let framing = prop_oneof![Just(Framing::raw()), Just(Framing::fixed(8)), Just(Framing::lines())];
    let read_buffer = prop_oneof![64usize..100, Just(128 << 10)];
    let scripts = prop::collection::vec(prop::collection::vec(act(), 0..8), 1..5);
    // What a stop cuts off depends on the turn in which it is found that a client is slow.
    let scripts = scripts.prop_map(|mut scripts| {
        if scripts.iter().flatten().any(|act| matches!(act, Do::Stop)) {
            let is_large =
                |act: &Do| matches!(act, Do::Reply(LARGE) | Do::SendSelf(LARGE) | Do::SendOther(LARGE));
            scripts.iter_mut().for_each(|script| script.retain(|act| !is_large(act)));
        }
        scripts
    });
    let byte = prop_oneof![3 => any::<u8>(), 1 => Just(b'\n')];
    let writes = prop::collection::vec(prop::collection::vec(byte, 1..200), 1..6);
    (limits, read_buffer, framing, scripts, writes).prop_map(
        |(limits, read_buffer, framing, scripts, writes)| Case {
            limits,
            read_buffer,
            framing,
            scripts,
            writes,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_comes_to_the_same(case in case()) {
        prop_assert_eq!(outcome(&case, None), outcome(&case, Some(Curious)));
    }
}
