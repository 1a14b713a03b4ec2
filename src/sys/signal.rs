//! Signal masks, the signalfd, and the calls that send signals.
//!
//! A set of signals is a `u64` here, as `/proc/self/status` writes it: bit n - 1 is signal n.

use std::{
    io,
    mem::{self, MaybeUninit},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

use super::{check, check_len, own};

/// The set in the C library's type: `sigemptyset(3)`, `sigaddset(3)`.
fn sigset(set: u64) -> libc::sigset_t {
    let mut out = MaybeUninit::uninit();
    // SAFETY: the pointer is to room for one sigset_t, all of which the call writes.
    unsafe { libc::sigemptyset(out.as_mut_ptr()) };
    // SAFETY: the line above has initialised it; sigemptyset cannot fail.
    let mut out = unsafe { out.assume_init() };
    for signal in (1..=64).filter(|signal| set & (1 << (signal - 1)) != 0) {
        // SAFETY: `out` is an initialised set.
        unsafe { libc::sigaddset(&mut out, signal) };
    }
    out
}

/// Changes the calling thread's mask and returns the previous one: `pthread_sigmask(3)`.
fn change_mask(how: libc::c_int, set: u64) -> io::Result<u64> {
    let set = sigset(set);
    let mut before = sigset(0);
    // SAFETY: both pointers are to initialised sets that outlive the call.
    match unsafe { libc::pthread_sigmask(how, &set, &mut before) } {
        // SAFETY: `before` is an initialised set.
        0 => Ok((1..=64)
            .filter(|&signal| unsafe { libc::sigismember(&before, signal) } == 1)
            .fold(0, |mask, signal| mask | 1 << (signal - 1))),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Adds `set` to the calling thread's mask, and returns the previous mask.
pub(crate) fn block(set: u64) -> io::Result<u64> {
    change_mask(libc::SIG_BLOCK, set)
}

/// Removes `set` from the calling thread's mask.
pub(crate) fn unblock(set: u64) -> io::Result<()> {
    change_mask(libc::SIG_UNBLOCK, set).map(drop)
}

/// For a child between fork and exec: empties the mask, and sets SIGPIPE to its default action. Both would survive
/// exec, and Rust programs ignore SIGPIPE.
///
/// It is async-signal-safe: two calls from the list of `signal-safety(7)`, no allocation, no lock.
pub(crate) fn reset_for_exec() -> io::Result<()> {
    change_mask(libc::SIG_SETMASK, 0)?;
    // SAFETY: SIG_DFL is a valid disposition, and installs no handler.
    match unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// `signalfd(2)`, non-blocking and close-on-exec. The caller has blocked `set` already.
pub(crate) fn signalfd(set: u64) -> io::Result<OwnedFd> {
    let set = sigset(set);
    // SAFETY: `set` is initialised and outlives the call.
    own(unsafe { libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) })
}

/// A record of zeroes, for [`read`] to fill.
pub(crate) fn zeroed_record() -> libc::signalfd_siginfo {
    // SAFETY: the record has integers only, for which zero is a value.
    unsafe { mem::zeroed() }
}

/// `read(2)` on a signalfd: fills the first of the `records`, and returns how many.
pub(crate) fn read(fd: BorrowedFd<'_>, records: &mut [libc::signalfd_siginfo]) -> io::Result<usize> {
    let (start, len) = (records.as_mut_ptr().cast(), mem::size_of_val::<[_]>(records));
    // SAFETY: `start` and `len` describe `records`, whose integers may have any value.
    let bytes = check_len(unsafe { libc::read(fd.as_raw_fd(), start, len) })?;
    Ok(bytes / size_of::<libc::signalfd_siginfo>())
}

/// Removes one pending signal of `set` and does not wait: `sigtimedwait(2)`. `WouldBlock` if none is pending.
pub(crate) fn take_pending(set: u64) -> io::Result<()> {
    let set = sigset(set);
    let no_wait = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `set` and `no_wait` outlive the call, and null says that the details are not wanted.
    check(unsafe { libc::sigtimedwait(&set, ptr::null_mut(), &no_wait) }).map(drop)
}

/// The lowest and the highest real-time signal that the C library leaves to programs.
pub(crate) fn rt_range() -> (i32, i32) {
    (libc::SIGRTMIN(), libc::SIGRTMAX())
}

/// `raise(3)`.
pub(crate) fn raise(signal: i32) -> io::Result<()> {
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::raise(signal) }).map(drop)
}

/// `kill(2)`.
pub(crate) fn kill(pid: libc::pid_t, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// `sigqueue(3)`.
pub(crate) fn sigqueue(pid: libc::pid_t, signal: i32, value: i32) -> io::Result<()> {
    // The int of `union sigval` is its first four bytes, on either byte order.
    let mut bytes = [0; size_of::<usize>()];
    bytes[..4].copy_from_slice(&value.to_ne_bytes());
    let value = libc::sigval { sival_ptr: ptr::without_provenance_mut(usize::from_ne_bytes(bytes)) };
    // SAFETY: the pointer in `value` carries an integer, and the kernel does not dereference it.
    check(unsafe { libc::sigqueue(pid, signal, value) }).map(drop)
}
