//! In steady state no message needs an allocation: counted, in the one thread in which client and reactor take turns.

#![allow(unsafe_code)]

use crate::support::names::QueueName;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ipc_reactor::{Context, Framing, Key, Limits, Listener, Prefix, Queue, Reactor, Session, TimerKey, Turn};

use crate::support::allocations::allocations;

const MESSAGES: usize = 10_000;

/// Runs `step`, which handles `messages` of them, until all buffers have their size; and then counts.
#[track_caller]
fn assert_none_for_each(messages: usize, mut step: impl FnMut()) {
    (0..1_000 / messages).for_each(|_| step());
    let before = allocations();
    (0..MESSAGES / messages).for_each(|_| step());
    let allocations = allocations() - before;
    assert_eq!(allocations, 0, "allocations for {MESSAGES} messages");
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    let mut bytes = std::hint::black_box(Vec::<u8>::with_capacity(10));
    bytes.reserve_exact(1_000);
    std::hint::black_box(bytes);
    assert_eq!(allocations() - before, 2);
}

// ---- A reactor, and clients in the same thread ----

/// Answers each request with the same, in its framing.
struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply_frame(request)
    }
}

struct Broadcasting;

impl Session<()> for Broadcasting {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.broadcast(request);
        Ok(())
    }
}

/// Answers from a timer.
struct Later;

impl Session<()> for Later {
    fn on_request(&mut self, _: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.wake_after(Duration::from_micros(1));
        Ok(())
    }

    fn on_timer(&mut self, _: TimerKey, cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(b"at last!")
    }
}

fn turn(reactor: &mut Reactor<()>) {
    assert_ne!(reactor.turn(None, &mut ()).unwrap(), Turn::Stopped);
}

/// Turns until so many more bytes have been sent to clients; then their reads do not block.
fn turn_until_sent(reactor: &mut Reactor<()>, bytes: usize) {
    let target = reactor.stats().bytes_out + bytes as u64;
    while reactor.stats().bytes_out < target {
        turn(reactor);
    }
}

fn adopt(reactor: &mut Reactor<()>, framing: Framing, session: impl Session<()> + 'static) -> UnixStream {
    let (client, theirs) = UnixStream::pair().unwrap();
    reactor.adopt(theirs, framing, session).unwrap();
    turn(reactor);
    client
}

/// One request and one reply at a time, or as many as there are in `bytes`.
#[track_caller]
fn assert_none_for_exchanges(
    reactor: &mut Reactor<()>,
    client: &mut (impl Read + Write),
    bytes: &[u8],
    messages: usize,
) {
    let mut reply = vec![0; bytes.len()];
    assert_none_for_each(messages, || {
        client.write_all(bytes).unwrap();
        turn_until_sent(reactor, bytes.len());
        client.read_exact(&mut reply).unwrap();
        assert_eq!(reply, bytes);
    });
    assert!(reactor.stats().requests as usize >= MESSAGES);
}

#[track_caller]
fn assert_none_for_framing(framing: Framing, message: &[u8]) {
    let mut reactor = Reactor::new().unwrap();
    let mut client = adopt(&mut reactor, framing, Echo);
    assert_none_for_exchanges(&mut reactor, &mut client, message, 1);
    assert_none_for_exchanges(&mut reactor, &mut client, &message.repeat(16), 16);
}

// ---- The mechanisms ----

#[test]
fn unix_stream() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut reactor = Reactor::new().unwrap();
    reactor.listen(Listener::unix(&path).unwrap(), Framing::fixed(64), |_, ()| Ok(Echo)).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    assert_none_for_exchanges(&mut reactor, &mut client, &[7; 64], 1);
    assert_none_for_exchanges(&mut reactor, &mut client, &[7; 16 * 64], 16);
}

#[test]
fn tcp() {
    let mut reactor = Reactor::new().unwrap();
    let listener = Listener::tcp("127.0.0.1:0").unwrap();
    let address = listener.local_address().unwrap().resolve().unwrap();
    reactor.listen(listener, Framing::fixed(64), |_, ()| Ok(Echo)).unwrap();
    let mut client = TcpStream::connect(&*address).unwrap();
    client.set_nodelay(true).unwrap();
    assert_none_for_exchanges(&mut reactor, &mut client, &[7; 64], 1);
    assert_none_for_exchanges(&mut reactor, &mut client, &[7; 16 * 64], 16);
}

#[test]
fn seqpacket() {
    let mut fds = [0; 2];
    // SAFETY: the array has the two places that the call fills.
    let result = unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    };
    assert_eq!(result, 0);
    // SAFETY: both are new, and owned by nothing else.
    let [client, theirs] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let mut client = File::from(client);
    let mut reactor = Reactor::new().unwrap();
    reactor.adopt(theirs, Framing::raw(), Echo).unwrap();
    assert_none_for_exchanges(&mut reactor, &mut client, &[7; 64], 1);
    let mut reply = [0; 64];
    assert_none_for_each(16, || {
        (0..16).for_each(|_| client.write_all(&[7; 64]).unwrap());
        turn_until_sent(&mut reactor, 16 * 64);
        (0..16).for_each(|_| client.read_exact(&mut reply).unwrap());
    });
}

#[test]
fn message_queue() {
    let [jobs, answers] = [QueueName::new(), QueueName::new()];
    let open = |name: &QueueName| {
        Queue::options().create_new(true).capacity(10).message_size(128).open(&name.0).unwrap()
    };
    let mut reactor = Reactor::<()>::new().unwrap();
    let answer: Key = reactor.outbox(open(&answers)).unwrap();
    let handled = std::rc::Rc::new(Cell::new(0));
    let count = handled.clone();
    let job = reactor.queue(open(&jobs), move |message, cx, ()| {
        count.set(count.get() + 1);
        cx.post(answer, message.bytes, message.priority).map(drop)
    });
    job.unwrap();
    let [jobs, answers] = [jobs, answers].map(|name| (Queue::open(&name.0).unwrap(), name));
    let mut buffer = [0; 128];
    for burst in [1, 8] {
        assert_none_for_each(burst, || {
            let target = handled.get() + burst;
            (0..burst).for_each(|_| jobs.0.send(&[7; 64], 3).unwrap());
            while handled.get() < target {
                turn(&mut reactor);
            }
            (0..burst).for_each(|_| assert_eq!(answers.0.recv(&mut buffer).unwrap().len, 64));
        });
    }
    assert!(reactor.stats().queue_messages as usize >= 2 * MESSAGES);
}

// ---- The framings ----

#[test]
fn raw() {
    assert_none_for_framing(Framing::raw(), &[7; 64]);
}

#[test]
fn lines() {
    assert_none_for_framing(Framing::lines(), b"a line of no great length, as they come\n");
}

#[test]
fn prefixed() {
    assert_none_for_framing(Framing::prefixed(Prefix::U8), b"\x05hello");
    assert_none_for_framing(Framing::prefixed(Prefix::U32Le), b"\x05\0\0\0hello");
}

#[test]
fn half_frames() {
    let mut reactor = Reactor::new().unwrap();
    let mut client = adopt(&mut reactor, Framing::prefixed(Prefix::U16Be), Echo);
    let mut reply = [0; 7];
    assert_none_for_each(1, || {
        client.write_all(b"\0\x05he").unwrap();
        turn(&mut reactor);
        client.write_all(b"llo").unwrap();
        turn_until_sent(&mut reactor, 7);
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"\0\x05hello");
    });
}

// ---- More than an answer to the one who asked ----

#[test]
fn broadcast() {
    let mut reactor = Reactor::new().unwrap();
    let mut clients: Vec<UnixStream> =
        (0..10).map(|_| adopt(&mut reactor, Framing::fixed(64), Broadcasting)).collect();
    let mut received = [0; 64];
    assert_none_for_each(1, || {
        clients[0].write_all(&[7; 64]).unwrap();
        turn_until_sent(&mut reactor, 10 * 64);
        clients.iter_mut().for_each(|client| client.read_exact(&mut received).unwrap());
    });
}

#[test]
fn unsent_replies_of_a_slow_consumer() {
    let limits = Limits { output_high_water: 64 << 10, ..Limits::default() };
    let mut reactor = Reactor::<()>::builder().limits(limits).build().unwrap();
    let mut client = adopt(&mut reactor, Framing::fixed(4_096), Echo);
    client.set_nonblocking(true).unwrap();
    let (message, mut reply) = (vec![7; 4_096], vec![0; 1 << 20]);
    assert_none_for_each(100, || {
        // More than the sockets hold: what the client does not read yet waits in the reactor.
        let mut unread = 0;
        while let Ok(count) = client.write(&message) {
            unread += count;
            let _ = reactor.turn(Some(Duration::ZERO), &mut ()).unwrap();
        }
        while unread >= 4_096 {
            if let Ok(count) = client.read(&mut reply) {
                unread -= count.min(unread);
            }
            let _ = reactor.turn(Some(Duration::ZERO), &mut ()).unwrap();
        }
    });
    assert!(reactor.stats().limit_count(ipc_reactor::Limit::SlowConsumer) > 0);
}

#[test]
fn timers() {
    let mut reactor = Reactor::<()>::new().unwrap();
    reactor.every(Duration::from_micros(20), |_, ()| Ok(()));
    assert_none_for_each(1, || {
        let target = reactor.stats().timers + 1;
        while reactor.stats().timers < target {
            turn(&mut reactor);
        }
    });
}

#[test]
fn timers_of_sessions() {
    let mut reactor = Reactor::new().unwrap();
    let mut client = adopt(&mut reactor, Framing::fixed(8), Later);
    let mut reply = [0; 8];
    assert_none_for_each(1, || {
        client.write_all(&[7; 8]).unwrap();
        turn_until_sent(&mut reactor, 8);
        client.read_exact(&mut reply).unwrap();
    });
}
