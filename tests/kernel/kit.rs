//! What all these tests share: errno as a value, a poll set, a process for one test alone, a fork.
#![allow(unsafe_code)]

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

/// How long a wait for something that must happen may last before the test fails. No passing test waits that long.
const PATIENCE_MS: i32 = 20_000;
const ALONE: &str = "KERNEL_CONTRACT_ALONE";

pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Takes the descriptor that a system call has just made.
pub(crate) fn own(result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the call made this descriptor for us, and no other code knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The errno of a failed call; 0 if it succeeded.
pub(crate) fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().expect("the kernel's own error"))
}

use crate::support::SKIPPED;
pub(crate) use crate::support::skip;

/// One edge: the registration's number and the mask that came with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) data: u64,
    pub(crate) mask: i32,
}

impl Edge {
    pub(crate) fn has(&self, mask: i32) -> bool {
        self.mask & mask == mask
    }
}

/// An epoll set in which everything is edge-triggered.
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    fn control(&self, operation: i32, fd: impl AsFd, mask: i32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: (mask | libc::EPOLLET).cast_unsigned(), u64: data };
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: the event outlives the call.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) }).map(drop)
    }

    pub(crate) fn add(&self, fd: impl AsFd, mask: i32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, mask, data)
    }

    pub(crate) fn delete(&self, fd: impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn wait(&self, timeout_ms: i32) -> Vec<Edge> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        // SAFETY: the array holds 16 events and outlives the call.
        let waited = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 16, timeout_ms) };
        let count = check(waited).expect("epoll_wait");
        events[..count as usize].iter().map(|e| Edge { data: e.u64, mask: e.events.cast_signed() }).collect()
    }

    /// The edges that are there already.
    pub(crate) fn now(&self) -> Vec<Edge> {
        self.wait(0)
    }

    /// The one edge that is there already.
    pub(crate) fn one(&self) -> Edge {
        let mut edges = self.now();
        assert_eq!(edges.len(), 1, "one edge expected: {edges:?}");
        edges.remove(0)
    }

    /// Waits for edges that another process, a thread or a clock will make.
    pub(crate) fn next(&self) -> Vec<Edge> {
        let edges = self.wait(PATIENCE_MS);
        assert!(!edges.is_empty(), "no edge came");
        edges
    }
}

/// Runs a test's body in a single-threaded process of its own: a fork of this executable run again with this one
/// test, since the harness runs it in a second thread.
///
/// The closure must be written in the test function itself: its type's name tells which test to run.
pub(crate) fn alone<F: FnOnce() -> io::Result<()>>(body: F) -> io::Result<()> {
    let path = std::any::type_name::<F>();
    let test = path.split_once("::").and_then(|(_, rest)| rest.strip_suffix("::{{closure}}")).expect(path);
    if std::env::var_os(ALONE).is_some_and(|name| name == test) {
        end_with_parent();
        let copy = fork(|| {
            // SAFETY: no pointers; the default action of SIGALRM ends a body that hangs.
            unsafe { libc::alarm(60) };
            body()
        })?;
        assert_eq!(copy.wait()?, End::Exit(0));
        return Ok(());
    }
    let ran = Command::new(std::env::current_exe()?)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, test)
        .output()?;
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    // A name that matches no test would exit with 0 too.
    assert!(ran.status.success() && out.contains(" 1 passed"), "{test} alone: {}\n{out}\n{err}", ran.status);
    // The child has reported this where skips are collected; this only prints what the harness has hidden.
    for line in err.lines().filter(|line| line.starts_with(SKIPPED)) {
        writeln!(io::stderr(), "{line}")?;
    }
    Ok(())
}

fn end_with_parent() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exit(i32),
    Signal(i32),
}

/// A forked copy of this process; killed and reaped when dropped.
pub(crate) struct Forked(libc::pid_t);

impl Forked {
    pub(crate) fn wait(self) -> io::Result<End> {
        let end = self.reap();
        std::mem::forget(self);
        end
    }

    fn reap(&self) -> io::Result<End> {
        let mut status = 0;
        // SAFETY: the status outlives the call.
        check(unsafe { libc::waitpid(self.0, &raw mut status, 0) })?;
        if libc::WIFSIGNALED(status) {
            return Ok(End::Signal(libc::WTERMSIG(status)));
        }
        Ok(End::Exit(libc::WEXITSTATUS(status)))
    }

    /// Waits until the process has ended, and leaves it unreaped.
    pub(crate) fn wait_zombie(&self) -> io::Result<()> {
        // SAFETY: all-zero is a siginfo.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOWAIT;
        // SAFETY: the siginfo outlives the call.
        check(unsafe { libc::waitid(libc::P_PID, self.0.cast_unsigned(), &raw mut info, options) }).map(drop)
    }

    pub(crate) fn pid(&self) -> libc::pid_t {
        self.0
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        // SAFETY: no pointers; the child is not reaped, so that the pid is still its own.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        let _ = self.reap();
    }
}

/// Runs `body` in a forked copy; it exits with 0 when `body` returns, with 1 when it panics. Only for use inside
/// [`alone`], where no other thread can hold a lock that the copy would wait for.
pub(crate) fn fork(body: impl FnOnce() -> io::Result<()>) -> io::Result<Forked> {
    // SAFETY: no other thread is in the middle of anything, so that the copy may do all that this one may.
    let pid = check(unsafe { libc::fork() })?;
    if pid > 0 {
        return Ok(Forked(pid));
    }
    end_with_parent();
    let ended = catch_unwind(AssertUnwindSafe(body));
    if let Ok(Err(error)) = &ended {
        let _ = writeln!(io::stderr(), "forked copy: {error}");
    }
    // SAFETY: ends the copy without its parent's clean-up.
    unsafe { libc::_exit(i32::from(!matches!(ended, Ok(Ok(()))))) }
}

/// The limits that the tests lower.
pub(crate) enum Limit {
    Descriptors,
    QueueBytes,
}

/// Sets a soft limit of this process, and gives the one before.
pub(crate) fn set_limit(limit: Limit, soft: u64) -> io::Result<u64> {
    let resource = match limit {
        Limit::Descriptors => libc::RLIMIT_NOFILE,
        Limit::QueueBytes => libc::RLIMIT_MSGQUEUE,
    };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit outlives the call.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    let before = std::mem::replace(&mut limit.rlim_cur, soft);
    // SAFETY: as above.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })?;
    Ok(before)
}
