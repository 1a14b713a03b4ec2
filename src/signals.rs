//! Signals as readable events, and the calls that send them.
//!
//! A handler of `sigaction(2)` interrupts the program between any two instructions, and may call only a few functions.
//! [`Signals`] is a `signalfd(2)` instead: the signals are blocked, wait in the kernel, and are read in normal control
//! flow, where everything is allowed.
//!
//! **A signal is a state, not a count.** While one is pending, further ones of the same number are dropped: 101 times
//! `SIGUSR1` are read as one or two records, a hundred exits as one `SIGCHLD`. At each signal, do everything that it
//! may stand for. Only real-time signals ([`Signal::rt`]) queue one by one, in order.
//!
//! **Make it first, in `main`.** Each thread has its own mask. A thread made later inherits the mask. One that exists
//! already does not block the signal, so the kernel may deliver it there, with its default action: `SIGTERM` ends the
//! process. [`Signals::new`] logs a warning for each such thread, and [`Signals::unblocked_threads`] lists them.
//!
//! **Children inherit the mask**, also those of [`std::process::Command`]: `SIGTERM` would not end them. Use
//! [`children::spawn`](crate::children::spawn).
//!
//! **After `fork(2)`** the child's copy of the descriptor does not read the parent's signals: a read there returns the
//! child's own. A poll set that was inherited from the parent still reports the parent's. Make new ones.

pub(crate) mod signal;

use std::{
    fmt, fs, io,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::ExitStatus,
    sync::atomic::{AtomicU64, Ordering},
    thread::{self, ThreadId},
};

pub use self::signal::Signal;
use crate::sys;

/// The signals of all [`Signals`] values of this process.
static WATCHED: AtomicU64 = AtomicU64::new(0);

/// The most pending signals that drop discards, so that it ends even if a sender goes on.
const DISCARD_MAX: usize = 1 << 16;

/// A set of signals that are read as events: a `signalfd(2)`, non-blocking and close-on-exec.
///
/// It is readable, for example for `epoll(7)`, while one of its signals is pending, also one that was pending and
/// blocked before this was made. A read returns the signals of the process and those of the reading thread, so read on
/// the thread that calls [`raise`].
///
/// **Drop** restores the mask: it unblocks the signals that the thread did not block before. It discards those of them
/// that are still pending first, because a second `SIGTERM` would otherwise end the process in the middle of an orderly
/// end. Signals that were blocked before stay blocked and pending. Only the thread that made the value can restore its
/// mask: dropped on another thread, the mask stays. Threads made in between keep the mask that they inherited.
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
    // Dropped in this order: the descriptor is closed, the signals are unblocked, another Signals can watch them.
    fd: OwnedFd,
    _blocked: Blocked,
    claim: Claim,
}

impl Signals {
    /// Blocks `signals` in the calling thread, and makes them readable. Call it in `main`, before any thread is made.
    ///
    /// # Errors
    /// - `InvalidInput`: the set is empty, or contains `SIGKILL` or `SIGSTOP` (no process can catch them) or one of
    ///   `SIGSEGV`, `SIGBUS`, `SIGFPE` and `SIGILL` (faults of the running code: blocking them is undefined).
    /// - `ResourceBusy`: another `Signals` of this process watches one of them. Each signal would be read by only one
    ///   of the two.
    /// - Those of `signalfd(2)`, for example that no descriptor is free. The mask is then unchanged.
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
                "no signals to watch; pass at least one",
            ));
        }
        let claim = Claim::new(set)?;
        // Blocked before the descriptor exists, so that no signal takes its default action in between.
        let blocked = Blocked::new(set)?;
        let signals = Signals { fd: sys::signal::signalfd(set)?, _blocked: blocked, claim };
        signals.warn_of_unblocked_threads();
        Ok(signals)
    }

    /// The next pending signal, or `None` if none is pending.
    ///
    /// # Errors
    /// Those of `read(2)`; none is expected.
    pub fn recv(&self) -> io::Result<Option<SignalInfo>> {
        let mut record = [sys::signal::zeroed_record()];
        Ok((self.read(&mut record)? == 1).then(|| SignalInfo::from(&record[0])))
    }

    /// Fills `batch` with the pending signals, in one `read(2)`. Returns how many there are.
    ///
    /// If they are fewer than [`SignalBatch::CAPACITY`], none is left: the next signal makes a new edge, and the read
    /// that would return `WouldBlock` can be saved.
    ///
    /// # Errors
    /// Those of `read(2)`; none is expected.
    pub fn read_into(&self, batch: &mut SignalBatch) -> io::Result<usize> {
        batch.filled = 0;
        let mut records = [sys::signal::zeroed_record(); SignalBatch::CAPACITY];
        let filled = self.read(&mut records)?;
        for (info, record) in batch.records.iter_mut().zip(&records[..filled]) {
            *info = SignalInfo::from(record);
        }
        batch.filled = filled;
        Ok(filled)
    }

    fn read(&self, records: &mut [libc::signalfd_siginfo]) -> io::Result<usize> {
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

    /// The threads of this process that do not block every signal of the set, from `/proc/self/task`. The kernel may
    /// deliver a signal to one of these, with its default action, and this value does not read it.
    ///
    /// # Errors
    /// `/proc` is not mounted or not readable.
    pub fn unblocked_threads(&self) -> io::Result<Vec<UnblockedThread>> {
        let mut found = Vec::new();
        for task in fs::read_dir("/proc/self/task")? {
            let status = match fs::read(task?.path().join("status")) {
                Ok(status) => status,
                // The thread has ended since the directory was read.
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
                        target: "ipc_reactor",
                        "thread {tid} ({name}) does not block {}, which takes its default action there; \
                         make Signals in main, before any thread",
                        list(signals)
                    );
                }
            }
            Err(e) => {
                log::warn!(target: "ipc_reactor", "cannot check which threads block the watched signals: {e}");
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A thread that does not block all signals of a [`Signals`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnblockedThread {
    /// Its thread id, as from `gettid(2)`.
    pub tid: u32,
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: String,
    /// Which of the watched signals it does not block.
    pub signals: Vec<Signal>,
}

/// A buffer for the records of one read, to be used again. It derefs to the records that were read.
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
    /// The most records that one read returns.
    pub const CAPACITY: usize = 16;

    /// An empty batch.
    pub fn new() -> SignalBatch {
        SignalBatch { records: [SignalInfo::from(&sys::signal::zeroed_record()); Self::CAPACITY], filled: 0 }
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

/// A signal that was received, and its sender: from `signalfd_siginfo` of `signalfd(2)`.
#[derive(Clone, Copy)]
pub struct SignalInfo {
    signal: Signal,
    pid: u32,
    uid: u32,
    code: i32,
    value: i32,
    status: i32,
}

impl From<&libc::signalfd_siginfo> for SignalInfo {
    fn from(record: &libc::signalfd_siginfo) -> SignalInfo {
        SignalInfo {
            signal: Signal::from_kernel(record.ssi_signo),
            pid: record.ssi_pid,
            uid: record.ssi_uid,
            code: record.ssi_code,
            value: record.ssi_int,
            status: record.ssi_status,
        }
    }
}

impl SignalInfo {
    /// The signal.
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// The process that sent it. For [`Signal::CHLD`] the child, of which there may be more than one. 0: the kernel
    /// sent it, or a process that is not visible in this pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The real user id of that process.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Why it was sent: `SI_USER` (0) from `kill(2)`, `SI_QUEUE` (-1), `CLD_EXITED` (1), … as in `sigaction(2)`.
    pub fn code(&self) -> i32 {
        self.code
    }

    /// The value that was sent with it, if it is from [`queue`], from a timer or from a message queue.
    pub fn value(&self) -> Option<i32> {
        matches!(self.code, libc::SI_QUEUE | libc::SI_TIMER | libc::SI_MESGQ).then_some(self.value)
    }

    /// For a [`Signal::CHLD`] from the kernel: how the child [`pid`](Self::pid) has ended or changed. It is only a
    /// hint: other children may have ended without a record of their own, and this one must still be waited for.
    pub fn status(&self) -> Option<ExitStatus> {
        // A SIGCHLD from kill(2) has a code that is not positive.
        (self.signal == Signal::CHLD && self.code > 0)
            .then(|| sys::process::exit_status(self.code, self.status))
    }
}

impl fmt::Debug for SignalInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

/// Sends `signal` to the calling thread: `raise(3)`. A [`Signals`] that another thread reads does not return it.
/// `kill(std::process::id(), signal)` sends it to the process.
///
/// # Errors
/// None is expected.
pub fn raise(signal: Signal) -> io::Result<()> {
    sys::signal::raise(signal.as_raw())
}

/// Sends `signal` to the process `pid`, and never to a group: `kill(2)`.
///
/// Another process may have the pid by now. A [`PidFd`](crate::children::PidFd) always refers to the same process.
///
/// # Errors
/// `InvalidInput`: the `pid` is 0 or above `i32::MAX`. `ESRCH`: there is no such process. `PermissionDenied`: it
/// belongs to another user.
pub fn kill(pid: u32, signal: Signal) -> io::Result<()> {
    sys::signal::kill(sys::process::pid_t(pid)?, signal.as_raw())
}

/// Sends `signal` with a value to the process `pid`: `sigqueue(3)`. Real-time signals queue, each with its own value.
/// Any other signal is dropped, with its value, while one of the same number is pending.
///
/// # Errors
/// Those of [`kill`]. `WouldBlock`: the receiver's user has `RLIMIT_SIGPENDING` queued signals already.
pub fn queue(pid: u32, signal: Signal, value: i32) -> io::Result<()> {
    sys::signal::sigqueue(sys::process::pid_t(pid)?, signal.as_raw(), value).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(
            e.kind(),
            format!("process {pid} has too many signals queued; raise RLIMIT_SIGPENDING"),
        ),
        _ => e,
    })
}

/// The signals that one [`Signals`] has added to [`WATCHED`].
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
                    "{} is watched by another Signals of this process; watch it in one",
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

/// The signals that were blocked for a [`Signals`], in a thread that did not block them before.
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
            log::warn!(target: "ipc_reactor", "cannot unblock {}: {e}", list(members(self.newly)));
        }
    }
}

/// The signals of a mask.
fn members(set: u64) -> impl Iterator<Item = Signal> {
    (1..=64).map(Signal::from_kernel).filter(move |signal| set & signal.bit() != 0)
}

fn list(signals: impl IntoIterator<Item = Signal>) -> String {
    signals.into_iter().map(|signal| signal.to_string()).collect::<Vec<_>>().join(", ")
}
