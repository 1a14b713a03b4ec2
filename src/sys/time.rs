//! Durations as the kernel takes them, the monotonic clock, and the timerfd.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr,
    time::Duration,
};

use super::{check, own};

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// A duration in nanoseconds. One of more than 584 years is `u64::MAX`, which no deadline reaches, so do all arithmetic
/// with the result saturating, too. Use this for every duration: `as_nanos() as u64` wraps, and a limit "for ever"
/// then ends at once.
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    // Not `as_nanos`, whose 128-bit product costs more than these two operations.
    duration.as_secs().saturating_mul(NANOS_PER_SEC).saturating_add(duration.subsec_nanos().into())
}

/// A timeout in the milliseconds that `poll(2)` and `epoll_wait(2)` take: rounded up, so that a short wait does not
/// become a busy loop; at most `i32::MAX`, which is 24 days; -1, which is for ever, for `None`.
pub(crate) fn timeout_ms(timeout: Option<Duration>) -> libc::c_int {
    timeout.map_or(-1, |timeout| {
        libc::c_int::try_from(nanos(timeout).div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
    })
}

/// `CLOCK_MONOTONIC` in nanoseconds: `clock_gettime(2)`.
#[inline]
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable, and this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    // The clock begins near 0 at boot and is never negative.
    now.tv_sec.cast_unsigned() * NANOS_PER_SEC + now.tv_nsec.cast_unsigned()
}

/// `timerfd_create(2)` on the monotonic clock, non-blocking and close-on-exec. It is not armed.
pub(crate) fn timerfd() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    own(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) })
}

/// Arms the timer to expire once, at `due_ns` of the monotonic clock; at once if that time has passed:
/// `timerfd_settime(2)`.
pub(crate) fn timerfd_arm(timer: BorrowedFd<'_>, due_ns: u64) -> io::Result<()> {
    let due_ns = due_ns.max(1); // 0 would disarm it.
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // Both fit: u64::MAX is 18.4 thousand million seconds.
    let due = libc::timespec {
        tv_sec: (due_ns / NANOS_PER_SEC).cast_signed(),
        tv_nsec: (due_ns % NANOS_PER_SEC).cast_signed(),
    };
    let spec = libc::itimerspec { it_interval: zero, it_value: due };
    // SAFETY: `spec` outlives the call, and null says that the old value is not wanted.
    check(unsafe {
        libc::timerfd_settime(timer.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &spec, ptr::null_mut())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::fd::AsFd};

    use super::*;

    #[test]
    fn nanoseconds_saturate() {
        assert_eq!(nanos(Duration::ZERO), 0);
        assert_eq!(nanos(Duration::new(3, 7)), 3_000_000_007);
        let last = Duration::from_nanos(u64::MAX);
        assert_eq!(nanos(last), u64::MAX);
        assert_eq!(nanos(last - Duration::from_nanos(1)), u64::MAX - 1);
        // Of this many seconds the lower 64 bits of the nanoseconds are few: a cast made them a short time.
        for secs in [1 << 55, 1 << 63, u64::MAX] {
            assert_eq!(nanos(Duration::from_secs(secs)), u64::MAX);
        }
        assert_eq!(nanos(Duration::MAX), u64::MAX);
    }

    #[test]
    fn timeouts_round_up_and_saturate() {
        assert_eq!(timeout_ms(None), -1);
        assert_eq!(timeout_ms(Some(Duration::ZERO)), 0);
        assert_eq!(timeout_ms(Some(Duration::from_nanos(1))), 1);
        assert_eq!(timeout_ms(Some(Duration::from_millis(20))), 20);
        assert_eq!(timeout_ms(Some(Duration::from_micros(20_001))), 21);
        assert_eq!(timeout_ms(Some(Duration::MAX)), i32::MAX);
    }

    #[test]
    fn a_timer_of_the_past_expires_at_once_and_one_at_the_end_of_time_does_not() {
        let timer = timerfd().unwrap();
        timerfd_arm(timer.as_fd(), u64::MAX).unwrap();
        let mut file = File::from(timer.try_clone().unwrap());
        assert_eq!(file.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        timerfd_arm(timer.as_fd(), 0).unwrap();
        let mut count = [0; 8];
        // The interrupt may take a while on a slow machine.
        while file.read(&mut count).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {}
        assert_eq!(u64::from_ne_bytes(count), 1);
        let before = monotonic_ns();
        assert!(monotonic_ns() >= before);
    }
}
