//! What the owner of a socket's path needs beyond `std::fs`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

/// `flock(2)` with `LOCK_EX | LOCK_NB`; held by somebody else is `WouldBlock`.
pub(crate) fn flock_exclusive(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// `fchmod(2)`; on a socket not yet bound it is the mode that `bind` gives the path, less the umask.
pub(crate) fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }).map(drop)
}

/// Renames, and fails with `AlreadyExists` where `rename(2)` would replace.
pub(crate) fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    renameat2(from, to, libc::RENAME_NOREPLACE)
}

/// Swaps two names in one step.
pub(crate) fn rename_exchange(from: &Path, to: &Path) -> io::Result<()> {
    renameat2(from, to, libc::RENAME_EXCHANGE)
}

fn renameat2(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
    let from = CString::new(from.as_os_str().as_bytes())?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    let (call, here) = (libc::SYS_renameat2, libc::AT_FDCWD);
    // SAFETY: both names are NUL-terminated and outlive the call.
    let result = unsafe { libc::syscall(call, here, from.as_ptr(), here, to.as_ptr(), flags) };
    check(result as libc::c_int).map(drop)
}
