//! What another user passes to hurt: TCP sockets whose last close waits ten minutes. Whatever becomes of them, the loop
//! answers others, ends when it is told to, and keeps no descriptor.
//!
//! Each server is a process of its own, as on an older kernel where that is where descriptors can be passed at all.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ipc_reactor::{Address, Context, Datagram, Framing, Key, Listener, Reactor, Session, Signal, Turn};
use libc::{SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};

use crate::support::{
    PATIENCE, can,
    fds::*,
    isolated::{self, Case, cases},
    names::unique,
    old_kernel, sockets,
};

pub(crate) const CASES: &[Case] = cases![
    to_a_listener_of_ours,
    to_a_datagram_socket,
    to_an_adopted_listener_before_it_was_adopted,
    to_an_adopted_socket_before_it_was_adopted,
    by_a_server_that_we_connect_to,
    unread_when_a_limit_closes_the_client,
    unread_when_a_handler_aborts_many_clients,
    unread_when_the_loop_stops,
    unread_when_the_reactor_is_dropped,
    in_connections_that_wait_when_their_listener_is_closed,
    in_datagrams_that_wait_when_their_socket_is_closed,
    more_than_the_framing_wants,
    and_not_taken,
    in_messages_of_a_socket_that_is_passed_itself,
];

const NOBODY: u32 = 65_534;
const BOTH: [i32; 2] = [SOCK_STREAM, SOCK_SEQPACKET];

// ---- The server ----

#[derive(Default)]
struct World {
    name: String,
    /// Sources and clients, by the name of their socket.
    keys: HashMap<String, Vec<Key>>,
    foreign: HashMap<String, OwnedFd>,
    quits: bool,
}

struct Peer(String);

impl Session<World> for Peer {
    fn on_open(&mut self, cx: &mut Context<'_, World>, world: &mut World) -> io::Result<()> {
        world.keys.entry(self.0.clone()).or_default().push(cx.key());
        Ok(())
    }

    fn on_request(
        &mut self,
        request: &[u8],
        cx: &mut Context<'_, World>,
        world: &mut World,
    ) -> io::Result<()> {
        let text = String::from_utf8_lossy(request).into_owned();
        if let Some(order) = text.strip_prefix('!') {
            let answer = obey(order, cx, world)?;
            return cx.reply(format!("{answer}\n").as_bytes());
        }
        cx.reply(&[request, b"\n"].concat())
    }
}

fn kind_of(word: &str) -> i32 {
    match word {
        "1" => SOCK_STREAM,
        "2" => SOCK_DGRAM,
        _ => SOCK_SEQPACKET,
    }
}

fn framing_of(kind: i32, descriptors: &str) -> Framing {
    let framing = if kind == SOCK_STREAM { Framing::lines() } else { Framing::raw() };
    framing.max(1000).descriptors(descriptors.parse().unwrap())
}

/// `VERB TAG KIND DESCRIPTORS`.
fn obey(order: &str, cx: &mut Context<'_, World>, world: &mut World) -> io::Result<String> {
    let words: Vec<&str> = order.split(' ').collect();
    let (verb, tag) = (words[0], words.get(1).copied().unwrap_or_default().to_owned());
    let (kind, descriptors) = (kind_of(words.get(2).unwrap_or(&"1")), words.get(3).unwrap_or(&"0"));
    let (name, framing) = (format!("{}-{tag}", world.name), framing_of(kind, descriptors));
    let key = match verb {
        "count" => {
            let (clients, stats) = (cx.clients().count(), cx.stats());
            return Ok(format!("{clients} {} {}", open_descriptors(), stats.descriptors_discarded));
        }
        // A listener or a socket of ours.
        "serve" if kind == SOCK_DGRAM => cx
            .datagram(Datagram::unix_abstract(name)?, |datagram, _, _: &mut World| {
                // A sender without a name gets no answer.
                let _ = datagram.reply(datagram.bytes);
                Ok(())
            })
            .map_err(|rejected| rejected.error)?,
        "serve" => {
            let listener = match kind {
                SOCK_STREAM => Listener::unix_abstract(name)?,
                _ => Listener::seqpacket_abstract(name)?,
            };
            let of_client = tag.clone();
            let made = cx.listen(listener, framing, move |_, _| Ok(Peer(of_client.clone())));
            made.map_err(|rejected| rejected.error)?
        }
        // A listener that another program has made, and its adoption.
        "bind" => {
            world.foreign.insert(tag, listening(&name, kind));
            return Ok("bound".into());
        }
        "adopt" => {
            let listener = Listener::try_from(world.foreign.remove(&tag).unwrap())?;
            let of_client = tag.clone();
            let made = cx.listen(listener, framing, move |_, _| Ok(Peer(of_client.clone())));
            made.map_err(|rejected| rejected.error)?
        }
        // A connection that another program has made, and its adoption.
        "dial" => {
            let socket = connect(Path::new(&format!("@{name}")), kind)?;
            world.foreign.insert(tag, socket);
            return Ok("dialled".into());
        }
        "take" => cx.adopt(world.foreign.remove(&tag).unwrap(), framing, Peer(tag.clone()))?,
        // A connection of ours.
        "call" => {
            let name = name.into_bytes();
            let address = match kind {
                SOCK_STREAM => Address::AbstractStream(name),
                _ => Address::AbstractSeqpacket(name),
            };
            cx.connect(&address, framing, Peer(tag.clone()))?
        }
        "abort" | "close" => {
            let keys = world.keys.remove(&tag).unwrap_or_default();
            for key in keys {
                cx.abort(key);
            }
            return Ok("done".into());
        }
        "stop" => {
            cx.stop();
            return Ok("stops".into());
        }
        "quit" => {
            world.quits = true;
            return Ok("quits".into());
        }
        // What comes meanwhile is not read.
        "hold" => {
            println!("\nholding");
            let mut line = String::new();
            io::stdin().read_line(&mut line)?;
            return obey(&words[1..].join(" "), cx, world);
        }
        _ => panic!("{order}"),
    };
    let of_client = matches!(verb, "take" | "call");
    // A client notes itself when it is opened.
    if !of_client {
        world.keys.entry(format!("itself-{tag}")).or_default().push(key);
    }
    Ok("done".into())
}

fn listening(name: &str, kind: i32) -> OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
    let kind = if kind == SOCK_STREAM { SocketType::STREAM } else { SocketType::SEQPACKET };
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
    listen(&socket, 64).unwrap();
    socket
}

/// The child.
fn serve(given: &str) {
    let (version, name) = given.split_once(' ').unwrap();
    if version != "now" {
        old_kernel::become_old(version.parse().unwrap()).unwrap();
    }
    let mut reactor = Reactor::<World>::new().unwrap();
    reactor
        .signals([Signal::TERM], |_, cx, _| {
            cx.stop();
            Ok(())
        })
        .unwrap();
    let listener = Listener::unix_abstract(format!("{name}-asker")).unwrap();
    let framing = Framing::lines();
    reactor
        .listen(listener, framing, |_, _| Ok(Peer("asker".into())))
        .map_err(|rejected| rejected.error)
        .unwrap();
    println!("\nready {}", std::process::id());
    let mut world = World { name: name.into(), ..World::default() };
    while !world.quits && reactor.turn(None, &mut world).unwrap() != Turn::Stopped {}
    drop(reactor);
    println!("\nno more");
    io::stdout().flush().unwrap();
}

// ---- The attacker ----

struct Site {
    server: Role,
    pid: u32,
    name: String,
    asker: OwnedFd,
    /// Ends of TCP connections that are never read.
    unread: Vec<TcpStream>,
    /// Descriptors of the server before anything has happened.
    open: usize,
    is_ending: bool,
}

/// Each attack, by another user, on a server on a kernel of each of these versions; `now` is the one that runs.
fn attack(versions: &[&str], mut how: impl FnMut(&mut Site) + Send) {
    if let Some(given) = role() {
        return serve(&given);
    }
    if !can(is_root(), "only root can become somebody else, who attacks") {
        return;
    }
    for version in versions {
        let name = unique();
        let mut server = Role::start(&isolated::case().unwrap(), &format!("{version} {name}"));
        let pid = server.says("ready").parse().unwrap();
        let asker = connect(&at(&name, "asker"), SOCK_STREAM).unwrap();
        let mut site = Site { server, pid, name, asker, unread: Vec::new(), open: 0, is_ending: false };
        site.open = site.count()[1];
        sockets::as_user(NOBODY, || how(&mut site)).expect("root may become nobody");
        site.ends();
    }
}

fn at(name: &str, tag: &str) -> PathBuf {
    PathBuf::from(format!("@{name}-{tag}"))
}

impl Site {
    fn ask(&mut self, order: &str) -> String {
        send_with(&self.asker, format!("!{order}\n").as_bytes(), &[]).unwrap();
        line(&self.asker)
    }

    /// Clients, open descriptors, and those that were discarded.
    fn count(&mut self) -> [usize; 3] {
        let answer = self.ask("count");
        let numbers: Vec<_> = answer.split(' ').map(|number| number.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    }

    /// Until the server has so many clients beside the asker, and no descriptor that it should not have.
    fn settles(&mut self, clients: usize, more: usize, discarded: usize) {
        let end = Instant::now() + PATIENCE;
        loop {
            let counts = self.count();
            if counts == [clients + 1, self.open + more, discarded] {
                return;
            }
            let wanted = [clients + 1, self.open + more, discarded];
            assert!(Instant::now() < end, "[clients, descriptors, discarded] is {counts:?}, not {wanted:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Does something while the server's loop waits, before it does what it was ordered.
    fn meanwhile(&mut self, order: &str, act: impl FnOnce(&mut Site)) {
        send_with(&self.asker, format!("!hold {order}\n").as_bytes(), &[]).unwrap();
        self.server.says("holding");
        act(self);
        self.server.goes_on();
    }

    fn connect(&self, tag: &str, kind: i32) -> OwnedFd {
        connect(&at(&self.name, tag), kind).unwrap()
    }

    /// A TCP socket whose last close waits ten minutes, because its data is never read.
    fn lingering(&mut self) -> OwnedFd {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set(listener.as_fd(), libc::SO_RCVBUF, &4096_i32).unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        self.unread.push(listener.accept().unwrap().0);
        set(socket.as_fd(), libc::SO_SNDBUF, &4096_i32).unwrap();
        socket.set_nonblocking(true).unwrap();
        let full = loop {
            if let Err(error) = (&socket).write(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let linger = libc::linger { l_onoff: 1, l_linger: 600 };
        set(socket.as_fd(), libc::SO_LINGER, &linger).unwrap();
        socket.into()
    }

    /// Sends a message with so many of them, and keeps none.
    fn send(&mut self, to: impl AsFd, bytes: &[u8], count: usize) {
        let passed: Vec<_> = (0..count).map(|_| self.lingering()).collect();
        let passed: Vec<BorrowedFd<'_>> = passed.iter().map(AsFd::as_fd).collect();
        send_with(to, bytes, &passed).unwrap();
    }

    /// It ends when it is told to, whatever waits in its sockets.
    fn ends(mut self) {
        if !self.is_ending {
            ipc_reactor::signals::kill(self.pid, Signal::TERM).unwrap();
        }
        self.server.says("no more");
        self.server.ends_well();
    }
}

/// What a client reads, up to the end of a line or a record.
fn answer(client: &OwnedFd, kind: i32) -> String {
    if kind == SOCK_STREAM {
        return line(client);
    }
    let mut record = [0; 64];
    let (got, _) = recv_with(client, &mut record).unwrap();
    String::from_utf8_lossy(&record[..got]).trim_end().to_owned()
}

fn text(kind: i32, text: &str) -> Vec<u8> {
    if kind == SOCK_STREAM { format!("{text}\n").into_bytes() } else { text.into() }
}

// ---- The attacks ----

fn to_a_listener_of_ours() {
    attack(&["6.12"], |site| {
        let mut discarded = 0;
        for kind in BOTH {
            let tag = format!("port{kind}");
            site.ask(&format!("serve {tag} {kind}"));
            let more = if kind == SOCK_STREAM { 1 } else { 2 };
            for count in [1, 2, 253] {
                let client = site.connect(&tag, kind);
                send_with(&client, &text(kind, "first"), &[]).unwrap();
                assert_eq!(answer(&client, kind), "first");
                site.send(&client, &text(kind, "second"), count);
                assert!(ends(&client) || kind == SOCK_STREAM, "who could have known is closed");
                discarded += count;
                site.settles(0, more, discarded);
            }
        }
    });
}

fn to_a_datagram_socket() {
    attack(&["6.12"], |site| {
        site.ask("serve port 2");
        let (name, mut discarded) = (site.name.clone(), 0);
        for datagrams in [1, 2, 5, 40] {
            let client = connect(&at(&name, "port"), SOCK_DGRAM).unwrap();
            rustix::net::bind(&client, &rustix::net::SocketAddrUnix::new_unnamed()).unwrap();
            site.meanwhile("count", |site| {
                for number in 0..datagrams.min(10) {
                    site.send(&client, format!("{number}").as_bytes(), 1 + number % 3);
                    discarded += 1 + number % 3;
                }
            });
            line(&site.asker);
            for number in 0..datagrams.min(10) {
                assert_eq!(answer(&client, SOCK_DGRAM), number.to_string(), "the bytes are handled");
            }
            site.settles(0, 1, discarded);
        }
    });
}

fn to_an_adopted_listener_before_it_was_adopted() {
    attack(&["6.12", "now"], |site| {
        let mut discarded = 0;
        for (index, kind) in BOTH.into_iter().enumerate() {
            let tag = format!("port{kind}");
            site.ask(&format!("bind {tag} {kind}"));
            let clients: Vec<_> = (0..5).map(|_| site.connect(&tag, kind)).collect();
            for client in &clients {
                send_with(client, &text(kind, "first"), &[]).unwrap();
                site.send(client, &text(kind, "second"), 1);
                site.send(client, &text(kind, "third"), 3);
                send_with(client, &text(kind, "fourth"), &[]).unwrap();
                discarded += 4;
            }
            assert_eq!(site.ask(&format!("adopt {tag} {kind}")), "done");
            for client in &clients {
                let answers: Vec<_> = (0..4).map(|_| answer(client, kind)).collect();
                assert_eq!(answers, ["first", "second", "third", "fourth"], "it could not have known");
            }
            site.settles(5, 6 + index, discarded);
            drop(clients);
            site.settles(0, 1 + index, discarded);
        }
    });
}

fn to_an_adopted_socket_before_it_was_adopted() {
    attack(&["6.12", "now"], |site| {
        for (index, kind) in BOTH.into_iter().enumerate() {
            let tag = format!("port{kind}");
            let listener = listening(&format!("{}-{tag}", site.name), kind);
            site.ask(&format!("dial {tag} {kind}"));
            let peer: OwnedFd = rustix::net::accept(&listener).unwrap();
            send_with(&peer, &text(kind, "first"), &[]).unwrap();
            site.send(&peer, &text(kind, "second"), 2);
            site.send(&peer, &text(kind, "third"), 1);
            assert_eq!(site.ask(&format!("take {tag} {kind}")), "done");
            let answers: Vec<_> = (0..3).map(|_| answer(&peer, kind)).collect();
            assert_eq!(answers, ["first", "second", "third"]);
            drop(peer);
            site.settles(0, 0, 3 * (index + 1));
        }
    });
}

fn by_a_server_that_we_connect_to() {
    attack(&["6.12"], |site| {
        for (index, kind) in BOTH.into_iter().enumerate() {
            let tag = format!("port{kind}");
            let listener = listening(&format!("{}-{tag}", site.name), kind);
            assert_eq!(site.ask(&format!("call {tag} {kind}")), "done");
            let peer: OwnedFd = rustix::net::accept(&listener).unwrap();
            site.send(&peer, &text(kind, "hello"), 2);
            assert!(ends(&peer) || kind == SOCK_STREAM);
            site.settles(0, 0, 2 * (index + 1));
        }
    });
}

fn unread_when_a_limit_closes_the_client() {
    attack(&["6.12"], |site| {
        site.ask("serve port 5");
        let client = site.connect("port", SOCK_SEQPACKET);
        send_with(&client, b"first", &[]).unwrap();
        assert_eq!(answer(&client, SOCK_SEQPACKET), "first");
        site.meanwhile("count", |site| {
            send_with(&client, &[b'x'; 2_000], &[]).unwrap();
            site.send(&client, b"y", 2);
        });
        line(&site.asker);
        ends(&client);
        site.settles(0, 1, 0);
    });
}

fn unread_when_a_handler_aborts_many_clients() {
    attack(&["6.12"], |site| {
        for (index, kind) in BOTH.into_iter().enumerate() {
            let tag = format!("port{kind}");
            site.ask(&format!("serve {tag} {kind}"));
            let clients: Vec<_> = (0..20).map(|_| site.connect(&tag, kind)).collect();
            for client in &clients {
                send_with(client, &text(kind, "first"), &[]).unwrap();
                assert_eq!(answer(client, kind), "first");
            }
            site.meanwhile(&format!("abort {tag}"), |site| {
                for client in &clients {
                    send_with(client, &text(kind, "x"), &[]).unwrap();
                    site.send(client, &text(kind, "y"), 2);
                }
            });
            assert_eq!(line(&site.asker), "done");
            // More than the threads that close: none of them may be stuck.
            for client in &clients {
                ends(client);
            }
            site.settles(0, 1 + index, 0);
        }
    });
}

fn unread_when_it_ends(order: &str) {
    attack(&["6.12"], |site| {
        let mut clients = Vec::new();
        for kind in BOTH {
            let tag = format!("port{kind}");
            site.ask(&format!("serve {tag} {kind}"));
            for _ in 0..10 {
                let client = site.connect(&tag, kind);
                send_with(&client, &text(kind, "first"), &[]).unwrap();
                assert_eq!(answer(&client, kind), "first");
                clients.push((client, kind));
            }
        }
        site.meanwhile(order, |site| {
            for (client, kind) in &clients {
                site.send(client, &text(*kind, "y"), 1);
            }
        });
        site.is_ending = true;
        for (client, _) in &clients {
            ends(client);
        }
    });
}

fn unread_when_the_loop_stops() {
    unread_when_it_ends("stop");
}

fn unread_when_the_reactor_is_dropped() {
    unread_when_it_ends("quit");
}

fn in_connections_that_wait_when_their_listener_is_closed() {
    attack(&["6.12"], |site| {
        for kind in BOTH {
            let tag = format!("port{kind}");
            site.ask(&format!("serve {tag} {kind}"));
            let mut clients = Vec::new();
            site.meanwhile(&format!("close itself-{tag}"), |site| {
                for _ in 0..3 {
                    let client = site.connect(&tag, kind);
                    site.send(&client, &text(kind, "y"), 1);
                    clients.push(client);
                }
            });
            assert_eq!(line(&site.asker), "done");
            for client in &clients {
                ends(client);
            }
            site.settles(0, 0, 0);
        }
    });
}

fn in_datagrams_that_wait_when_their_socket_is_closed() {
    attack(&["6.12"], |site| {
        site.ask("serve port 2");
        let client = site.connect("port", SOCK_DGRAM);
        site.meanwhile("close itself-port", |site| {
            for _ in 0..5 {
                site.send(&client, b"y", 2);
            }
        });
        assert_eq!(line(&site.asker), "done");
        site.settles(0, 0, 0);
    });
}

fn more_than_the_framing_wants() {
    attack(&["6.12", "now"], |site| {
        for (index, kind) in BOTH.into_iter().enumerate() {
            let tag = format!("port{kind}");
            site.ask(&format!("serve {tag} {kind} 1"));
            let client = site.connect(&tag, kind);
            site.send(&client, &text(kind, "first"), 253);
            assert!(ends(&client) || kind == SOCK_STREAM);
            site.settles(0, 1 + index, 253 * (index + 1));
        }
    });
}

fn and_not_taken() {
    attack(&["6.12", "now"], |site| {
        for (index, kind) in BOTH.into_iter().enumerate() {
            let tag = format!("port{kind}");
            site.ask(&format!("serve {tag} {kind} 4"));
            let client = site.connect(&tag, kind);
            site.send(&client, &text(kind, "first"), 4);
            assert_eq!(answer(&client, kind), "first");
            drop(client);
            site.settles(0, 1 + index, 4 * (index + 1));
        }
    });
}

/// A socket that is passed holds, in messages of its own, others that linger. No thread that closes them gets stuck.
fn in_messages_of_a_socket_that_is_passed_itself() {
    attack(&["6.12", "now"], |site| {
        site.ask("serve port 1 8");
        for round in 0..20 {
            let client = site.connect("port", SOCK_STREAM);
            let (inner, other) = pair(SOCK_STREAM);
            site.send(&other, b"inside", 1);
            drop(other);
            send_with(&client, b"first\n", &[inner.as_fd()]).unwrap();
            drop(inner);
            assert_eq!(line(&client), "first");
            drop(client);
            site.settles(0, 1, round + 1);
        }
    });
}
