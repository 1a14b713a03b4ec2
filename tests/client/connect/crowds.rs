//! Many connections, many messages, and descriptors on the way.

use crate::support::crowd;
use std::{io, os::fd::OwnedFd};

use ipc_reactor::{Address, Cause, Context, Framing, Limits, Listener, Reactor, Session};

use crate::connect::asker::*;
use crate::support::fds::*;

const CROWD: usize = 1_000;

/// One of many clients: sends a number, expects it back, and closes.
struct One(usize);

/// How many have opened, got the right answer, and closed as they should.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    opened: usize,
    answered: usize,
    closed: usize,
    strange: Vec<String>,
}

impl Session<Counts> for One {
    fn on_open(&mut self, cx: &mut Context<'_, Counts>, counts: &mut Counts) -> io::Result<()> {
        counts.opened += 1;
        cx.reply_frame(self.0.to_string().as_bytes())
    }

    fn on_request(
        &mut self,
        answer: &[u8],
        cx: &mut Context<'_, Counts>,
        counts: &mut Counts,
    ) -> io::Result<()> {
        counts.answered += usize::from(answer == self.0.to_string().as_bytes());
        cx.finish();
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Counts>, counts: &mut Counts) {
        counts.closed += 1;
        if !matches!(cause, Cause::Closed) {
            counts.strange.push(cause.to_string());
        }
        if counts.closed == CROWD {
            cx.stop();
        }
    }
}

/// Connects many clients at once to an echo server in another thread.
fn crowd_meets(listener: Listener, framing: Framing) {
    let address = listener.local_address().unwrap();
    let servers = framing.clone();
    let server = Running::start(Limits::default(), (), move |reactor| {
        reactor.listen(listener, servers, |_, ()| Ok(Echo)).unwrap();
    });
    let mut reactor = Reactor::<Counts>::new().unwrap();
    for number in 0..CROWD {
        reactor.connect(&address, framing.clone(), One(number)).unwrap();
    }
    let mut counts = Counts::default();
    reactor.run(&mut counts).unwrap();
    let expected = Counts { opened: CROWD, answered: CROWD, closed: CROWD, strange: Vec::new() };
    assert_eq!(counts, expected, "{address}");
    let (accepted, requests) = server.ask(|cx, ()| (cx.stats().accepted, cx.stats().requests));
    assert_eq!((accepted, requests), (CROWD as u64, CROWD as u64));
}

#[test]
fn a_thousand_connect_at_once() {
    let Some(_alone) = crowd(2_100) else { return };
    let folder = tempfile::tempdir().unwrap();
    crowd_meets(Listener::unix(folder.path().join("stream")).unwrap(), Framing::lines());
    crowd_meets(Listener::unix_seqpacket(folder.path().join("records")).unwrap(), Framing::raw());
    crowd_meets(Listener::tcp("127.0.0.1:0").unwrap(), Framing::lines());
    // Nearly all have to wait for room.
    crowd_meets(Listener::options().backlog(8).unix(folder.path().join("small")).unwrap(), Framing::lines());
}

/// Sends the next number when the last has come back.
struct Counter(u32);

const MESSAGES: u32 = 10_000;

impl Session<u32> for Counter {
    fn on_open(&mut self, cx: &mut Context<'_, u32>, _: &mut u32) -> io::Result<()> {
        cx.reply_frame(&0_u32.to_ne_bytes())
    }

    fn on_request(&mut self, answer: &[u8], cx: &mut Context<'_, u32>, answered: &mut u32) -> io::Result<()> {
        assert_eq!(answer, self.0.to_ne_bytes());
        self.0 += 1;
        *answered += 1;
        if self.0 == MESSAGES {
            cx.stop();
            return Ok(());
        }
        cx.reply_frame(&self.0.to_ne_bytes())
    }
}

#[test]
fn two_reactors_exchange_ten_thousand_messages() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["unix", "unix-seq", "tcp"] {
        let address = match kind {
            "tcp" => "tcp:127.0.0.1:0".to_owned(),
            _ => format!("{kind}:{}", folder.path().join(kind).display()),
        };
        let framing = if kind == "unix-seq" { Framing::raw() } else { Framing::fixed(4) };
        let listener = Listener::bind(&address.parse().unwrap()).unwrap();
        let address = listener.local_address().unwrap();
        let servers = framing.clone();
        let server = Running::start(Limits::default(), (), move |reactor| {
            reactor.listen(listener, servers, |_, ()| Ok(Echo)).unwrap();
        });
        let mut reactor = Reactor::<u32>::new().unwrap();
        reactor.connect(&address, framing, Counter(0)).unwrap();
        let mut answered = 0;
        reactor.run(&mut answered).unwrap();
        assert_eq!(answered, MESSAGES);
        assert_eq!(server.ask(|cx, ()| cx.stats().requests), u64::from(MESSAGES));
        let turns = reactor.stats().turns;
        assert!(turns <= u64::from(MESSAGES) + 50, "{turns} turns: no message is waited for twice");
    }
}

/// Passes received descriptors back, and one of its own.
struct Mirror;

impl Session<Told> for Mirror {
    fn on_request(&mut self, _: &[u8], cx: &mut Context<'_, Told>, _: &mut Told) -> io::Result<()> {
        let passed = cx.descriptor().ok_or(io::ErrorKind::InvalidData)?;
        cx.reply_with(b"back\n", vec![passed, text_file("from the server")])
    }
}

struct Passer(Option<OwnedFd>);

impl Session<Told> for Passer {
    fn on_open(&mut self, cx: &mut Context<'_, Told>, told: &mut Told) -> io::Result<()> {
        told.lines.push("open".into());
        cx.reply_with(b"there\n", self.0.take().into_iter().collect())
    }

    fn on_request(&mut self, _: &[u8], cx: &mut Context<'_, Told>, told: &mut Told) -> io::Result<()> {
        told.lines.extend(std::iter::from_fn(|| cx.descriptor().map(text_of)));
        cx.stop();
        Ok(())
    }
}

#[test]
fn descriptors_pass_over_a_connection_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    for address in [Address::UnixStream(path.clone()), Address::UnixSeqpacket(path)] {
        let mut reactor = Reactor::<Told>::new().unwrap();
        let framing = Framing::raw().descriptors(2);
        reactor.listen(Listener::bind(&address).unwrap(), framing.clone(), |_, _| Ok(Mirror)).unwrap();
        reactor.connect(&address, framing, Passer(Some(text_file("from the client")))).unwrap();
        let mut told = Told::default();
        reactor.run(&mut told).unwrap();
        assert_eq!(told.lines, ["open", "from the client", "from the server"], "{address}");
    }
}
