//! The monotonic clock and the timerfd.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
    time::Duration,
};

use super::check;

/// A duration in nanoseconds; what is longer than 584 years counts as that.
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[inline]
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the answer, and this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A disarmed timerfd on the monotonic clock.
pub(crate) fn timerfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = check(unsafe {
        libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC)
    })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Arms it for `due_ns` of the monotonic clock, once; at once if that is past.
pub(crate) fn timerfd_arm(timer: BorrowedFd<'_>, due_ns: u64) -> io::Result<()> {
    let due_ns = due_ns.max(1); // 0 would disarm it.
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let due = libc::timespec {
        tv_sec: i64::try_from(due_ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: (due_ns % 1_000_000_000) as i64,
    };
    let spec = libc::itimerspec { it_interval: zero, it_value: due };
    // SAFETY: `spec` is valid for the call, and a null old value is allowed.
    check(unsafe {
        libc::timerfd_settime(timer.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &spec, ptr::null_mut())
    })?;
    Ok(())
}
