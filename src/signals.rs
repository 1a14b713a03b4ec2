//! Signals as readable events, and the calls that send them.
//!
//! A handler of sigaction(2) interrupts the program between any two instructions and may do next to nothing.
//! [`Signals`] is a signalfd(2) instead: the signals are blocked, wait in the kernel, and are read in normal
//! control flow, where everything is allowed.
//!
//! **A signal is a level, never a count.** While one waits unread, further ones of its kind vanish: 101 times
//! `SIGUSR1` arrive as one or two records, a hundred exits as one `SIGCHLD`. Do all that the signal stands for,
//! however much that is. Only real-time signals ([`Signal::rt`]) queue one by one, in order.
//!
//! **Install first, in `main`.** Masks belong to threads. A thread made later inherits the mask; one that was there
//! before does not block the signal, so the kernel gives it to that thread, by its default action: `SIGTERM` ends
//! the process. [`Signals::new`] warns of each such thread through `log`, and [`Signals::unblocked_threads`] names them.
//!
//! **Children inherit the mask**, those of [`std::process::Command`] too: `SIGTERM` would not end them. Use
//! [`children::spawn`](crate::children::spawn).
//!
//! **After fork(2)** the child has a copy of the descriptor that reads nothing of the parent's signals: a read there
//! looks at the child's own, and a poll set inherited from the parent still watches the parent. Make new ones.

pub(crate) mod signal;

use std::fs;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ThreadId};

pub use self::signal::Signal;
use crate::sys;

/// What every live [`Signals`] of this process watches, together.
static WATCHED: AtomicU64 = AtomicU64::new(0);

/// Ends the discarding on drop when a sender keeps the queue filled.
const DISCARD_MAX: usize = 1 << 16;

/// A set of signals, readable as events: a signalfd(2), non-blocking and CLOEXEC.
///
/// It is readable, for epoll(7) and the like, while one of its signals is pending. What was pending and blocked before
/// it was made is found too. A read sees the signals sent to the process and those sent to the reading thread
/// alone, so read on the thread that [`raise`]s.
///
/// **On drop** the signals are as they were before: those that the thread did not block until then are unblocked,
/// and those left unread among them are discarded first, or a second `SIGTERM` would end the process in the midst of
/// its orderly end. Signals that were blocked before stay blocked and pending. A mask can be restored by its own thread
/// only: dropped on another, the mask stays. Threads made in the meantime keep what they inherited.
///
/// ```
/// use ipc_reactor::signals::{self, Signal, Signals};
///
/// let signals = Signals::new([Signal::TERM, Signal::HUP])?;
/// signals::raise(Signal::HUP)?;
/// let info = signals.recv()?.expect("one is pending");
/// assert_eq!(info.signal(), Signal::HUP);
/// assert_eq!(info.pid(), std::process::id());
/// assert!(signals.recv()?.is_none());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Signals {
    // Dropped in this order: closed, then unblocked, then free for another.
    fd: OwnedFd,
    _blocked: Blocked,
    claim: Claim,
}

impl Signals {
    /// Blocks `signals` in the calling thread and makes them readable. Call it in `main`, before any thread is made.
    ///
    /// # Errors
    /// - `InvalidInput`: the set is empty, or has `SIGKILL` or `SIGSTOP` (no process can catch them) or one of
    ///   `SIGSEGV`, `SIGBUS`, `SIGFPE` and `SIGILL` (faults of the running code: to block them is undefined).
    /// - `ResourceBusy`: another live `Signals` of this process watches one of them. They would steal from each other.
    /// - What signalfd(2) says: no descriptor is left, for instance. The mask is then as before.
    pub fn new(signals: impl IntoIterator<Item = Signal>) -> io::Result<Signals> {
        let mut set = 0;
        for signal in signals {
            let why = match signal {
                Signal::KILL | Signal::STOP => "no process can catch it",
                Signal::SEGV | Signal::BUS | Signal::FPE | Signal::ILL => {
                    "it is a fault of the running code, and blocking it is undefined"
                }
                _ => {
                    set |= signal.bit();
                    continue;
                }
            };
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{signal} cannot be watched: {why}"),
            ));
        }
        if set == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no signals to watch: name at least one",
            ));
        }
        let claim = Claim::new(set)?;
        // Blocked before the descriptor is there: none takes its default action in between.
        let blocked = Blocked::new(set)?;
        let signals = Signals { fd: sys::signal::signalfd(set)?, _blocked: blocked, claim };
        signals.warn_of_unblocked_threads();
        Ok(signals)
    }

    /// The next signal, or `None` when none is pending.
    ///
    /// # Errors
    /// What read(2) says; none is expected.
    pub fn recv(&self) -> io::Result<Option<SignalInfo>> {
        let mut record = [SignalInfo(sys::signal::blank())];
        Ok((self.read(&mut record)? == 1).then_some(record[0]))
    }

    /// Fills `batch` with what is pending, in one read(2); answers how many there are.
    ///
    /// Fewer than [`SignalBatch::CAPACITY`] prove that nothing was left: the next signal makes a new edge, and the
    /// read that would say `EAGAIN` can be saved.
    ///
    /// # Errors
    /// What read(2) says; none is expected.
    pub fn read_into(&self, batch: &mut SignalBatch) -> io::Result<usize> {
        batch.filled = 0;
        batch.filled = self.read(&mut batch.records)?;
        Ok(batch.filled)
    }

    fn read(&self, records: &mut [SignalInfo]) -> io::Result<usize> {
        loop {
            match sys::signal::read(self.fd.as_fd(), records) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// The signals of the set, in the order of their numbers.
    pub fn watched(&self) -> impl Iterator<Item = Signal> + use<> {
        members(self.claim.0)
    }

    /// The threads of this process that do not block every signal of the set, as `/proc/self/task` has it now.
    /// The kernel may give the signal to one of these, by its default action, and nothing is read here.
    ///
    /// # Errors
    /// `/proc` is not there or not readable.
    pub fn unblocked_threads(&self) -> io::Result<Vec<UnblockedThread>> {
        let mut found = Vec::new();
        for task in fs::read_dir("/proc/self/task")? {
            let status = match fs::read(task?.path().join("status")) {
                Ok(status) => status,
                // It ended since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
                    continue;
                }
                Err(e) => return Err(e),
            };
            let status = String::from_utf8_lossy(&status);
            let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim);
            let (tid, blocked) = (field("Pid:").parse(), u64::from_str_radix(field("SigBlk:"), 16));
            let (Ok(tid), Ok(blocked)) = (tid, blocked) else { continue };
            if self.claim.0 & !blocked != 0 {
                let signals = members(self.claim.0 & !blocked).collect();
                found.push(UnblockedThread { tid, name: field("Name:").to_owned(), signals });
            }
        }
        Ok(found)
    }

    fn warn_of_unblocked_threads(&self) {
        match self.unblocked_threads() {
            Ok(threads) => {
                for UnblockedThread { tid, name, signals } in threads {
                    log::warn!(
                        "thread {tid} ({name}) does not block {} and takes it by its default action; \
                         make Signals in main, before any thread",
                        list(signals)
                    );
                }
            }
            Err(e) => log::warn!("cannot check which threads block the watched signals: {e}"),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A thread that takes signals which a [`Signals`] is meant to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnblockedThread {
    /// Its thread id, as in gettid(2).
    pub tid: u32,
    /// Its name; the kernel keeps 15 bytes of it.
    pub name: String,
    /// Which of the watched signals it does not block.
    pub signals: Vec<Signal>,
}

/// Room for the records of one read, to be kept and used again. It derefs to the records that were read.
///
/// ```
/// use ipc_reactor::signals::{self, Signal, SignalBatch, Signals};
///
/// let signals = Signals::new([Signal::USR1, Signal::USR2])?;
/// signals::raise(Signal::USR1)?;
/// signals::raise(Signal::USR2)?;
/// let mut batch = SignalBatch::new();
/// assert_eq!(signals.read_into(&mut batch)?, 2);
/// for info in batch.iter() {
///     println!("{} from {}", info.signal(), info.pid());
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SignalBatch {
    records: [SignalInfo; Self::CAPACITY],
    filled: usize,
}

impl SignalBatch {
    /// The most records that one read brings.
    pub const CAPACITY: usize = 16;

    /// An empty batch, 2 KiB large.
    pub fn new() -> SignalBatch {
        SignalBatch { records: [SignalInfo(sys::signal::blank()); Self::CAPACITY], filled: 0 }
    }
}

impl Default for SignalBatch {
    fn default() -> Self {
        SignalBatch::new()
    }
}

impl Deref for SignalBatch {
    type Target = [SignalInfo];

    fn deref(&self) -> &[SignalInfo] {
        &self.records[..self.filled]
    }
}

/// A signal that arrived, and what the kernel says of its sender: `signalfd_siginfo` of signalfd(2).
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct SignalInfo(libc::signalfd_siginfo);

impl SignalInfo {
    /// Which signal it is.
    pub fn signal(&self) -> Signal {
        Signal::from_kernel(self.0.ssi_signo)
    }

    /// The process that sent it, or for [`Signal::CHLD`] the child it tells of: one of perhaps many. 0 if the kernel
    /// itself is the sender, or a process that our pid namespace does not see.
    pub fn pid(&self) -> u32 {
        self.0.ssi_pid
    }

    /// The real user id of that process.
    pub fn uid(&self) -> u32 {
        self.0.ssi_uid
    }

    /// How it came about: `SI_USER` (0) by kill(2), `SI_QUEUE` (-1), `CLD_EXITED` (1), … as in sigaction(2).
    pub fn code(&self) -> i32 {
        self.0.ssi_code
    }

    /// The value that came with it, if it was sent by [`queue`], by a timer or by a message queue.
    pub fn value(&self) -> Option<i32> {
        matches!(self.code(), libc::SI_QUEUE | libc::SI_TIMER | libc::SI_MESGQ).then_some(self.0.ssi_int)
    }

    /// For a [`Signal::CHLD`] of the kernel's: what became of the child [`pid`](Self::pid). No more than a hint: other
    /// children may have ended behind this record, and this one is yet to be waited for.
    pub fn status(&self) -> Option<ExitStatus> {
        // A SIGCHLD by kill(2) has a code that is not positive.
        (self.signal() == Signal::CHLD && self.code() > 0)
            .then(|| sys::process::exit_status(self.code(), self.0.ssi_status))
    }
}

impl std::fmt::Debug for SignalInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignalInfo")
            .field("signal", &self.signal())
            .field("pid", &self.pid())
            .field("uid", &self.uid())
            .field("code", &self.code())
            .field("value", &self.value())
            .field("status", &self.status())
            .finish()
    }
}

/// Sends `signal` to the calling thread, as raise(3) does: a [`Signals`] read on another thread does not see it.
/// `kill(std::process::id(), signal)` sends it to the process.
///
/// # Errors
/// None is expected.
pub fn raise(signal: Signal) -> io::Result<()> {
    sys::signal::raise(signal.as_raw())
}

/// Sends `signal` to the process `pid`, and never to a group. See kill(2).
///
/// A pid may be another process by now; a [`PidFd`](crate::children::PidFd) cannot.
///
/// # Errors
/// `InvalidInput` for a `pid` of 0 or above `i32::MAX`; `ESRCH` if there is no such process; `PermissionDenied`.
pub fn kill(pid: u32, signal: Signal) -> io::Result<()> {
    sys::signal::kill(sys::process::pid_t(pid)?, signal.as_raw())
}

/// Sends `signal` with a value to the process `pid`. Real-time signals queue, each with its own value; another one is
/// lost with its value while one of its kind is pending. See sigqueue(3).
///
/// # Errors
/// As for [`kill`]; and `WouldBlock` when the receiver's user has `RLIMIT_SIGPENDING` signals queued already.
pub fn queue(pid: u32, signal: Signal, value: i32) -> io::Result<()> {
    sys::signal::sigqueue(sys::process::pid_t(pid)?, signal.as_raw(), value).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(
            e.kind(),
            format!("process {pid} has too many signals queued; raise RLIMIT_SIGPENDING"),
        ),
        _ => e,
    })
}

/// A share of [`WATCHED`].
#[derive(Debug)]
struct Claim(u64);

impl Claim {
    fn new(set: u64) -> io::Result<Claim> {
        let free = |watched| (watched & set == 0).then_some(watched | set);
        match WATCHED.fetch_update(Ordering::AcqRel, Ordering::Acquire, free) {
            Ok(_) => Ok(Claim(set)),
            Err(watched) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!(
                    "{} is watched by another Signals of this process; watch it once",
                    list(members(watched & set))
                ),
            )),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        WATCHED.fetch_and(!self.0, Ordering::AcqRel);
    }
}

/// The signals that we have blocked in a thread which did not block them before.
#[derive(Debug)]
struct Blocked {
    newly: u64,
    thread: ThreadId,
}

impl Blocked {
    fn new(set: u64) -> io::Result<Blocked> {
        Ok(Blocked { newly: set & !sys::signal::block(set)?, thread: thread::current().id() })
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        if self.newly == 0 || self.thread != thread::current().id() {
            return;
        }
        for _ in 0..DISCARD_MAX {
            if sys::signal::take_pending(self.newly).is_err_and(|e| e.kind() != io::ErrorKind::Interrupted) {
                break;
            }
        }
        if let Err(e) = sys::signal::unblock(self.newly) {
            log::warn!("{} stays blocked: {e}", list(members(self.newly)));
        }
    }
}

fn members(set: u64) -> impl Iterator<Item = Signal> {
    (1..=64).map(Signal::from_kernel).filter(move |signal| set & signal.bit() != 0)
}

fn list(signals: impl IntoIterator<Item = Signal>) -> String {
    signals.into_iter().map(|signal| signal.to_string()).collect::<Vec<_>>().join(", ")
}
