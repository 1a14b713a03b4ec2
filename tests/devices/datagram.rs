//! Datagram sockets: what they bind, what they report of a message, what they refuse.
//!
//! No test here may start a process: between fork and exec it holds every socket of this one, and a socket that another
//! test has just closed would still be open.

use crate::support::masked;
use crate::support::names::unique;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipc_reactor::{Address, Datagram, PeerAddress, SocketAddress};

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.sock");
    (folder, path)
}

#[track_caller]
fn refused<T>(result: io::Result<T>, kind: ErrorKind, hint: &str) {
    let error = result.map(drop).expect_err("must be refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(hint), "{error}");
}

fn address_of(socket: &Datagram) -> SocketAddress {
    SocketAddress::try_from(&socket.local_address().unwrap()).unwrap()
}

/// Repeats a call until it no longer returns `WouldBlock`: the loopback delivers at once, nearly always.
#[track_caller]
fn at_last<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            said => return said,
        }
        assert!(start.elapsed() < Duration::from_secs(20), "nothing came");
    }
}

/// The next datagram, and its sender.
#[track_caller]
fn next(socket: &Datagram) -> (Vec<u8>, SocketAddress) {
    let mut buffer = [0; 64];
    let received = at_last(|| socket.recv_from(&mut buffer)).unwrap();
    assert_eq!(received.truncated, None);
    (buffer[..received.len].to_vec(), received.from)
}

#[test]
fn a_path_is_private_locked_and_removed() {
    let (folder, path) = place();
    let socket = Datagram::unix(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(socket.local_address().unwrap(), Address::UnixDatagram(path.clone()));
    refused(Datagram::unix(&path), ErrorKind::AddrInUse, "lock file");
    drop(socket);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let mut kept = Datagram::options().mode(0o644).unix(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, masked(0o644));
    kept.leave_path();
    drop(kept);
    assert!(path.exists());
    drop(Datagram::unix(&path).expect("stale"));
    assert!(!path.exists());
}

#[test]
fn a_living_socket_of_any_kind_is_left_alone() {
    let (folder, path) = place();
    let plain = UnixDatagram::bind(&path).unwrap();
    refused(Datagram::unix(&path), ErrorKind::AddrInUse, "a server answers there");
    plain.set_nonblocking(true).unwrap();
    assert_eq!(plain.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "the probe sends nothing");
    let other = folder.path().join("other");
    let _peer = UnixDatagram::bind(&other).unwrap();
    plain.connect(&other).unwrap();
    refused(Datagram::unix(&path), ErrorKind::AddrInUse, "connected to another");
    drop(plain);
    drop(Datagram::unix(&path).expect("stale"));

    let _stream = UnixListener::bind(&path).unwrap();
    refused(Datagram::unix(&path), ErrorKind::AddrInUse, "another type");
    assert!(path.exists());
}

#[test]
fn what_is_no_socket_is_neither_followed_nor_removed() {
    let (folder, path) = place();
    let target = folder.path().join("target");
    let _live = UnixDatagram::bind(&target).unwrap();
    type Make<'a> = (&'a str, &'a dyn Fn(&Path));
    let fixtures: [Make<'_>; 3] = [
        ("a regular file", &|path| drop(File::create(path).unwrap())),
        ("a symbolic link", &|path| symlink(&target, path).unwrap()),
        ("a directory", &|path| fs::create_dir(path).unwrap()),
    ];
    for (what, make) in fixtures {
        make(&path);
        let before = fs::symlink_metadata(&path).unwrap().ino();
        refused(Datagram::unix(&path), ErrorKind::AlreadyExists, what);
        assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), before, "{what}");
        let _ = fs::remove_file(&path);
    }
}

#[test]
fn a_strangers_socket_at_our_path_stays() {
    let (_folder, path) = place();
    let socket = Datagram::unix(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _stranger = UnixDatagram::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
}

#[test]
fn descriptors_are_nonblocking_and_closed_on_exec() {
    let (ours, _theirs) = UnixDatagram::pair().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sockets = [
        Datagram::unix_autobind().unwrap(),
        Datagram::udp("127.0.0.1:0").unwrap(),
        Datagram::from(ours),
        Datagram::from(udp.try_clone().unwrap()),
        Datagram::try_from(OwnedFd::from(udp)).unwrap(),
    ];
    for socket in sockets {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", socket.as_fd().as_raw_fd())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:\t")).unwrap();
        assert_eq!(i32::from_str_radix(flags, 8).unwrap() & 0o2004000, 0o2004000, "{socket:?}: {info}");
        assert_eq!(socket.recv_from(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn every_kind_of_sender_is_named() {
    let (folder, path) = place();
    let sender_path = folder.path().join("sender.sock");
    let name = unique();
    let server = Datagram::unix(&path).unwrap();
    let to = address_of(&server);

    Datagram::unix(&sender_path).unwrap().send_to(b"path", &to).unwrap();
    let (bytes, from) = next(&server);
    assert_eq!((&bytes[..], from.to_address()), (&b"path"[..], PeerAddress::Path(sender_path)));

    Datagram::unix_abstract(&name).unwrap().send_to(b"name", &to).unwrap();
    assert_eq!(next(&server).1.to_address(), PeerAddress::Abstract(name.into_bytes()));

    let autobound = Datagram::unix_autobind().unwrap();
    autobound.send_to(b"auto", &to).unwrap();
    let PeerAddress::Abstract(chosen) = next(&server).1.to_address() else { panic!("an abstract name") };
    assert!(chosen.len() == 5 && chosen.iter().all(u8::is_ascii_hexdigit), "{chosen:?}");
    assert_eq!(autobound.local_address().unwrap(), Address::AbstractDatagram(chosen));

    UnixDatagram::unbound().unwrap().send_to(b"nobody", &path).unwrap();
    let (_, from) = next(&server);
    assert!(from.is_unnamed());
    assert_eq!((from.to_address(), from.to_string()), (PeerAddress::Unnamed, "unnamed".into()));
    refused(server.send_to(b"you?", &from), ErrorKind::NotConnected, "no receiver");

    for local in ["127.0.0.1:0", "[::1]:0"] {
        let (server, client) = (Datagram::udp(local).unwrap(), UdpSocket::bind(local).unwrap());
        let Address::Udp(at) = server.local_address().unwrap() else { panic!("UDP") };
        client.send_to(b"inet", &at).unwrap();
        let (_, from) = next(&server);
        assert_eq!(from.to_inet(), Some(client.local_addr().unwrap()));
        assert_eq!(from.to_string(), client.local_addr().unwrap().to_string());
        server.send_to(b"back", &from).unwrap();
        assert_eq!(client.recv(&mut [0; 8]).unwrap(), 4);
    }
}

#[test]
fn truncation_is_told_with_the_real_length() {
    let unix = Datagram::unix_autobind().unwrap();
    let udp = Datagram::udp("127.0.0.1:0").unwrap();
    for socket in [unix, udp] {
        let to = address_of(&socket);
        for len in [16, 17, 5_000] {
            socket.send_to(&vec![7; len], &to).unwrap();
        }
        socket.send_to(b"x", &to).unwrap();
        let told: Vec<_> = (0..3)
            .map(|_| at_last(|| socket.recv_from(&mut [0; 16])).unwrap())
            .map(|received| (received.len, received.truncated))
            .collect();
        assert_eq!(told, [(16, None), (16, Some(17)), (16, Some(5_000))]);
        let received = at_last(|| socket.recv_from(&mut [])).unwrap();
        assert_eq!((received.len, received.truncated, received.from), (0, Some(1), to));
    }
}

#[test]
fn an_empty_datagram_is_a_message_and_never_an_end() {
    for socket in [Datagram::unix_autobind().unwrap(), Datagram::udp("127.0.0.1:0").unwrap()] {
        let to = address_of(&socket);
        for bytes in [&b""[..], b"full", b""] {
            socket.send_to(bytes, &to).unwrap();
        }
        assert_eq!([next(&socket), next(&socket), next(&socket)].map(|(bytes, _)| bytes.len()), [0, 4, 0]);
        assert_eq!(socket.recv_from(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn a_connected_socket_hears_its_peer_alone() {
    let (server, stranger) = (Datagram::unix_autobind().unwrap(), Datagram::unix_autobind().unwrap());
    let client = Datagram::connected(&server.local_address().unwrap()).unwrap();
    client.send(b"hello").unwrap();
    let (_, from) = next(&server);
    refused(stranger.send_to(b"psst", &from), ErrorKind::PermissionDenied, "another socket alone");
    server.connect(&from).unwrap();
    server.send(b"hello yourself").unwrap();
    assert_eq!(next(&client).0, b"hello yourself");
    assert_eq!(client.peer_address().unwrap(), address_of(&server).to_address());

    client.send(b"unread").unwrap();
    server.connect(&address_of(&stranger)).unwrap();
    assert_eq!(server.recv_from(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "thrown away");
    // The kernel reports the end to the peer that was disconnected.
    refused(client.recv_from(&mut [0]), ErrorKind::ConnectionReset, "");

    let (server, stranger) = (Datagram::udp("127.0.0.1:0").unwrap(), Datagram::udp("127.0.0.1:0").unwrap());
    let client = Datagram::connected(&server.local_address().unwrap()).unwrap();
    stranger.send_to(b"psst", &address_of(&client)).unwrap();
    server.send_to(b"hello", &address_of(&client)).unwrap();
    assert_eq!(next(&client).0, b"hello");
    assert_eq!(client.recv_from(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    refused(server.peer_address(), ErrorKind::NotConnected, "");
}

#[test]
fn a_refusal_is_told_and_the_socket_goes_on() {
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = Datagram::udp("127.0.0.1:0").unwrap();
    client.connect(&gone.local_addr().unwrap().into()).unwrap();
    drop(gone);
    client.send(b"anybody?").expect("nothing is known yet");
    let error = at_last(|| client.recv_from(&mut [0])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let start = Instant::now();
    let error = loop {
        if let Err(error) = client.send(b"anybody?") {
            break error;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "nobody answers, nobody refuses");
    };
    refused::<()>(Err(error), ErrorKind::ConnectionRefused, "earlier datagram");
    let found = Datagram::udp("127.0.0.1:0").unwrap();
    client.connect(&address_of(&found)).unwrap();
    client.send(b"you!").unwrap();
    assert_eq!(next(&found).0, b"you!");

    let gone = Datagram::unix_autobind().unwrap();
    let client = Datagram::connected(&gone.local_address().unwrap()).unwrap();
    let to = address_of(&gone);
    drop(gone);
    refused(client.send(b"anybody?"), ErrorKind::ConnectionRefused, "nobody receives there");
    refused(client.send_to(b"anybody?", &to), ErrorKind::ConnectionRefused, "nobody receives there");
    client.connect(&address_of(&client)).unwrap();
    client.send(b"myself").unwrap();
    assert_eq!(next(&client).0, b"myself");
}

#[test]
fn a_full_receiver_is_would_block_until_it_receives() {
    let (server, client) = (Datagram::unix_autobind().unwrap(), Datagram::unix_autobind().unwrap());
    let to = address_of(&server);
    let mut sent = 0;
    let error = loop {
        match client.send_to(b"x", &to) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1_000_000, "nothing bounds the queue");
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let more = vec![(&b"y"[..], &to); 40];
    refused(client.send_batch(&more), ErrorKind::WouldBlock, "");
    for _ in 0..3 {
        next(&server);
    }
    assert_eq!(client.send_batch(&more).unwrap(), 3);
    for _ in 0..sent {
        next(&server);
    }
    assert_eq!(server.recv_from(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_batch_of_any_length_goes_out_in_order() {
    let (server, client) = (Datagram::udp("127.0.0.1:0").unwrap(), Datagram::udp("127.0.0.1:0").unwrap());
    let to = address_of(&server);
    for count in [0, 1, 16, 17, 40] {
        let bytes: Vec<_> = (0..count).map(|n| vec![n as u8; n]).collect();
        let batch: Vec<_> = bytes.iter().map(|bytes| (&bytes[..], &to)).collect();
        assert_eq!(client.send_batch(&batch).unwrap(), count);
        (0..count).for_each(|n| assert_eq!(next(&server).0, bytes[n]));
    }
}

#[test]
fn bad_addresses_are_refused_in_words() {
    let (folder, path) = place();
    let long = folder.path().join("p".repeat(108));
    refused(Datagram::unix(&long), ErrorKind::InvalidInput, "unix(7) allows 107");
    refused(Datagram::unix(""), ErrorKind::InvalidInput, "must not be empty");
    refused(Datagram::unix("a\0b"), ErrorKind::InvalidInput, "NUL");
    refused(Datagram::unix(folder.path().join("no/folder")), ErrorKind::NotFound, "no/folder");
    refused(Datagram::unix_abstract(""), ErrorKind::InvalidInput, "must not be empty");
    refused(Datagram::unix_abstract([b'n'; 108]), ErrorKind::InvalidInput, "unix(7) allows 107");
    refused(Datagram::options().mode(0o1600).unix(&path), ErrorKind::InvalidInput, "permission bits");
    let name = unique();
    let _taken = Datagram::unix_abstract(&name).unwrap();
    refused(Datagram::unix_abstract(&name), ErrorKind::AddrInUse, &name);
    let udp = Datagram::udp("127.0.0.1:0").unwrap();
    refused(
        Datagram::bind(&udp.local_address().unwrap()),
        ErrorKind::AddrInUse,
        "cannot bind udp:127.0.0.1:",
    );
    refused(Datagram::udp("192.0.2.1:9"), ErrorKind::AddrNotAvailable, "cannot bind udp:192.0.2.1:9");
    for address in ["unix:/tmp/x", "abstract-seq:x", "tcp:127.0.0.1:9", "mq:/x"] {
        let address: Address = address.parse().unwrap();
        refused(Datagram::bind(&address), ErrorKind::InvalidInput, "takes no datagrams");
        refused(Datagram::connected(&address), ErrorKind::InvalidInput, "takes no datagrams");
    }
    let nowhere = Address::UnixDatagram(folder.path().join("nowhere"));
    refused(Datagram::connected(&nowhere), ErrorKind::NotFound, "no socket is at that path");
    refused(SocketAddress::try_from(&PeerAddress::Unnamed), ErrorKind::InvalidInput, "unnamed");
}

#[test]
fn bad_sends_are_refused_in_words() {
    let (_folder, path) = place();
    let (unix, udp) = (Datagram::unix_autobind().unwrap(), Datagram::udp("127.0.0.1:0").unwrap());
    let (to_unix, to_udp) = (address_of(&unix), address_of(&udp));
    for socket in [&unix, &udp] {
        refused(socket.send(b"x"), ErrorKind::NotConnected, "connect the socket");
    }
    refused(udp.send_to(&[0; 65_508], &to_udp), ErrorKind::InvalidInput, "65508 bytes is too long");
    let small = Datagram::options().send_buffer(4_096).unix_autobind().unwrap();
    refused(small.send_to(&[0; 65_536], &to_unix), ErrorKind::InvalidInput, "65536 bytes is too long");
    refused(unix.send_to(b"x", &to_udp), ErrorKind::InvalidInput, "another family");
    refused(udp.send_to(b"x", &to_unix), ErrorKind::InvalidInput, "another family");
    let to_path = SocketAddress::unix(&path).unwrap();
    refused(unix.send_to(b"x", &to_path), ErrorKind::NotFound, "no socket is at that path");
    drop(UnixDatagram::bind(&path).unwrap());
    refused(unix.send_to(b"x", &to_path), ErrorKind::ConnectionRefused, "nobody receives there");
    fs::remove_file(&path).unwrap();
    let _stream = UnixListener::bind(&path).unwrap();
    refused(unix.send_to(b"x", &to_path), ErrorKind::InvalidInput, "no datagram socket");
}

#[test]
fn only_datagram_sockets_are_adopted() {
    let (_folder, path) = place();
    let stream = OwnedFd::from(UnixStream::pair().unwrap().0);
    refused(Datagram::try_from(stream), ErrorKind::InvalidInput, "type 1");
    let file = OwnedFd::from(File::open("/dev/null").unwrap());
    refused(Datagram::try_from(file), ErrorKind::InvalidInput, "no socket");

    let adopted = Datagram::try_from(OwnedFd::from(UnixDatagram::bind(&path).unwrap())).unwrap();
    assert_eq!(adopted.local_address().unwrap(), Address::UnixDatagram(path.clone()));
    drop(adopted);
    assert!(path.exists(), "its maker's path");
    let unnamed = Datagram::from(UnixDatagram::unbound().unwrap());
    refused(unnamed.local_address(), ErrorKind::AddrNotAvailable, "autobind");

    let taken = Datagram::unix_abstract(unique()).unwrap();
    let name = address_of(&taken).to_address();
    let again = Datagram::try_from(taken.into_fd()).unwrap();
    assert_eq!(address_of(&again).to_address(), name);
    let PeerAddress::Abstract(name) = name else { panic!("abstract") };
    let std_name = SocketAddr::from_abstract_name(&name).unwrap();
    UnixDatagram::unbound().unwrap().send_to_addr(b"hi", &std_name).unwrap();
    assert_eq!(next(&again).0, b"hi");
}

#[test]
fn addresses_compare_and_read_back() {
    let path = Path::new("/run/notes.sock");
    let unix = SocketAddress::unix(path).unwrap();
    assert_eq!(unix, SocketAddress::try_from(&PeerAddress::Path(path.into())).unwrap());
    assert_ne!(unix, SocketAddress::unix_abstract(path.as_os_str().as_bytes()).unwrap());
    assert_eq!(unix.to_string(), "unix:/run/notes.sock");
    let inet: std::net::SocketAddr = "[fe80::1%7]:9".parse().unwrap();
    assert_eq!(SocketAddress::from(inet).to_address(), PeerAddress::Inet(inet));
    let mut seen = std::collections::HashSet::from([unix, inet.into()]);
    assert!(!seen.insert(inet.into()) && seen.len() == 2);
}
