//! Telling a forked child from its parent without a system call.

use std::sync::{
    Once,
    atomic::{AtomicU32, Ordering},
};

static FORKS: AtomicU32 = AtomicU32::new(0);
static INSTALL: Once = Once::new();

extern "C" fn in_child() {
    // Async-signal-safe, as a fork handler must be.
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// How many forks lie between the first process and this one. A raw `clone` that passes the C library by is not
/// counted.
#[inline]
pub(crate) fn generation() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Starts counting.
pub(crate) fn watch() {
    INSTALL.call_once(|| {
        // SAFETY: the handler is a function of this program that only adds to an atomic.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}
