//! Stream and seqpacket sockets, and the options of every kind of socket. No function allocates.

use std::{
    io,
    net::{Shutdown, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use super::{
    check, check_len,
    cmsg::{self, Control, recvmsg, take_descriptors},
    own,
    sockaddr::SockAddr,
    socklen_of,
};

/// Linux 6.16. Not every `libc` has it; the number is that of asm-generic.
const SO_PASSRIGHTS: libc::c_int = 83;
/// Linux 6.5. Not every `libc` has it; the number is that of asm-generic.
const SO_PEERPIDFD: libc::c_int = 77;

/// `socket(2)`, non-blocking and close-on-exec.
pub(crate) fn socket(domain: libc::c_int, kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    own(unsafe { libc::socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) })
}

/// `bind(2)`.
pub(crate) fn bind(fd: BorrowedFd<'_>, address: &SockAddr) -> io::Result<()> {
    // SAFETY: pointer and length describe `address`, which outlives the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr(), address.len) }).map(drop)
}

/// `listen(2)`. The kernel clamps the backlog to `somaxconn`.
pub(crate) fn listen(fd: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    let backlog = libc::c_int::try_from(backlog).unwrap_or(libc::c_int::MAX);
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// `connect(2)` of a non-blocking socket. `WouldBlock`: the listener's backlog is full (Unix). `EINPROGRESS`: the
/// handshake is not finished (TCP).
pub(crate) fn connect_nonblocking(fd: BorrowedFd<'_>, address: &SockAddr) -> io::Result<()> {
    // SAFETY: pointer and length describe `address`, which outlives the call.
    check(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr(), address.len) }).map(drop)
}

/// `accept4(2)` without the peer's address, which few Unix clients have.
pub(crate) fn accept(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (none, flags) = (std::ptr::null_mut(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
    // SAFETY: null for the address and its length says that no address is wanted.
    own(unsafe { libc::accept4(fd.as_raw_fd(), none, std::ptr::null_mut(), flags) })
}

/// `accept4(2)` with the peer's IP address.
pub(crate) fn accept_inet(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let mut address = SockAddr::zeroed();
    let mut len = address.len;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `len` is the size of the storage that the pointer is to. Both outlive the call.
    let client = own(unsafe { libc::accept4(fd.as_raw_fd(), address.as_mut_ptr(), &mut len, flags) })?;
    address.len = len;
    Ok((client, address.to_inet()))
}

/// `recv(2)`. Zero is the end of file on a stream.
#[inline]
pub(crate) fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (start, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: `start` and `len` describe `buffer`, which outlives the call.
    check_len(unsafe { libc::recv(fd.as_raw_fd(), start, len, libc::MSG_DONTWAIT) })
}

/// Whether a read would find nothing, and no end of file either: `recv(2)` with `MSG_PEEK`.
#[cold]
pub(crate) fn is_drained(fd: BorrowedFd<'_>) -> bool {
    let mut byte = 0_u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the pointer is to one byte, which outlives the call.
    let peeked = check_len(unsafe { libc::recv(fd.as_raw_fd(), (&raw mut byte).cast(), 1, flags) });
    peeked.is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN))
}

/// `send(2)`. A peer that has closed is `EPIPE`, and never a SIGPIPE.
#[inline]
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let (start, len) = (bytes.as_ptr().cast(), bytes.len());
    // SAFETY: `start` and `len` describe `bytes`, which outlives the call.
    check_len(unsafe { libc::send(fd.as_raw_fd(), start, len, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

/// A record of a seqpacket socket, or the end of file: from [`recv_record`] and [`scm::recv`](super::scm::recv).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The record's length in bytes, as far as it is known. With [`recv_record`]: when it was sent, which is more than
    /// the buffer has if it was truncated.
    pub(crate) len: usize,
    /// The buffer was too short, and the kernel has dropped the rest.
    pub(crate) truncated: bool,
    /// This is the end of file, not a record.
    pub(crate) end: bool,
    /// The kernel has dropped control messages: descriptors were sent, and closed on arrival.
    pub(crate) ctrunc: bool,
}

impl From<cmsg::Message> for Record {
    #[inline]
    fn from(message: cmsg::Message) -> Self {
        let cmsg::Message { len, control_len, flags } = message;
        let ctrunc = flags & libc::MSG_CTRUNC != 0;
        let truncated = flags & libc::MSG_TRUNC != 0;
        Record { len, truncated, end: len == 0 && control_len == 0 && !ctrunc, ctrunc }
    }
}

/// Receives one record of a seqpacket socket that has `SO_PASSCRED`. There every record, also an empty one, comes with
/// its sender's credentials, and the end of file with none. Without the option an empty record looks like the end.
pub(crate) fn recv_record(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Record> {
    /// Room for one SCM_CREDENTIALS and no more. The kernel writes that one first, so descriptors that were sent with
    /// the record find no room: the kernel closes them and sets MSG_CTRUNC.
    const ROOM: usize = cmsg::space(size_of::<libc::ucred>());
    let mut control = Control::<ROOM>::zeroed();
    // MSG_TRUNC asks for the record's real length.
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC | libc::MSG_TRUNC;
    let message = recvmsg(fd, buffer, &mut control.0, flags)?;
    // Without SO_PASSCRED there is room for descriptors. The process owns those that came, and must close them.
    // SAFETY: the kernel has just filled these bytes, and nothing else reads them.
    unsafe { take_descriptors(&control.0[..message.control_len], drop) };
    Ok(Record::from(message))
}

/// `SO_LINGER` off: the last close does not wait for unsent data (`socket(7)`).
pub(crate) fn set_linger_off(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_linger_value(fd, libc::linger { l_onoff: 0, l_linger: 0 })
}

/// `SO_LINGER` on: the last close waits for so many seconds at most; of a TCP socket with 0 seconds, it resets.
#[cfg(test)]
pub(crate) fn set_linger(fd: BorrowedFd<'_>, seconds: libc::c_int) -> io::Result<()> {
    set_linger_value(fd, libc::linger { l_onoff: 1, l_linger: seconds })
}

fn set_linger_value(fd: BorrowedFd<'_>, value: libc::linger) -> io::Result<()> {
    let len = super::socklen_of::<libc::linger>();
    // SAFETY: the pointer is to `value`, which outlives the call, and `len` is its size.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const value).cast(), len)
    })
    .map(drop)
}

/// `shutdown(2)`.
pub(crate) fn shutdown(fd: BorrowedFd<'_>, how: Shutdown) -> io::Result<()> {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

/// `getsockname(2)`: the socket's own address.
pub(crate) fn getsockname(fd: BorrowedFd<'_>) -> io::Result<SockAddr> {
    let mut address = SockAddr::zeroed();
    let mut len = address.len;
    // SAFETY: `len` is the size of the storage that the pointer is to. Both outlive the call.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), address.as_mut_ptr(), &mut len) })?;
    address.len = len;
    Ok(address)
}

/// `getpeername(2)`: the address of the other end. `NotConnected` if there is none.
pub(crate) fn getpeername(fd: BorrowedFd<'_>) -> io::Result<SockAddr> {
    let mut address = SockAddr::zeroed();
    let mut len = address.len;
    // SAFETY: `len` is the size of the storage that the pointer is to. Both outlive the call.
    check(unsafe { libc::getpeername(fd.as_raw_fd(), address.as_mut_ptr(), &mut len) })?;
    address.len = len;
    Ok(address)
}

/// Fills `value`, and returns how many of its bytes: `getsockopt(2)`.
///
/// # Safety
///
/// Any bits that the kernel writes for this option must be a value of `T`.
unsafe fn getsockopt<T>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut [T],
) -> io::Result<usize> {
    let mut len = libc::socklen_t::try_from(size_of_val(value)).unwrap_or(libc::socklen_t::MAX);
    let out = value.as_mut_ptr().cast();
    // SAFETY: `out` and `len` describe `value`, which outlives the call, and the caller vouches for the bits.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, out, &mut len) })?;
    Ok(len as usize)
}

/// `getsockopt(2)` of an `int`.
pub(crate) fn option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value = [0];
    // SAFETY: any bits are an int.
    unsafe { getsockopt(fd, level, name, &mut value) }?;
    Ok(value[0])
}

/// `setsockopt(2)` of an `int`.
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let (start, len) = ((&raw const value).cast(), socklen_of::<libc::c_int>());
    // SAFETY: `start` is a pointer to `value`, `len` is its size. Both outlive the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, start, len) }).map(drop)
}

/// `TCP_NODELAY`: data is sent at once, and does not wait for a full segment (`tcp(7)`).
pub(crate) fn set_nodelay(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, on.into())
}

/// `SO_SNDBUF`. The kernel clamps the number to `wmem_max`, and doubles it for its own overhead (`socket(7)`).
pub(crate) fn set_send_buffer(fd: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes.try_into().unwrap_or(libc::c_int::MAX))
}

/// `SO_RCVBUF`. The kernel clamps the number to `rmem_max`, and doubles it for its own overhead (`socket(7)`).
pub(crate) fn set_receive_buffer(fd: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes.try_into().unwrap_or(libc::c_int::MAX))
}

/// `SO_PASSRIGHTS`: whether descriptors may be sent to this socket, or for a listener, to the client handles of
/// connections to come. `ENOPROTOOPT` before Linux 6.16.
pub(crate) fn passes_rights(fd: BorrowedFd<'_>) -> io::Result<bool> {
    option(fd, libc::SOL_SOCKET, SO_PASSRIGHTS).map(|value| value != 0)
}

/// Sets `SO_PASSRIGHTS`. With `false` a sender of descriptors gets `EPERM`. `ENOPROTOOPT` before Linux 6.16.
pub(crate) fn set_passes_rights(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, SO_PASSRIGHTS, on.into())
}

/// `SO_PASSCRED`: whether its sender's credentials come with whatever is received.
pub(crate) fn passes_credentials(fd: BorrowedFd<'_>) -> io::Result<bool> {
    option(fd, libc::SOL_SOCKET, libc::SO_PASSCRED).map(|value| value != 0)
}

/// Sets `SO_PASSCRED`.
pub(crate) fn set_passes_credentials(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_PASSCRED, on.into())
}

/// `SO_PEERCRED`: the process that connected. All zero or -1, without an error, on a TCP socket.
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut peer = [libc::ucred { pid: 0, uid: 0, gid: 0 }];
    // SAFETY: any bits are a ucred, which has integers only.
    unsafe { getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut peer) }?;
    Ok(peer[0])
}

/// `SO_PEERGROUPS`: the supplementary groups of the process that connected. Returns how many there are. `ERANGE` if
/// they are more than fit.
pub(crate) fn peer_groups(fd: BorrowedFd<'_>, groups: &mut [libc::gid_t]) -> io::Result<usize> {
    // SAFETY: any bits are a group id.
    let len = unsafe { getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups) }?;
    Ok(len / size_of::<libc::gid_t>())
}

/// `SO_PEERPIDFD`: a pidfd of the process that connected. The kernel makes it close-on-exec.
pub(crate) fn peer_pidfd(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let raw: RawFd = option(fd, libc::SOL_SOCKET, SO_PEERPIDFD)?;
    own(raw)
}

/// A descriptor to close when no other is left, so that one connection can be accepted and refused.
pub(crate) fn spare() -> io::Result<OwnedFd> {
    socket(libc::AF_UNIX, libc::SOCK_STREAM)
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
