//! Child processes: started with a clean signal mask, and reaped without blocking.
//!
//! There are two ways to learn that a child has ended. (In a reactor they are
//! [`PollSet::spawn`](crate::PollSet::spawn), with `SIGCHLD`, and [`PollSet::run_child`](crate::PollSet::run_child),
//! with a pidfd and the child's pipes. A table there compares them.)
//!
//! - [`Reaper`] with `SIGCHLD` from a [`Signals`](crate::Signals): no descriptor for a child. To reap costs one
//!   `waitpid(2)` for each watched child, so it suits tens or hundreds of them.
//! - [`PidFd`]: one descriptor for each child, readable when it has ended. It never refers to another process.

pub(crate) mod process;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, Command, ExitStatus},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{signals::signal::Signal, sys::process as sys};

/// [`Command::spawn`], but the child starts with no signal blocked and with `SIGPIPE` at its default action.
///
/// A child of [`Command::spawn`] inherits the calling thread's mask. After [`Signals::new`](crate::Signals::new) that
/// mask has `SIGTERM`, for example, which would then never end the child.
///
/// This adds a closure with [`pre_exec`](std::os::unix::process::CommandExt::pre_exec), which runs after those that the
/// command already has. It stays with the command. If the command is spawned again, it runs twice, with the same
/// result. The child ignores the signals that this process *ignores*, as always.
///
/// # Errors
/// Those of [`Command::spawn`].
///
/// ```
/// use std::process::{Command, Stdio};
/// use ipc_reactor::{Signal, Signals, children};
///
/// let _signals = Signals::new([Signal::TERM])?;
/// let mut command = Command::new("grep");
/// command.args(["SigBlk", "/proc/self/status"]).stdout(Stdio::piped());
/// let output = children::spawn(&mut command)?.wait_with_output()?;
/// assert_eq!(output.stdout, b"SigBlk:\t0000000000000000\n");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    sys::reset_signals_in_child(command);
    command.spawn()
}

/// A watched child that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its process id. Another process may have it by now.
    pub pid: u32,
    /// How it ended. `None`: its status is not available, because other code has waited for it, because this process
    /// ignores `SIGCHLD` (children then leave no status), or because it never was a child of this process.
    pub status: Option<ExitStatus>,
}

/// The watched children, which are reaped at `SIGCHLD`.
///
/// [`reap`](Self::reap) waits for each watched child by its id and never for "any child", so it does not touch children
/// that other code in this process waits for. It checks *all* watched children each time, because several exits may
/// send one `SIGCHLD` only.
///
/// Block `SIGCHLD` first (with [`Signals`](crate::Signals)), then spawn, and reap once before the first wait: that
/// finds a child which ended before. Dropping a `Reaper` neither ends its children nor waits for them.
///
/// ```
/// use std::process::Command;
/// use ipc_reactor::children::{self, Reaper};
/// use ipc_reactor::{Signal, Signals};
///
/// let signals = Signals::new([Signal::CHLD])?;
/// let mut reaper = Reaper::new();
/// reaper.watch(children::spawn(&mut Command::new("true"))?);
/// while !reaper.is_empty() {
///     while signals.recv()?.is_some() {} // a reactor would wait until `signals` is readable
///     reaper.reap(|exit| assert!(exit.status.unwrap().success()));
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Reaper {
    watched: Vec<Watched>,
}

#[derive(Debug)]
enum Watched {
    // Not the pid alone: a Child that was waited for knows its status, and another process may have its pid.
    Child(Child),
    Pid(u32),
}

impl Watched {
    fn pid(&self) -> u32 {
        match self {
            Watched::Child(child) => child.id(),
            Watched::Pid(pid) => *pid,
        }
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Watched::Child(child) => child.try_wait(),
            Watched::Pid(pid) => sys::try_wait(sys::pid_t(*pid)?),
        }
    }
}

impl Reaper {
    /// A reaper without children.
    pub fn new() -> Reaper {
        Reaper::default()
    }

    /// Watches `child`, and returns its pid. Take its pipes out first: this closes those that are left.
    pub fn watch(&mut self, mut child: Child) -> u32 {
        // No code can reach the pipes any more, and a child that reads to the end of its input must see the end.
        drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
        let pid = child.id();
        self.watched.push(Watched::Child(child));
        pid
    }

    /// Watches a child of which only the pid is known, for example from `fork(2)`. No other code may wait for it from
    /// now on.
    ///
    /// # Errors
    /// `InvalidInput` for a `pid` of 0 or above `i32::MAX`; `AlreadyExists` if it is watched already.
    pub fn watch_pid(&mut self, pid: u32) -> io::Result<()> {
        sys::pid_t(pid)?;
        if self.pids().any(|watched| watched == pid) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("process {pid} is watched already"),
            ));
        }
        self.watched.push(Watched::Pid(pid));
        Ok(())
    }

    /// Calls `on_exit` once for each watched child that has ended, in the order in which they were added, and removes
    /// it. Returns how many there were. It never blocks and never allocates.
    pub fn reap(&mut self, mut on_exit: impl FnMut(Exit)) -> usize {
        let before = self.watched.len();
        self.watched.retain_mut(|watched| {
            let status = match watched.try_wait() {
                Ok(None) => return true,
                Ok(status) => status,
                // ECHILD: its status will never be available. The other children are still checked.
                Err(_) => None,
            };
            on_exit(Exit { pid: watched.pid(), status });
            false
        });
        before - self.watched.len()
    }

    /// The pids that are watched.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.watched.iter().map(Watched::pid)
    }

    /// How many children are watched.
    pub fn len(&self) -> usize {
        self.watched.len()
    }

    /// Whether no child is watched.
    pub fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }
}

/// A descriptor of a process, close-on-exec: see `pidfd_open(2)`. It never refers to another process, as a pid may.
///
/// It is readable, for example for `epoll(7)`, when the process has ended.
///
/// ```
/// use std::process::Command;
/// use ipc_reactor::Signal;
/// use ipc_reactor::children::{self, PidFd};
///
/// let mut child = children::spawn(Command::new("sleep").arg("60"))?;
/// let pidfd = PidFd::from_child(&child)?;
/// assert!(pidfd.try_wait()?.is_none());
/// pidfd.kill(Signal::TERM)?;
/// assert!(!child.wait()?.success());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has the id `pid` now.
    ///
    /// # Errors
    /// `InvalidInput` for a `pid` of 0 or above `i32::MAX`; `ESRCH` if there is no such process; `Unsupported` before
    /// Linux 5.3.
    pub fn open(pid: u32) -> io::Result<PidFd> {
        sys::pidfd_open(sys::pid_t(pid)?)
            .map(PidFd)
            .map_err(|error| needs(error, libc::ENOSYS, "pidfd_open(2) needs Linux 5.3"))
    }

    /// Opens `child`, which must not have been waited for. Until then no other process can get its pid.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_child(child: &Child) -> io::Result<PidFd> {
        PidFd::open(child.id())
    }

    /// Sends `signal` to the process: `pidfd_send_signal(2)`.
    ///
    /// # Errors
    /// `ESRCH`: it has ended and was waited for. `PermissionDenied`: it belongs to another user.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        sys::pidfd_send_signal(self.0.as_fd(), signal.as_raw())
    }

    /// The status of the process if it has ended; this reaps it (`waitid(2)`). `None` while it runs.
    ///
    /// # Errors
    /// `ECHILD`: it is no child of this process, or was waited for already, here or by its [`Child`]. `Unsupported`:
    /// before Linux 5.4.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        sys::pidfd_try_wait(self.0.as_fd())
            .map_err(|error| needs(error, libc::EINVAL, "waitid(2) of a pidfd needs Linux 5.4"))
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> OwnedFd {
        pidfd.0
    }
}

/// Says which call the kernel does not have, if `errno` says that.
fn needs(error: io::Error, errno: i32, what: &str) -> io::Error {
    if error.raw_os_error() == Some(errno) {
        return io::Error::new(io::ErrorKind::Unsupported, format!("{what} ({error})"));
    }
    error
}

/// Fails with `Unsupported` if the kernel is too old to wait for a child by its pidfd: before one is started.
pub(crate) fn check_pidfds() -> io::Result<()> {
    static CHECKED: AtomicBool = AtomicBool::new(false);
    if CHECKED.load(Ordering::Relaxed) {
        return Ok(());
    }
    // This process is no child of its own: that is the answer of a kernel that has the call.
    match PidFd::open(std::process::id())?.try_wait() {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Err(error),
        _ => {
            CHECKED.store(true, Ordering::Relaxed);
            Ok(())
        }
    }
}
