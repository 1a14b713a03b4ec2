//! Pipes and FIFOs, beyond `std::fs`.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
    path::Path,
};

use super::{check, file::c_path};

/// `pipe2(2)`, non-blocking and close-on-exec: the end to read from, and the end to write to.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: the pointer is to room for the two descriptors that the call writes.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
    // SAFETY: the call has just made these descriptors, so nothing else owns them.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into())
}

/// `mkfifo(3)`. `AlreadyExists` where there is a file of that name.
pub(crate) fn mkfifo(path: &Path, mode: u32) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path ends with a NUL byte and outlives the call.
    check(unsafe { libc::mkfifo(path.as_ptr(), mode) }).map(drop)
}
