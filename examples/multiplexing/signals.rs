//! How SIGINT (Ctrl-C) and SIGTERM reach a server, so that it ends in order: it closes its
//! descriptors and removes its path.
//!
//! * A style that waits on a *set* turns the signals into one more descriptor of that set:
//!   [`descriptor`]. Ctrl-C is then an event like any other, and no signal handler interrupts the loop.
//! * `blocking` waits inside one `accept` or `recv` and can wait for nothing else, so the signal must
//!   interrupt that call: [`BreakBlockedCalls`].
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};

use crate::net::check;

const ENDING: [libc::c_int; 2] = [libc::SIGINT, libc::SIGTERM];

/// A descriptor that becomes readable when SIGINT or SIGTERM has come (signalfd(2)).
///
/// The signals are blocked first: unblocked, they would still end the process by default.
pub(crate) fn descriptor() -> io::Result<OwnedFd> {
    let set = ending_set()?;
    // SAFETY: `set` is initialised; null says that we do not ask for the old mask.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) })?;
    // SAFETY: as above; -1 asks for a new descriptor.
    let fd = check(unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
    // SAFETY: `signalfd` has just made it, and it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

static ASKED: AtomicBool = AtomicBool::new(false);
static MASTER: AtomicI32 = AtomicI32::new(-1);
static CLIENT: AtomicI32 = AtomicI32::new(-1);

/// Makes a signal end the blocking call that the process waits in.
///
/// A handler that only sets a flag is not enough: if a signal arrives *between* the check of the flag and
/// the call of `accept`, `accept` waits for a client that may never connect. So the handler shuts the
/// sockets down. The effect lasts: the current call, and any later one, returns at once.
pub(crate) struct BreakBlockedCalls(());

impl BreakBlockedCalls {
    pub(crate) fn install(master: &impl AsFd) -> io::Result<Self> {
        MASTER.store(master.as_fd().as_raw_fd(), SeqCst);
        install(shut_down)?;
        Ok(Self(()))
    }

    pub(crate) fn asked_to_end(&self) -> bool {
        asked_to_end()
    }

    /// Until the guard is dropped, the signal shuts `client` down too.
    pub(crate) fn also<'a>(&'a self, client: &'a OwnedFd) -> ClientGuard<'a> {
        CLIENT.store(client.as_raw_fd(), SeqCst);
        ClientGuard(client)
    }
}

/// Removes the client's descriptor number before the descriptor is closed and the kernel reuses the number.
pub(crate) struct ClientGuard<'a>(
    #[expect(dead_code, reason = "keeps the client open meanwhile")] &'a OwnedFd,
);

impl Drop for ClientGuard<'_> {
    fn drop(&mut self) {
        CLIENT.store(-1, SeqCst);
    }
}

/// For `compare`, which never waits long: records the signal in a flag.
pub(crate) fn remember() -> io::Result<()> {
    install(note)
}

/// Whether SIGINT or SIGTERM has come since [`remember`] or [`BreakBlockedCalls::install`].
pub(crate) fn asked_to_end() -> bool {
    ASKED.load(SeqCst)
}

extern "C" fn note(_signal: libc::c_int) {
    ASKED.store(true, SeqCst);
}

/// Runs between any two instructions of the program, so it may only do what signal-safety(7) lists:
/// atomics and `shutdown` are fine; locks, allocation and `println!` are not.
extern "C" fn shut_down(_signal: libc::c_int) {
    ASKED.store(true, SeqCst);
    // SAFETY: the C library's per-thread errno is always valid.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above. Kept, because the code that we interrupt may be about to read it.
    let before = unsafe { *errno };
    for fd in [MASTER.load(SeqCst), CLIENT.load(SeqCst)] {
        // SAFETY: no pointers; on -1 it does nothing but fail.
        unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

fn install(handler: extern "C" fn(libc::c_int)) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid one: no flags, so not SA_RESTART either.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_mask = ending_set()?;
    for signal in ENDING {
        // SAFETY: `action` is initialised, and its handler is async-signal-safe; null: no old action.
        check(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) })?;
    }
    // The parent process may have blocked them, and a mask is inherited.
    let set = ending_set()?;
    // SAFETY: `set` is initialised; null says that we do not ask for the old mask.
    check(unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) }).map(drop)
}

fn ending_set() -> io::Result<libc::sigset_t> {
    // SAFETY: an all-zero sigset_t is valid memory, made a set by the next line.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours.
    check(unsafe { libc::sigemptyset(&mut set) })?;
    for signal in ENDING {
        // SAFETY: `set` is initialised, and the signals exist.
        check(unsafe { libc::sigaddset(&mut set, signal) })?;
    }
    Ok(set)
}
