//! Taking turns of a reactor until something has happened, and never for ever.
#![allow(dead_code)]

use std::time::{Duration, Instant};

use ipc_reactor::{Reactor, Turn};

/// How long something certain may take before it counts as lost. Never waited for when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Turns until `done`.
#[track_caller]
pub(crate) fn until<S>(reactor: &mut Reactor<S>, state: &mut S, mut done: impl FnMut(&S) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done(state) {
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "it has not happened: {:?}", reactor.stats());
        let turn = reactor.turn(Some(left), state).unwrap();
        assert!(turn != Turn::Stopped || done(state), "stopped before it happened: {:?}", reactor.stats());
    }
}

/// Turns without waiting until nothing is left to do.
#[track_caller]
pub(crate) fn settle<S>(reactor: &mut Reactor<S>, state: &mut S) {
    let end = Instant::now() + PATIENCE;
    // The events of a turn may be the cause of others: only a turn without any proves the end.
    loop {
        let events = reactor.stats().events;
        let turn = reactor.turn(Some(Duration::ZERO), state).unwrap();
        if turn != Turn::Pending && reactor.stats().events == events {
            return;
        }
        assert!(Instant::now() < end, "it does not come to rest: {:?}", reactor.stats());
    }
}

/// Runs until it stops of itself; a reactor that does not fails the test.
#[track_caller]
pub(crate) fn run<S>(reactor: &mut Reactor<S>, state: &mut S) {
    let end = Instant::now() + PATIENCE;
    while reactor.turn(Some(PATIENCE), state).unwrap() != Turn::Stopped {
        assert!(Instant::now() < end, "it does not stop: {:?}", reactor.stats());
    }
}
