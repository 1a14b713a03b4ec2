//! Peers that do not read.

use crate::support::crowd;
use std::{
    io::{ErrorKind, Write},
    os::unix::net::UnixStream,
};

use ipc_reactor::{Framing, Key, Limit, Limits, Reactor, SlowConsumer};

use crate::obedient::{Obedient, Seen, ask, has_ended, received};
use crate::support::sockets;
use crate::support::turns::{available, client, reactor, settle};

const KIB: usize = 1 << 10;

#[test]
fn a_slow_consumer_is_not_read_from_until_it_has_caught_up() {
    let mut reactor = reactor(Limits { output_high_water: 64 * KIB, ..Limits::default() });
    let mut seen = Seen::default();
    let (slow, key) = client(&mut reactor, Framing::lines(), Obedient::new(0));
    let (other, _) = client(&mut reactor, Framing::lines(), Obedient::new(1));
    for _ in 0..26 {
        ask(&slow, "100000");
    }
    settle(&mut reactor, &mut seen);
    // What the socket holds, what may be buffered, and the reply that exceeded the limit.
    assert!(seen.requests.len() <= 5, "{} replies of 100,000 bytes", seen.requests.len());
    let unsent = reactor.client(key).unwrap().unsent();
    assert!((64 * KIB..164 * KIB).contains(&unsent), "{unsent}");
    assert_eq!(reactor.stats().limit_count(Limit::SlowConsumer), 1);
    assert!(seen.flushed.is_empty());
    ask(&slow, "1");
    ask(&other, "5");
    settle(&mut reactor, &mut seen);
    assert_eq!((received(&other).as_str(), seen.requests_of(0) <= 5), ("aaaaa", true));

    let mut bytes = Vec::new();
    while bytes.len() < 2_600_001 {
        let (read, ended) = available(&slow);
        assert!(!read.is_empty() && !ended, "stuck after {} bytes", bytes.len());
        bytes.extend(read);
        settle(&mut reactor, &mut seen);
    }
    let letters = bytes.chunk_by(|one, next| one == next).map(|run| (run[0], run.len()));
    let expected = (b'a'..=b'z').map(|letter| (letter, 100_000)).chain([(b'a', 1)]);
    assert!(letters.eq(expected), "every reply, in order");
    assert_eq!(seen.requests_of(0), 27);
    assert_eq!(seen.flushed.len() as u64, reactor.stats().limit_count(Limit::SlowConsumer));
    assert_eq!(seen.closed(), []);
}

#[test]
fn a_slow_consumer_may_be_disconnected() {
    let limits =
        Limits { output_high_water: 64 * KIB, slow_consumer: SlowConsumer::Disconnect, ..Limits::default() };
    let mut reactor = reactor(limits);
    let mut seen = Seen::default();
    let (slow, _) = client(&mut reactor, Framing::lines(), Obedient::new(0));
    let (quick, _) = client(&mut reactor, Framing::lines(), Obedient::new(1));
    for _ in 0..10 {
        // Until it is closed.
        let _ = (&slow).write_all(b"100000\n");
        ask(&quick, "100000");
        settle(&mut reactor, &mut seen);
        assert_eq!(received(&quick).len(), 100_000);
    }
    assert_eq!(seen.closed(), [(0, "Limit(SlowConsumer)")]);
    assert_eq!(reactor.stats().limit_count(Limit::SlowConsumer), 1);
    assert!(has_ended(&slow));
    assert_eq!(seen.requests_of(1), 10);
}

#[test]
fn of_a_refused_reply_nothing_is_sent() {
    // Also where the mark at which reading pauses lies above it.
    for output_high_water in [64 * KIB, 8 << 20] {
        let limits = Limits { output_high_water, output_max: 256 * KIB, ..Limits::default() };
        let mut reactor = reactor(limits);
        let mut seen = Seen::default();
        let (peer, key) = client(&mut reactor, Framing::lines(), Obedient::new(0));
        // In one request: nothing is sent before it has returned.
        ask(&peer, "100000 100000 100000 50000 300000 10");
        settle(&mut reactor, &mut seen);
        assert_eq!(seen.refused, [(0, ErrorKind::WouldBlock); 2]);
        assert_eq!(reactor.stats().limit_count(Limit::Output), 2);
        let sent =
            [b"a".repeat(100_000), b"b".repeat(100_000), b"d".repeat(50_000), b"f".repeat(10)].concat();
        let mut bytes = available(&peer).0;
        settle(&mut reactor, &mut seen);
        bytes.extend(available(&peer).0);
        assert!(bytes == sent, "{} bytes", bytes.len());

        // From outside its session, too.
        let mut handle = reactor.client(key).unwrap();
        assert!(handle.send(&vec![b'1'; 200_000]).is_ok());
        assert_eq!(handle.send(&vec![b'2'; 100_000]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(handle.send(&[b'3'; 5]).is_ok());
        assert_eq!(handle.unsent(), 200_005);
        settle(&mut reactor, &mut seen);
        let mut bytes = available(&peer).0;
        settle(&mut reactor, &mut seen);
        bytes.extend(available(&peer).0);
        assert!(bytes == [b"1".repeat(200_000), b"3".repeat(5)].concat(), "{} bytes", bytes.len());
        assert_eq!(seen.closed(), []);
    }
}

/// Clients with small sockets that ask for 64 replies of 4 KiB each, and read none.
fn deaf(reactor: &mut Reactor<Seen>, seen: &mut Seen, count: u32) -> Vec<(UnixStream, Key)> {
    let mut peers = Vec::new();
    for id in 0..count {
        let (peer, ours) = UnixStream::pair().unwrap();
        sockets::set_send_buffer(&ours, 4_608);
        let key = reactor.adopt(ours, Framing::lines(), Obedient::new(id)).unwrap();
        ask(&peer, &["4096"; 64].join("\n"));
        peers.push((peer, key));
    }
    settle(reactor, seen);
    peers
}

fn unsent(reactor: &mut Reactor<Seen>) -> (usize, usize) {
    let (mut most, mut all) = (0, 0);
    reactor.each_client(|client| {
        most = most.max(client.unsent());
        all += client.unsent();
    });
    (most, all)
}

#[test]
fn a_thousand_deaf_peers_hold_no_more_than_they_may() {
    let Some(_alone) = crowd(2_100) else { return };
    let mut reactor = reactor(Limits { output_high_water: 16 * KIB, ..Limits::default() });
    let mut seen = Seen::default();
    let peers = deaf(&mut reactor, &mut seen, 1_000);
    let (most, all) = unsent(&mut reactor);
    assert!(most <= 20 * KIB && all > 1_000 * 16 * KIB, "{most} at most, {all} together");
    assert_eq!(reactor.stats().limit_count(Limit::SlowConsumer), 1_000);
    assert_eq!(reactor.stats().clients, 1_000);
    // A client that reads again is served again.
    while seen.requests_of(500) < 64 {
        assert!(!received(&peers[500].0).is_empty(), "stuck");
        settle(&mut reactor, &mut seen);
    }
    drop(peers);
    settle(&mut reactor, &mut seen);
    assert_eq!((reactor.stats().clients, seen.closed.len()), (0, 1_000));
}

#[test]
fn all_clients_together_hold_no_more_than_they_may() {
    for (buffered_max, buffered_per_uid, limit) in
        [(KIB << 10, usize::MAX, Limit::Buffered), (usize::MAX, KIB << 10, Limit::BufferedPerUid)]
    {
        let limits =
            Limits { output_high_water: 16 * KIB, buffered_max, buffered_per_uid, ..Limits::default() };
        let mut reactor = reactor(limits);
        let mut seen = Seen::default();
        let _peers = deaf(&mut reactor, &mut seen, 200);
        let (_, all) = unsent(&mut reactor);
        assert!(all <= KIB << 10, "{all}");
        let closed = reactor.stats().limit_count(limit);
        assert!(closed >= 200 - 64, "{closed}");
        assert_eq!(seen.closed.len() as u64, closed);
        assert!(
            seen.closed.iter().all(|(_, why)| *why == format!("Limit({limit:?})")),
            "{:?}",
            seen.closed[0]
        );
        // Clients without buffered bytes are not affected, and the buffered bytes are free again.
        let (peer, _) = client(&mut reactor, Framing::lines(), Obedient::new(999));
        ask(&peer, "3");
        settle(&mut reactor, &mut seen);
        assert_eq!(received(&peer), "aaa");
        reactor.each_client(|client| client.abort());
        settle(&mut reactor, &mut seen);
        let before = reactor.stats().limit_count(limit);
        let _again = deaf(&mut reactor, &mut seen, 20);
        assert_eq!(reactor.stats().limit_count(limit), before);
    }
}
