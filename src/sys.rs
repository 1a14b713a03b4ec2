//! The system calls of the crate, and every unsafe block but those of the shared-memory mapping.
//!
//! Each function makes one system call, but for those of `closer` and `lingering`. Its signature makes the call safe
//! (borrowed descriptors in, owned descriptors out, slices instead of pointers), and it returns an [`io::Result`]. The
//! module that makes the call knows what the result means.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

pub(crate) mod closer;
mod cmsg;
pub(crate) mod datagram;
pub(crate) mod file;
pub(crate) mod fork;
mod lingering;
pub(crate) mod mq;
pub(crate) mod pipe;
pub(crate) mod process;
pub(crate) mod scm;
pub(crate) mod shm;
pub(crate) mod signal;
pub(crate) mod sockaddr;
pub(crate) mod socket;
pub(crate) mod time;

/// Turns the result of a call that returns -1 and sets `errno` where it fails.
#[inline]
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// [`check`] for calls that return a length.
#[inline]
pub(crate) fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| last_error())
}

/// [`check`] for the calls made through `syscall(2)`, which returns a `long`.
fn check_long(result: libc::c_long) -> io::Result<libc::c_int> {
    // None of these calls returns more than an int: it is a descriptor or 0.
    check(libc::c_int::try_from(result).unwrap_or(-1))
}

/// [`check`] for calls that return a new descriptor.
fn own(result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: a call that makes a new descriptor has just returned `fd`, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// [`check`] for calls that return a count as an `int`.
pub(crate) fn check_count(result: libc::c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| last_error())
}

#[cold]
fn last_error() -> io::Error {
    io::Error::last_os_error()
}

/// The size of `T` for a call that takes a `socklen_t`.
const fn socklen_of<T>() -> libc::socklen_t {
    assert!(size_of::<T>() <= libc::socklen_t::MAX as usize);
    #[allow(clippy::cast_possible_truncation, reason = "the line above checks the range")]
    let len = size_of::<T>() as libc::socklen_t;
    len
}

/// How many processors the system has, also those that this process may not run on: `sysconf(3)`.
pub(crate) fn processors() -> usize {
    // SAFETY: the call takes no pointer.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
}

/// The size of a page of memory in bytes: `sysconf(3)`.
pub(crate) fn page_size() -> usize {
    // SAFETY: the call takes no pointer.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// The position of the first `byte` in `bytes`: `memchr(3)`.
#[inline]
pub(crate) fn memchr(byte: u8, bytes: &[u8]) -> Option<usize> {
    // SAFETY: the pointer and the length are those of a live slice.
    let found = unsafe { libc::memchr(bytes.as_ptr().cast(), libc::c_int::from(byte), bytes.len()) };
    (!found.is_null()).then(|| found as usize - bytes.as_ptr() as usize)
}

/// The descriptor of `poll` itself, for an outer event loop.
pub(crate) fn poll_fd(poll: &mio::Poll) -> BorrowedFd<'_> {
    // SAFETY: `poll` owns the descriptor, and the result borrows `poll`.
    unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memchr_finds_the_first_of_several() {
        assert_eq!(memchr(b'l', b"hello"), Some(2));
        assert_eq!(memchr(b'x', b"hello"), None);
        assert_eq!(memchr(b'x', b""), None);
    }

    #[test]
    fn the_system_has_processors_and_whole_pages() {
        assert!(processors() >= 1);
        assert!(page_size().is_power_of_two() && page_size() >= 4096);
    }

    #[test]
    fn a_failed_call_returns_its_errno() {
        // SAFETY: the call takes no pointer, and -1 is never a descriptor.
        let failed = |fd| unsafe { libc::close(fd) };
        assert_eq!(check(failed(-1)).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(own(failed(-1)).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
