//! A reactor that the test turns itself: the test decides what falls into one batch, and waits for events, never for a time.

use std::{
    io::{ErrorKind, Read},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use ipc_reactor::{Framing, Key, Limits, Reactor, Session, Turn};

pub(crate) use super::PATIENCE;

pub(crate) fn reactor<S>(limits: Limits) -> Reactor<S> {
    Reactor::<S>::builder().limits(limits).build().unwrap()
}

/// Turns until `done`.
#[track_caller]
pub(crate) fn until<S>(reactor: &mut Reactor<S>, state: &mut S, mut done: impl FnMut(&S) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done(state) {
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "it has not happened: {:?}", reactor.stats());
        // Not `left`: what `done` looks at may be changed by another thread.
        let turn = reactor.turn(Some(left.min(Duration::from_millis(100))), state).unwrap();
        assert!(turn != Turn::Stopped || done(state), "stopped before it happened: {:?}", reactor.stats());
    }
}

/// Turns without waiting until nothing is left to do. Unix sockets deliver at once, so all that peers have done by now is
/// handled.
#[track_caller]
pub(crate) fn settle<S>(reactor: &mut Reactor<S>, state: &mut S) {
    let end = Instant::now() + PATIENCE;
    // The events of a turn may be the cause of others: only a turn without any proves the end.
    loop {
        let events = reactor.stats().events;
        let turn = reactor.turn(Some(Duration::ZERO), state).unwrap();
        if turn == Turn::Stopped || (turn != Turn::Pending && reactor.stats().events == events) {
            return;
        }
        assert!(Instant::now() < end, "it does not come to rest: {:?}", reactor.stats());
    }
}

/// Runs until it stops by itself; a reactor that does not stop fails the test.
#[track_caller]
pub(crate) fn run<S>(reactor: &mut Reactor<S>, state: &mut S) {
    let end = Instant::now() + PATIENCE;
    while reactor.turn(Some(PATIENCE), state).unwrap() != Turn::Stopped {
        assert!(Instant::now() < end, "it does not stop: {:?}", reactor.stats());
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

/// A blocked read must fail, not hang.
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
