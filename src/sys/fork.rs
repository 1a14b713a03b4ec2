//! Tells a forked child from its parent without a system call.

use std::{
    io,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

static FORKS: AtomicU32 = AtomicU32::new(0);
/// What `pthread_atfork(3)` returned: an errno, or 0.
static INSTALLED: OnceLock<libc::c_int> = OnceLock::new();

/// Runs in each child, before `fork(2)` returns there. It is async-signal-safe, as a fork handler must be.
extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// How many forks there were between the first process and this one, since [`start_counting`] was called. A raw
/// `clone(2)`, which does not go through the C library, is not counted.
#[inline]
pub(crate) fn generation() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Starts to count forks: `pthread_atfork(3)`. Further calls change nothing, and return the same result. `OutOfMemory`:
/// there is no memory for the handler.
pub(crate) fn start_counting() -> io::Result<()> {
    // SAFETY: the handler is a function of this program, and it only adds to an atomic.
    match INSTALLED.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(in_child)) }) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(*errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_count_changes_nothing_in_this_process() {
        let before = generation();
        start_counting().unwrap();
        start_counting().unwrap();
        assert_eq!(generation(), before);
    }
}
