//! Polling before sleeping: events are handled as without it, and the counters show it.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use ipc_reactor::{Context, Framing, Limits, Reactor, Session, Turn};

struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(request)
    }
}

const ROUNDS: u64 = 200;
/// So long that whatever comes in these tests comes within it.
const LONG: Duration = Duration::from_secs(60);

fn reactor(spin: Duration) -> Reactor<()> {
    Reactor::<()>::builder().limits(Limits { idle: None, ..Limits::default() }).spin(spin).build().unwrap()
}

/// A client in another thread asks, and waits for each answer; then the reactor is stopped from there.
fn ping_pong(reactor: &mut Reactor<()>) {
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    reactor.adopt(ours, Framing::raw(), Echo).unwrap();
    let remote = reactor.remote();
    let client = thread::spawn(move || {
        for round in 0..ROUNDS {
            theirs.write_all(&round.to_ne_bytes()).unwrap();
            let mut answer = [0; 8];
            theirs.read_exact(&mut answer).unwrap();
            assert_eq!(u64::from_ne_bytes(answer), round);
        }
        remote.stop().unwrap();
    });
    reactor.run(&mut ()).unwrap();
    client.join().unwrap();
}

fn one_processor() -> bool {
    std::fs::read_to_string("/sys/devices/system/cpu/online").is_ok_and(|online| online.trim() == "0")
}

#[test]
fn by_default_nothing_spins() {
    let mut reactor = reactor(Duration::ZERO);
    ping_pong(&mut reactor);
    let stats = reactor.stats();
    assert_eq!((stats.spins, stats.spin_hits, stats.spin_time), (0, 0, Duration::ZERO));
}

#[test]
fn while_everything_comes_soon_every_wait_spins_and_nothing_else_is_different() {
    let mut reactor = reactor(LONG);
    ping_pong(&mut reactor);
    let stats = reactor.stats();
    assert_eq!(stats.requests, ROUNDS);
    if one_processor() {
        assert_eq!(stats.spins, 0, "it would keep off the client");
        return;
    }
    // It adapts after four waits.
    assert!(stats.spins + 8 >= stats.turns, "{stats}");
    assert_eq!(stats.spin_hits, stats.spins, "{stats}");
    assert!(stats.spin_time > Duration::ZERO);
    assert!(stats.to_string().contains("spins "), "{stats}");
}

#[test]
fn where_nothing_comes_soon_enough_nothing_spins() {
    let mut reactor = reactor(Duration::from_nanos(1));
    ping_pong(&mut reactor);
    assert_eq!(reactor.stats().spins, 0);
}

#[test]
fn a_turn_that_spins_ends_with_its_timeout_and_timers_are_in_time() {
    let mut reactor = reactor(LONG);
    let turn = |reactor: &mut Reactor<()>, timeout| reactor.turn(timeout, &mut ()).unwrap();
    for _ in 0..8 {
        reactor.after(Duration::ZERO, |_, ()| Ok(()));
        assert_eq!(turn(&mut reactor, None), Turn::Idle);
    }
    assert_eq!(reactor.stats().timers, 8, "whether it spun or slept");
    let before = reactor.stats().clone();
    assert_eq!(turn(&mut reactor, Some(Duration::from_millis(2))), Turn::Idle);
    let after = reactor.stats();
    assert_eq!((after.events, after.spin_hits), (before.events, before.spin_hits));
    assert_eq!(after.spins, before.spins + u64::from(!one_processor()));
    // A turn that is not to wait does not spin.
    let spins = after.spins;
    assert_eq!(turn(&mut reactor, Some(Duration::ZERO)), Turn::Idle);
    assert_eq!(reactor.stats().spins, spins);
}
