use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::*;
use crate::net::{
    address::Address,
    listener::{Listener, ListenerKind},
    peer::Peer,
};

/// A seqpacket or stream client of the master socket at `path`.
fn connect(path: &Path, kind: libc::c_int) -> OwnedFd {
    let client = socket(libc::AF_UNIX, kind).unwrap();
    connect_nonblocking(client.as_fd(), &SockAddr::unix_path(path).unwrap()).unwrap();
    client
}

/// Sends one byte and a descriptor.
fn send_descriptor(to: BorrowedFd<'_>, passed: BorrowedFd<'_>) -> io::Result<usize> {
    let mut control = Control([0; CONTROL_LEN]);
    control.0[..8].copy_from_slice(&(CONTROL_HEADER + 4).to_ne_bytes());
    control.0[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    control.0[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
    control.0[16..20].copy_from_slice(&passed.as_raw_fd().to_ne_bytes());
    let mut part = libc::iovec { iov_base: b"x".as_ptr().cast_mut().cast(), iov_len: 1 };
    // SAFETY: all-zero is a value of this plain struct.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = 24;
    // SAFETY: `header` describes locals that outlive the call.
    check_len(unsafe { libc::sendmsg(to.as_raw_fd(), &header, libc::MSG_NOSIGNAL) })
}

fn kernel_has_passrights() -> bool {
    let (probe, _peer) = UnixStream::pair().unwrap();
    let has = passes_rights(probe.as_fd()).is_ok();
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
    let master = Listener::unix(&path).unwrap();
    assert!(master.refuses_descriptors());
    let client = UnixStream::connect(&path).unwrap();
    let refused = |client: &UnixStream| send_descriptor(client.as_fd(), client.as_fd()).unwrap_err();
    assert_eq!(refused(&client).raw_os_error(), Some(libc::EPERM), "not yet accepted");
    let (handle, inet) = master.accept().unwrap();
    assert_eq!(inet, None);
    assert_eq!(refused(&client).raw_os_error(), Some(libc::EPERM), "accepted");
    assert!(!passes_rights(handle.as_fd()).unwrap());
}

#[test]
fn an_adopted_master_socket_proves_nothing_of_those_who_wait() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let std_listener = UnixListener::bind(&path).unwrap();
    let early = UnixStream::connect(&path).unwrap();
    let master = Listener::from(std_listener);
    assert!(!master.refuses_descriptors());
    send_descriptor(early.as_fd(), early.as_fd()).expect("connected before the adoption");

    if kernel_has_passrights() {
        let again = Listener::try_from(master.into_fd()).unwrap();
        assert!(again.refuses_descriptors(), "its maker had refused them: it says so for later adopters");
    }
}

#[test]
fn credentials_tell_an_empty_record_from_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let master = Listener::unix_seqpacket(&path).unwrap();
    assert!(master.marks_records());
    let client = connect(&path, libc::SOCK_SEQPACKET);
    assert_eq!(send(client.as_fd(), b"before accept").unwrap(), 13);
    let (handle, _) = master.accept().unwrap();
    assert!(passes_credentials(handle.as_fd()).unwrap());
    send(client.as_fd(), b"").unwrap();
    send(client.as_fd(), b"longer than the buffer").unwrap();

    let mut buffer = [0; 16];
    let mut next = || recv_record(handle.as_fd(), &mut buffer);
    let whole = Record { len: 13, truncated: false, end: false, ctrunc: false };
    assert_eq!(next().unwrap(), whole);
    assert_eq!(next().unwrap(), Record { len: 0, ..whole }, "an empty record is a record");
    assert_eq!(next().unwrap(), Record { len: 22, truncated: true, ..whole });
    assert_eq!(next().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    send(client.as_fd(), b"").unwrap();
    drop(client);
    assert_eq!(next().unwrap(), Record { len: 0, ..whole }, "an empty record before the end");
    assert_eq!(next().unwrap(), Record { len: 0, end: true, ..whole });
}

#[test]
fn marking_an_adopted_client_marks_what_it_has_not_read_yet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let plain = socket(libc::AF_UNIX, libc::SOCK_SEQPACKET).unwrap();
    bind(plain.as_fd(), &SockAddr::unix_path(&path).unwrap()).unwrap();
    listen(plain.as_fd(), 4).unwrap();
    let client = connect(&path, libc::SOCK_SEQPACKET);
    send(client.as_fd(), b"").unwrap();

    let master = Listener::try_from(plain).unwrap();
    assert_eq!(master.kind(), ListenerKind::UnixSeqpacket);
    assert!(!master.marks_records());
    let (handle, _) = master.accept().unwrap();
    set_passes_credentials(handle.as_fd(), true).unwrap();
    assert!(!recv_record(handle.as_fd(), &mut [0; 4]).unwrap().end);
    drop(client);
    assert!(recv_record(handle.as_fd(), &mut [0; 4]).unwrap().end);
}

#[test]
fn descriptors_that_arrive_with_a_record_are_closed() {
    let (near, far) = seqpacket_pair();
    for marked in [true, false] {
        set_passes_credentials(near.as_fd(), marked).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        send_descriptor(far.as_fd(), writer.as_fd()).unwrap();
        drop(writer);
        let record = recv_record(near.as_fd(), &mut [0; 4]).unwrap();
        assert_eq!((record.len, record.end, record.ctrunc), (1, false, marked));
        let mut rest = Vec::new();
        io::Read::read_to_end(&mut &reader, &mut rest).expect("ends only when no writer is open");
    }
}

fn seqpacket_pair() -> (OwnedFd, OwnedFd) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let master = socket(libc::AF_UNIX, libc::SOCK_SEQPACKET).unwrap();
    bind(master.as_fd(), &SockAddr::unix_path(&path).unwrap()).unwrap();
    listen(master.as_fd(), 1).unwrap();
    let client = connect(&path, libc::SOCK_SEQPACKET);
    (accept(master.as_fd()).unwrap(), client)
}

#[test]
fn a_unix_peer_tells_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let master = Listener::unix(&path).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    let (handle, inet) = master.accept().unwrap();
    let peer = Peer::new(handle.as_fd(), master.kind(), inet);
    let credentials = peer.credentials().unwrap();
    assert_eq!(credentials.pid, std::process::id() as i32);
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
    let master = Listener::tcp("127.0.0.1:0").unwrap();
    let Address::Tcp(address) = master.local_address().unwrap() else { panic!("TCP") };
    let client = std::net::TcpStream::connect(address).unwrap();
    let (handle, inet) = master.accept().unwrap();
    let peer = Peer::new(handle.as_fd(), master.kind(), inet);
    let expected = client.local_addr().unwrap();
    assert_eq!(peer.address().unwrap(), PeerAddress::Inet(expected));
    assert_eq!(peer.to_string(), expected.to_string());
    assert_eq!(peer.credentials().unwrap_err().kind(), io::ErrorKind::Unsupported);
    assert_eq!(peer.pidfd().unwrap_err().kind(), io::ErrorKind::Unsupported);
    assert!(!master.refuses_descriptors());
}

#[test]
fn a_gone_peer_is_an_error_and_no_signal() {
    let (near, far) = UnixStream::pair().unwrap();
    assert_eq!(recv(near.as_fd(), &mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    shutdown(far.as_fd(), Shutdown::Write).unwrap();
    assert_eq!(recv(near.as_fd(), &mut [0]).unwrap(), 0);
    drop(far);
    assert_eq!(send(near.as_fd(), b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn buffer_sizes_take() {
    let (near, _far) = UnixStream::pair().unwrap();
    set_send_buffer(near.as_fd(), 8192).unwrap();
    set_receive_buffer(near.as_fd(), 8192).unwrap();
    for name in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
        assert_eq!(option(near.as_fd(), libc::SOL_SOCKET, name).unwrap(), 16384);
    }
}
