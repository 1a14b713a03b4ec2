//! The kernel's door: every unsafe block of the crate but the shared-memory mapping's.
//!
//! Each function is one system call, made safe by its signature (borrowed descriptors in,
//! owned descriptors out, slices instead of pointers) and answered as [`io::Result`]. What a
//! call *means* is the business of the module that calls it.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

pub(crate) mod datagram;
pub(crate) mod fork;
pub(crate) mod mq;
pub(crate) mod path;
pub(crate) mod pipe;
pub(crate) mod process;
pub(crate) mod scm;
pub(crate) mod signal;
pub(crate) mod sockaddr;
pub(crate) mod socket;
pub(crate) mod time;

pub(crate) mod shm;

/// The C library's convention: -1 says that `errno` holds the reason.
#[inline]
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// [`check`] for calls that answer with a length.
#[inline]
pub(crate) fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| last_error())
}

#[cold]
fn last_error() -> io::Error {
    io::Error::last_os_error()
}

/// How many processors the system has, whether this process may run on them or not.
pub(crate) fn processors() -> usize {
    // SAFETY: takes no pointer.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
}

/// Where `byte` first occurs.
#[inline]
pub(crate) fn memchr(byte: u8, bytes: &[u8]) -> Option<usize> {
    // SAFETY: the pointer and the length are those of a live slice.
    let found = unsafe { libc::memchr(bytes.as_ptr().cast(), libc::c_int::from(byte), bytes.len()) };
    (!found.is_null()).then(|| found as usize - bytes.as_ptr() as usize)
}

/// The poll set's own descriptor.
pub(crate) fn poll_fd(poll: &mio::Poll) -> BorrowedFd<'_> {
    // SAFETY: `poll` owns the descriptor and is borrowed for as long as the answer.
    unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) }
}
