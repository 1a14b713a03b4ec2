//! The clock that all processes of a machine share. `Instant` hides its value, but times in shared memory are compared
//! across processes.

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[allow(unsafe_code, reason = "clock_gettime(2)")]
pub(crate) fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives through the call, which writes it. This clock exists on every Linux, so the call cannot
    // fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
