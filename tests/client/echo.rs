//! Replies that are pieces of the request: sent from where they were read, in their order with all others.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use ipc_reactor::{Cause, Context, Framing, Key, Limit, Limits, Reactor, Session, SlowConsumer, Turn};
use proptest::prelude::*;

/// How a session answers one request.
#[derive(Debug, Clone)]
enum Step {
    /// The next bytes of the request, behind those that were replied last.
    Next(usize),
    /// Leaves bytes of the request out.
    Skip(usize),
    /// Bytes of its own.
    Own(u8, usize),
    /// Bytes of its own, by way of its own key.
    ByKey(u8, usize),
    /// A framed reply.
    Frame(u8),
}

/// What the steps make of a request.
fn expected(request: &[u8], steps: &[Step]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    for step in steps {
        match *step {
            Step::Next(count) => {
                let end = (at + count).min(request.len());
                out.extend_from_slice(&request[at..end]);
                at = end;
            }
            Step::Skip(count) => at = (at + count).min(request.len()),
            Step::Own(byte, count) | Step::ByKey(byte, count) => out.extend(std::iter::repeat_n(byte, count)),
            Step::Frame(byte) => out.push(byte),
        }
    }
    out
}

struct Stepper(Vec<Step>);

impl Session<()> for Stepper {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        let mut at = 0;
        for step in &self.0 {
            match *step {
                Step::Next(count) => {
                    let end = (at + count).min(request.len());
                    cx.reply(&request[at..end])?;
                    at = end;
                }
                Step::Skip(count) => at = (at + count).min(request.len()),
                Step::Own(byte, count) => cx.reply(&vec![byte; count])?,
                Step::ByKey(byte, count) => {
                    let key = cx.key();
                    cx.client(key).expect("its own").send(&vec![byte; count])?;
                }
                Step::Frame(byte) => cx.reply_frame(&[byte])?,
            }
        }
        Ok(())
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0usize..40).prop_map(Step::Next),
        1 => (0usize..10).prop_map(Step::Skip),
        1 => (any::<u8>(), 0usize..40).prop_map(|(byte, count)| Step::Own(byte, count)),
        1 => (any::<u8>(), 0usize..40).prop_map(|(byte, count)| Step::ByKey(byte, count)),
        1 => any::<u8>().prop_map(Step::Frame),
    ];
    proptest::collection::vec(step, 0..12)
}

fn reactor(limits: Limits) -> Reactor<()> {
    Reactor::<()>::builder().limits(Limits { idle: None, ..limits }).build().unwrap()
}

fn client(
    reactor: &mut Reactor<()>,
    framing: Framing,
    session: impl Session<()> + 'static,
) -> (UnixStream, Key) {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let key = reactor.adopt(ours, framing, session).unwrap();
    while reactor.turn(Some(Duration::ZERO), &mut ()).unwrap() == Turn::Pending {}
    (theirs, key)
}

proptest! {
    #[test]
    fn whatever_is_replied_arrives_in_its_order(
        requests in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..120), 1..6),
        steps in steps(),
    ) {
        let mut reactor = reactor(Limits::default());
        let (mut peer, _) = client(&mut reactor, Framing::raw(), Stepper(steps.clone()));
        for request in &requests {
            peer.write_all(request).unwrap();
            let _ = reactor.turn(None, &mut ()).unwrap();
            let expected = expected(request, &steps);
            let mut answer = vec![0; expected.len()];
            peer.read_exact(&mut answer).unwrap();
            prop_assert_eq!(answer, expected);
        }
        peer.set_nonblocking(true).unwrap();
        prop_assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "nothing is sent twice");
    }

    #[test]
    fn so_do_the_replies_to_many_frames_of_one_read(
        count in 1usize..20,
        steps in steps().prop_map(|mut steps| { steps.retain(|step| !matches!(step, Step::Frame(_))); steps }),
        rest in 0usize..8,
    ) {
        let mut reactor = reactor(Limits::default());
        let (mut peer, _) = client(&mut reactor, Framing::fixed(8), Stepper(steps.clone()));
        let bytes: Vec<u8> = (0..count * 8 + rest).map(|n| n as u8).collect();
        peer.write_all(&bytes).unwrap();
        let _ = reactor.turn(None, &mut ()).unwrap();
        let expected: Vec<u8> =
            bytes.chunks_exact(8).flat_map(|request| expected(request, &steps)).collect();
        let mut answer = vec![0; expected.len()];
        peer.read_exact(&mut answer).unwrap();
        prop_assert_eq!(answer, expected);
    }
}

struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        match request {
            b"close" => {
                cx.reply(request)?;
                cx.finish();
                Ok(())
            }
            b"fail!" => {
                cx.reply(request)?;
                Err(io::Error::other("asked to"))
            }
            _ => cx.reply(request),
        }
    }
}

#[test]
fn what_the_socket_does_not_take_at_once_follows_later() {
    let mut reactor = reactor(Limits::default());
    let (mut peer, _) = client(&mut reactor, Framing::raw(), Echo);
    // More than the socket's buffer takes, so that some send takes a part of an echo.
    let sent: Vec<u8> = (0..2_000_000u32).map(|n| (n / 7) as u8).collect();
    peer.set_nonblocking(true).unwrap();
    let (mut written, mut received) = (0, Vec::new());
    let mut piece = vec![0; 50_000];
    while received.len() < sent.len() {
        if let Ok(count) = peer.write(&sent[written..]) {
            written += count;
        }
        let _ = reactor.turn(Some(Duration::ZERO), &mut ()).unwrap();
        // Slower than it writes.
        if written == sent.len() || received.len() + 300_000 < written {
            match peer.read(&mut piece) {
                Ok(count) => received.extend_from_slice(&piece[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }
    assert!(received == sent, "all of it, in its order");
    assert_eq!(reactor.stats().bytes_out, sent.len() as u64);
}

#[test]
fn an_echo_is_flushed_before_its_client_closes_and_dropped_when_the_handler_fails() {
    let mut reactor = reactor(Limits::default());
    for (request, answer) in [(b"close", &b"close"[..]), (b"fail!", b"")] {
        let (mut peer, _) = client(&mut reactor, Framing::raw(), Echo);
        peer.write_all(request).unwrap();
        let _ = reactor.turn(None, &mut ()).unwrap();
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        assert_eq!(received, answer);
    }
    assert_eq!(reactor.stats().handler_errors, 1);
    // What was dropped is not sent to the next client.
    let (mut peer, _) = client(&mut reactor, Framing::raw(), Echo);
    peer.write_all(b"x").unwrap();
    let _ = reactor.turn(None, &mut ()).unwrap();
    let mut received = [0; 2];
    assert_eq!((peer.read(&mut received).unwrap(), received[0]), (1, b'x'));
}

#[test]
fn an_echo_counts_for_the_high_water_mark() {
    let limits = Limits { output_high_water: 100, slow_consumer: SlowConsumer::Pause, ..Limits::default() };
    let mut reactor = reactor(limits);
    let (mut peer, _) = client(&mut reactor, Framing::fixed(60), Echo);
    peer.write_all(&[7; 600]).unwrap();
    while reactor.turn(Some(Duration::ZERO), &mut ()).unwrap() == Turn::Pending {}
    let mut received = [0; 600];
    peer.read_exact(&mut received).unwrap();
    assert_eq!((received, reactor.stats().limit_count(Limit::SlowConsumer)), ([7; 600], 0));
}

/// Refuses to hold more than its limit, and says so to the handler.
struct Greedy;

impl Session<()> for Greedy {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(request)?;
        let key = cx.key();
        assert_eq!(cx.client(key).unwrap().unsent(), request.len());
        let refused = cx.reply(&[0; 95]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, ()>, (): &mut ()) {
        assert!(matches!(cause, Cause::Peer | Cause::Stop), "{cause}");
    }
}

#[test]
fn an_echo_counts_for_the_largest_output() {
    let limits = Limits { output_high_water: 50, output_max: 100, ..Limits::default() };
    let mut reactor = reactor(limits);
    let (mut peer, _) = client(&mut reactor, Framing::raw(), Greedy);
    peer.write_all(b"0123456789").unwrap();
    let _ = reactor.turn(None, &mut ()).unwrap();
    let mut received = [0; 20];
    assert_eq!(peer.read(&mut received).unwrap(), 10, "nothing of the refused reply");
    assert_eq!(reactor.stats().limit_count(Limit::Output), 1);
}
