//! System calls that std does not make.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    thread,
};

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The kernel doubles it, and allows 4,608 at least.
pub(crate) fn set_send_buffer(fd: impl AsFd, bytes: libc::c_int) {
    let (value, len) = ((&raw const bytes).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `value` and `len` describe `bytes`, which outlives the call.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, value, len) };
    check(set as isize).unwrap();
}

/// `send(2)` of one out-of-band byte.
pub(crate) fn send_urgent(fd: impl AsFd, byte: u8) {
    let start = (&raw const byte).cast();
    // SAFETY: one byte, which outlives the call.
    let sent = unsafe { libc::send(fd.as_fd().as_raw_fd(), start, 1, libc::MSG_OOB | libc::MSG_NOSIGNAL) };
    assert_eq!(check(sent).unwrap(), 1);
}

#[repr(C, align(8))]
struct Control {
    header: libc::cmsghdr,
    fd: libc::c_int,
    padding: libc::c_int,
}

/// Sends bytes with a descriptor among them. A receiver may have had the kernel refuse that.
pub(crate) fn send_descriptor(fd: impl AsFd, bytes: &[u8], passed: BorrowedFd<'_>) -> io::Result<usize> {
    let len = size_of::<libc::cmsghdr>() + size_of::<libc::c_int>();
    let header =
        libc::cmsghdr { cmsg_len: len as _, cmsg_level: libc::SOL_SOCKET, cmsg_type: libc::SCM_RIGHTS };
    let mut control = Control { header, fd: passed.as_raw_fd(), padding: 0 };
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a value of this plain struct.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: `message` describes `bytes` and `control`, which outlive the call.
    check(unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &message, libc::MSG_NOSIGNAL) })
}

/// Runs in a thread that becomes the user `uid`; the other threads do not. `None` where this user may not become that
/// user.
pub(crate) fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> Option<T> {
    let user = || {
        // Not `setresuid(3)`, which changes all threads.
        // SAFETY: no pointers.
        let set = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
        check(set as isize).ok().map(|_| work())
    };
    thread::scope(|scope| scope.spawn(user).join().unwrap())
}

pub(crate) use super::skip;
