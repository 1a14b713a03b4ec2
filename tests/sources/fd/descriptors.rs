//! Descriptors that std has no name for.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

fn own(result: libc::c_int) -> io::Result<OwnedFd> {
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, and no other code knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// Fires every `period`.
pub(crate) fn timerfd(period: Duration) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let timer =
        own(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })?;
    let period = libc::timespec { tv_sec: 0, tv_nsec: period.subsec_nanos().into() };
    let when = libc::itimerspec { it_interval: period, it_value: period };
    // SAFETY: `when` outlives the call, and the old value is not asked for.
    let set = unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const when, std::ptr::null_mut()) };
    if set == -1 { Err(io::Error::last_os_error()) } else { Ok(timer) }
}

/// Reports files that are made in `directory`.
pub(crate) fn inotify(directory: &Path) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let inotify = own(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;
    let path = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    let watch = unsafe { libc::inotify_add_watch(inotify.as_raw_fd(), path.as_ptr(), libc::IN_CREATE) };
    if watch == -1 { Err(io::Error::last_os_error()) } else { Ok(inotify) }
}

/// A terminal's two ends: the master, and the one that a program has as its standard input.
pub(crate) fn pty() -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: no pointers.
    let master = own(unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) })?;
    // SAFETY: no pointers.
    if unsafe { libc::unlockpt(master.as_raw_fd()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: no pointers; the answer is a new descriptor.
    let slave = own(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    Ok((master, slave))
}

/// The names in what an inotify descriptor gave.
pub(crate) fn names(mut events: &[u8]) -> Vec<String> {
    const HEAD: usize = size_of::<libc::inotify_event>();
    let mut names = Vec::new();
    while events.len() >= HEAD {
        let length = u32::from_ne_bytes(events[HEAD - 4..HEAD].try_into().unwrap()) as usize;
        let name = &events[HEAD..HEAD + length];
        names.push(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
        events = &events[HEAD + length..];
    }
    names
}
