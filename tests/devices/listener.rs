//! Master sockets: what they bind, what they refuse to touch, what they leave behind.
//!
//! No test here may start a process: between fork and exec it holds every socket of this one, and a socket that another
//! test has just closed would still be open.

#![allow(unsafe_code)]

use crate::support::masked;
use crate::support::names::unique;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use ipc_reactor::{Address, Listener, Transport};
use tempfile::TempDir;

struct Place {
    folder: TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adder.sock");
    Place { folder, path }
}

impl Place {
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn id(path: &Path) -> (u64, u64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.dev(), metadata.ino())
}

fn mkfifo(path: &Path) {
    let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: the name is NUL-terminated and outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
}

#[track_caller]
fn refused(result: io::Result<Listener>, kind: ErrorKind, hint: &str) {
    let error = result.expect_err("must be refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(hint), "{error}");
}

#[test]
fn binds_serves_and_leaves_nothing() {
    let place = place();
    let master = Listener::unix(&place.path).unwrap();
    assert_eq!(master.transport(), Transport::UnixStream);
    assert_eq!(master.local_address().unwrap(), Address::UnixStream(place.path.clone()));
    assert_eq!(fs::metadata(&place.path).unwrap().mode() & 0o777, 0o600);
    UnixStream::connect(&place.path).unwrap();
    drop(master);
    assert!(place.names().is_empty(), "{:?}", place.names());
    Listener::unix_seqpacket(&place.path).unwrap();
}

#[test]
fn a_second_server_is_refused_and_the_first_lives_on() {
    let place = place();
    let _first = Listener::unix(&place.path).unwrap();
    refused(Listener::unix(&place.path), ErrorKind::AddrInUse, "adder.sock.lock");
    refused(Listener::unix_seqpacket(&place.path), ErrorKind::AddrInUse, "adder.sock.lock");
    UnixStream::connect(&place.path).unwrap();
}

#[test]
fn a_living_server_without_our_lock_is_refused_too() {
    let place = place();
    let foreign = UnixListener::bind(&place.path).unwrap();
    let before = id(&place.path);
    refused(Listener::unix(&place.path), ErrorKind::AddrInUse, "answers");
    refused(Listener::unix_seqpacket(&place.path), ErrorKind::AddrInUse, "another type");
    assert_eq!((id(&place.path), place.names()), (before, vec!["adder.sock".to_owned()]));
    drop(foreign);
    fs::remove_file(&place.path).unwrap();

    let _datagram = UnixDatagram::bind(&place.path).unwrap();
    refused(Listener::unix(&place.path), ErrorKind::AddrInUse, "another type");
}

#[test]
fn a_full_backlog_is_a_living_server() {
    let place = place();
    let mut first = Listener::options().backlog(0).unix(&place.path).unwrap();
    first.leave_path();
    // A server of ours that has lost its lock: only the probe can find it.
    fs::remove_file(place.folder.path().join("adder.sock.lock")).unwrap();
    let _waiting = UnixStream::connect(&place.path).unwrap();
    refused(Listener::unix(&place.path), ErrorKind::AddrInUse, "backlog");
    assert!(place.path.exists());
}

#[test]
fn a_stale_socket_of_any_type_is_replaced() {
    let place = place();
    for seqpacket in [false, true] {
        drop(UnixListener::bind(&place.path).unwrap());
        drop(
            if seqpacket { Listener::unix_seqpacket(&place.path) } else { Listener::unix(&place.path) }
                .unwrap(),
        );
        assert!(place.names().is_empty(), "{:?}", place.names());
        drop(UnixDatagram::bind(&place.path).unwrap());
        Listener::unix(&place.path).unwrap();
    }
}

#[test]
fn what_is_no_socket_is_neither_followed_nor_removed() {
    let place = place();
    let target = place.folder.path().join("target");
    let live = UnixListener::bind(&target).unwrap();
    type Make<'a> = (&'a str, &'a dyn Fn(&Path));
    let nowhere = place.folder.path().join("nowhere");
    let fixtures: [Make<'_>; 5] = [
        ("a regular file", &|path| drop(File::create(path).unwrap())),
        ("a directory", &|path| fs::create_dir(path).unwrap()),
        ("a symbolic link", &|path| symlink(&target, path).unwrap()),
        ("a symbolic link", &|path| symlink(&nowhere, path).unwrap()),
        ("a FIFO", &|path| mkfifo(path)),
    ];
    for (what, make) in fixtures {
        make(&place.path);
        let before = (id(&place.path), place.names());
        refused(Listener::unix(&place.path), ErrorKind::AlreadyExists, what);
        refused(Listener::options().takeover(true).unix(&place.path), ErrorKind::AlreadyExists, what);
        assert_eq!((id(&place.path), place.names()), before, "{what}");
        if place.path.symlink_metadata().unwrap().is_dir() {
            fs::remove_dir(&place.path).unwrap();
        } else {
            fs::remove_file(&place.path).unwrap();
        }
    }
    assert!(!nowhere.exists());
    drop(live);
}

#[test]
fn a_strange_lock_file_is_refused() {
    let place = place();
    let lock = place.folder.path().join("adder.sock.lock");
    symlink(place.folder.path().join("victim"), &lock).unwrap();
    refused(Listener::unix(&place.path), ErrorKind::AlreadyExists, "lock file");
    assert!(!place.folder.path().join("victim").exists());
    fs::remove_file(&lock).unwrap();
    mkfifo(&lock);
    refused(Listener::unix(&place.path), ErrorKind::AlreadyExists, "lock file");
    fs::remove_file(&lock).unwrap();
    File::create(&lock).unwrap();
    Listener::unix(&place.path).expect("a lock that a crash left is nobody's");
}

#[test]
fn a_path_swapped_before_drop_is_left_alone() {
    let place = place();
    let replacements: [fn(&Path); 2] =
        [|path| drop(File::create(path).unwrap()), |path| drop(UnixListener::bind(path).unwrap())];
    for replace in replacements {
        let master = Listener::unix(&place.path).unwrap();
        fs::remove_file(&place.path).unwrap();
        replace(&place.path);
        let strange = id(&place.path);
        drop(master);
        assert_eq!((id(&place.path), place.names()), (strange, vec!["adder.sock".to_owned()]));
        fs::remove_file(&place.path).unwrap();
    }
}

#[test]
fn a_path_left_behind_stays() {
    let place = place();
    let mut master = Listener::unix(&place.path).unwrap();
    master.leave_path();
    drop(master);
    assert_eq!(place.names(), ["adder.sock"]);

    let fd = Listener::unix(&place.path).unwrap().into_fd();
    let successor = Listener::try_from(fd).unwrap();
    UnixStream::connect(&place.path).unwrap();
    assert_eq!(successor.local_address().unwrap(), Address::UnixStream(place.path.clone()));
    refused(Listener::unix(&place.path), ErrorKind::AddrInUse, "answers");
    drop(successor);
    assert_eq!(place.names(), ["adder.sock"]);
}

#[test]
fn of_racing_binders_exactly_one_wins() {
    let place = place();
    for stale in [false, true].repeat(20) {
        if stale {
            drop(UnixListener::bind(&place.path).unwrap());
        }
        let start = Barrier::new(4);
        let bind = || {
            start.wait();
            let result = Listener::unix(&place.path);
            start.wait();
            result
        };
        let results = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect::<Vec<_>>()
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "{won:?} {lost:?}");
        lost.into_iter().for_each(|result| refused(result, ErrorKind::AddrInUse, "adder.sock"));
        UnixStream::connect(&place.path).unwrap();
    }
    assert!(place.names().is_empty());
}

/// The same socket, to accept from.
fn duplicate(master: &Listener) -> UnixListener {
    UnixListener::from(master.as_fd().try_clone_to_owned().unwrap())
}

#[test]
fn takeover_refuses_no_client() {
    let place = place();
    let takeover = || Listener::options().takeover(true).unix(&place.path).unwrap();
    let (mut current, stop) = (takeover(), AtomicBool::new(false));
    let (client_ready, path) = (Barrier::new(2), &place.path);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            client_ready.wait();
            let mut connects = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = UnixStream::connect(path) {
                    return Err((connects, error));
                }
                connects += 1;
            }
            Ok(connects)
        });
        client_ready.wait();
        // All stay open to the end: a client may have looked up the path and not yet connected, for as long as it is
        // not scheduled.
        let mut former = Vec::new();
        // All accept until the end: a client at a full backlog would wait for ever.
        let mut sockets = vec![duplicate(&current)];
        let accept = |sockets: &[UnixListener]| {
            for socket in sockets {
                // Bounded: the client may connect as fast as it is accepted.
                let _ = (0..100).try_for_each(|_| socket.accept().map(drop));
            }
        };
        for _ in 0..200 {
            let next = takeover();
            sockets.push(duplicate(&next));
            former.push(std::mem::replace(&mut current, next));
            accept(&sockets);
        }
        stop.store(true, Ordering::Relaxed);
        while !client.is_finished() {
            accept(&sockets);
        }
        assert!(client.join().unwrap().unwrap() > 0);
        drop(former);
    });
    assert_eq!(place.names(), ["adder.sock", "adder.sock.lock"]);
    refused(Listener::unix(&place.path), ErrorKind::AddrInUse, "adder.sock.lock");
    drop(current);
    assert!(place.names().is_empty(), "{:?}", place.names());
}

#[test]
fn takeover_is_whole_from_any_start() {
    let place = place();
    let takeover = || Listener::options().takeover(true).mode(0o640).unix_seqpacket(&place.path);
    for round in 0..3 {
        match round {
            0 => {}
            1 => drop(UnixListener::bind(&place.path).unwrap()),
            _ => drop(Listener::unix(&place.path).unwrap().into_fd()),
        }
        let master = takeover().unwrap();
        assert_eq!(master.local_address().unwrap(), Address::UnixSeqpacket(place.path.clone()));
        assert_eq!(fs::metadata(&place.path).unwrap().mode() & 0o777, masked(0o640));
        assert_eq!(place.names(), ["adder.sock", "adder.sock.lock"]);
        drop(master);
        assert!(place.names().is_empty());
    }
    let foreign = UnixListener::bind(&place.path).unwrap();
    let master = takeover().expect("a living server of another type and without a lock");
    drop(foreign);
    assert!(fs::metadata(&place.path).unwrap().file_type().is_socket());
    drop(master);
    assert!(place.names().is_empty());
}

#[test]
fn of_racing_takeovers_the_path_ends_with_one_that_lives() {
    let place = place();
    for _ in 0..20 {
        let start = Barrier::new(3);
        let take = || {
            start.wait();
            Listener::options().takeover(true).unix(&place.path)
        };
        let results = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..3).map(|_| scope.spawn(take)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect::<Vec<_>>()
        });
        UnixStream::connect(&place.path).unwrap();
        refused(Listener::unix(&place.path), ErrorKind::AddrInUse, "adder.sock.lock");
        drop(results);
        assert!(place.names().is_empty(), "{:?}", place.names());
    }
}

#[test]
fn a_failed_takeover_leaves_the_old_server_whole() {
    let place = place();
    // Room for PATH and none for the longer temporary name.
    let room = 107 - place.folder.path().as_os_str().len() - "/".len() - "/a".len();
    let deep = place.folder.path().join("d".repeat(room));
    fs::create_dir(&deep).unwrap();
    let path = deep.join("a");
    let old = Listener::unix(&path).unwrap();
    refused(Listener::options().takeover(true).unix(&path), ErrorKind::InvalidInput, "temporary name");
    refused(Listener::unix(&path), ErrorKind::AddrInUse, "a.lock");
    UnixStream::connect(&path).unwrap();
    drop(old);
    assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
}

#[test]
fn a_long_path_is_told_with_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let room = 107 - folder.path().as_os_str().len() - 1;
    Listener::unix(folder.path().join("p".repeat(room))).unwrap();
    let long = folder.path().join("p".repeat(room + 1));
    refused(Listener::unix(&long), ErrorKind::InvalidInput, "108 bytes long; unix(7) allows 107");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    refused(Listener::unix(""), ErrorKind::InvalidInput, "empty");
    refused(Listener::unix("/"), ErrorKind::InvalidInput, "names no file");
    refused(Listener::options().mode(0o1600).unix(&long), ErrorKind::InvalidInput, "permission bits");
}

#[test]
fn abstract_names_are_bytes() {
    let name = [b"ipc-reactor\0\xff", unique().as_bytes()].concat();
    let master = Listener::unix_abstract(&name).unwrap();
    assert_eq!(master.local_address().unwrap(), Address::AbstractStream(name.clone()));
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    refused(Listener::unix_abstract(&name), ErrorKind::AddrInUse, r"ipc-reactor\x00\xff");
    drop(master);
    let address = Address::AbstractSeqpacket(name);
    assert_eq!(Listener::bind(&address).unwrap().local_address().unwrap(), address);
    refused(Listener::unix_abstract([0; 108]), ErrorKind::InvalidInput, "107");
    refused(Listener::unix_abstract(""), ErrorKind::InvalidInput, "empty");
}

#[test]
fn tcp_tells_the_port_that_the_kernel_chose() {
    for host in ["127.0.0.1", "[::1]"] {
        let master = Listener::bind(&format!("tcp:{host}:0").parse().unwrap()).unwrap();
        let Address::Tcp(address) = master.local_address().unwrap() else { panic!("TCP") };
        assert!(address.starts_with(host) && !address.ends_with(":0"), "{address}");
        TcpStream::connect(&address).unwrap();
        refused(Listener::tcp(&address), ErrorKind::AddrInUse, &address);
        assert!(format!("{master:?}").contains(&address));
    }
}

#[test]
fn only_what_has_connections_is_listened_on() {
    for text in ["udp:127.0.0.1:0", "mq:/jobs", "unix-dgram:/x", "abstract-dgram:x"] {
        refused(Listener::bind(&text.parse().unwrap()), ErrorKind::InvalidInput, text);
    }
}

#[test]
fn adoption_checks_what_it_gets() {
    let place = place();
    let adopted = |fd: OwnedFd| Listener::try_from(fd);
    assert_eq!(
        adopted(UnixListener::bind(&place.path).unwrap().into()).unwrap().transport(),
        Transport::UnixStream
    );
    assert_eq!(
        adopted(TcpListener::bind("127.0.0.1:0").unwrap().into()).unwrap().transport(),
        Transport::Tcp
    );
    assert_eq!(Listener::from(TcpListener::bind("[::1]:0").unwrap()).transport(), Transport::Tcp);
    refused(adopted(File::open("/dev/null").unwrap().into()), ErrorKind::InvalidInput, "no socket");
    refused(adopted(UnixStream::pair().unwrap().0.into()), ErrorKind::InvalidInput, "does not listen");
    refused(
        adopted(UdpSocket::bind("127.0.0.1:0").unwrap().into()),
        ErrorKind::InvalidInput,
        "does not listen",
    );
    assert!(place.path.exists(), "the adopted socket's path is its maker's");
}

#[test]
fn an_adopted_socket_does_not_block() {
    let place = place();
    let master = Listener::from(UnixListener::bind(&place.path).unwrap());
    let same = duplicate(&master);
    assert_eq!(same.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}
