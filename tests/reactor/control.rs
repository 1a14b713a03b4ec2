//! What a handler decides about itself and about the loop holds at once, for every source and every role: after a stop, after a
//! close of its own source, on its own key, and with durations that no clock reaches.

mod close;
mod durations;
mod own;
mod stop;

use std::{
    collections::HashMap,
    io::{self, Read},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use ipc_reactor::{
    Address, Cause, Clock, Context, Datagram, DatagramHandler, Decode, Decoded, Delivery, FdSource, Framing,
    HalfClose, Handout, Incoming, Interest, Key, Limits, Listener, Message, Prefix, Progress, Queue,
    QueueHandler, Reactor, Ready, Session, SubscriptionHandler, TimerKey,
    shm::{Publisher, Subscriber, Update},
};
use rustix::net as socket;
use tempfile::TempDir;

use crate::support::turning::settle;

type Cx<'a> = Context<'a, World>;

/// What a handler does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Stop,
    Finish,
    Close,
    Abort,
}

impl Act {
    fn by(self, cx: &mut Cx<'_>) {
        let key = cx.key();
        match self {
            Act::Stop => cx.stop(),
            Act::Finish => cx.finish(),
            Act::Close => assert!(cx.close(key), "it runs still"),
            Act::Abort => assert!(cx.abort(key), "it runs still"),
        }
    }
}

/// Who does what, and who was called.
struct World {
    actor: String,
    act: Act,
    /// The actor acts at this call.
    at: usize,
    has_acted: bool,
    before: Vec<String>,
    after: Vec<String>,
    closed: Vec<(String, String)>,
    keys: HashMap<String, Key>,
    /// Whose subscribers are in the same reactor.
    publisher: Publisher,
}

impl World {
    fn new() -> World {
        World {
            actor: String::new(),
            act: Act::Stop,
            at: 1,
            has_acted: false,
            before: Vec::new(),
            after: Vec::new(),
            closed: Vec::new(),
            keys: HashMap::new(),
            publisher: Publisher::every(8, 7).unwrap(),
        }
    }

    /// A handler is called.
    fn called(&mut self, who: &str, cx: &mut Cx<'_>) {
        self.keys.insert(who.to_owned(), cx.key());
        self.noted(who);
        if !self.has_acted && who == self.actor && self.count(who) == self.at {
            self.has_acted = true;
            self.act.by(cx);
        }
    }

    fn noted(&mut self, who: &str) {
        let calls = if self.has_acted { &mut self.after } else { &mut self.before };
        calls.push(who.to_owned());
    }

    fn count(&self, who: &str) -> usize {
        self.before.iter().chain(&self.after).filter(|name| *name == who).count()
    }
}

/// A handler of any kind, which notes that it was called.
struct Noter(String);

impl Session<World> for Noter {
    fn on_open(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_request(&mut self, request: &[u8], cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        if request == b"set timers" {
            for _ in 0..3 {
                cx.wake_after(SECOND);
            }
            return Ok(());
        }
        if request == b"fill" {
            return cx.reply(&vec![0; FILL]);
        }
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_half_close(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<HalfClose> {
        world.called(&self.0, cx);
        Ok(HalfClose::KeepWriting)
    }

    fn on_flushed(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_timer(&mut self, _: TimerKey, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        closed(&self.0, cause, cx, world);
    }
}

/// A source is closed. For one whose name says so, this is a call like others.
fn closed(who: &str, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
    world.closed.push((who.to_owned(), format!("{cause:?}")));
    if world.actor == format!("on_close of {who}") && !world.has_acted {
        world.has_acted = true;
        world.act.by(cx);
    }
}

impl QueueHandler<World> for Noter {
    fn on_message(&mut self, _: Message<'_>, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_unlinked(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        closed(&self.0, cause, cx, world);
    }
}

impl DatagramHandler<World> for Noter {
    fn on_datagram(&mut self, _: Incoming<'_>, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_error(&mut self, _: &io::Error, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        closed(&self.0, cause, cx, world);
    }
}

impl SubscriptionHandler<World> for Noter {
    fn on_open(&mut self, _: &Subscriber, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_update(&mut self, _: Update<&[u8]>, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        closed(&self.0, cause, cx, world);
    }
}

/// A descriptor that is read byte by byte.
struct NotingFd(String, UnixStream);

impl AsFd for NotingFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.1.as_fd()
    }
}

impl FdSource<World> for NotingFd {
    fn on_ready(&mut self, _: Ready, cx: &mut Cx<'_>, world: &mut World) -> io::Result<Progress> {
        self.1.read_exact(&mut [0])?;
        world.called(&self.0, cx);
        Ok(Progress::More)
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        closed(&self.0, cause, cx, world);
    }
}

/// Each byte is a message.
struct Bytes;

impl Decode for Bytes {
    fn decode(&self, _: &[u8]) -> io::Result<Decoded> {
        Ok(Decoded::Frame { payload: 0..1, consumed: 1 })
    }
}

const SECOND: Duration = Duration::from_secs(1);
/// More than a socket and the high-water mark of a scene take, and less than two sockets do.
const FILL: usize = 300 << 10;

/// A queue name of this test's own, unlinked when it is dropped.
struct QueueName(String);

impl QueueName {
    fn new() -> QueueName {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        QueueName(format!("/ipc-reactor-control-{}-{number}", std::process::id()))
    }

    fn open(&self) -> Queue {
        Queue::options().create(true).capacity(4).message_size(8).open(&self.0).unwrap()
    }
}

impl Drop for QueueName {
    fn drop(&mut self) {
        let _ = Queue::unlink(&self.0);
    }
}

type Readies = Box<dyn FnMut(&mut Reactor<World>, &mut World)>;

/// A source of the scene, or several timers or jobs.
struct Member {
    name: String,
    /// How often its handler is called for one round of [`Member::readies`].
    calls: usize,
    /// Its handler is told of its end.
    is_told: bool,
    /// It has a source of its own, which it can close.
    closes: bool,
    readies: Readies,
}

/// One of every source in every role, which become ready together when the test says so.
struct Scene {
    reactor: Reactor<World>,
    world: World,
    clock: Clock,
    members: Vec<Member>,
    folder: TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Unix,
    Tcp,
    Seqpacket,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Accepted,
    Adopted,
    Connected,
}

/// Messages of a visit: all of a batch, one, or some and then the rest.
const BUDGETS: [usize; 3] = [1_024, 1, 2];

impl Scene {
    fn new(messages_per_visit: usize) -> Scene {
        let limits = Limits {
            messages_per_visit,
            output_high_water: 1_000,
            frame_max: 1_000,
            queue_check: Some(SECOND),
            ..Limits::default()
        };
        let clock = Clock::manual();
        let reactor = Reactor::<World>::builder().limits(limits).clock(clock.clone()).build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut scene = Scene { reactor, world: World::new(), clock, members: Vec::new(), folder };
        scene.add_clients();
        scene.add_events_of_clients();
        scene.add_newcomers();
        scene.add_timers_and_jobs();
        scene.add_queues();
        scene.add_datagrams();
        scene.add_fds();
        scene.add_subscriptions();
        scene.settle();
        let closed = scene.closed();
        assert!(closed.iter().all(|(who, _)| who.starts_with("newcomer")), "{closed:?}");
        scene
    }

    /// The names of the members of which this is true.
    fn names(of: impl Fn(&Member) -> bool) -> Vec<String> {
        Scene::new(BUDGETS[0])
            .members
            .iter()
            .filter(|member| of(member))
            .map(|member| member.name.clone())
            .collect()
    }

    fn add(
        &mut self,
        name: impl Into<String>,
        calls: usize,
        readies: impl FnMut(&mut Reactor<World>, &mut World) + 'static,
    ) -> &mut Member {
        let member =
            Member { name: name.into(), calls, is_told: true, closes: true, readies: Box::new(readies) };
        self.members.push(member);
        self.members.last_mut().unwrap()
    }

    fn settle(&mut self) {
        // What is done in a turn without events may make some.
        loop {
            let events = self.reactor.stats().events;
            settle(&mut self.reactor, &mut self.world);
            if self.reactor.stats().events == events {
                return;
            }
        }
    }

    /// From now on the actor acts, at this call.
    fn begin(&mut self, actor: &str, act: Act, at: usize) {
        self.world.before.clear();
        self.world.closed.clear();
        (self.world.actor, self.world.act, self.world.at) = (actor.to_owned(), act, at);
        // The actor's source becomes ready first, so that the others of its batch come after it.
        self.members.sort_by_key(|member| member.name != actor);
    }

    /// Makes all members ready.
    fn make_ready(&mut self) {
        for member in &mut self.members {
            (member.readies)(&mut self.reactor, &mut self.world);
        }
        self.clock.advance(SECOND);
    }

    /// Who was told of its end, and how, in the order of the names.
    fn closed(&self) -> Vec<(&str, &str)> {
        let mut closed: Vec<_> =
            self.world.closed.iter().map(|(who, how)| (who.as_str(), how.as_str())).collect();
        closed.sort_unstable();
        closed
    }

    // ---- The members ----

    /// Connects a client of the reactor to the test, whose end is returned.
    fn client(&mut self, name: &str, framing: Framing, transport: Transport, role: Role) -> OwnedFd {
        let path = self.folder.path().join(name.replace(' ', "-"));
        let address = match transport {
            Transport::Unix => Address::UnixStream(path.clone()),
            Transport::Tcp => Address::Tcp("127.0.0.1:0".into()),
            Transport::Seqpacket => Address::UnixSeqpacket(path.clone()),
        };
        let session = Noter(name.to_owned());
        match role {
            Role::Accepted => {
                let listener = Listener::bind(&address).unwrap();
                let address = listener.local_address().unwrap();
                let name = name.to_owned();
                self.reactor.listen(listener, framing, move |_, _| Ok(Noter(name.clone()))).unwrap();
                let peer = connect(&address);
                self.settle();
                peer
            }
            Role::Adopted => {
                let (peer, ours) = pair(transport);
                self.reactor.adopt(ours, framing, session).unwrap();
                peer
            }
            Role::Connected => match transport {
                Transport::Unix => {
                    let listener = UnixListener::bind(path).unwrap();
                    self.reactor.connect(&address, framing, session).unwrap();
                    listener.accept().unwrap().0.into()
                }
                Transport::Tcp => {
                    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
                    self.reactor.connect(&address, framing, session).unwrap();
                    listener.accept().unwrap().0.into()
                }
                Transport::Seqpacket => {
                    let listener = seqpacket();
                    socket::bind(&listener, &socket::SocketAddrUnix::new(&path).unwrap()).unwrap();
                    socket::listen(&listener, 1).unwrap();
                    self.reactor.connect(&address, framing, session).unwrap();
                    socket::accept(&listener).unwrap()
                }
            },
        }
    }

    /// Three requests of one read, in every framing, over every transport, in every role.
    fn add_clients(&mut self) {
        use Transport::{Seqpacket, Tcp, Unix};
        let three: [&[u8]; 3] = [b"a", b"b", b"c"];
        type Kind<'a> = (&'a str, Framing, Vec<Vec<u8>>, usize, &'a [Transport]);
        let kinds: [Kind<'_>; 7] = [
            ("raw", Framing::raw(), vec![b"abc".into()], 1, &[Unix, Tcp]),
            ("fixed", Framing::fixed(1), vec![b"abc".into()], 3, &[Unix, Tcp]),
            ("lines", Framing::lines(), vec![b"a\nb\nc\n".into()], 3, &[Unix, Tcp]),
            ("prefixed", Framing::prefixed(Prefix::U8), vec![b"\x01a\0\x01c".into()], 3, &[Unix, Tcp]),
            ("custom", Framing::custom(Bytes), vec![b"abc".into()], 3, &[Unix, Tcp]),
            ("passing", Framing::lines().descriptors(1), vec![b"a\nb\nc\n".into()], 3, &[Unix]),
            ("records", Framing::raw(), three.map(Vec::from).into(), 3, &[Seqpacket]),
        ];
        for (kind, framing, pieces, calls, transports) in kinds {
            for &transport in transports {
                for role in [Role::Accepted, Role::Adopted, Role::Connected] {
                    let name = format!("{kind} {transport:?} {role:?}");
                    let peer = self.client(&name, framing.clone(), transport, role);
                    let pieces = pieces.clone();
                    self.add(name, calls, move |_, _| send(&peer, &pieces));
                }
            }
        }
    }

    /// What else a session is called for: each of these clients for one thing alone, or for one after the other.
    fn add_events_of_clients(&mut self) {
        let (lines, unix, adopted) = (Framing::lines(), Transport::Unix, Role::Adopted);
        let mut spare = Vec::new();
        self.add("on_open", 4, move |reactor, _| {
            let (peer, ours) = UnixStream::pair().unwrap();
            reactor.adopt(ours, Framing::lines(), Noter("on_open".into())).unwrap();
            send(&peer, &[b"a\nb\nc\n"]);
            spare.push(peer);
        });
        for transport in [Transport::Unix, Transport::Tcp, Transport::Seqpacket] {
            let name = format!("requests, then on_half_close, {transport:?}");
            let peer = self.client(&name, lines.clone(), transport, adopted);
            let pieces: &[&[u8]] =
                if transport == Transport::Seqpacket { &[b"a", b"b"] } else { &[b"a\nb\n"] };
            self.add(name, 3, move |_, _| {
                send(&peer, pieces);
                shut_down(&peer);
            });
        }
        let peer = self.client("on_half_close", lines.clone(), unix, adopted);
        self.add("on_half_close", 1, move |_, _| shut_down(&peer));
        let peer = self.client("a last line without an end", lines.clone(), unix, adopted);
        self.add("a last line without an end", 2, move |_, _| {
            send(&peer, &[b"a"]);
            shut_down(&peer);
        });
        let peer = self.client("on_timer", lines.clone(), unix, adopted);
        send(&peer, &[b"set timers\n"]);
        self.add("on_timer", 3, move |_, _| {
            let _is_open = &peer;
        });
        let peer = self.client("requests, then on_timer", lines.clone(), unix, adopted);
        send(&peer, &[b"set timers\n"]);
        self.add("requests, then on_timer", 5, move |_, _| send(&peer, &[b"a\nb\n"]));
        let peer = UnixStream::from(self.client("on_flushed", lines, unix, adopted));
        send(&peer, &[b"fill\n"]);
        self.add("on_flushed", 3, move |_, _| {
            send(&peer, &[b"a\nb\n"]);
            let taken = crate::support::turns::available(&peer).0.len();
            assert!((FILL / 2..FILL).contains(&taken), "{taken} of {FILL}: the rest waits in the reactor");
        });
    }

    /// Clients that are accepted in the round, and have sent requests before.
    fn add_newcomers(&mut self) {
        for transport in [Transport::Unix, Transport::Tcp] {
            let name = format!("newcomer {transport:?}");
            let address = match transport {
                Transport::Unix => Address::UnixStream(self.folder.path().join("newcomer")),
                _ => Address::Tcp("127.0.0.1:0".into()),
            };
            let listener = Listener::bind(&address).unwrap();
            let address = listener.local_address().unwrap();
            let session = name.clone();
            let factory = move |_: &ipc_reactor::Peer<'_>, world: &mut World| {
                if !world.actor.is_empty() {
                    world.noted(&format!("the factory of {session}"));
                }
                Ok(Noter(session.clone()))
            };
            self.reactor.listen(listener, Framing::fixed(1), factory).unwrap();
            // As those before them, they are visited before they are registered.
            for _ in 0..3 {
                let peer = connect(&address);
                send(&peer, &[b"a"]);
                self.settle();
                drop(peer);
                let key = self.world.keys[&name];
                assert!(self.reactor.abort(key));
                self.settle();
            }
            let mut peers = Vec::new();
            self.add(name, 4, move |_, _| {
                let peer = connect(&address);
                send(&peer, &[b"abc"]);
                peers.push(peer);
            });
        }
    }

    fn add_timers_and_jobs(&mut self) {
        let once = |reactor: &mut Reactor<World>, _: &mut World| {
            for _ in 0..3 {
                reactor.after(SECOND, |cx, world| {
                    world.called("after", cx);
                    Ok(())
                });
            }
        };
        let every = |reactor: &mut Reactor<World>, _: &mut World| {
            for _ in 0..3 {
                reactor.every(SECOND, |cx, world| {
                    world.called("every", cx);
                    Ok(())
                });
            }
        };
        let jobs = |reactor: &mut Reactor<World>, _: &mut World| {
            for _ in 0..3 {
                reactor.remote().run(|cx, world| world.called("remote job", cx)).unwrap();
            }
        };
        let members: [(&str, Readies); 3] =
            [("after", Box::new(once)), ("every", Box::new(every)), ("remote job", Box::new(jobs))];
        for (name, readies) in members {
            let member = self.add(name, 3, readies);
            (member.is_told, member.closes) = (false, false);
        }
    }

    fn add_queues(&mut self) {
        let name = QueueName::new();
        let queue = name.open();
        self.reactor.queue_handler(name.open(), Noter("queue".into())).unwrap();
        self.add("queue", 3, move |_, _| send_messages(&queue, &name));
        let name = QueueName::new();
        let queue = name.open();
        self.reactor
            .queue(name.open(), |_, cx, world: &mut World| {
                world.called("queue closure", cx);
                Ok(())
            })
            .unwrap();
        self.add("queue closure", 3, move |_, _| send_messages(&queue, &name)).is_told = false;
        let name = QueueName::new();
        self.reactor.queue_handler(name.open(), Noter("on_unlinked".into())).unwrap();
        self.add("on_unlinked", 1, move |_, _| Queue::unlink(&name.0).unwrap());
        let name = QueueName::new();
        let queue = name.open();
        self.reactor.queue_handler(name.open(), Noter("messages, and on_unlinked".into())).unwrap();
        self.add("messages, and on_unlinked", 4, move |_, _| {
            send_messages(&queue, &name);
            Queue::unlink(&name.0).unwrap();
        });
    }

    fn add_datagrams(&mut self) {
        let small = || {
            let mut options = Datagram::options();
            options.message_size(64);
            options
        };
        let unix = small().unix(self.folder.path().join("datagrams")).unwrap();
        for (name, socket) in [("unix datagrams", unix), ("udp", small().udp("127.0.0.1:0").unwrap())] {
            let peer = Datagram::connected(&socket.local_address().unwrap()).unwrap();
            self.reactor.datagram_handler(socket, Noter(name.into())).unwrap();
            // The first two are received one by one, the others in one call.
            self.add(name, 8, move |_, _| (0..8).for_each(|_| peer.send(b"datagram").unwrap()));
        }
        let socket = small().udp("127.0.0.1:0").unwrap();
        let peer = Datagram::connected(&socket.local_address().unwrap()).unwrap();
        self.reactor
            .datagram(socket, |_, cx, world: &mut World| {
                world.called("datagram closure", cx);
                Ok(())
            })
            .unwrap();
        let readies = move |_: &mut Reactor<World>, _: &mut World| {
            (0..8).for_each(|_| peer.send(b"datagram").unwrap());
        };
        self.add("datagram closure", 8, readies).is_told = false;
        let gone = Datagram::udp("127.0.0.1:0").unwrap().local_address().unwrap();
        let socket = small().connected(&gone).unwrap();
        let key = self.reactor.datagram_handler(socket, Noter("on_error".into())).unwrap();
        self.add("on_error", 1, move |reactor, _| {
            reactor.datagram_socket(key).unwrap().send(b"to nobody").unwrap();
        });
    }

    fn add_fds(&mut self) {
        let (peer, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        self.reactor.fd_source(NotingFd("fd source".into(), ours), Interest::READABLE).unwrap();
        self.add("fd source", 3, move |_, _| send(&peer, &[b"abc"]));
        let (peer, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        self.reactor
            .fd(ours, Interest::READABLE, |stream, _, cx, world: &mut World| {
                stream.read_exact(&mut [0])?;
                world.called("fd closure", cx);
                Ok(Progress::More)
            })
            .unwrap();
        self.add("fd closure", 3, move |_, _| send(&peer, &[b"abc"])).is_told = false;
    }

    fn add_subscriptions(&mut self) {
        for (name, delivery, calls) in
            [("every update", Delivery::Every, 3), ("latest update", Delivery::Latest, 1)]
        {
            let mut publisher = Publisher::every(8, 7).unwrap();
            let subscriber = Subscriber::open(publisher.subscribe().unwrap().1).unwrap();
            self.reactor.subscribe_handler(subscriber, delivery, Noter(name.into())).unwrap();
            self.add(name, calls, move |_, _| publish(&mut publisher));
        }
        let mut publisher = Publisher::every(8, 7).unwrap();
        self.add("subscription's on_open", 4, move |reactor, _| {
            let subscriber = Subscriber::open(publisher.subscribe().unwrap().1).unwrap();
            let handler = Noter("subscription's on_open".into());
            reactor.subscribe_handler(subscriber, Delivery::Every, handler).unwrap();
            publish(&mut publisher);
        });
        let mut publisher = Publisher::every(8, 7).unwrap();
        let subscriber = Subscriber::open(publisher.subscribe().unwrap().1).unwrap();
        self.reactor
            .subscribe(subscriber, Delivery::Every, |_, cx, world: &mut World| {
                world.called("subscription closure", cx);
                Ok(())
            })
            .unwrap();
        self.add("subscription closure", 3, move |_, _| publish(&mut publisher)).is_told = false;
        // One whose publisher is another client of this reactor.
        let address = Address::UnixStream(self.folder.path().join("publisher"));
        self.reactor
            .listen(Listener::bind(&address).unwrap(), Handout::framing(), |_, _| {
                Ok(Handout::new(|world: &mut World| &mut world.publisher))
            })
            .unwrap();
        let handler = Noter("connected subscription".into());
        self.reactor.connect_subscriber(&address, Delivery::Every, handler).unwrap();
        self.add("connected subscription", 3, |_, world| publish(&mut world.publisher));
    }
}

fn publish(publisher: &mut Publisher) {
    (0..3).for_each(|_| publisher.publish(b"value").unwrap());
}

fn send_messages(queue: &Queue, _is_open: &QueueName) {
    (0..3).for_each(|_| queue.send(b"message", 0).unwrap());
}

fn send(peer: impl AsFd, pieces: &[impl AsRef<[u8]>]) {
    for piece in pieces {
        let piece = piece.as_ref();
        assert_eq!(rustix::io::write(&peer, piece).unwrap(), piece.len());
    }
}

fn shut_down(peer: impl AsFd) {
    socket::shutdown(peer, socket::Shutdown::Write).unwrap();
}

fn seqpacket() -> OwnedFd {
    let flags = socket::SocketFlags::CLOEXEC;
    socket::socket_with(socket::AddressFamily::UNIX, socket::SocketType::SEQPACKET, flags, None).unwrap()
}

fn connect(address: &Address) -> OwnedFd {
    match address {
        Address::UnixStream(path) => UnixStream::connect(path).unwrap().into(),
        Address::Tcp(address) => TcpStream::connect(address).unwrap().into(),
        Address::UnixSeqpacket(path) => {
            let peer = seqpacket();
            socket::connect(&peer, &socket::SocketAddrUnix::new(path).unwrap()).unwrap();
            peer
        }
        _ => unreachable!("no transport of a client"),
    }
}

fn pair(transport: Transport) -> (OwnedFd, OwnedFd) {
    match transport {
        Transport::Unix => UnixStream::pair().map(|(peer, ours)| (peer.into(), ours.into())).unwrap(),
        Transport::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (peer.into(), listener.accept().unwrap().0.into())
        }
        Transport::Seqpacket => socket::socketpair(
            socket::AddressFamily::UNIX,
            socket::SocketType::SEQPACKET,
            socket::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap(),
    }
}
