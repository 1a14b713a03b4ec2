//! POSIX message queues: the `mq_*` calls, and the limit on the memory of all queues.
//!
//! No call allocates, whether it succeeds or fails: a source reads a queue until `EAGAIN` at every event.

use std::{
    ffi::CStr,
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use super::{check, check_len, own};

/// `mq_open(3)` without `O_CREAT`.
pub(crate) fn open(name: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: `name` ends with a NUL byte; without O_CREAT the call reads no further argument.
    own(unsafe { libc::mq_open(name.as_ptr(), (flags & !libc::O_CREAT) | libc::O_CLOEXEC) })
}

/// `mq_open(3)` with `O_CREAT | O_EXCL`. Without `attributes` the kernel's defaults apply.
pub(crate) fn create(
    name: &CStr,
    flags: libc::c_int,
    mode: u32,
    attributes: Option<&libc::mq_attr>,
) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
    let attributes = attributes.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `name` ends with a NUL byte; with O_CREAT the call takes a mode and a pointer that is null or valid.
    own(unsafe { libc::mq_open(name.as_ptr(), flags, mode, attributes) })
}

/// `mq_unlink(3)`.
pub(crate) fn unlink(name: &CStr) -> io::Result<()> {
    // SAFETY: `name` ends with a NUL byte.
    check(unsafe { libc::mq_unlink(name.as_ptr()) }).map(drop)
}

/// A `mq_attr` with every field zero. It has private padding, so there is no literal for it.
pub(crate) fn zeroed_attributes() -> libc::mq_attr {
    // SAFETY: the structure has integers only, for which zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// `mq_getattr(3)`. `EBADF` for a descriptor of another kind.
pub(crate) fn getattr(fd: BorrowedFd<'_>) -> io::Result<libc::mq_attr> {
    let mut now = zeroed_attributes();
    // SAFETY: `now` is writable.
    check(unsafe { libc::mq_getattr(fd.as_raw_fd(), &mut now) })?;
    Ok(now)
}

/// `mq_setattr(3)`, which can change `O_NONBLOCK` only.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    let mut new = zeroed_attributes();
    new.mq_flags = if nonblocking { libc::O_NONBLOCK.into() } else { 0 };
    // SAFETY: `new` is valid, and null says that the old value is not wanted.
    check(unsafe { libc::mq_setattr(fd.as_raw_fd(), &new, std::ptr::null_mut()) }).map(drop)
}

/// `mq_send(3)`.
pub(crate) fn send(fd: BorrowedFd<'_>, message: &[u8], priority: u32) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `message`.
    check(unsafe { libc::mq_send(fd.as_raw_fd(), message.as_ptr().cast(), message.len(), priority) })
        .map(drop)
}

/// `mq_timedsend(3)`. `deadline` is a time of `CLOCK_REALTIME`.
pub(crate) fn send_by(
    fd: BorrowedFd<'_>,
    message: &[u8],
    priority: u32,
    deadline: &libc::timespec,
) -> io::Result<()> {
    let (start, len) = (message.as_ptr().cast(), message.len());
    // SAFETY: the pointer and the length describe `message`, and `deadline` is valid.
    check(unsafe { libc::mq_timedsend(fd.as_raw_fd(), start, len, priority, deadline) }).map(drop)
}

/// `mq_receive(3)`. Returns the message's length and priority.
pub(crate) fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
    let mut priority = 0;
    let (start, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: the pointer and the length describe `buffer`, and `priority` is writable.
    let len = check_len(unsafe { libc::mq_receive(fd.as_raw_fd(), start, len, &mut priority) })?;
    Ok((len, priority))
}

/// `mq_timedreceive(3)`. `deadline` is a time of `CLOCK_REALTIME`.
pub(crate) fn recv_by(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    deadline: &libc::timespec,
) -> io::Result<(usize, u32)> {
    let mut priority = 0;
    let (start, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: the pointer and the length describe `buffer`; `priority` is writable and `deadline` valid.
    let len =
        check_len(unsafe { libc::mq_timedreceive(fd.as_raw_fd(), start, len, &mut priority, deadline) })?;
    Ok((len, priority))
}

/// The soft `RLIMIT_MSGQUEUE` in bytes: `getrlimit(2)`.
pub(crate) fn memory_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    check(unsafe { libc::getrlimit(libc::RLIMIT_MSGQUEUE, &mut limit) })?;
    Ok(limit.rlim_cur)
}
