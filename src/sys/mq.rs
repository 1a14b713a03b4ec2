//! POSIX message queues: `mq_*`, and what else a queue's descriptor answers to.
//!
//! Nothing here allocates, on success or on failure: a drain may end in `EAGAIN` at every event.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{check, check_len};

/// `mq_open(3)` without `O_CREAT`.
pub(crate) fn open(name: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: `name` is NUL-terminated; without O_CREAT the call reads no further argument.
    let fd = check(unsafe { libc::mq_open(name.as_ptr(), (flags & !libc::O_CREAT) | libc::O_CLOEXEC) })?;
    // SAFETY: the kernel has just made `fd`, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `mq_open(3)` with `O_CREAT | O_EXCL`; without `attributes` the kernel's defaults apply.
pub(crate) fn create(
    name: &CStr,
    flags: libc::c_int,
    mode: u32,
    attributes: Option<&libc::mq_attr>,
) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
    let attributes = attributes.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `name` is NUL-terminated; with O_CREAT the call takes a mode and a pointer that is null or valid.
    let fd = check(unsafe { libc::mq_open(name.as_ptr(), flags, mode, attributes) })?;
    // SAFETY: the kernel has just made `fd`, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `mq_unlink(3)`.
pub(crate) fn unlink(name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::mq_unlink(name.as_ptr()) }).map(drop)
}

/// A `mq_attr` with every field zero; it has private padding, so there is no literal for it.
pub(crate) fn attributes() -> libc::mq_attr {
    // SAFETY: the structure is integers throughout, for which zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// `mq_getattr(3)`; `EBADF` for a descriptor of another kind.
pub(crate) fn getattr(fd: BorrowedFd<'_>) -> io::Result<libc::mq_attr> {
    let mut now = attributes();
    // SAFETY: the descriptor is open and `now` is writable.
    check(unsafe { libc::mq_getattr(fd.as_raw_fd(), &mut now) })?;
    Ok(now)
}

/// `mq_setattr(3)`, which changes nothing but `O_NONBLOCK`.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    let mut new = attributes();
    new.mq_flags = if nonblocking { libc::O_NONBLOCK.into() } else { 0 };
    // SAFETY: the descriptor is open, `new` is valid, and a null old value is allowed.
    check(unsafe { libc::mq_setattr(fd.as_raw_fd(), &new, std::ptr::null_mut()) }).map(drop)
}

/// `mq_send(3)`.
pub(crate) fn send(fd: BorrowedFd<'_>, message: &[u8], priority: u32) -> io::Result<()> {
    // SAFETY: the pointer and the length are one slice's.
    check(unsafe { libc::mq_send(fd.as_raw_fd(), message.as_ptr().cast(), message.len(), priority) })
        .map(drop)
}

/// `mq_timedsend(3)`; `deadline` is a time of `CLOCK_REALTIME`.
pub(crate) fn send_by(
    fd: BorrowedFd<'_>,
    message: &[u8],
    priority: u32,
    deadline: &libc::timespec,
) -> io::Result<()> {
    let (start, len) = (message.as_ptr().cast(), message.len());
    // SAFETY: the pointer and the length are one slice's, and `deadline` is valid.
    check(unsafe { libc::mq_timedsend(fd.as_raw_fd(), start, len, priority, deadline) }).map(drop)
}

/// `mq_receive(3)`: the message's length and priority.
pub(crate) fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
    let mut priority = 0;
    let (start, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: the pointer and the length are one mutable slice's, and `priority` is writable.
    let len = check_len(unsafe { libc::mq_receive(fd.as_raw_fd(), start, len, &mut priority) })?;
    Ok((len, priority))
}

/// `mq_timedreceive(3)`; `deadline` is a time of `CLOCK_REALTIME`.
pub(crate) fn recv_by(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    deadline: &libc::timespec,
) -> io::Result<(usize, u32)> {
    let mut priority = 0;
    let (start, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: the pointer and the length are one mutable slice's; `priority` is writable and `deadline` valid.
    let len =
        check_len(unsafe { libc::mq_timedreceive(fd.as_raw_fd(), start, len, &mut priority, deadline) })?;
    Ok((len, priority))
}

/// `fstat(2)`.
pub(crate) fn fstat(fd: BorrowedFd<'_>) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::uninit();
    // SAFETY: the descriptor is open and `stat` is writable.
    check(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, so the kernel has filled it in.
    Ok(unsafe { stat.assume_init() })
}

/// `fchmod(2)`.
pub(crate) fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }).map(drop)
}

/// `geteuid(2)`.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// The soft `RLIMIT_MSGQUEUE` in bytes: `getrlimit(2)`.
pub(crate) fn memory_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    check(unsafe { libc::getrlimit(libc::RLIMIT_MSGQUEUE, &mut limit) })?;
    Ok(limit.rlim_cur)
}
