//! Random schedules of what peers and handlers may do to each other, against what must hold under all of them: nobody gets
//! what is another's, nothing is lost without a reason, each session is told of its end once, no key comes twice,
//! nothing stays behind.
//!
//! The only test of its process: it counts the process's descriptors.

mod turns;

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fs,
    io::{self, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    panic::resume_unwind,
    rc::Rc,
    time::Duration,
};

use ipc_reactor::{Cause, Context, Framing, Key, Limits, Listener, Reactor, Session, TimerKey};
use proptest::prelude::*;
use turns::{available, settle};

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

/// The outer end of a connection.
struct Outer {
    stream: Option<UnixStream>,
    /// Requests that the socket took whole.
    requested: usize,
    unparsed: Vec<u8>,
    received: usize,
    ended: bool,
}

/// What the reactor was told, and told us, of a connection.
#[derive(Default)]
struct Inner {
    key: Option<Key>,
    handled: usize,
    /// Messages that the reactor took for it.
    accepted: usize,
    /// What waits for it may be lost.
    lossy: bool,
    closed: Vec<String>,
}

/// More connections than this are not made from handlers.
const CONNECTIONS_MAX: usize = 60;

#[derive(Default)]
struct World {
    script: Vec<Do>,
    connecting: VecDeque<usize>,
    outer: Vec<Outer>,
    inner: Vec<Inner>,
    tags: HashMap<Key, usize>,
    keys: HashSet<Key>,
    sessions: Rc<Cell<usize>>,
    panics: u64,
    faults: Vec<String>,
}

impl World {
    /// A connection's number, and its session's end of it.
    fn connection(&mut self, stream: UnixStream) -> usize {
        let outer =
            Outer { stream: Some(stream), requested: 0, unparsed: Vec::new(), received: 0, ended: false };
        self.outer.push(outer);
        self.inner.push(Inner::default());
        self.outer.len() - 1
    }

    fn session(&mut self, tag: usize) -> Tagged {
        self.sessions.set(self.sessions.get() + 1);
        Tagged { tag, timers: BTreeMap::new(), sessions: self.sessions.clone() }
    }

    fn key(&self, who: u8) -> Option<Key> {
        self.inner[usize::from(who) % self.inner.len()].key
    }

    fn request(&mut self, tag: usize, action: Do) -> Option<Vec<u8>> {
        self.script.push(action);
        let outer = &self.outer[tag];
        outer.stream.as_ref()?;
        Some(format!("{tag} {} {}\n", outer.requested, self.script.len() - 1).into_bytes())
    }

    fn send(&mut self, tag: usize, actions: &[Do]) {
        for &action in actions {
            let Some(request) = self.request(tag, action) else { return };
            if self.write(tag, &request) {
                self.outer[tag].requested += 1;
            }
        }
    }

    /// The peer writes if that does not block, all of it or nothing.
    fn write(&mut self, tag: usize, bytes: &[u8]) -> bool {
        let Some(mut stream) = self.outer[tag].stream.as_ref() else { return false };
        stream.set_nonblocking(true).unwrap();
        let written = stream.write(bytes);
        assert!(!matches!(written, Ok(count) if count < bytes.len()), "small writes are whole");
        written.is_ok()
    }

    fn read(&mut self, tag: usize) {
        let outer = &mut self.outer[tag];
        let Some(stream) = &outer.stream else { return };
        let (bytes, ended) = available(stream);
        assert!(!(outer.ended && !bytes.is_empty()), "{tag}: bytes behind the end");
        outer.ended = ended;
        outer.unparsed.extend(bytes);
        while let Some(end) = outer.unparsed.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = outer.unparsed.drain(..=end).collect();
            let line = String::from_utf8(line).unwrap();
            if line == "all\n" {
                continue;
            }
            let expected = format!("to {tag} {} ", outer.received);
            assert!(line.starts_with(&expected), "{tag} received {:.40}, not {expected}", line);
            outer.received += 1;
        }
    }

    /// The next message for a client, and the reckoning of it.
    fn message(&self, tag: usize, size: usize) -> String {
        format!("to {tag} {} {}\n", self.inner[tag].accepted, ".".repeat(size))
    }
}

struct Tagged {
    tag: usize,
    timers: BTreeMap<String, Then>,
    sessions: Rc<Cell<usize>>,
}

impl Drop for Tagged {
    fn drop(&mut self) {
        self.sessions.set(self.sessions.get() - 1);
    }
}

type Cx<'a> = Context<'a, World>;

impl Tagged {
    /// A handler's own assertions must not look like the panics that it was asked for.
    fn check(&self, world: &mut World, holds: bool, what: &str) {
        let inner = &world.inner[self.tag];
        if !holds || !inner.closed.is_empty() {
            world.faults.push(format!("{}: {what}; closed {:?}", self.tag, inner.closed));
        }
    }

    fn tell(tag: usize, key: Key, cx: &mut Cx<'_>, world: &mut World) {
        if let Some(mut client) = cx.client(key)
            && client.send(world.message(tag, 10).as_bytes()).is_ok()
        {
            world.inner[tag].accepted += 1;
        }
    }

    fn reply(&self, size: usize, cx: &mut Cx<'_>, world: &mut World) {
        match cx.reply(world.message(self.tag, size).as_bytes()) {
            Ok(()) => world.inner[self.tag].accepted += 1,
            Err(error) => {
                self.check(world, error.kind() == io::ErrorKind::WouldBlock, &format!("reply: {error}"));
            }
        }
    }

    fn adopt(cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        if world.outer.len() < CONNECTIONS_MAX {
            let (peer, ours) = UnixStream::pair()?;
            let tag = world.connection(peer);
            let session = world.session(tag);
            cx.adopt(ours, Framing::lines(), session)?;
        }
        Ok(())
    }

    fn abort(key: Key, cx: &mut Cx<'_>, world: &mut World) {
        if cx.abort(key) {
            let tag = world.tags[&key];
            world.inner[tag].lossy = true;
        }
    }

    fn panic(&self, world: &mut World) -> ! {
        world.panics += 1;
        world.inner[self.tag].lossy = true;
        resume_unwind(Box::new("asked for"))
    }
}

impl Session<World> for Tagged {
    fn on_open(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        let key = cx.key();
        self.check(world, !world.keys.contains(&key), "its key was another's");
        world.keys.insert(key);
        world.tags.insert(key, self.tag);
        world.inner[self.tag].key = Some(key);
        Ok(())
    }

    fn on_request(&mut self, request: &[u8], cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        let text = str::from_utf8(request).unwrap();
        let numbers: Vec<usize> = text.split(' ').map(|number| number.parse().unwrap()).collect();
        let own = numbers[..2] == [self.tag, world.inner[self.tag].handled];
        self.check(world, own, &format!("handled {text:?}"));
        world.inner[self.tag].handled += 1;
        match world.script[numbers[2]] {
            Do::Reply => self.reply(10, cx, world),
            Do::ReplyLarge => self.reply(100_000, cx, world),
            Do::Send(who) => {
                if let Some(key) = world.key(who) {
                    Self::tell(world.tags[&key], key, cx, world);
                }
            }
            Do::Close(who) => {
                if let Some(key) = world.key(who) {
                    cx.close(key);
                }
            }
            Do::Abort(who) => {
                if let Some(key) = world.key(who) {
                    Self::abort(key, cx, world);
                }
            }
            Do::Finish => cx.finish(),
            Do::FinishTwice => {
                cx.finish();
                cx.finish();
                self.reply(10, cx, world);
            }
            Do::AbortSelf => Self::abort(cx.key(), cx, world),
            Do::Adopt => Self::adopt(cx, world)?,
            Do::Broadcast => drop(cx.broadcast(b"all\n")),
            Do::TellAll => {
                let keys: Vec<Key> = cx.clients().collect();
                for key in keys {
                    // Those that are not open yet have not told their key.
                    if let Some(&tag) = world.tags.get(&key) {
                        Self::tell(tag, key, cx, world);
                    }
                }
            }
            Do::Panic => self.panic(world),
            Do::Fail => {
                world.inner[self.tag].lossy = true;
                return Err(io::Error::other("asked for"));
            }
            Do::Timer(then) => {
                let timer = cx.wake_after(Duration::ZERO);
                self.timers.insert(format!("{timer:?}"), then);
            }
        }
        Ok(())
    }

    fn on_timer(&mut self, timer: TimerKey, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        let then = self.timers.remove(&format!("{timer:?}"));
        self.check(world, then.is_some(), "a timer of another's");
        match then {
            Some(Then::Finish) => cx.finish(),
            Some(Then::Abort) => Self::abort(cx.key(), cx, world),
            Some(Then::Panic) => self.panic(world),
            Some(Then::Reply) | None => self.reply(10, cx, world),
        }
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        let key = cx.key();
        self.check(world, cx.client(key).is_none(), "its key still names it");
        self.check(world, cx.reply(b"too late").is_err(), "it was replied to after its end");
        world.inner[self.tag].closed.push(format!("{cause:?}"));
        match self.tag % 7 {
            1 => drop(cx.broadcast(b"all\n")),
            2 => {
                let next = (self.tag + 1) as u8;
                if let Some(key) = world.key(next) {
                    Self::abort(key, cx, world);
                }
            }
            3 => {
                if let Err(error) = Self::adopt(cx, world) {
                    world.faults.push(format!("adopt: {error}"));
                }
            }
            4 => self.panic(world),
            _ => {}
        }
    }
}

fn run(steps: &[Step], builder: ipc_reactor::Builder) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut world = World::default();
    let mut reactor = builder.build::<World>().unwrap();
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
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

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
