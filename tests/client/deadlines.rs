//! Deadlines: each client that misses one is closed, and no other client.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use ipc_reactor::{Framing, Limit, Limits, Reactor};

use crate::obedient::{Obedient, Seen, ask, has_ended, received};
use crate::support::turns::{available, client, reactor, settle, until};

const SHORT: Duration = Duration::from_millis(50);

/// Waits until a client is closed, and calls `meanwhile` repeatedly.
#[track_caller]
fn until_closed(reactor: &mut Reactor<Seen>, seen: &mut Seen, mut meanwhile: impl FnMut()) {
    let deadline = std::time::Instant::now() + crate::support::turns::PATIENCE;
    while seen.closed.is_empty() {
        assert!(std::time::Instant::now() < deadline, "nobody is closed");
        meanwhile();
        let _ = reactor.turn(Some(Duration::from_millis(5)), seen).unwrap();
    }
}

#[test]
fn a_half_frame_has_its_time_however_often_a_byte_of_it_comes() {
    let mut reactor = reactor(Limits { frame_timeout: Some(SHORT), ..Limits::default() });
    let mut seen = Seen::default();
    let (whole, _) = client(&mut reactor, Framing::lines(), Obedient::new(0));
    let (mut trickle, _) = client(&mut reactor, Framing::lines(), Obedient::new(1));
    until_closed(&mut reactor, &mut seen, || {
        // Whole requests have no deadline.
        ask(&whole, "1");
        trickle.write_all(b"x").unwrap();
    });
    assert_eq!(seen.closed(), [(1, "Limit(PartialFrame)")]);
    assert_eq!(reactor.stats().limit_count(Limit::PartialFrame), 1);
    assert!(has_ended(&trickle) && !has_ended(&whole));
}

#[test]
fn a_half_frame_that_is_completed_in_time_is_forgotten() {
    let mut reactor = reactor(Limits { frame_timeout: Some(SHORT), ..Limits::default() });
    let mut seen = Seen::default();
    let (mut peer, _) = client(&mut reactor, Framing::lines(), Obedient::new(0));
    peer.write_all(b"whole\nhal").unwrap();
    settle(&mut reactor, &mut seen);
    peer.write_all(b"f\n").unwrap();
    settle(&mut reactor, &mut seen);
    let (mut late, _) = client(&mut reactor, Framing::lines(), Obedient::new(1));
    late.write_all(b"x").unwrap();
    // The deadline of the first would have come before that of the second.
    until_closed(&mut reactor, &mut seen, || {});
    assert_eq!(seen.closed(), [(1, "Limit(PartialFrame)")]);
    assert_eq!(seen.requests_of(0), 2);
}

#[test]
fn an_idle_client_is_closed() {
    let mut reactor = reactor(Limits { idle: Some(SHORT), ..Limits::default() });
    let mut seen = Seen::default();
    let (idle, _) = client(&mut reactor, Framing::lines(), Obedient::new(0));
    until_closed(&mut reactor, &mut seen, || {});
    assert_eq!(seen.closed(), [(0, "Limit(Idle)")]);
    assert_eq!(reactor.stats().limit_count(Limit::Idle), 1);
    assert!(has_ended(&idle));
}

#[test]
fn a_subscriber_that_only_takes_is_not_idle() {
    let mut reactor = reactor(Limits { idle: Some(Duration::from_secs(1)), ..Limits::default() });
    let mut seen = Seen::default();
    let (subscriber, key) = client(&mut reactor, Framing::lines(), Obedient::new(0));
    settle(&mut reactor, &mut seen);
    // Two messages, and one idle deadline between them but not between either and its neighbours.
    for _ in 0..2 {
        reactor.after(Duration::from_millis(600), move |cx, seen: &mut Seen| {
            seen.flushed.push(1);
            cx.client(key).map_or(Ok(()), |mut client| client.send(b"news"))
        });
        seen.flushed.clear();
        until(&mut reactor, &mut seen, |seen| !seen.flushed.is_empty());
        settle(&mut reactor, &mut seen);
        assert_eq!(seen.closed(), []);
        assert_eq!(received(&subscriber), "news");
    }
    until_closed(&mut reactor, &mut seen, || {});
    assert_eq!(seen.closed(), [(0, "Limit(Idle)")]);
}

/// More than a socket takes.
const LARGE: usize = 4 << 20;

fn large(flush: Duration) -> (Reactor<Seen>, Seen, UnixStream) {
    let mut reactor = reactor(Limits { flush, output_high_water: 8 << 20, ..Limits::default() });
    let (peer, _) = client(&mut reactor, Framing::lines(), Obedient::new(0));
    (reactor, Seen::default(), peer)
}

#[test]
fn a_closing_client_has_its_time_to_take_its_last_bytes() {
    let (mut reactor, mut seen, peer) = large(SHORT);
    ask(&peer, &format!("{LARGE} end"));
    until_closed(&mut reactor, &mut seen, || {});
    assert_eq!(seen.closed(), [(0, "Limit(Flush)")]);
    assert_eq!(reactor.stats().limit_count(Limit::Flush), 1);
    assert!(received(&peer).len() < LARGE);
}

#[test]
fn a_closing_client_gains_no_time_by_taking_a_little() {
    let (mut reactor, mut seen, mut peer) = large(Duration::from_millis(300));
    ask(&peer, &format!("{LARGE} end"));
    settle(&mut reactor, &mut seen);
    let mut taken = 0;
    peer.set_nonblocking(true).unwrap();
    until_closed(&mut reactor, &mut seen, || {
        // At this pace it would take all of it, in ten times its time.
        taken += peer.read(&mut [0; 32 << 10]).unwrap_or(0);
        std::thread::sleep(Duration::from_millis(25));
    });
    assert_eq!(seen.closed(), [(0, "Limit(Flush)")]);
    assert!(taken < LARGE, "{taken}");
}

#[test]
fn the_time_for_the_last_bytes_begins_at_the_end() {
    let flush = Duration::from_millis(500);
    let (mut reactor, mut seen, peer) = large(flush);
    ask(&peer, &LARGE.to_string());
    settle(&mut reactor, &mut seen);
    // It has taken nothing for longer than that when its end comes.
    reactor.after(2 * flush, |_, seen: &mut Seen| {
        seen.flushed.push(1);
        Ok(())
    });
    until(&mut reactor, &mut seen, |seen| !seen.flushed.is_empty());
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    settle(&mut reactor, &mut seen);
    assert_eq!(seen.closed(), []);
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"goodbye") {
        let (read, _) = available(&peer);
        assert!(!read.is_empty(), "cut off after {} bytes", bytes.len());
        bytes.extend(read);
        settle(&mut reactor, &mut seen);
    }
    assert_eq!(bytes.len(), LARGE + 7);
    assert_eq!(seen.closed(), [(0, "Peer")]);
}
