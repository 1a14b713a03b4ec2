//! Outgoing connections, as sources beside the master sockets that they connect to.

mod asker;
mod crowds;

use crate::support::child::KillOnDrop;
use crate::support::names::unique;
use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    net::TcpListener,
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::fds::*;
use asker::*;
use ipc_reactor::{Address, Framing, Limit, Limits, Listener, Reactor, Turn};

fn unix(path: &Path) -> Address {
    Address::UnixStream(path.to_owned())
}

#[test]
fn every_kind_connects_to_its_own_reactors_master_socket() {
    let folder = tempfile::tempdir().unwrap();
    let name = unique();
    let mut addresses = vec![
        format!("unix:{}", folder.path().join("stream").display()),
        format!("unix-seq:{}", folder.path().join("records").display()),
        format!("abstract:{name}"),
        format!("abstract-seq:{name}-records"),
        "tcp:127.0.0.1:0".to_owned(),
        "tcp:localhost:0".to_owned(),
    ];
    if can(TcpListener::bind("[::1]:0").is_ok(), "there is no IPv6 here") {
        addresses.push("tcp:[::1]:0".to_owned());
    }
    for text in addresses {
        let listener = Listener::bind(&text.parse().unwrap()).unwrap();
        let mut address = listener.local_address().unwrap();
        if let (Address::Tcp(bound), true) = (&address, text.contains("localhost")) {
            let port = bound.rsplit_once(':').unwrap().1;
            address = format!("tcp:localhost:{port}").parse().unwrap();
        }
        let framing = if text.contains("-seq") { Framing::raw() } else { Framing::lines() };
        let mut reactor = Reactor::<Told>::new().unwrap();
        reactor.listen(listener, framing.clone(), |_, _| Ok(Echo)).unwrap();
        let key = reactor.connect(&address, framing, Asker::new("A").answers(2)).unwrap();
        reactor.client(key).unwrap().send_frame(b"early").unwrap();
        let mut told = Told::default();
        reactor.run(&mut told).unwrap();
        let expected = ["A open", "A got early", "A got open", "A closed: closed by a handler"];
        assert_eq!(told.lines, expected, "{text}");
        assert_eq!(reactor.stats().accepted, 1, "a connection of one's own is no CIR");
    }
}

/// Runs until the connection has failed; why, and as which error.
fn failure(address: &Address) -> String {
    let mut reactor = Reactor::<Told>::new().unwrap();
    let key = reactor.connect(address, Framing::lines(), Asker::new("A")).unwrap();
    reactor.client(key).unwrap().send(b"lost\n").unwrap();
    let mut told = Told::default();
    reactor.run(&mut told).unwrap();
    assert_eq!(told.lines.len(), 1, "told once, and nothing else: {told:?}");
    assert!(reactor.client(key).is_none() && reactor.stats().clients == 0);
    told.lines.remove(0)
}

#[test]
fn a_failure_is_told_once_to_on_close() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    drop(UnixListener::bind(at("stale")).unwrap());
    let _datagram = std::os::unix::net::UnixDatagram::bind(at("datagram")).unwrap();
    std::fs::write(at("file"), "").unwrap();
    // Bound and not listening: no other process gets the port.
    let deaf = Listener::tcp("127.0.0.1:0").unwrap();
    let Address::Tcp(refuses) = deaf.local_address().unwrap() else { panic!("TCP") };
    drop(deaf);
    for (address, errno) in [
        (unix(&at("missing")), libc::ENOENT),
        (unix(&at("stale")), libc::ECONNREFUSED),
        (Address::UnixSeqpacket(at("stale")), libc::ECONNREFUSED),
        (unix(&at("file")), libc::ECONNREFUSED),
        (unix(&at("file/below")), libc::ENOTDIR),
        (unix(&at("datagram")), libc::EPROTOTYPE),
        (Address::AbstractStream(unique().into()), libc::ECONNREFUSED),
        (Address::Tcp(refuses), libc::ECONNREFUSED),
    ] {
        let expected = std::io::Error::from_raw_os_error(errno);
        assert_eq!(failure(&address), format!("A closed: connecting failed: {expected}"), "{address}");
    }
}

#[test]
fn who_may_not_connect_is_told_so() {
    if let Some(path) = role() {
        become_a_nobody(&[]);
        println!("\nfailure: {}", failure(&unix(Path::new(&path))));
        return;
    }
    if !can(is_root(), "only root can become somebody else") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _server = Listener::unix(&path).unwrap();
    let mut child = Role::start("connect::who_may_not_connect_is_told_so", path.to_str().unwrap());
    assert!(child.says("failure: ").contains("Permission denied"));
    child.ends_well();
}

#[test]
fn what_is_no_connections_address_is_refused_at_once() {
    let mut reactor = Reactor::<Told>::new().unwrap();
    for text in ["udp:127.0.0.1:1", "mq:/jobs", "unix-dgram:/x", "abstract-dgram:x"] {
        let error = reactor.connect(&text.parse().unwrap(), Framing::raw(), Asker::new("A")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(text), "{error}");
    }
    let long = Address::UnixStream("p".repeat(108).into());
    assert_eq!(
        reactor.connect(&long, Framing::raw(), Asker::new("A")).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    assert_eq!(reactor.stats().clients, 0);
}

/// A listening Unix socket with room for one in its backlog, and the one.
fn full(path: &Path) -> (UnixListener, UnixStream) {
    let server = UnixListener::bind(path).unwrap();
    backlog_of_one(server.as_raw_fd());
    let first = UnixStream::connect(path).unwrap();
    (server, first)
}

/// `listen(2)` once more, with a backlog of 0: that is one.
fn backlog_of_one(fd: i32) {
    #[allow(unsafe_code)]
    // SAFETY: takes no pointer.
    let listening = unsafe { libc::listen(fd, 0) };
    assert_eq!(listening, 0);
}

#[test]
fn a_backlog_that_stays_full_is_given_up_at_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _full = full(&path);
    // Whether it has bytes to send or not, and whether there is an idle deadline or not.
    for (idle, early) in [(None, false), (None, true), (Limits::default().idle, false)] {
        let limits = Limits { connect: Duration::from_millis(300), idle, ..Limits::default() };
        let mut reactor = Reactor::<Told>::builder().limits(limits).build().unwrap();
        let key = reactor.connect(&unix(&path), Framing::lines(), Asker::new("A")).unwrap();
        if early {
            reactor.client(key).unwrap().send(b"lost\n").unwrap();
        }
        let mut told = Told::default();
        reactor.run(&mut told).unwrap();
        assert_eq!(told.lines, ["A closed: limit reached: connect deadline"]);
        let stats = reactor.stats();
        assert_eq!(stats.limit_count(Limit::Connect), 1);
        assert!(stats.turns < 40, "it sleeps while it waits: {} turns", stats.turns);
    }
}

#[test]
fn a_full_backlog_is_waited_for_with_one_timer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let (server, _first) = full(&path);
    let mut reactor = Reactor::<Told>::new().unwrap();
    let key = reactor.connect(&unix(&path), Framing::lines(), Asker::new("A").answers(101)).unwrap();
    let mut told = Told::default();
    // Each of these visits it, and none may add a timer.
    for number in 0..100 {
        reactor.client(key).unwrap().send(format!("{number}\n").as_bytes()).unwrap();
        let _ = reactor.turn(Some(Duration::ZERO), &mut told).unwrap();
        assert!(reactor.timers() <= 1, "{} timers", reactor.timers());
    }
    assert!(told.lines.is_empty());
    let echo = std::thread::spawn(move || {
        let _first = server.accept().unwrap();
        let (mut stream, _) = server.accept().unwrap();
        let mut reading = stream.try_clone().unwrap();
        std::io::copy(&mut reading, &mut stream).unwrap();
    });
    reactor.run(&mut told).unwrap();
    echo.join().unwrap();
    let expected = (0..100).map(|number| format!("A got {number}"));
    let expected: Vec<_> = ["A open".to_owned()].into_iter().chain(expected).collect();
    assert_eq!(told.lines[..101], expected);
    assert_eq!(told.lines[101..], ["A got open", "A closed: closed by a handler"]);
}

#[test]
fn tcp_that_nobody_accepts_is_given_up_at_the_deadline() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    backlog_of_one(server.as_raw_fd());
    let address = Address::Tcp(server.local_addr().unwrap().to_string());
    let limits = Limits { connect: Duration::from_millis(300), ..Limits::default() };
    let mut reactor = Reactor::<Told>::builder().limits(limits).build().unwrap();
    const COUNT: usize = 8;
    for _ in 0..COUNT {
        reactor.connect(&address, Framing::lines(), Asker::new("A")).unwrap();
    }
    let mut told = Told::default();
    // The connections that the backlog took are established, and stay so.
    while told.lines.len() < COUNT {
        let _ = reactor.turn(None, &mut told).unwrap();
    }
    let opened = told.lines.iter().filter(|line| *line == "A open").count();
    let given_up =
        told.lines.iter().filter(|line| *line == "A closed: limit reached: connect deadline").count();
    assert!(opened >= 1 && given_up >= 1 && opened + given_up == COUNT, "{told:?}");
    assert_eq!(reactor.stats().clients, opened);
    assert!(reactor.stats().turns < 60, "{} turns", reactor.stats().turns);
}

/// A Unix connection is established when `connect` returns: what becomes of the listener after that does not matter.
#[test]
fn a_listener_that_is_closed_or_full_does_not_undo_what_it_has_accepted() {
    let folder = tempfile::tempdir().unwrap();
    for closes in [true, false] {
        let path = folder.path().join(format!("closes {closes}"));
        let listener = UnixListener::bind(&path).unwrap();
        backlog_of_one(listener.as_raw_fd());
        let mut reactor = Reactor::<Told>::new().unwrap();
        reactor.connect(&unix(&path), Framing::lines(), Asker::new("A").answers(1)).unwrap();
        let mut peer = listener.accept().unwrap().0;
        let listener = (!closes).then_some(listener);
        let _waiting = listener.as_ref().map(|_| UnixStream::connect(&path).unwrap());
        let mut told = Told::default();
        let _ = reactor.turn(Some(PATIENCE), &mut told).unwrap();
        assert_eq!(told.lines, ["A open"], "at once");
        peer.write_all(b"answer\n").unwrap();
        reactor.run(&mut told).unwrap();
        assert_eq!(told.lines, ["A open", "A got answer", "A closed: closed by a handler"]);
    }
}

#[test]
fn closing_while_it_connects_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let (server, first) = full(&path);
    for abort in [false, true] {
        for turns in 0..3 {
            let (mut reactor, mut told) = (Reactor::<Told>::new().unwrap(), Told::default());
            let key = reactor.connect(&unix(&path), Framing::lines(), Asker::new("A")).unwrap();
            for _ in 0..turns {
                assert_eq!(reactor.turn(Some(Duration::ZERO), &mut told).unwrap(), Turn::Idle);
            }
            assert!(if abort { reactor.abort(key) } else { reactor.close(key) });
            assert!(reactor.client(key).is_none());
            reactor.run(&mut told).unwrap();
            assert_eq!(told.lines, ["A closed: closed by a handler"]);
        }
    }
    // What was to be sent is sent first, if the connection is established.
    let (mut reactor, mut told) = (Reactor::<Told>::new().unwrap(), Told::default());
    let key = reactor.connect(&unix(&path), Framing::lines(), Asker::new("A")).unwrap();
    reactor.client(key).unwrap().send(b"farewell\n").unwrap();
    assert!(reactor.close(key) && !reactor.close(key));
    let _ = reactor.turn(Some(Duration::ZERO), &mut told).unwrap();
    assert!(told.lines.is_empty());
    drop(first);
    let reader = std::thread::spawn(move || {
        let _first = server.accept().unwrap();
        let mut heard = String::new();
        BufReader::new(server.accept().unwrap().0).read_line(&mut heard).unwrap();
        heard
    });
    reactor.run(&mut told).unwrap();
    assert_eq!(reader.join().unwrap(), "farewell\n");
    assert_eq!(told.lines, ["A closed: closed by a handler"]);
}

#[test]
fn a_stop_and_a_drain_end_what_still_connects() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _full = full(&path);
    for drain in [false, true] {
        let mut reactor = Reactor::<Told>::new().unwrap();
        reactor.connect(&unix(&path), Framing::lines(), Asker::new("A")).unwrap();
        let mut told = Told::default();
        let _ = reactor.turn(Some(Duration::ZERO), &mut told).unwrap();
        if drain {
            reactor.drain(Duration::from_millis(50)).unwrap();
        } else {
            reactor.stop();
        }
        reactor.run(&mut told).unwrap();
        let why = if drain { "the drain's deadline passed" } else { "the reactor stopped" };
        assert_eq!(told.lines, [format!("A closed: {why}")]);
    }
}

const PYTHON: &str = r#"
import socket, sys
if sys.argv[1] == "tcp":
    master = socket.create_server(("127.0.0.1", 0))
    print("127.0.0.1:%d" % master.getsockname()[1], flush=True)
else:
    master = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if sys.argv[1] == "seq" else socket.SOCK_STREAM)
    master.bind(sys.argv[2])
    master.listen(1)
    print("ready", flush=True)
client, _ = master.accept()
while data := client.recv(4096):
    client.sendall(data.upper())
"#;

#[test]
fn a_foreign_server_is_connected_to() {
    if !have("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for kind in ["stream", "seq", "tcp"] {
        let path = folder.path().join(kind);
        let mut command: Command = python(PYTHON);
        let mut server = KillOnDrop(command.arg(kind).arg(&path).stdout(Stdio::piped()).spawn().unwrap());
        let mut ready = String::new();
        BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let (address, framing) = match kind {
            "stream" => (unix(&path), Framing::lines()),
            "seq" => (Address::UnixSeqpacket(path), Framing::raw()),
            _ => (Address::Tcp(ready.trim().to_owned()), Framing::lines()),
        };
        let mut reactor = Reactor::<Told>::new().unwrap();
        reactor.connect(&address, framing, Asker::new("A").answers(1)).unwrap();
        let mut told = Told::default();
        reactor.run(&mut told).unwrap();
        assert_eq!(told.lines, ["A open", "A got OPEN", "A closed: closed by a handler"]);
        assert!(server.0.wait().unwrap().success(), "it saw an end of file");
    }
}
