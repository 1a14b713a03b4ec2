//! Connections with a half-close or a reset, and connections that carry descriptors or out-of-band data.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::{fd::AsFd, unix::net::UnixStream},
};

use ipc_reactor::{Address, Framing, Limits, Listener, Reactor};

use crate::obedient::{Obedient, Seen, ask, has_ended, received};
use crate::support::sockets;
use crate::support::turns::{PATIENCE, client, patient, reactor, settle, until};

#[test]
fn one_that_has_said_all_is_answered_before_it_is_closed() {
    let mut reactor = reactor(Limits::default());
    let mut seen = Seen::default();
    let (peer, _) = client(&mut reactor, Framing::lines(), Obedient::new(0));
    // In one visit, and more than the socket takes.
    ask(&peer, "500000\n500000");
    peer.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    while seen.closed.is_empty() {
        settle(&mut reactor, &mut seen);
        let more = received(&peer);
        assert!(!more.is_empty() || !seen.closed.is_empty(), "stuck after {}", answers.len());
        answers.push_str(&more);
    }
    answers.push_str(&received(&peer));
    assert_eq!(answers.len(), 1_000_007);
    assert!(answers.ends_with("goodbye"));
    assert!(has_ended(&peer));
    assert_eq!(seen.closed(), [(0, "Peer")]);
}

fn keeps_writing() -> (Reactor<Seen>, Seen, UnixStream) {
    let mut reactor = reactor(Limits::default());
    let session = Obedient { keeps_writing: true, ..Obedient::new(0) };
    let (peer, _) = client(&mut reactor, Framing::lines(), session);
    ask(&peer, "1");
    peer.shutdown(Shutdown::Write).unwrap();
    let mut seen = Seen::default();
    let _ = reactor.turn(Some(std::time::Duration::ZERO), &mut seen).unwrap();
    (reactor, seen, peer)
}

#[test]
fn a_session_may_go_on_writing_to_one_that_has_said_all() {
    let (mut reactor, mut seen, mut peer) = keeps_writing();
    until(&mut reactor, &mut seen, |seen| !seen.closed.is_empty());
    let mut all = String::new();
    peer.read_to_string(&mut all).unwrap();
    assert_eq!(all, "alater");
    assert_eq!(seen.closed(), [(0, "Closed")]);
}

#[test]
fn one_that_is_written_to_may_still_go_away() {
    let (mut reactor, mut seen, peer) = keeps_writing();
    drop(peer);
    until(&mut reactor, &mut seen, |seen| !seen.closed.is_empty());
    assert!(matches!(seen.closed()[..], [(0, "Peer" | "Reset" | "Closed")]), "{:?}", seen.closed);
    settle(&mut reactor, &mut seen);
    assert_eq!((seen.closed.len(), reactor.stats().clients), (1, 0));
}

#[test]
fn requests_of_one_that_no_longer_reads_are_handled() {
    let mut reactor = reactor(Limits::default());
    let mut seen = Seen::default();
    let (peer, _) = client(&mut reactor, Framing::lines(), Obedient::new(0));
    peer.shutdown(Shutdown::Read).unwrap();
    for sent in 1..=20 {
        ask(&peer, "100000");
        settle(&mut reactor, &mut seen);
        assert_eq!(seen.requests.len(), sent);
    }
    assert_eq!(reactor.stats().bytes_dropped, 2_000_000);
    assert_eq!(seen.closed(), []);
    drop(peer);
    settle(&mut reactor, &mut seen);
    assert_eq!(seen.closed.len(), 1);
    assert_eq!(reactor.stats().clients, 0);
}

#[test]
fn requests_of_one_that_left_without_reading_are_handled() {
    // Also those behind so many replies that reading had paused.
    for reply in [10, 100_000] {
        let mut reactor = reactor(Limits { output_high_water: 64 << 10, ..Limits::default() });
        let mut seen = Seen::default();
        let (peer, _) = client(&mut reactor, Framing::lines(), Obedient::new(0));
        ask(&peer, &reply.to_string());
        settle(&mut reactor, &mut seen);
        for _ in 0..30 {
            ask(&peer, &reply.to_string());
        }
        settle(&mut reactor, &mut seen);
        assert_eq!(seen.requests.len() < 31, reply > 10);
        drop(peer);
        settle(&mut reactor, &mut seen);
        assert_eq!(seen.requests.len(), 31);
        assert!(matches!(seen.closed()[..], [(0, "Reset" | "Peer")]), "{:?}", seen.closed);
    }
}

/// A connection as `listen` makes it, or as `adopt` does.
fn connect(reactor: &mut Reactor<Seen>, seen: &mut Seen, accepted: bool) -> UnixStream {
    if !accepted {
        return client(reactor, Framing::lines(), Obedient::new(0)).0;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let master = Listener::unix(&path).unwrap();
    let master = reactor.listen(master, Framing::lines(), |_, _: &mut Seen| Ok(Obedient::new(0))).unwrap();
    let peer = patient(UnixStream::connect(&path).unwrap());
    settle(reactor, seen);
    assert!(reactor.close(master));
    peer
}

#[test]
fn data_behind_a_passed_descriptor_is_read_and_the_descriptor_is_not_kept() {
    for accepted in [true, false] {
        let mut reactor = reactor(Limits::default());
        let mut seen = Seen::default();
        let peer = connect(&mut reactor, &mut seen, accepted);
        settle(&mut reactor, &mut seen);
        let (mut held, passed) = UnixStream::pair().unwrap();
        let mut sent = 0;
        for _ in 0..10 {
            ask(&peer, "1");
            // The kernel may refuse it on our behalf.
            sent += usize::from(sockets::send_descriptor(&peer, b"1\n", passed.as_fd()).is_ok());
            ask(&peer, "1");
        }
        drop(passed);
        settle(&mut reactor, &mut seen);
        if accepted && sent > 0 {
            // Before Linux 6.16 the kernel does not: who passes any is closed.
            assert!(matches!(seen.closed()[..], [(0, "Limit(DescriptorsPerClient)")]), "{:?}", seen.closed);
            continue;
        }
        assert_eq!(seen.requests.len(), 20 + sent, "accepted {accepted}, {sent} taken");
        assert_eq!(received(&peer).len(), 20 + sent);
        held.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(held.read(&mut [0]).unwrap(), 0, "somebody has the other end");
    }
}

#[test]
fn data_behind_a_descriptor_that_was_passed_before_adoption_is_read() {
    let (peer, ours) = UnixStream::pair().unwrap();
    let peer = patient(peer);
    let (mut held, passed) = UnixStream::pair().unwrap();
    for _ in 0..10 {
        ask(&peer, "1");
        sockets::send_descriptor(&peer, b"1\n", passed.as_fd()).unwrap();
    }
    ask(&peer, "1");
    drop(passed);
    let mut reactor = reactor(Limits::default());
    let mut seen = Seen::default();
    reactor.adopt(ours, Framing::lines(), Obedient::new(0)).unwrap();
    settle(&mut reactor, &mut seen);
    assert_eq!(seen.requests.len(), 21);
    held.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(held.read(&mut [0]).unwrap(), 0, "somebody has the other end");
}

#[test]
fn data_behind_an_urgent_byte_is_read() {
    for accepted in [true, false] {
        for at_once in [true, false] {
            let mut reactor = reactor(Limits::default());
            let mut seen = Seen::default();
            let peer = connect(&mut reactor, &mut seen, accepted);
            for sent in 1..=10 {
                ask(&peer, "1");
                if !at_once {
                    settle(&mut reactor, &mut seen);
                }
                sockets::send_urgent(&peer, b'!');
                if !at_once {
                    settle(&mut reactor, &mut seen);
                }
                ask(&peer, "1");
                settle(&mut reactor, &mut seen);
                assert_eq!(seen.requests.len(), 2 * sent, "accepted {accepted}, at once {at_once}");
            }
            // Out of band is not in the stream.
            assert!(seen.requests.iter().all(|(_, request)| request == "1"), "{:?}", seen.requests);
            assert_eq!(received(&peer).len(), 20);
            drop(peer);
            settle(&mut reactor, &mut seen);
            assert_eq!(seen.closed(), [(0, "Peer")]);
        }
    }
}

#[test]
fn data_behind_an_urgent_byte_is_read_over_tcp_too() {
    let mut reactor = reactor(Limits::default());
    let mut seen = Seen::default();
    let master = Listener::tcp("127.0.0.1:0").unwrap();
    let Address::Tcp(address) = master.local_address().unwrap() else { panic!("another kind") };
    reactor.listen(master, Framing::lines(), |_, _: &mut Seen| Ok(Obedient::new(0))).unwrap();
    let mut peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    for sent in 1..=10 {
        peer.write_all(b"1\n").unwrap();
        sockets::send_urgent(&peer, b'!');
        peer.write_all(b"1\n").unwrap();
        until(&mut reactor, &mut seen, |seen| seen.requests.len() == 2 * sent);
    }
    assert!(seen.requests.iter().all(|(_, request)| request == "1"), "{:?}", seen.requests);
    let mut answers = [0; 20];
    peer.read_exact(&mut answers).unwrap();
    // A reset, because it would read nothing.
    drop(peer);
    until(&mut reactor, &mut seen, |seen| !seen.closed.is_empty());
}
