//! Tells a forked child from its parent without a system call.

use std::sync::{
    Once,
    atomic::{AtomicU32, Ordering},
};

static FORKS: AtomicU32 = AtomicU32::new(0);
static INSTALL: Once = Once::new();

/// Runs in each child, before `fork(2)` returns there. It is async-signal-safe, as a fork handler must be.
extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// How many forks there were between the first process and this one, since [`watch`] was called. A raw `clone(2)`, which
/// does not go through the C library, is not counted.
#[inline]
pub(crate) fn generation() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Starts to count forks: `pthread_atfork(3)`. Further calls do nothing.
pub(crate) fn watch() {
    INSTALL.call_once(|| {
        // SAFETY: the handler is a function of this program, and it only adds to an atomic.
        let result = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        if result != 0 {
            log::warn!(
                target: "ipc_reactor",
                "pthread_atfork: {}; a forked child is not told from its parent",
                std::io::Error::from_raw_os_error(result)
            );
        }
    });
}
