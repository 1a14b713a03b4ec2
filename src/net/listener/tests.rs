use std::{
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use super::*;
use crate::{
    net::peer::Peer,
    sys::{scm, sockaddr::SockAddr, socket::Record},
};

/// A seqpacket client of the listener at `path`.
fn connect_seqpacket(path: &Path) -> OwnedFd {
    let client = socket::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET).unwrap();
    socket::connect_nonblocking(client.as_fd(), &SockAddr::unix_path(path).unwrap()).unwrap();
    client
}

/// Sends one byte and a descriptor.
fn send_descriptor(to: BorrowedFd<'_>) -> io::Result<usize> {
    scm::send(to, b"x", &[to.try_clone_to_owned().unwrap()])
}

fn kernel_has_passrights() -> bool {
    let (probe, _peer) = UnixStream::pair().unwrap();
    let has = socket::passes_rights(probe.as_fd()).is_ok();
    if !has {
        eprintln!("SKIPPED: this kernel has no SO_PASSRIGHTS (Linux 6.16)");
        assert!(std::env::var_os("CI").is_none(), "CI needs a kernel with SO_PASSRIGHTS");
    }
    has
}

#[test]
fn clients_inherit_the_refusal_of_descriptors_before_accept() {
    if !kernel_has_passrights() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = Listener::unix(&path).unwrap();
    assert!(listener.refuses_descriptors());
    let client = UnixStream::connect(&path).unwrap();
    let refused = |client: &UnixStream| send_descriptor(client.as_fd()).unwrap_err();
    assert_eq!(refused(&client).raw_os_error(), Some(libc::EPERM), "not yet accepted");
    let (handle, inet) = listener.accept().unwrap();
    assert_eq!(inet, None);
    assert_eq!(refused(&client).raw_os_error(), Some(libc::EPERM), "accepted");
    assert!(!socket::passes_rights(handle.as_fd()).unwrap());
}

#[test]
fn an_adopted_listener_promises_nothing_about_waiting_connections() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let std_listener = UnixListener::bind(&path).unwrap();
    let early = UnixStream::connect(&path).unwrap();
    let listener = Listener::from(std_listener);
    assert!(!listener.refuses_descriptors());
    send_descriptor(early.as_fd()).expect("connected before the adoption");

    if kernel_has_passrights() {
        let again = Listener::try_from(listener.into_fd()).unwrap();
        assert!(again.refuses_descriptors(), "the option was set when it was adopted again");
    }
}

#[test]
fn credentials_tell_an_empty_record_from_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = Listener::unix_seqpacket(&path).unwrap();
    assert!(listener.marks_records());
    let client = connect_seqpacket(&path);
    assert_eq!(socket::send(client.as_fd(), b"before accept").unwrap(), 13);
    let (handle, _) = listener.accept().unwrap();
    assert!(socket::passes_credentials(handle.as_fd()).unwrap());
    socket::send(client.as_fd(), b"").unwrap();
    socket::send(client.as_fd(), b"longer than the buffer").unwrap();

    let mut buffer = [0; 16];
    let mut next = || socket::recv_record(handle.as_fd(), &mut buffer);
    let whole = Record { len: 13, truncated: false, end: false, ctrunc: false };
    assert_eq!(next().unwrap(), whole);
    assert_eq!(next().unwrap(), Record { len: 0, ..whole }, "an empty record is a record");
    assert_eq!(next().unwrap(), Record { len: 22, truncated: true, ..whole });
    assert_eq!(next().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    socket::send(client.as_fd(), b"").unwrap();
    drop(client);
    assert_eq!(next().unwrap(), Record { len: 0, ..whole }, "an empty record before the end");
    assert_eq!(next().unwrap(), Record { len: 0, end: true, ..whole });
}

#[test]
fn marking_an_adopted_client_marks_what_it_has_not_read_yet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let plain = socket::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET).unwrap();
    socket::bind(plain.as_fd(), &SockAddr::unix_path(&path).unwrap()).unwrap();
    socket::listen(plain.as_fd(), 4).unwrap();
    let client = connect_seqpacket(&path);
    socket::send(client.as_fd(), b"").unwrap();

    let listener = Listener::try_from(plain).unwrap();
    assert_eq!(listener.transport(), Transport::UnixSeqpacket);
    assert!(!listener.marks_records());
    let (handle, _) = listener.accept().unwrap();
    socket::set_passes_credentials(handle.as_fd(), true).unwrap();
    assert!(!socket::recv_record(handle.as_fd(), &mut [0; 4]).unwrap().end);
    drop(client);
    assert!(socket::recv_record(handle.as_fd(), &mut [0; 4]).unwrap().end);
}

#[test]
fn a_unix_peer_tells_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = Listener::unix(&path).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    let (handle, inet) = listener.accept().unwrap();
    let peer = Peer::new(handle.as_fd(), listener.transport(), inet);
    let credentials = peer.credentials().unwrap();
    assert_eq!(credentials.pid.cast_unsigned(), std::process::id());
    assert_eq!(peer.to_string(), format!("uid {} pid {}", credentials.uid, credentials.pid));
    assert_eq!(peer.address().unwrap(), PeerAddress::Unnamed);
    match peer.pidfd() {
        Ok(pidfd) => {
            let info = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
            let info = std::fs::read_to_string(info).unwrap();
            assert!(info.lines().any(|line| line == format!("Pid:\t{}", credentials.pid)), "{info}");
        }
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
    }
}

#[test]
fn a_tcp_peer_tells_its_address_alone() {
    let listener = Listener::tcp("127.0.0.1:0").unwrap();
    let Address::Tcp(address) = listener.local_address().unwrap() else { panic!("TCP") };
    let client = std::net::TcpStream::connect(address).unwrap();
    let (handle, inet) = listener.accept().unwrap();
    let peer = Peer::new(handle.as_fd(), listener.transport(), inet);
    let expected = client.local_addr().unwrap();
    assert_eq!(peer.address().unwrap(), PeerAddress::Inet(expected));
    assert_eq!(peer.to_string(), expected.to_string());
    assert_eq!(peer.credentials().unwrap_err().kind(), io::ErrorKind::Unsupported);
    assert_eq!(peer.pidfd().unwrap_err().kind(), io::ErrorKind::Unsupported);
    assert!(!listener.refuses_descriptors());
}
