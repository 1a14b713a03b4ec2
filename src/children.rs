//! Child processes: started with clean signals, and waited for without waiting.
//!
//! Two ways to hear of an exit (in a reactor they are [`PollSet::spawn`](crate::PollSet::spawn), with SIGCHLD, and
//! [`PollSet::run_child`](crate::PollSet::run_child), with a pidfd and the child's pipes; a table there tells which is for what):
//!
//! - [`Reaper`] with `SIGCHLD` from a [`Signals`](crate::Signals): no descriptor per child. A sweep costs one waitpid(2)
//!   for each child that is watched, so it suits tens or hundreds.
//! - [`PidFd`]: one descriptor per child, readable when it has ended. It cannot mean another process than the one it
//!   was opened for.

pub(crate) mod process;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};

use crate::signals::Signal;
use crate::sys::process as sys;

/// [`Command::spawn`], but the child starts with no signal blocked and `SIGPIPE` at its default.
///
/// A child of [`Command::spawn`] inherits the calling thread's mask. After
/// [`Signals::new`](crate::Signals::new) that mask has `SIGTERM`, which then waits in the child for ever.
///
/// This is a closure of [`pre_exec`](std::os::unix::process::CommandExt::pre_exec), which runs after those that the
/// command has already. It stays with the command; spawned again it runs twice, to the same end. Signals that this
/// process *ignores* the child ignores too, as ever.
///
/// # Errors
/// As [`Command::spawn`].
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

/// A watched child that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its process id, which the kernel may have given to another by now.
    pub pid: u32,
    /// How it ended. `None`: it cannot be waited for, because someone else has done so, because `SIGCHLD` is ignored in
    /// this process (children then leave no status), or because it never was a child of ours.
    pub status: Option<ExitStatus>,
}

/// The children that are ours to wait for, by `SIGCHLD`.
///
/// [`reap`](Self::reap) asks for each watched child by its id and never for "any child": a child that somebody else in
/// this process waits for is left alone. It asks for *all* of them each time, for `SIGCHLD` is a level: many exits
/// make one signal.
///
/// Watch `SIGCHLD` first, then spawn, and reap once before the first wait: that finds a child which ended before the
/// signal was watched. To drop a `Reaper` neither ends nor waits for its children.
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
///     while signals.recv()?.is_some() {} // a reactor waits here until `signals` is readable
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
    // Kept whole: a Child that was waited for already knows its status, where its pid may be another's.
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
    /// Watches nobody yet.
    pub fn new() -> Reaper {
        Reaper::default()
    }

    /// Watches `child`; answers its pid. Take its pipes out first: those that are left are closed here.
    pub fn watch(&mut self, mut child: Child) -> u32 {
        // Nobody can reach the pipes any more: a child that reads to the end must see it.
        drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
        let pid = child.id();
        self.watched.push(Watched::Child(child));
        pid
    }

    /// Watches a child known by its pid only, as from fork(2). From now on nobody else may wait for it.
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

    /// Calls `on_exit` once for each watched child that is gone, in the order in which they were watched, and watches
    /// it no longer; answers how many there were. Never blocks and never allocates.
    pub fn reap(&mut self, mut on_exit: impl FnMut(Exit)) -> usize {
        let before = self.watched.len();
        self.watched.retain_mut(|watched| {
            let status = match watched.try_wait() {
                Ok(None) => return true,
                Ok(status) => status,
                // ECHILD: nothing will ever be heard of it, and the others still have their turn.
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

/// A process, held by a descriptor: it never means another process, where a pid is given out again. CLOEXEC.
///
/// It is readable, for epoll(7) and the like, once the process has ended. See pidfd_open(2).
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
    /// `InvalidInput` for a `pid` of 0 or above `i32::MAX`; `ESRCH` if there is no such process; `ENOSYS` before
    /// Linux 5.3.
    pub fn open(pid: u32) -> io::Result<PidFd> {
        sys::pidfd_open(sys::pid_t(pid)?).map(PidFd)
    }

    /// Opens `child`. It must not have been waited for yet; until then, its pid is its own.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_child(child: &Child) -> io::Result<PidFd> {
        PidFd::open(child.id())
    }

    /// Sends `signal` to the process. See pidfd_send_signal(2).
    ///
    /// # Errors
    /// `ESRCH` once it has ended and was waited for; `PermissionDenied`.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        sys::pidfd_send_signal(self.0.as_fd(), signal.as_raw())
    }

    /// If the process has ended: its status, which this collects. `None` while it runs.
    ///
    /// # Errors
    /// `ECHILD` if it is no child of ours or was waited for already, here or by its [`Child`]; `EINVAL` before Linux 5.4.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        sys::pidfd_try_wait(self.0.as_fd())
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
