//! Signal masks, the signalfd, and the calls that send.
//!
//! A set of signals is a `u64` here, written as `/proc/self/status` writes it: bit n - 1 is signal n.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::{check, check_len};
use crate::signals::SignalInfo;

/// The C library's set from ours.
fn sigset(set: u64) -> libc::sigset_t {
    let mut out = MaybeUninit::uninit();
    // SAFETY: the pointer is valid for one sigset_t, which the call writes whole.
    unsafe { libc::sigemptyset(out.as_mut_ptr()) };
    // SAFETY: initialised by the line above; sigemptyset has no other outcome.
    let mut out = unsafe { out.assume_init() };
    for signal in (1..=64).filter(|signal| set & (1 << (signal - 1)) != 0) {
        // SAFETY: `out` is an initialised set.
        unsafe { libc::sigaddset(&mut out, signal) };
    }
    out
}

/// pthread_sigmask(3): changes the calling thread's mask and answers the mask before.
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

/// Adds `set` to the calling thread's mask; answers the mask before.
pub(crate) fn block(set: u64) -> io::Result<u64> {
    change_mask(libc::SIG_BLOCK, set)
}

/// Takes `set` out of the calling thread's mask.
pub(crate) fn unblock(set: u64) -> io::Result<()> {
    change_mask(libc::SIG_UNBLOCK, set).map(drop)
}

/// Between fork and exec: an empty mask, and SIGPIPE at its default (Rust programs ignore it, and both outlive exec).
///
/// Async-signal-safe: two calls from the list of signal-safety(7), no allocation, no lock.
pub(crate) fn reset_for_exec() -> io::Result<()> {
    change_mask(libc::SIG_SETMASK, 0)?;
    // SAFETY: SIG_DFL is a valid disposition, and no handler of ours is involved.
    match unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// signalfd(2), non-blocking and CLOEXEC. `set` must be blocked already.
pub(crate) fn signalfd(set: u64) -> io::Result<OwnedFd> {
    let set = sigset(set);
    // SAFETY: `set` is initialised and outlives the call.
    let fd = check(unsafe { libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) })?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A record of zeroes, to be overwritten by [`read`].
pub(crate) fn blank() -> libc::signalfd_siginfo {
    // SAFETY: the record is integers only: zero is a value of each.
    unsafe { mem::zeroed() }
}

/// read(2) on a signalfd: how many records it wrote to the front of `records`.
pub(crate) fn read(fd: BorrowedFd<'_>, records: &mut [SignalInfo]) -> io::Result<usize> {
    // SAFETY: the buffer is as long as said, and SignalInfo is signalfd_siginfo transparently, valid for all bytes.
    let bytes = unsafe {
        libc::read(fd.as_raw_fd(), records.as_mut_ptr().cast(), mem::size_of_val::<[SignalInfo]>(records))
    };
    Ok(check_len(bytes)? / mem::size_of::<SignalInfo>())
}

/// sigtimedwait(2) without waiting: takes one pending signal of `set` off the queue; WouldBlock if there is none.
pub(crate) fn take_pending(set: u64) -> io::Result<()> {
    let set = sigset(set);
    let no_wait = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `set` and `no_wait` outlive the call; null says that the details are not wanted.
    check(unsafe { libc::sigtimedwait(&set, ptr::null_mut(), &no_wait) }).map(drop)
}

/// The lowest and the highest real-time signal that the C library leaves to programs.
pub(crate) fn rt_range() -> (i32, i32) {
    (libc::SIGRTMIN(), libc::SIGRTMAX())
}

/// raise(3).
pub(crate) fn raise(signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::raise(signal) }).map(drop)
}

/// kill(2).
pub(crate) fn kill(pid: libc::pid_t, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// sigqueue(3).
pub(crate) fn sigqueue(pid: libc::pid_t, signal: i32, value: i32) -> io::Result<()> {
    // The int of `union sigval` is its first four bytes, on either byte order.
    let mut bytes = [0; mem::size_of::<usize>()];
    bytes[..4].copy_from_slice(&value.to_ne_bytes());
    let value = libc::sigval { sival_ptr: ptr::without_provenance_mut(usize::from_ne_bytes(bytes)) };
    // SAFETY: the pointer in `value` is an integer in disguise; nobody follows it.
    check(unsafe { libc::sigqueue(pid, signal, value) }).map(drop)
}
