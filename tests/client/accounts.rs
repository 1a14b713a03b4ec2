//! Limits on the number of clients, and which clients are accepted.

use crate::support::crowd;
use crate::support::names::unique;
use std::{io::Write, os::unix::net::UnixStream, path::PathBuf, time::Duration};

use ipc_reactor::{Framing, Limit, Limits, Listener, Reactor, WhenFull};
use tempfile::TempDir;

use crate::obedient::{Obedient, Seen, ask, has_ended, received};
use crate::support::sockets;
use crate::support::turns::{patient, reactor, settle};

/// A reactor at which to connect; its sessions are numbered in the order of acceptance, from 0.
struct Server {
    reactor: Reactor<Seen>,
    seen: Seen,
    path: PathBuf,
    _folder: TempDir,
}

impl Server {
    fn new(limits: Limits) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut reactor = reactor(limits);
        let mut next = 0;
        reactor
            .listen(Listener::unix(&path).unwrap(), Framing::lines(), move |_, _: &mut Seen| {
                next += 1;
                Ok(Obedient::new(next - 1))
            })
            .unwrap();
        Server { reactor, seen: Seen::default(), path, _folder: folder }
    }

    fn connect(&mut self) -> UnixStream {
        let peer = patient(UnixStream::connect(&self.path).unwrap());
        self.settle();
        peer
    }

    fn settle(&mut self) {
        settle(&mut self.reactor, &mut self.seen);
    }

    fn limit_count(&self, limit: Limit) -> u64 {
        self.reactor.stats().limit_count(limit)
    }

    #[track_caller]
    fn serves(&mut self, peer: &UnixStream) {
        ask(peer, "3");
        self.settle();
        assert_eq!(received(peer).len(), 3);
    }
}

/// A connection that waits for a free slot waits for that event, not for a timer.
fn limits(clients: usize) -> Limits {
    Limits { clients, accept_retry: Duration::from_secs(3_600), ..Limits::default() }
}

#[test]
fn newcomers_wait_until_somebody_leaves() {
    let mut server = Server::new(limits(3));
    let mut peers: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let waiting: Vec<_> = (0..3).map(|_| server.connect()).collect();
    waiting.iter().for_each(|peer| ask(peer, "3"));
    server.settle();
    assert_eq!(server.reactor.stats().clients, 3);
    assert_eq!(server.limit_count(Limit::Clients), 1, "once, not for each");
    assert!(waiting.iter().all(|peer| received(peer).is_empty() && !has_ended(peer)));
    for newcomer in &waiting {
        drop(peers.remove(0));
        server.settle();
        assert_eq!(received(newcomer).len(), 3);
        assert_eq!(server.reactor.stats().clients, 3);
    }
    assert_eq!(server.reactor.stats().accepted, 6);
}

#[test]
fn newcomers_are_let_in_when_the_limit_is_raised() {
    let mut server = Server::new(limits(1));
    let _first = server.connect();
    let second = server.connect();
    ask(&second, "3");
    server.settle();
    assert!(received(&second).is_empty());
    server.reactor.set_limits(limits(2));
    server.settle();
    assert_eq!(received(&second).len(), 3);
}

#[test]
fn newcomers_are_shown_the_door() {
    let mut server = Server::new(Limits { when_full: WhenFull::Shed, ..limits(2) });
    let peers = [server.connect(), server.connect()];
    let refused: Vec<_> = (0..5).map(|_| server.connect()).collect();
    assert!(refused.iter().all(has_ended));
    assert_eq!(server.reactor.stats().refused, 5);
    assert_eq!(server.limit_count(Limit::Clients), 5);
    let [first, second] = peers;
    server.serves(&first);
    drop(second);
    server.settle();
    let third = server.connect();
    server.serves(&third);
}

#[test]
fn half_frames_make_room_for_newcomers() {
    let Some(_alone) = crowd(11_000) else { return };
    for when_full in [WhenFull::Wait, WhenFull::Shed] {
        let mut server = Server::new(Limits { when_full, ..limits(5_000) });
        let quiet = server.connect();
        let unfinished: Vec<_> = (1..5_000)
            .map(|_| {
                let mut peer = server.connect();
                peer.write_all(b"unfinish").unwrap();
                peer
            })
            .collect();
        server.settle();
        assert_eq!((server.reactor.stats().clients, server.limit_count(Limit::Evicted)), (5_000, 0));
        let newcomers: Vec<_> = (0..100).map(|_| server.connect()).collect();
        for newcomer in &newcomers {
            server.serves(newcomer);
        }
        server.serves(&quiet);
        let evicted = server.limit_count(Limit::Evicted);
        assert!((100..200).contains(&evicted), "{evicted}");
        assert_eq!(server.seen.closed.len() as u64, evicted);
        // Those that have been at it for longest.
        let mut closed = server.seen.closed();
        closed.sort_unstable();
        assert!(closed.into_iter().eq((1..=evicted as u32).map(|id| (id, "Limit(Evicted)"))));
        assert_eq!(unfinished.iter().filter(|peer| has_ended(peer)).count() as u64, evicted);
        assert_eq!(server.reactor.stats().refused, 0);
    }
}

#[test]
fn a_half_frame_is_not_evicted_for_nobody() {
    let mut server = Server::new(limits(2));
    let mut unfinished = server.connect();
    unfinished.write_all(b"3 unfinish").unwrap();
    server.settle();
    let second = server.connect();
    server.serves(&second);
    assert_eq!((server.reactor.stats().clients, server.limit_count(Limit::Evicted)), (2, 0));
    unfinished.write_all(b"ed\n").unwrap();
    server.settle();
    assert_eq!(received(&unfinished), "aaa");
    assert_eq!(server.seen.closed(), []);
}

#[test]
fn one_user_cannot_take_all_the_places() {
    const NOBODY: u32 = 65_534;
    // Any user may connect to an abstract name.
    let name = unique();
    let mut reactor = reactor(Limits { clients: 100, clients_per_uid: 10, ..Limits::default() });
    let mut seen = Seen::default();
    reactor
        .listen(Listener::unix_abstract(&name).unwrap(), Framing::lines(), |peer, _: &mut Seen| {
            Ok(Obedient::new(peer.credentials()?.uid))
        })
        .unwrap();
    let connect = || {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        patient(UnixStream::connect_addr(&address).unwrap())
    };
    let Some(flood) = sockets::as_user(NOBODY, || (0..50).map(|_| connect()).collect::<Vec<_>>()) else {
        return sockets::skip("only root can flood as another user");
    };
    settle(&mut reactor, &mut seen);
    assert_eq!(reactor.stats().clients, 10);
    assert_eq!(reactor.stats().limit_count(Limit::ClientsPerUid), 40);
    assert_eq!(reactor.stats().refused, 40);
    let served: Vec<_> = flood.iter().filter(|peer| !has_ended(peer)).collect();
    assert_eq!(served.len(), 10);

    let ours: Vec<_> = (0..10).map(|_| connect()).collect();
    ours.iter().for_each(|peer| ask(peer, "3"));
    served.iter().for_each(|peer| ask(peer, "3"));
    settle(&mut reactor, &mut seen);
    assert!(ours.iter().chain(served).all(|peer| received(peer).len() == 3));
    assert_eq!(seen.requests_of(NOBODY), 10);
    assert!(has_ended(&{
        let one_more = connect();
        settle(&mut reactor, &mut seen);
        one_more
    }));

    // A client that leaves frees its slot.
    drop(flood);
    settle(&mut reactor, &mut seen);
    let again = sockets::as_user(NOBODY, connect).unwrap();
    ask(&again, "3");
    settle(&mut reactor, &mut seen);
    assert_eq!(received(&again).len(), 3);
}
