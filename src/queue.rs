//! POSIX message queues: whole messages with priorities, kept by the kernel under a name.
//!
//! [`Queue`] is a thin, owning handle over the calls of `mq_overview(7)`. It is a file descriptor
//! (on Linux), so it can be polled beside sockets and signals; what it is *not* is tied to a process.
//!
//! ```
//! use ipc_reactor::queue::Queue;
//!
//! # fn main() -> std::io::Result<()> {
//! let name = format!("/ipc-reactor-example-{}", std::process::id());
//! let queue = Queue::options().create_new(true).capacity(4).message_size(64).open(&name)?;
//! queue.send(b"when you have time", 0)?;
//! queue.send(b"now", 9)?;
//!
//! let mut buffer = [0; 64];
//! let first = queue.recv(&mut buffer)?;
//! assert_eq!((&buffer[..first.len], first.priority), (&b"now"[..], 9));
//!
//! Queue::unlink(&name)?; // dropping `queue` would not
//! # Ok(())
//! # }
//! ```
//!
//! # What is often told wrongly
//!
//! - **A queue does not vanish at its last close.** It and its messages stay, with nobody holding it, until
//!   [`Queue::unlink`] or the end of the system (or of its IPC namespace). Whoever creates one owes the
//!   unlink.
//! - **Unlinking takes the name only.** Those who have the queue open go on using it, and their sends still
//!   succeed: to a ghost, when the receiver has gone on to a new queue of the same name.
//!   [`Queue::is_unlinked`] tells.
//! - **One receiver per queue is a convention.** Any number may receive; each message goes to exactly
//!   one of them, and a receiver told "readable" may find the queue empty.
//! - **The order is by priority**, highest first, and oldest first within one priority.
//! - **The priority argument of C's `mq_receive` is a pointer** through which the priority comes back
//!   ([`Received::priority`] here); it does not select messages.
//! - **An empty message is a message**, never an end of file: a queue has none, and does not say when its
//!   senders are gone.
//!
//! # Why `mq_notify` is not used
//!
//! The registration is one-shot, goes to one process only, and fires only when a message comes to an *empty*
//! queue: one re-armed while messages wait stays silent, so a message between the drain and the re-arm is not
//! told of. A queue's descriptor can be polled, which has none of these faults.

mod options;

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sys::mq;

pub use options::QueueOptions;

/// The epoch itself: a deadline that has always passed, so that a timed call never waits.
const PAST: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };

/// An open POSIX message queue.
///
/// Opened with [`Queue::options`] or [`Queue::open`]; closed when dropped, which neither removes the queue
/// nor its messages ([`Queue::unlink`] does). The descriptor is close-on-exec. All calls take `&self`: the
/// kernel orders concurrent senders and receivers, and a message is never split or mixed.
#[derive(Debug)]
pub struct Queue {
    fd: OwnedFd,
    message_size: usize,
}

/// A message that has been received into the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The message's length in bytes, from the start of the buffer. Zero for an empty message.
    pub len: usize,
    /// The priority it was sent with, up to [`Queue::PRIORITY_MAX`].
    pub priority: u32,
}

/// A queue's sizes and state: see [`Queue::attributes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// How many messages the queue holds at most. Fixed when the queue is created.
    pub capacity: usize,
    /// The longest message in bytes, and so the shortest buffer to receive with. Fixed when the queue is
    /// created.
    pub message_size: usize,
    /// How many messages wait now.
    pub queued: usize,
    /// Whether calls on this handle fail with [`ErrorKind::WouldBlock`] where they would wait.
    pub nonblocking: bool,
}

/// Whose a queue is, and who may use it: see [`Queue::owner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user who created the queue.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// The permission bits, `0o777` at most.
    pub mode: u32,
}

/// Why [`Queue::try_send`] did not send.
#[derive(Debug)]
pub enum TrySendError {
    /// The queue holds as many messages as it can; nothing is wrong with this one.
    Full,
    /// The message can never be sent, or not through this handle.
    Failed(io::Error),
}

impl Queue {
    /// The highest priority that a message can have: Linux's `MQ_PRIO_MAX`, less one.
    pub const PRIORITY_MAX: u32 = 32_767;

    /// Options with which to open or create a queue.
    pub fn options() -> QueueOptions {
        QueueOptions::default()
    }

    /// Opens an existing queue to send and to receive, as `Queue::options().open(name)`.
    ///
    /// # Errors
    /// Those of [`QueueOptions::open`].
    pub fn open(name: &str) -> io::Result<Queue> {
        Queue::options().open(name)
    }

    /// Removes a queue's name, and the queue itself as soon as nobody has it open: `mq_unlink(3)`.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when there is no such queue;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) when it is another user's;
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the name cannot be a queue's.
    pub fn unlink(name: &str) -> io::Result<()> {
        mq::unlink(&options::checked_name(name)?)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot unlink queue {name}: {error}")))
    }

    /// Sends one message, waiting while the queue is full: `mq_send(3)`.
    ///
    /// # Errors
    /// [`WouldBlock`](ErrorKind::WouldBlock) when the queue is full and this handle is non-blocking;
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the message is longer than
    /// [`message_size`](Self::message_size) or the priority is over [`PRIORITY_MAX`](Self::PRIORITY_MAX);
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) when the queue was not opened for writing.
    pub fn send(&self, message: &[u8], priority: u32) -> io::Result<()> {
        uninterrupted(|| mq::send(self.as_fd(), message, priority))
            .map_err(|error| self.explain_send(error, message.len(), priority))
    }

    /// Sends one message, waiting at most `timeout` while the queue is full: `mq_timedsend(3)`.
    ///
    /// The kernel measures this wait by `CLOCK_REALTIME`, so a clock that is set forward ends it early and
    /// one set back prolongs it. A non-blocking handle does not wait at all; a timeout beyond the clock's
    /// range waits for ever.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut) when the queue stayed full; otherwise as [`send`](Self::send).
    pub fn send_timeout(&self, message: &[u8], priority: u32, timeout: Duration) -> io::Result<()> {
        let Some(deadline) = deadline(timeout) else { return self.send(message, priority) };
        uninterrupted(|| mq::send_by(self.as_fd(), message, priority, &deadline))
            .map_err(|error| self.explain_send(error, message.len(), priority))
    }

    /// Sends one message if there is room now; never waits, also where the handle is a blocking one.
    ///
    /// # Errors
    /// [`TrySendError::Full`], or what [`send`](Self::send) would have failed with.
    ///
    /// ```no_run
    /// # fn main() -> std::io::Result<()> {
    /// use ipc_reactor::queue::{Queue, TrySendError};
    ///
    /// match Queue::open("/adder-jobs")?.try_send(b"job", 0) {
    ///     Err(TrySendError::Full) => eprintln!("the adder lags behind: job dropped"),
    ///     sent => sent?,
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_send(&self, message: &[u8], priority: u32) -> Result<(), TrySendError> {
        uninterrupted(|| mq::send_by(self.as_fd(), message, priority, &PAST)).map_err(|error| {
            if would_wait(&error) {
                TrySendError::Full
            } else {
                TrySendError::Failed(self.explain_send(error, message.len(), priority))
            }
        })
    }

    /// Takes the oldest message of the highest priority, waiting while the queue is empty: `mq_receive(3)`.
    ///
    /// The buffer must hold the longest message the queue allows ([`message_size`](Self::message_size)),
    /// however short the next one is. On a non-blocking handle this is one system call, and allocates nothing
    /// when the queue is empty.
    ///
    /// # Errors
    /// [`WouldBlock`](ErrorKind::WouldBlock) when the queue is empty and this handle is non-blocking;
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the buffer is too short, with no message lost;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) when the queue was not opened for reading.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        uninterrupted(|| mq::recv(self.as_fd(), buffer))
            .map(Received::from)
            .map_err(|error| self.explain_recv(error, buffer.len()))
    }

    /// Takes a message as [`recv`](Self::recv) does, waiting at most `timeout` for one: `mq_timedreceive(3)`.
    ///
    /// The clock is that of [`send_timeout`](Self::send_timeout), with the same warning.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut) when no message came; otherwise as [`recv`](Self::recv).
    pub fn recv_timeout(&self, buffer: &mut [u8], timeout: Duration) -> io::Result<Received> {
        let Some(deadline) = deadline(timeout) else { return self.recv(buffer) };
        uninterrupted(|| mq::recv_by(self.as_fd(), buffer, &deadline))
            .map(Received::from)
            .map_err(|error| self.explain_recv(error, buffer.len()))
    }

    /// Takes a message if there is one now, or `None`; never waits, also where the handle is a blocking one.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), but for `WouldBlock`.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        match uninterrupted(|| mq::recv_by(self.as_fd(), buffer, &PAST)) {
            Ok(received) => Ok(Some(received.into())),
            Err(error) if would_wait(&error) => Ok(None),
            Err(error) => Err(self.explain_recv(error, buffer.len())),
        }
    }

    /// The longest message in bytes: what a buffer for [`recv`](Self::recv) must hold. It never changes, and
    /// asking costs nothing.
    pub fn message_size(&self) -> usize {
        self.message_size
    }

    /// The queue's sizes and how many messages wait: `mq_getattr(3)`.
    ///
    /// # Errors
    /// None that a queue is known to cause.
    pub fn attributes(&self) -> io::Result<Attributes> {
        let now = mq::getattr(self.as_fd())?;
        Ok(Attributes {
            capacity: size(now.mq_maxmsg),
            message_size: self.message_size,
            queued: size(now.mq_curmsgs),
            nonblocking: now.mq_flags & libc::c_long::from(libc::O_NONBLOCK) != 0,
        })
    }

    /// Makes calls fail with [`WouldBlock`](ErrorKind::WouldBlock), or wait, where they cannot proceed:
    /// `mq_setattr(3)`.
    ///
    /// This is a property of the open file description, which duplicates of the descriptor share; others who
    /// open the queue by its name have their own.
    ///
    /// # Errors
    /// None that a queue is known to cause.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        mq::set_nonblocking(self.as_fd(), nonblocking)
    }

    /// Whose the queue is, and who may use it: `fstat(2)`.
    ///
    /// Names are first come, first served, so a queue under the right name may be another user's;
    /// [`QueueOptions::trusted_owner`] asks this before it hands the queue out.
    ///
    /// # Errors
    /// None that a queue is known to cause.
    pub fn owner(&self) -> io::Result<Owner> {
        let stat = mq::fstat(self.as_fd())?;
        Ok(Owner { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o777 })
    }

    /// Whether the queue has lost its name, so that nobody new can open it and messages sent may never be
    /// read.
    ///
    /// There is no event for this: one asks from time to time. `fstat(2)`.
    ///
    /// # Errors
    /// None that a queue is known to cause.
    pub fn is_unlinked(&self) -> io::Result<bool> {
        Ok(mq::fstat(self.as_fd())?.st_nlink == 0)
    }

    #[cold]
    fn explain_send(&self, error: io::Error, len: usize, priority: u32) -> io::Error {
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => io::Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "message of {len} bytes exceeds the queue's message size {}; \
                     split it, or create the queue with a larger one",
                    self.message_size
                ),
            ),
            Some(libc::EINVAL) if priority > Self::PRIORITY_MAX => io::Error::new(
                ErrorKind::InvalidInput,
                format!("message priority {priority} exceeds the highest, {}", Self::PRIORITY_MAX),
            ),
            Some(libc::EBADF) => io::Error::new(
                ErrorKind::PermissionDenied,
                "queue is not open for writing; open it with write(true)",
            ),
            _ => error,
        }
    }

    #[cold]
    fn explain_recv(&self, error: io::Error, len: usize) -> io::Error {
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => io::Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "buffer of {len} bytes is shorter than the queue's message size {}; \
                     receive with at least that",
                    self.message_size
                ),
            ),
            Some(libc::EBADF) => io::Error::new(
                ErrorKind::PermissionDenied,
                "queue is not open for reading; open it with read(true)",
            ),
            _ => error,
        }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Queue> for OwnedFd {
    fn from(queue: Queue) -> OwnedFd {
        queue.fd
    }
}

/// Takes over a descriptor that was inherited or passed. One that is no queue's is refused, and closed.
impl TryFrom<OwnedFd> for Queue {
    type Error = io::Error;

    fn try_from(fd: OwnedFd) -> io::Result<Queue> {
        match mq::getattr(fd.as_fd()) {
            Ok(now) => Ok(Queue { fd, message_size: size(now.mq_msgsize) }),
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => Err(io::Error::new(
                ErrorKind::InvalidInput,
                "descriptor is not a message queue's; pass one that mq_open gave",
            )),
            Err(error) => Err(error),
        }
    }
}

impl From<(usize, u32)> for Received {
    fn from((len, priority): (usize, u32)) -> Received {
        Received { len, priority }
    }
}

impl fmt::Display for TrySendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrySendError::Full => f.write_str("queue is full"),
            TrySendError::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TrySendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TrySendError::Full => None,
            TrySendError::Failed(error) => error.source(),
        }
    }
}

/// [`TrySendError::Full`] becomes [`ErrorKind::WouldBlock`].
impl From<TrySendError> for io::Error {
    fn from(error: TrySendError) -> io::Error {
        match error {
            TrySendError::Full => ErrorKind::WouldBlock.into(),
            TrySendError::Failed(error) => error,
        }
    }
}

/// A blocking handle says `ETIMEDOUT` to a deadline in the past, a non-blocking one `EAGAIN`.
fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Repeats a call that a signal has cut short. Deadlines are absolute, so a repeat does not prolong the wait.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The time of `CLOCK_REALTIME` that is `timeout` from now; `None` when it is beyond the clock's range.
fn deadline(timeout: Duration) -> Option<libc::timespec> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let end = now.checked_add(timeout)?;
    Some(libc::timespec { tv_sec: end.as_secs().try_into().ok()?, tv_nsec: end.subsec_nanos().into() })
}

/// The kernel counts in `long`, and never below zero.
fn size(n: libc::c_long) -> usize {
    n.try_into().unwrap_or(0)
}
