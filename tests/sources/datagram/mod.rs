//! Datagram sockets in the poll set: what reaches a handler, what a handler's error closes, which sources wait for
//! others.

mod allocations;

use crate::support::PATIENCE;
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use ipc_reactor::{
    Address, Cause, Context, Datagram, DatagramHandler, Incoming, Limits, PeerAddress, Reactor,
    SocketAddress, Turn,
};

/// Turns until `done` holds, or the reactor has stopped.
#[track_caller]
fn run_until<S>(reactor: &mut Reactor<S>, state: &mut S, done: impl Fn(&S) -> bool) {
    let start = Instant::now();
    while !done(state) && reactor.turn(Some(PATIENCE), state).unwrap() != Turn::Stopped {
        assert!(start.elapsed() < PATIENCE, "what was waited for did not come");
    }
    assert!(done(state), "the reactor stopped early");
}

fn address_of(socket: &Datagram) -> SocketAddress {
    SocketAddress::try_from(&socket.local_address().unwrap()).unwrap()
}

fn unix() -> (Datagram, SocketAddress) {
    let socket = Datagram::unix_autobind().unwrap();
    let address = address_of(&socket);
    (socket, address)
}

fn udp() -> (Datagram, SocketAddress) {
    let socket = Datagram::udp("127.0.0.1:0").unwrap();
    let address = address_of(&socket);
    (socket, address)
}

/// A handler that records its calls.
fn note(mark: u8) -> impl FnMut(Incoming<'_>, &mut Context<'_, Vec<u8>>, &mut Vec<u8>) -> io::Result<()> {
    move |_, _, marks| {
        marks.push(mark);
        Ok(())
    }
}

#[test]
fn handlers_get_bytes_sender_and_truncation() {
    type Seen = Vec<(Vec<u8>, Option<usize>, PeerAddress)>;
    let mut reactor = Reactor::<Seen>::new().unwrap();
    let small = Datagram::options().message_size(8).unix_autobind().unwrap();
    let to = address_of(&small);
    reactor
        .datagram(small, |datagram, _, seen| {
            seen.push((datagram.bytes.to_vec(), datagram.truncated, datagram.from.to_address()));
            Ok(())
        })
        .unwrap();
    let (client, from) = unix();
    let from = from.to_address();
    // Some come one by one, some in a batch.
    let lengths = [3, 0, 9, 8, 100, 0, 1];
    for len in lengths {
        client.send_to(&b"0123456789".repeat(10)[..len], &to).unwrap();
    }
    let mut seen = Seen::new();
    run_until(&mut reactor, &mut seen, |seen| seen.len() == lengths.len());
    for ((bytes, truncated, sender), len) in seen.into_iter().zip(lengths) {
        assert_eq!(bytes, &b"01234567"[..len.min(8)]);
        assert_eq!(truncated, (len > 8).then_some(len));
        assert_eq!(sender, from);
    }
    assert_eq!(reactor.stats().datagrams, lengths.len() as u64);
}

#[test]
fn replies_reach_every_sender_that_has_a_name() {
    let mut reactor = Reactor::<Vec<Result<(), ErrorKind>>>::new().unwrap();
    let (server, to) = unix();
    let (pair, unnamed) = UnixDatagram::pair().unwrap();
    let echo = |datagram: Incoming<'_>, _: &mut Context<'_, _>, told: &mut Vec<_>| {
        told.push(datagram.reply(datagram.bytes).map_err(|error| error.kind()));
        Ok(())
    };
    reactor.datagram(server, echo).unwrap();
    reactor.datagram(Datagram::from(pair), echo).unwrap();
    let (client, _) = unix();
    client.send_to(b"named", &to).unwrap();
    let nobody = Datagram::from(UnixDatagram::unbound().unwrap());
    nobody.send_to(b"unnamed", &to).unwrap();
    unnamed.send(b"unnamed, connected").unwrap();
    let mut told = Vec::new();
    run_until(&mut reactor, &mut told, |told| told.len() == 3);
    told.sort();
    assert_eq!(told, [Ok(()), Ok(()), Err(ErrorKind::NotConnected)]);
    assert_eq!(client.recv_from(&mut [0; 16]).unwrap().len, 5);
    assert_eq!(unnamed.recv(&mut [0; 32]).unwrap(), 18);
}

#[test]
fn a_full_receiver_is_told_to_the_handler_that_sends() {
    let mut reactor = Reactor::<Option<(u32, ErrorKind)>>::new().unwrap();
    let (server, to) = unix();
    reactor
        .datagram(server, |datagram, _, told| {
            let mut sent = 0;
            let error = loop {
                match datagram.reply(b"x") {
                    Ok(()) => sent += 1,
                    Err(error) => break error,
                }
            };
            *told = Some((sent, error.kind()));
            Ok(())
        })
        .unwrap();
    let (client, _) = unix();
    client.send_to(b"flood me", &to).unwrap();
    let mut told = None;
    run_until(&mut reactor, &mut told, Option::is_some);
    let (sent, kind) = told.unwrap();
    assert!(sent > 0 && kind == ErrorKind::WouldBlock, "{sent} {kind}");
    (0..sent).for_each(|_| assert_eq!(client.recv_from(&mut [0]).unwrap().len, 1));
}

#[test]
fn an_error_and_a_panic_lose_one_datagram_each() {
    let mut reactor = Reactor::<Vec<u8>>::new().unwrap();
    let (server, to) = unix();
    reactor
        .datagram(server, |datagram, _, seen| {
            seen.push(datagram.bytes[0]);
            match datagram.bytes[0] {
                b'e' => Err(io::Error::other("not this one")),
                b'p' => panic!("not that one"),
                _ => Ok(()),
            }
        })
        .unwrap();
    let (client, _) = unix();
    let sent = b"aepbepc";
    sent.iter().for_each(|byte| client.send_to(&[*byte], &to).unwrap());
    let mut seen = Vec::new();
    run_until(&mut reactor, &mut seen, |seen| seen.len() == sent.len());
    assert_eq!(seen, sent);
    assert_eq!((reactor.stats().handler_errors, reactor.stats().panics), (2, 2));
}

#[test]
fn of_two_flooded_sockets_neither_waits_for_the_other() {
    const EACH: usize = 100;
    for budget in [1, 3, 4, 20] {
        let limits = Limits { messages_per_visit: budget, ..Limits::default() };
        let mut reactor = Reactor::<Vec<u8>>::builder().limits(limits).build().unwrap();
        let (client, _) = udp();
        for name in [0, 1] {
            let (server, to) = udp();
            (0..EACH).for_each(|_| client.send_to(b"x", &to).unwrap());
            reactor.datagram(server, note(name)).unwrap();
        }
        let mut order = Vec::new();
        run_until(&mut reactor, &mut order, |order| order.len() == 2 * EACH);
        let longest = order.chunk_by(|a, b| a == b).map(<[u8]>::len).max().unwrap();
        assert_eq!(longest, budget, "{order:?}");
    }
}

#[test]
fn ten_thousand_from_a_blocking_sender_come_whole_and_in_order() {
    const COUNT: u32 = 10_000;
    let mut reactor = Reactor::<u32>::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let server = Datagram::unix(&path).unwrap();
    reactor
        .datagram(server, |datagram, _, next| {
            assert_eq!(datagram.bytes, next.to_ne_bytes());
            *next += 1;
            Ok(())
        })
        .unwrap();
    let sender = std::thread::spawn(move || {
        let socket = UnixDatagram::unbound()?;
        (0..COUNT).try_for_each(|number| socket.send_to(&number.to_ne_bytes(), &path).map(drop))
    });
    let mut next = 0;
    run_until(&mut reactor, &mut next, |next| *next == COUNT);
    sender.join().unwrap().unwrap();
    assert_eq!(reactor.stats().panics, 0);
}

/// Records what it is called for, and connects to another peer when its own is gone.
struct Faithful {
    next: SocketAddress,
}

impl DatagramHandler<Vec<String>> for Faithful {
    fn on_datagram(
        &mut self,
        datagram: Incoming<'_>,
        cx: &mut Context<'_, Vec<String>>,
        told: &mut Vec<String>,
    ) -> io::Result<()> {
        told.push(String::from_utf8_lossy(datagram.bytes).into());
        cx.finish();
        Ok(())
    }

    fn on_error(
        &mut self,
        error: &io::Error,
        cx: &mut Context<'_, Vec<String>>,
        told: &mut Vec<String>,
    ) -> io::Result<()> {
        told.push(format!("{:?}", error.kind()));
        let socket = cx.datagram_socket(cx.key()).expect("one's own");
        socket.connect(&self.next)?;
        socket.send(b"and you?")
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Vec<String>>, told: &mut Vec<String>) {
        told.push(cause.to_string());
        assert!(cx.datagram_socket(cx.key()).is_none());
    }
}

#[test]
fn a_refusal_is_told_and_never_removes_the_socket() {
    let mut reactor = Reactor::<Vec<String>>::new().unwrap();
    let (alive, next) = udp();
    reactor.datagram(alive, |datagram, _, _| datagram.reply(b"here")).unwrap();
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = Datagram::connected(&Address::Udp(gone.local_addr().unwrap().to_string())).unwrap();
    drop(gone);
    client.send(b"anybody?").unwrap();
    reactor.datagram_handler(client, Faithful { next }).unwrap();
    let mut told = Vec::new();
    run_until(&mut reactor, &mut told, |told| told.len() == 3);
    assert_eq!(told, ["ConnectionRefused", "here", "closed by a handler"]);
    assert_eq!(
        reactor.stats().errors().find(|(kind, _)| *kind == ErrorKind::ConnectionRefused).unwrap().1,
        1
    );
}

#[test]
fn closing_from_a_handler_ends_its_datagrams_at_once() {
    for (own, before) in [(true, 1), (true, 4), (false, 1), (false, 4)] {
        let mut reactor = Reactor::<Vec<u8>>::new().unwrap();
        let ((first, to_first), (second, to_second)) = (unix(), unix());
        let second = reactor.datagram(second, note(b'2')).unwrap();
        reactor
            .datagram(first, move |_, cx, seen: &mut Vec<u8>| {
                seen.push(b'1');
                if seen.iter().filter(|&&byte| byte == b'1').count() == before {
                    let closed = if own { cx.key() } else { second };
                    assert!(cx.close(closed));
                }
                Ok(())
            })
            .unwrap();
        let (client, _) = unix();
        (0..6).for_each(|_| client.send_to(b"x", &to_first).unwrap());
        let mut seen = Vec::new();
        run_until(&mut reactor, &mut seen, |seen| seen.len() >= if own { before } else { 6 });
        assert_eq!(seen, b"1".repeat(if own { before } else { 6 }));
        let closed = if own { to_first } else { to_second };
        assert_eq!(client.send_to(b"x", &closed).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        client.send_to(b"x", if own { &to_second } else { &to_first }).unwrap();
        run_until(&mut reactor, &mut seen, |seen| seen.ends_with(if own { b"2" } else { b"1" }));
    }
}

#[test]
fn any_handler_sends_through_any_socket() {
    let mut reactor = Reactor::<Vec<ErrorKind>>::new().unwrap();
    let ((server, to), (other, to_other)) = (unix(), unix());
    let other_key = reactor.datagram(other, |_, _, _| Ok(())).unwrap();
    let (client, to_client) = unix();
    let key = reactor
        .datagram(server, move |datagram, cx, _| {
            cx.send_to(cx.key(), b"own", &datagram.from)?;
            cx.send_to(other_key, b"other", &datagram.from)?;
            cx.close(other_key);
            Ok(())
        })
        .unwrap();
    client.send_to(b"?", &to).unwrap();
    reactor.after(Duration::ZERO, move |cx, _| cx.send_to(key, b"timer", &to_client));
    reactor.after(Duration::from_millis(1), move |cx, told: &mut Vec<ErrorKind>| {
        told.push(cx.send_to(other_key, b"late", &to_client).unwrap_err().kind());
        Ok(())
    });
    let mut told = Vec::new();
    run_until(&mut reactor, &mut told, |told| !told.is_empty());
    let mut heard = Vec::new();
    let mut buffer = [0; 16];
    while let Ok(received) = client.recv_from(&mut buffer) {
        let sender = if received.from == to { "server" } else { "other" };
        assert!(received.from == to || received.from == to_other);
        heard.push((String::from_utf8_lossy(&buffer[..received.len]).into_owned(), sender));
    }
    heard.sort();
    assert_eq!(
        heard,
        [("other", "other"), ("own", "server"), ("timer", "server")].map(|(a, b)| (a.into(), b))
    );
    assert_eq!((told, reactor.stats().handler_errors), (vec![ErrorKind::NotFound], 0));
}

/// Counts datagrams, and keeps the cause of its end.
struct Counter;

impl DatagramHandler<(u32, String)> for Counter {
    fn on_datagram(
        &mut self,
        _: Incoming<'_>,
        cx: &mut Context<'_, (u32, String)>,
        (count, _): &mut (u32, String),
    ) -> io::Result<()> {
        *count += 1;
        cx.drain(Duration::from_secs(10))
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, (u32, String)>, told: &mut (u32, String)) {
        told.1 = cause.to_string();
    }
}

#[test]
fn a_drain_handles_what_has_arrived_and_ends() {
    for (budget, count) in [(1_024, 1), (1_024, 50), (4, 50), (1, 2)] {
        let limits = Limits { messages_per_visit: budget, ..Limits::default() };
        let mut reactor = Reactor::<(u32, String)>::builder().limits(limits).build().unwrap();
        let ((server, to), (client, _)) = (udp(), udp());
        reactor.datagram_handler(server, Counter).unwrap();
        (0..count).for_each(|_| client.send_to(b"x", &to).unwrap());
        let mut told = (0, String::new());
        reactor.run(&mut told).unwrap();
        assert_eq!(told, (count, "drained".into()));
    }
}

#[test]
fn a_drain_ends_under_a_flood() {
    let mut reactor = Reactor::<(u32, String)>::new().unwrap();
    let ((server, to), (feeder, _)) = (udp(), udp());
    struct Feeder(Counter, Datagram, SocketAddress);
    impl DatagramHandler<(u32, String)> for Feeder {
        fn on_datagram(
            &mut self,
            datagram: Incoming<'_>,
            cx: &mut Context<'_, (u32, String)>,
            told: &mut (u32, String),
        ) -> io::Result<()> {
            self.1.send_to(b"and another", &self.2)?;
            self.0.on_datagram(datagram, cx, told)
        }
        fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, (u32, String)>, told: &mut (u32, String)) {
            self.0.on_close(cause, cx, told);
        }
    }
    // More than a batch, so that none is ever short.
    (0..40).for_each(|_| feeder.send_to(b"one", &to).unwrap());
    reactor.datagram_handler(server, Feeder(Counter, feeder, to)).unwrap();
    let mut told = (0, String::new());
    reactor.run(&mut told).unwrap();
    assert_eq!(told.1, "drained");
    assert!((40..10_000).contains(&told.0), "{}", told.0);
}

#[test]
fn a_key_names_its_socket_until_it_is_closed() {
    let mut reactor = Reactor::<()>::new().unwrap();
    let (server, _) = unix();
    let name = server.local_address().unwrap();
    let key = reactor.datagram(server, |_, _, ()| Ok(())).unwrap();
    assert_eq!(reactor.datagram_socket(key).unwrap().local_address().unwrap(), name);
    assert!(reactor.close(key));
    assert!(reactor.datagram_socket(key).is_none() && !reactor.close(key));
}
