//! A reactor that the test turns itself: the test decides what falls into one batch, and nothing depends on time.
#![allow(dead_code, reason = "each test file takes what it needs")]

use std::{
    fmt::Debug,
    io::{ErrorKind, Read},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use ipc_reactor::{Framing, Key, Limits, Reactor, Session, Turn};

/// How long a wait for something certain may last before it counts as lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn reactor<S>(limits: Limits) -> Reactor<S> {
    Reactor::<S>::builder().limits(limits).build().unwrap()
}

/// Turns until nothing is left to do. Unix sockets deliver at once, so all that peers have done by now is handled.
#[track_caller]
pub(crate) fn settle<S>(reactor: &mut Reactor<S>, state: &mut S) {
    for _ in 0..1_000_000 {
        let events = reactor.stats().events;
        let turn = reactor.turn(Some(Duration::ZERO), state).unwrap();
        if turn == Turn::Stopped || (turn == Turn::Idle && reactor.stats().events == events) {
            return;
        }
    }
    panic!("the reactor does not come to rest: {}", reactor.stats());
}

/// Turns until `done`, for what takes time.
#[track_caller]
pub(crate) fn until<S: Debug>(reactor: &mut Reactor<S>, state: &mut S, done: impl Fn(&S) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done(state) {
        assert!(Instant::now() < deadline, "waited in vain: {state:?}; {}", reactor.stats());
        let _ = reactor.turn(Some(Duration::from_millis(100)), state).unwrap();
    }
}

/// A client of the reactor, and the test's end of its connection.
#[track_caller]
pub(crate) fn client<S>(
    reactor: &mut Reactor<S>,
    framing: Framing,
    session: impl Session<S> + 'static,
) -> (UnixStream, Key) {
    let (peer, ours) = UnixStream::pair().unwrap();
    (patient(peer), reactor.adopt(ours, framing, session).unwrap())
}

/// A stuck conversation must fail, not hang.
pub(crate) fn patient(peer: UnixStream) -> UnixStream {
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.set_write_timeout(Some(PATIENCE)).unwrap();
    peer
}

/// All that can be read now, without waiting; and whether an end follows it.
#[track_caller]
pub(crate) fn available(mut peer: &UnixStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    peer.set_nonblocking(true).unwrap();
    let ended = match peer.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    };
    peer.set_nonblocking(false).unwrap();
    (bytes, ended)
}
