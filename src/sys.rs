//! The kernel's door: every unsafe block of the crate but the shared-memory mapping's.
//!
//! Each function is one system call, made safe by its signature (borrowed descriptors in,
//! owned descriptors out, slices instead of pointers) and answered as [`io::Result`]. What a
//! call *means* is the business of the module that calls it.
#![allow(unsafe_code)]

use std::io;

pub(crate) mod shm;

/// The C library's convention: -1 says that `errno` holds the reason.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// [`check`] for calls that answer with a length.
pub(crate) fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
