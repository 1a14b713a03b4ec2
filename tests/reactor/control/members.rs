//! The members of the scene: one of every source, in every role.

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
};

use ipc_reactor::{
    Address, Datagram, Delivery, Framing, Interest, Listener, Prefix, Progress, Queue, Reactor,
    SubscriberSession,
    shm::{Publisher, Subscriber},
};
use rustix::net as socket;

use crate::control::{
    Bytes, FILL, Noter, NotingFd, QueueName, Readies, Role, SECOND, Scene, Transport, World,
};

impl Scene {
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
                    lingerless(listener.accept().unwrap().0)
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
    pub(super) fn add_clients(&mut self) {
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

    /// The other methods of a session: each of these clients gets calls to one of them, or to several in order.
    pub(super) fn add_events_of_clients(&mut self) {
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
    pub(super) fn add_newcomers(&mut self) {
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
                let key = self.world.keys[&name];
                assert!(self.reactor.abort(key));
                self.settle();
                drop(peer);
            }
            let mut peers = Vec::new();
            self.add(name, 4, move |_, _| {
                let peer = connect(&address);
                send(&peer, &[b"abc"]);
                peers.push(peer);
            });
        }
    }

    pub(super) fn add_timers_and_jobs(&mut self) {
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

    pub(super) fn add_queues(&mut self) {
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

    pub(super) fn add_datagrams(&mut self) {
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

    pub(super) fn add_fds(&mut self) {
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

    pub(super) fn add_subscriptions(&mut self) {
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
            .listen(Listener::bind(&address).unwrap(), SubscriberSession::framing(), |_, _| {
                Ok(SubscriberSession::new(|world: &mut World| &mut world.publisher))
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

pub(super) fn send(peer: impl AsFd, pieces: &[impl AsRef<[u8]>]) {
    for piece in pieces {
        let piece = piece.as_ref();
        assert_eq!(rustix::io::write(&peer, piece).unwrap(), piece.len());
    }
}

pub(super) fn shut_down(peer: impl AsFd) {
    socket::shutdown(peer, socket::Shutdown::Write).unwrap();
}

/// The test's end of a connection, which leaves no port in TIME_WAIT: there are thousands of them.
fn lingerless(peer: TcpStream) -> OwnedFd {
    socket::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    peer.into()
}

fn seqpacket() -> OwnedFd {
    let flags = socket::SocketFlags::CLOEXEC;
    socket::socket_with(socket::AddressFamily::UNIX, socket::SocketType::SEQPACKET, flags, None).unwrap()
}

pub(super) fn connect(address: &Address) -> OwnedFd {
    match address {
        Address::UnixStream(path) => UnixStream::connect(path).unwrap().into(),
        Address::Tcp(address) => lingerless(TcpStream::connect(address).unwrap()),
        Address::UnixSeqpacket(path) => {
            let peer = seqpacket();
            socket::connect(&peer, &socket::SocketAddrUnix::new(path).unwrap()).unwrap();
            peer
        }
        _ => unreachable!("no transport of a client"),
    }
}

pub(super) fn pair(transport: Transport) -> (OwnedFd, OwnedFd) {
    match transport {
        Transport::Unix => UnixStream::pair().map(|(peer, ours)| (peer.into(), ours.into())).unwrap(),
        Transport::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (lingerless(peer), listener.accept().unwrap().0.into())
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
