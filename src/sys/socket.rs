//! Sockets: one system call a function, none of which allocates.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::sockaddr::SockAddr;
use super::{check, check_len};
use crate::net::peer::{Credentials, PeerAddress};

/// Not in every libc: asm-generic's number, since Linux 6.16.
const SO_PASSRIGHTS: libc::c_int = 83;
/// Not in every libc: asm-generic's number, since Linux 6.5.
const SO_PEERPIDFD: libc::c_int = 77;

fn own(result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A new socket, `SOCK_NONBLOCK` and `SOCK_CLOEXEC` from birth.
pub(crate) fn socket(domain: libc::c_int, kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    own(unsafe { libc::socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) })
}

pub(crate) fn bind(fd: BorrowedFd<'_>, address: &SockAddr) -> io::Result<()> {
    // SAFETY: pointer and length describe `address`, which outlives the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr(), address.len) }).map(drop)
}

pub(crate) fn listen(fd: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    let backlog = libc::c_int::try_from(backlog).unwrap_or(libc::c_int::MAX);
    // SAFETY: takes no pointer.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// `connect(2)`; on a non-blocking socket a full backlog is `WouldBlock` (Unix), and an unfinished
/// handshake is `EINPROGRESS` (TCP).
pub(crate) fn connect_nonblocking(fd: BorrowedFd<'_>, address: &SockAddr) -> io::Result<()> {
    // SAFETY: pointer and length describe `address`, which outlives the call.
    check(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr(), address.len) }).map(drop)
}

/// `accept4(2)` without the peer's address: a Unix client has none worth the copy.
pub(crate) fn accept(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (none, flags) = (std::ptr::null_mut(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
    // SAFETY: null for address and length asks for no address.
    own(unsafe { libc::accept4(fd.as_raw_fd(), none, std::ptr::null_mut(), flags) })
}

/// `accept4(2)` with the peer's IP address.
pub(crate) fn accept_inet(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let mut address = SockAddr::to_fill();
    let mut len = address.len;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `len` is the size of the storage behind the pointer; both outlive the call.
    let client = own(unsafe { libc::accept4(fd.as_raw_fd(), address.as_mut_ptr(), &mut len, flags) })?;
    address.len = len;
    Ok((client, address.to_inet()))
}

/// `recv(2)`; zero is the end of file on a stream.
#[inline]
pub(crate) fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (start, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: `start` and `len` describe `buffer`, which outlives the call.
    check_len(unsafe { libc::recv(fd.as_raw_fd(), start, len, libc::MSG_DONTWAIT) })
}

/// `send(2)`; a peer that is gone is `EPIPE`, never a SIGPIPE.
#[inline]
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let (start, len) = (bytes.as_ptr().cast(), bytes.len());
    // SAFETY: `start` and `len` describe `bytes`, which outlives the call.
    check_len(unsafe { libc::send(fd.as_raw_fd(), start, len, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

/// What [`recv_record`] took from a seqpacket socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The record's own length; more than the buffer's if it was truncated.
    pub(crate) len: usize,
    /// The buffer was too short, and the kernel has dropped the rest.
    pub(crate) truncated: bool,
    /// End of file, not a record.
    pub(crate) end: bool,
    /// The kernel dropped control data: descriptors were sent, and closed on arrival.
    pub(crate) ctrunc: bool,
}

/// Room for one SCM_CREDENTIALS and no more. The kernel writes that one first, so descriptors sent with
/// a record find no room, are closed by the kernel, and show as MSG_CTRUNC.
const CONTROL_LEN: usize = 32;
const CONTROL_HEADER: usize = size_of::<libc::cmsghdr>();
const _: () = assert!(CONTROL_HEADER == 16 && CONTROL_HEADER + size_of::<libc::ucred>() <= CONTROL_LEN);

#[repr(align(8))]
struct Control([u8; CONTROL_LEN]);

/// One record of a seqpacket socket under `SO_PASSCRED`: there every record, also an empty one, brings its
/// sender's credentials, and the end of file brings none. Without the option an empty record looks like the end.
pub(crate) fn recv_record(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Record> {
    let mut control = Control([0; CONTROL_LEN]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a value of this plain struct, and C asks for it: its padding fields are private.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_LEN as _;
    // MSG_TRUNC asks for the record's real length.
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC | libc::MSG_TRUNC;
    // SAFETY: `header` describes `buffer` and `control`, which outlive the call.
    let len = check_len(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, flags) })?;
    let control_len = (header.msg_controllen as usize).min(CONTROL_LEN);
    close_descriptors(&control.0[..control_len]);
    let ctrunc = header.msg_flags & libc::MSG_CTRUNC != 0;
    Ok(Record {
        len,
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        end: len == 0 && control_len == 0 && !ctrunc,
        ctrunc,
    })
}

/// Closes every descriptor in the control data: they are ours from the moment the kernel wrote them.
fn close_descriptors(mut control: &[u8]) {
    while let Some((header, _)) = control.split_at_checked(CONTROL_HEADER) {
        let word = |at| i32::from_ne_bytes(std::array::from_fn(|offset| header[at + offset]));
        let len = usize::from_ne_bytes(std::array::from_fn(|offset| header[offset])).min(control.len());
        let Some(data) = control.get(CONTROL_HEADER..len) else { return };
        if (word(8), word(12)) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for fd in data.chunks_exact(size_of::<RawFd>()) {
                drop(own(RawFd::from_ne_bytes(std::array::from_fn(|offset| fd[offset]))));
            }
        }
        control = control.get(len.next_multiple_of(align_of::<libc::cmsghdr>())..).unwrap_or_default();
    }
}

pub(crate) fn shutdown(fd: BorrowedFd<'_>, how: Shutdown) -> io::Result<()> {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: takes no pointer.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

pub(crate) fn getsockname(fd: BorrowedFd<'_>) -> io::Result<PeerAddress> {
    let mut address = SockAddr::to_fill();
    let mut len = address.len;
    // SAFETY: `len` is the size of the storage behind the pointer; both outlive the call.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), address.as_mut_ptr(), &mut len) })?;
    address.len = len;
    Ok(address.to_peer_address())
}

pub(crate) fn getpeername(fd: BorrowedFd<'_>) -> io::Result<PeerAddress> {
    let mut address = SockAddr::to_fill();
    let mut len = address.len;
    // SAFETY: `len` is the size of the storage behind the pointer; both outlive the call.
    check(unsafe { libc::getpeername(fd.as_raw_fd(), address.as_mut_ptr(), &mut len) })?;
    address.len = len;
    Ok(address.to_peer_address())
}

/// `getsockopt(2)` of an `int`.
pub(crate) fn option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    let out = (&raw mut value).cast();
    // SAFETY: `out` points to `value`, `len` is its size; both outlive the call.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, out, &mut len) })?;
    Ok(value)
}

/// `setsockopt(2)` of an `int`.
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let (start, len) = ((&raw const value).cast(), size_of_val(&value) as libc::socklen_t);
    // SAFETY: `start` points to `value`, `len` is its size; both outlive the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, start, len) }).map(drop)
}

/// Replies leave at once instead of waiting for a full segment (`tcp(7)`).
pub(crate) fn set_nodelay(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, on.into())
}

/// The kernel doubles the number for its own bookkeeping and clamps it to `wmem_max` (`socket(7)`).
pub(crate) fn set_send_buffer(fd: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes.try_into().unwrap_or(libc::c_int::MAX))
}

/// The kernel doubles the number for its own bookkeeping and clamps it to `rmem_max` (`socket(7)`).
pub(crate) fn set_receive_buffer(fd: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes.try_into().unwrap_or(libc::c_int::MAX))
}

/// Whether descriptors may be sent to this socket (or, for a listener, to the clients of later
/// connections). A kernel before 6.16 answers `ENOPROTOOPT`.
pub(crate) fn passes_rights(fd: BorrowedFd<'_>) -> io::Result<bool> {
    option(fd, libc::SOL_SOCKET, SO_PASSRIGHTS).map(|value| value != 0)
}

/// With `false` a sender of descriptors gets `EPERM`. A kernel before 6.16 answers `ENOPROTOOPT`.
pub(crate) fn set_passes_rights(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, SO_PASSRIGHTS, on.into())
}

/// Whether what is received brings its sender's credentials along.
pub(crate) fn passes_credentials(fd: BorrowedFd<'_>) -> io::Result<bool> {
    option(fd, libc::SOL_SOCKET, libc::SO_PASSCRED).map(|value| value != 0)
}

pub(crate) fn set_passes_credentials(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_PASSCRED, on.into())
}

/// `SO_PEERCRED`: who connected. Meaningless but without error on a TCP socket.
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<Credentials> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of_val(&peer) as libc::socklen_t;
    let out = (&raw mut peer).cast();
    // SAFETY: `out` points to `peer`, `len` is its size; both outlive the call.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, out, &mut len) })?;
    Ok(Credentials { uid: peer.uid, gid: peer.gid, pid: peer.pid })
}

/// `SO_PEERGROUPS`: the supplementary groups of who connected. `ERANGE` if there are more than fit.
pub(crate) fn peer_groups(fd: BorrowedFd<'_>, groups: &mut [libc::gid_t]) -> io::Result<usize> {
    let mut len = size_of_val(groups) as libc::socklen_t;
    let out = groups.as_mut_ptr().cast();
    // SAFETY: `out` and `len` describe `groups`; both outlive the call.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, out, &mut len) })?;
    Ok(len as usize / size_of::<libc::gid_t>())
}

/// `SO_PEERPIDFD`: a pidfd of who connected; the kernel makes it `O_CLOEXEC`.
pub(crate) fn peer_pidfd(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    own(option(fd, libc::SOL_SOCKET, SO_PEERPIDFD)?)
}

/// A descriptor for its own sake: one that can be given up when there are no more.
pub(crate) fn spare() -> io::Result<OwnedFd> {
    socket(libc::AF_UNIX, libc::SOCK_STREAM)
}

/// `O_NONBLOCK`, in one call and leaving the other status flags alone.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut on: libc::c_int = 1;
    // SAFETY: FIONBIO reads one int through the pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut on) }).map(drop)
}

/// `FD_CLOEXEC`, in one call.
pub(crate) fn set_cloexec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FIOCLEX takes no argument.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIOCLEX) }).map(drop)
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
