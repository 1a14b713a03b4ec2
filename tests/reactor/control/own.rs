//! The class C5: every operation on the running source's own key works as on any other.

use std::{
    cell::Cell,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    rc::Rc,
};

use ipc_reactor::{
    Cause, Clock, Context, Datagram, DatagramHandler, Delivery, Drain, FdSource, FlightRecorder, Framing,
    HalfClose, Incoming, Interest, Key, Limits, Message, Posted, Progress, Reactor, Ready, Session,
    SocketAddress, SubscriptionHandler, TimerKey,
    shm::{Publisher, Subscriber, Update},
};

use crate::{
    control::{
        BUDGETS, QueueName, SECOND, Transport,
        members::{pair, send, shut_down},
    },
    support::turns::{available, settle},
};

// ---- Descriptors ----

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// C5: a closure's descriptor is registered for EPOLLOUT, and then not any more: its visits are counted.
#[test]
fn a_descriptor_changes_its_own_interest_and_back() {
    let mut reactor = Reactor::<Vec<String>>::new().unwrap();
    let (mut peer, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    reactor
        .fd(ours, Interest::READABLE, |stream, ready, cx, visits: &mut Vec<String>| {
            visits.push(ready.to_string());
            let mut byte = [0];
            let key = cx.key();
            if ready.is_writable() {
                cx.set_interest(key, Interest::READABLE)?;
            }
            while ready.is_readable() && stream.read(&mut byte)? == 1 {
                if byte == *b"w" {
                    cx.set_interest(key, BOTH)?;
                }
            }
            Ok(Progress::Drained)
        })
        .unwrap();
    let mut visits = Vec::new();
    let mut now = |reactor: &mut Reactor<_>, bytes: &[u8]| {
        peer.write_all(bytes).unwrap();
        settle(reactor, &mut visits);
        std::mem::take(&mut visits)
    };
    assert_eq!(now(&mut reactor, b"a"), ["readable"]);
    // What is ready already is reported again.
    assert_eq!(now(&mut reactor, b"w"), ["readable", "writable"]);
    // With the interest in EPOLLOUT, each of these would report it, too.
    for _ in 0..3 {
        assert_eq!(now(&mut reactor, b"a"), ["readable"]);
    }
    assert_eq!(now(&mut reactor, b"awa"), ["readable", "writable"]);
    assert_eq!(now(&mut reactor, b"a"), ["readable"]);
}

/// C5: a source of the embedder's own type, which writes what it has when there is room, and waits for nothing then.
#[test]
fn a_source_writes_when_there_is_room_and_is_not_found_by_its_own_key() {
    struct Echo {
        stream: UnixStream,
        waiting: Vec<u8>,
        visits: Vec<String>,
    }

    impl AsFd for Echo {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.stream.as_fd()
        }
    }

    impl FdSource<usize> for Echo {
        fn on_ready(
            &mut self,
            ready: Ready,
            cx: &mut Context<'_, usize>,
            _: &mut usize,
        ) -> io::Result<Progress> {
            let key = cx.key();
            assert!(cx.fd_source_mut::<Echo>(key).is_none(), "the handler has it as `self`");
            self.visits.push(ready.to_string());
            let mut bytes = [0; 64];
            while let Ok(count @ 1..) = self.stream.read(&mut bytes) {
                self.waiting.extend_from_slice(&bytes[..count]);
            }
            while ready.is_writable() && !self.waiting.is_empty() {
                let count = self.stream.write(&self.waiting)?;
                self.waiting.drain(..count);
            }
            cx.set_interest(key, if self.waiting.is_empty() { Interest::READABLE } else { BOTH })?;
            Ok(Progress::Drained)
        }

        fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, usize>, closed: &mut usize) {
            assert!(matches!(cause, Cause::Closed));
            let key = cx.key();
            assert!(cx.set_interest(key, BOTH).is_err() && !cx.close(key) && !cx.abort(key));
            *closed += 1;
        }
    }

    let mut reactor = Reactor::<usize>::new().unwrap();
    let (peer, stream) = UnixStream::pair().unwrap();
    stream.set_nonblocking(true).unwrap();
    let echo = Echo { stream, waiting: Vec::new(), visits: Vec::new() };
    let key = reactor.fd_source(echo, Interest::READABLE).unwrap();
    let mut closed = 0;
    for _ in 0..3 {
        send(&peer, &[b"message"]);
        settle(&mut reactor, &mut closed);
        assert_eq!(available(&peer).0, b"message");
        let echo = reactor.fd_source_mut::<Echo>(key).expect("it does not run");
        assert_eq!(std::mem::take(&mut echo.visits), ["readable", "writable"]);
    }
    assert!(reactor.close(key));
    settle(&mut reactor, &mut closed);
    assert_eq!(closed, 1);
}

// ---- Queues ----

/// C5: a queue's handler answers into its own queue, also when that is full, and sees what waits.
#[test]
fn a_queue_is_posted_to_and_asked_from_its_own_handler() {
    let name = QueueName::new();
    let peer = name.open();
    let mut reactor = Reactor::<Vec<String>>::new().unwrap();
    let key = reactor
        .queue(name.open(), |message: Message<'_>, cx, heard: &mut Vec<String>| {
            let key = cx.key();
            heard.push(String::from_utf8_lossy(message.bytes).into_owned());
            if message.bytes == b"fill" {
                // The capacity is four.
                let posted: Vec<_> = (0..6).map(|_| cx.post(key, b"own", 0).unwrap()).collect();
                assert_eq!(posted, [[Posted::Sent; 4].as_slice(), &[Posted::Buffered; 2]].concat());
                assert_eq!(cx.outbox_len(key), 2);
            }
            if message.bytes == b"last" {
                assert_eq!(cx.outbox_len(key), 0);
                assert!(cx.close(key));
                assert_eq!(
                    cx.post(key, b"unread", 0).unwrap(),
                    Posted::Sent,
                    "it is there until the handler returns"
                );
            }
            Ok(())
        })
        .unwrap();
    let mut heard = Vec::new();
    peer.send(b"fill", 0).unwrap();
    settle(&mut reactor, &mut heard);
    assert_eq!(heard, ["fill", "own", "own", "own", "own", "own", "own"]);
    peer.send(b"last", 0).unwrap();
    settle(&mut reactor, &mut heard);
    assert_eq!(heard.len(), 8);
    assert!(reactor.post(key, b"", 0).is_err());
    assert_eq!(reactor.outbox_len(key), 0);
    assert_eq!(peer.attributes().unwrap().queued, 1);
}

// ---- Datagrams ----

/// C5: a datagram's handler sends from its own socket in every way, on each transport, from each of its methods.
#[test]
fn a_datagram_socket_is_used_from_its_own_handler() {
    struct Answers;
    impl DatagramHandler<Vec<Key>> for Answers {
        fn on_datagram(
            &mut self,
            datagram: Incoming<'_>,
            cx: &mut Context<'_, Vec<Key>>,
            keys: &mut Vec<Key>,
        ) -> io::Result<()> {
            let key = cx.key();
            keys.push(key);
            cx.send_to(key, b"send_to", &datagram.from)?;
            let socket = cx.datagram_socket(key).expect("it is there while it runs");
            socket.send_to(b"socket", &datagram.from)?;
            datagram.reply(b"reply")?;
            if datagram.bytes == b"last" {
                assert!(cx.close(key));
                cx.send_to(key, b"closing", &datagram.from)?;
            }
            Ok(())
        }

        fn on_close(&mut self, _: &Cause, cx: &mut Context<'_, Vec<Key>>, _: &mut Vec<Key>) {
            let key = cx.key();
            assert!(cx.datagram_socket(key).is_none());
        }
    }
    let folder = tempfile::tempdir().unwrap();
    for kind in ["unix", "udp"] {
        let bind = |name: &str| match kind {
            "unix" => Datagram::unix(folder.path().join(name)).unwrap(),
            _ => Datagram::udp("127.0.0.1:0").unwrap(),
        };
        let (peer, ours) = (bind("peer"), bind("ours"));
        let address = |socket: &Datagram| SocketAddress::try_from(&socket.local_address().unwrap()).unwrap();
        let to = address(&ours);
        let mut reactor = Reactor::<Vec<Key>>::new().unwrap();
        let key = reactor.datagram_handler(ours, Answers).unwrap();
        let mut keys = Vec::new();
        for (request, answers) in [("first", 3), ("last", 4)] {
            peer.send_to(request.as_bytes(), &to).unwrap();
            settle(&mut reactor, &mut keys);
            for answer in &["send_to", "socket", "reply", "closing"][..answers] {
                let mut buffer = [0; 64];
                let received = peer.recv_from(&mut buffer).unwrap();
                assert_eq!(&buffer[..received.len], answer.as_bytes(), "{kind}");
            }
        }
        assert_eq!(keys, [key; 2]);
        assert!(reactor.datagram_socket(key).is_none());
        assert!(reactor.send_to(key, b"", &address(&peer)).is_err());
    }
}

// ---- Subscriptions ----

/// C5: a subscription's handler marks itself as having updates, from each of its methods: that causes one more visit,
/// in which nothing is reported twice.
#[test]
fn a_subscription_is_told_of_updates_by_its_own_handler() {
    struct Ear;
    impl SubscriptionHandler<Vec<String>> for Ear {
        fn on_open(
            &mut self,
            _: &Subscriber,
            cx: &mut Context<'_, Vec<String>>,
            heard: &mut Vec<String>,
        ) -> io::Result<()> {
            let key = cx.key();
            assert!(cx.updated(key));
            heard.push("open".into());
            Ok(())
        }

        fn on_update(
            &mut self,
            update: Update<&[u8]>,
            cx: &mut Context<'_, Vec<String>>,
            heard: &mut Vec<String>,
        ) -> io::Result<()> {
            let key = cx.key();
            assert!(cx.updated(key), "it is there while it runs");
            heard.push(format!("{update:?}"));
            if heard.len() == 5 {
                assert!(cx.close(key) && cx.updated(key));
            }
            Ok(())
        }

        fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Vec<String>>, heard: &mut Vec<String>) {
            let key = cx.key();
            assert!(!cx.updated(key));
            heard.push(format!("{cause:?}"));
        }
    }
    for messages_per_visit in BUDGETS {
        let limits = Limits { messages_per_visit, ..Limits::default() };
        let mut reactor = Reactor::<Vec<String>>::builder().limits(limits).build().unwrap();
        let mut publisher = Publisher::every(8, 7).unwrap();
        let subscriber = Subscriber::open(publisher.subscribe().unwrap().1).unwrap();
        reactor.subscribe_handler(subscriber, Delivery::Every, Ear).unwrap();
        let mut heard = Vec::new();
        settle(&mut reactor, &mut heard);
        for number in 1..=5_u8 {
            publisher.publish(&[number]).unwrap();
            if number != 2 {
                settle(&mut reactor, &mut heard);
            }
        }
        let value = |number| format!("{:?}", Update::Value([number].as_slice()));
        assert_eq!(heard, ["open".into(), value(1), value(2), value(3), value(4), "Closed".into()]);
    }
}

// ---- Clients ----

/// Reaches itself by its own key in the method of this name.
struct Selfish(&'static str);

impl Selfish {
    fn reaches_itself(
        &mut self,
        method: &str,
        cx: &mut Context<'_, Vec<String>>,
        calls: &mut Vec<String>,
    ) -> io::Result<()> {
        calls.push(method.to_owned());
        if method != self.0 {
            return Ok(());
        }
        let key = cx.key();
        let before = cx.client(key).expect("it is there while it runs").unsent();
        assert_eq!(before, 0);
        cx.reply(b"1")?;
        cx.client(key).unwrap().send(b"2")?;
        cx.reply(b"3")?;
        cx.client(key).unwrap().send_with(b"4", Vec::new())?;
        // Each of four records has its length before it.
        let unsent = cx.client(key).unwrap().unsent();
        assert!(unsent == 4 || unsent == 4 + 4 * 4, "{unsent}");
        assert_eq!(cx.clients().filter(|client| *client == key).count(), 1);
        let mut met = 0;
        cx.each_client(|client| met += usize::from(client.key() == key));
        assert_eq!(met, 1);
        assert_eq!(cx.broadcast(b"5"), 2, "another client, and itself once");
        let timer = cx.wake_after(SECOND);
        assert!(cx.cancel(timer) && !cx.cancel(timer));
        cx.client(key).unwrap().close();
        assert!(cx.client(key).is_some() && cx.close(key), "it is there until the handler returns");
        cx.reply(b"6")
    }
}

impl Session<Vec<String>> for Selfish {
    fn on_open(&mut self, cx: &mut Context<'_, Vec<String>>, calls: &mut Vec<String>) -> io::Result<()> {
        self.reaches_itself("on_open", cx, calls)
    }

    fn on_request(
        &mut self,
        request: &[u8],
        cx: &mut Context<'_, Vec<String>>,
        calls: &mut Vec<String>,
    ) -> io::Result<()> {
        if request == b"t" {
            cx.wake_after(SECOND);
            return Ok(());
        }
        self.reaches_itself("on_request", cx, calls)
    }

    fn on_half_close(
        &mut self,
        cx: &mut Context<'_, Vec<String>>,
        calls: &mut Vec<String>,
    ) -> io::Result<HalfClose> {
        self.reaches_itself("on_half_close", cx, calls).map(|()| HalfClose::KeepWriting)
    }

    fn on_timer(
        &mut self,
        _: TimerKey,
        cx: &mut Context<'_, Vec<String>>,
        calls: &mut Vec<String>,
    ) -> io::Result<()> {
        self.reaches_itself("on_timer", cx, calls)
    }

    fn on_drain(&mut self, cx: &mut Context<'_, Vec<String>>, calls: &mut Vec<String>) -> io::Result<Drain> {
        self.reaches_itself("on_drain", cx, calls).map(|()| Drain::Wait)
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Vec<String>>, calls: &mut Vec<String>) {
        let key = cx.key();
        assert!(cx.client(key).is_none() && !cx.close(key) && !cx.abort(key));
        assert!(cx.reply(b"too late").is_err() && cx.clients().all(|client| client != key));
        calls.push(format!("{cause:?}"));
    }
}

struct Silent;

impl Session<Vec<String>> for Silent {
    fn on_request(
        &mut self,
        _: &[u8],
        _: &mut Context<'_, Vec<String>>,
        _: &mut Vec<String>,
    ) -> io::Result<()> {
        Ok(())
    }

    fn on_drain(&mut self, _: &mut Context<'_, Vec<String>>, _: &mut Vec<String>) -> io::Result<Drain> {
        Ok(Drain::Wait)
    }
}

/// C5: a session reaches itself by its key from each of its methods, on each transport, with and without an observer; and
/// closes itself in between.
#[test]
fn a_client_is_reached_by_its_own_key_from_each_method_of_its_session() {
    for method in ["on_open", "on_request", "on_half_close", "on_timer", "on_drain"] {
        for transport in [Transport::Unix, Transport::Tcp, Transport::Seqpacket] {
            for framing in [Framing::raw(), Framing::fixed(1), Framing::raw().descriptors(1)] {
                for is_observed in [false, true] {
                    let case = format!("{method}, {transport:?}, {framing:?}, observed: {is_observed}");
                    let clock = Clock::manual();
                    let mut reactor = Reactor::<Vec<String>>::builder().clock(clock.clone()).build().unwrap();
                    if is_observed {
                        reactor.observe(FlightRecorder::new());
                    }
                    let mut calls = Vec::new();
                    let (other, others) = pair(transport);
                    reactor.adopt(others, Framing::raw(), Silent).unwrap();
                    let (peer, ours) = pair(transport);
                    reactor.adopt(ours, framing.clone(), Selfish(method)).unwrap();
                    if method != "on_open" {
                        settle(&mut reactor, &mut calls);
                    }
                    match method {
                        "on_request" => send(&peer, &[b"a"]),
                        "on_half_close" => shut_down(&peer),
                        "on_drain" => reactor.drain(SECOND).unwrap(),
                        "on_timer" => {
                            send(&peer, &[b"t"]);
                            settle(&mut reactor, &mut calls);
                            clock.advance(SECOND);
                        }
                        _ => {}
                    }
                    calls.clear();
                    settle(&mut reactor, &mut calls);
                    assert_eq!(calls, [method, "Closed"], "{case}");
                    assert_eq!(all(&peer), b"123456", "{case}");
                    assert_eq!(all_now(&other), b"5", "{case}");
                }
            }
        }
    }
}

/// C5: a session aborts itself: none of its replies is sent, and no further method is called.
#[test]
fn a_client_aborts_itself_by_its_own_key() {
    struct Aborts;
    impl Session<Vec<String>> for Aborts {
        fn on_request(
            &mut self,
            _: &[u8],
            cx: &mut Context<'_, Vec<String>>,
            calls: &mut Vec<String>,
        ) -> io::Result<()> {
            calls.push("on_request".into());
            let key = cx.key();
            cx.reply(b"lost")?;
            cx.client(key).expect("it runs").abort();
            assert!(cx.client(key).is_some() && cx.abort(key), "it is there until the handler returns");
            Ok(())
        }

        fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Vec<String>>, calls: &mut Vec<String>) {
            calls.push(format!("{cause:?}"));
        }
    }
    for transport in [Transport::Unix, Transport::Tcp, Transport::Seqpacket] {
        let mut reactor = Reactor::<Vec<String>>::new().unwrap();
        let (peer, ours) = pair(transport);
        reactor.adopt(ours, Framing::raw(), Aborts).unwrap();
        let mut calls = Vec::new();
        settle(&mut reactor, &mut calls);
        send(&peer, &[b"a"]);
        settle(&mut reactor, &mut calls);
        assert_eq!(calls, ["on_request", "Closed"], "{transport:?}");
        assert_eq!(all(&peer), b"", "{transport:?}");
    }
}

// ---- Timers and jobs ----

/// C5: in a timer's handler and in a job, `key` names a source of the reactor's own, which nothing closes; a timer
/// has a timer key of its own.
#[test]
fn timers_and_jobs_cannot_close_the_reactors_own_sources() {
    let clock = Clock::manual();
    let mut reactor = Reactor::<usize>::builder().clock(clock.clone()).build().unwrap();
    let own = |cx: &mut Context<'_, usize>, calls: &mut usize| {
        let key = cx.key();
        cx.finish();
        assert!(!cx.close(key) && !cx.abort(key) && cx.client(key).is_none());
        assert!(cx.set_interest(key, BOTH).is_err() && cx.post(key, b"", 0).is_err() && !cx.updated(key));
        *calls += 1;
    };
    let every = Rc::new(Cell::new(None));
    let (its, mut left) = (every.clone(), 3);
    every.set(Some(reactor.every(SECOND, move |cx, calls| {
        own(cx, calls);
        left -= 1;
        if left == 0 {
            let key = its.get().unwrap();
            assert!(cx.cancel(key) && !cx.cancel(key));
        }
        Ok(())
    })));
    let mut calls = 0;
    for _ in 0..4 {
        reactor.after(SECOND, move |cx, calls| {
            own(cx, calls);
            Ok(())
        });
        reactor.remote().run(own).unwrap();
        clock.advance(SECOND);
        settle(&mut reactor, &mut calls);
    }
    assert_eq!(calls, 4 * 2 + 3);
    assert_eq!(reactor.timers(), 0);
}

/// All that can still be read from a closed connection.
fn all(peer: impl AsFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = [0; 64];
    loop {
        match rustix::io::read(&peer, &mut piece) {
            Ok(0) => return bytes,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) => assert_eq!(error, rustix::io::Errno::CONNRESET),
        }
    }
}

/// What there is to read now.
fn all_now(peer: impl AsFd) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    let count = rustix::io::read(&peer, &mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}
