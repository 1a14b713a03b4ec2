use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
};

use super::*;
use crate::sys::scm;

/// A connected pair of seqpacket sockets: the accepted end, and the connecting end.
fn seqpacket_pair() -> (OwnedFd, OwnedFd) {
    let folder = tempfile::tempdir().unwrap();
    let address = SockAddr::unix_path(&folder.path().join("s")).unwrap();
    let listener = socket(libc::AF_UNIX, libc::SOCK_SEQPACKET).unwrap();
    bind(listener.as_fd(), &address).unwrap();
    listen(listener.as_fd(), 1).unwrap();
    let client = socket(libc::AF_UNIX, libc::SOCK_SEQPACKET).unwrap();
    connect_nonblocking(client.as_fd(), &address).unwrap();
    (accept(listener.as_fd()).unwrap(), client)
}

#[test]
fn descriptors_that_arrive_with_a_record_are_closed() {
    let (near, far) = seqpacket_pair();
    for marked in [true, false] {
        set_passes_credentials(near.as_fd(), marked).unwrap();
        assert_eq!(passes_credentials(near.as_fd()).unwrap(), marked);
        let (reader, writer) = io::pipe().unwrap();
        scm::send(far.as_fd(), b"x", &[writer.into()]).unwrap();
        let record = recv_record(near.as_fd(), &mut [0; 4]).unwrap();
        assert_eq!((record.len, record.end, record.ctrunc), (1, false, marked));
        let mut rest = Vec::new();
        io::Read::read_to_end(&mut &reader, &mut rest).expect("ends when no writer is open");
    }
}

#[test]
fn a_closed_peer_is_an_error_and_no_signal() {
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
    // More than an int is the most there is, not a negative number.
    set_send_buffer(near.as_fd(), u32::MAX).unwrap();
    assert!(option(near.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF).unwrap() > 16384);
}

#[test]
fn both_ends_tell_their_addresses() {
    let (near, far) = seqpacket_pair();
    assert!(getsockname(near.as_fd()).unwrap().sun_path().starts_with(b"/"));
    assert_eq!(getpeername(near.as_fd()).unwrap().sun_path(), b"");
    bind(far.as_fd(), &SockAddr::autobind()).unwrap();
    let chosen = getpeername(near.as_fd()).unwrap();
    assert_eq!((chosen.sun_path().len(), chosen.sun_path()[0]), (6, 0), "five hexadecimal digits");
    let unconnected = socket(libc::AF_UNIX, libc::SOCK_STREAM).unwrap();
    assert_eq!(getpeername(unconnected.as_fd()).unwrap_err().kind(), io::ErrorKind::NotConnected);
}

#[test]
fn the_kernel_knows_who_connected() {
    let (near, _far) = seqpacket_pair();
    let peer = peer_credentials(near.as_fd()).unwrap();
    assert_eq!(peer.pid.cast_unsigned(), std::process::id());
    let mut groups = [0; 1 << 12];
    assert!(peer_groups(near.as_fd(), &mut groups).unwrap() <= groups.len());
}

#[test]
fn a_path_without_a_listener_refuses() {
    let client = socket(libc::AF_UNIX, libc::SOCK_STREAM).unwrap();
    let address = SockAddr::unix_path(Path::new("/nonexistent/socket")).unwrap();
    assert_eq!(connect_nonblocking(client.as_fd(), &address).unwrap_err().kind(), io::ErrorKind::NotFound);
}
