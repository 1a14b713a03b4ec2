//! A client's share of a round: what exceeds it is handled later, in order, without a further event.

use std::{io::Write, time::Duration};

use ipc_reactor::{Framing, Limit, Limits, Reactor, Turn};

use crate::framing::{Heard, Listen};
use crate::support::turns::{client, settle};

/// Handles 60 messages of 64 bytes, sent in one write, and returns how many each turn handled.
fn per_turn(limits: Limits, read_buffer: usize) -> (Vec<usize>, Reactor<Heard>) {
    let mut reactor = Reactor::<Heard>::builder().limits(limits).read_buffer(read_buffer).build().unwrap();
    let mut heard = Heard::default();
    let (mut peer, _) = client(&mut reactor, Framing::fixed(64), Listen);
    settle(&mut reactor, &mut heard);
    let sent: Vec<Vec<u8>> = (0..60).map(|n| vec![n; 64]).collect();
    peer.write_all(&sent.concat()).unwrap();
    let mut turns = Vec::new();
    while heard.messages.len() < sent.len() {
        let before = heard.messages.len();
        let turn = reactor.turn(Some(Duration::ZERO), &mut heard).unwrap();
        turns.push(heard.messages.len() - before);
        assert!(turn == Turn::Pending || heard.messages.len() == sent.len(), "forgotten after {turns:?}");
    }
    assert_eq!(heard.messages, sent);
    assert_eq!(reactor.stats().requests, 60);
    (turns, reactor)
}

#[test]
fn messages_per_visit() {
    let limits = Limits { messages_per_visit: 7, ..Limits::default() };
    let (turns, reactor) = per_turn(limits, 128 << 10);
    assert_eq!(turns, [7, 7, 7, 7, 7, 7, 7, 7, 4]);
    assert_eq!(reactor.stats().limit_count(Limit::Messages), 8);
}

#[test]
fn messages_per_visit_where_each_read_is_one_message() {
    let limits = Limits { messages_per_visit: 3, ..Limits::default() };
    let (turns, _) = per_turn(limits, 64);
    assert!(turns.iter().all(|&handled| handled <= 3), "{turns:?}");
}

#[test]
fn bytes_per_visit() {
    let limits = Limits { bytes_per_visit: 640, ..Limits::default() };
    let (turns, reactor) = per_turn(limits, 128);
    assert_eq!(turns, [10; 6]);
    assert!(reactor.stats().limit_count(Limit::Bytes) >= 5);
}
