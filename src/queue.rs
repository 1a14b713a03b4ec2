//! POSIX message queues: whole messages with priorities, which the kernel keeps under a name.
//!
//! [`Queue`] is a thin, owning handle over the calls of `mq_overview(7)`. On Linux it is a file descriptor, so it can
//! be polled beside sockets and signals. The queue itself belongs to no process.
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
//! # Common errors
//!
//! - **A queue is not removed at its last close.** It and its messages stay until [`Queue::unlink`] or the end of the
//!   system (or of its IPC namespace), even if no process has it open. The program that creates a queue must unlink it.
//! - **Unlinking removes the name only.** Processes that have the queue open go on using it, and their sends still
//!   succeed. If the receiver has opened a new queue of the same name, it never gets those messages.
//!   [`Queue::is_unlinked`] tells.
//! - **One receiver for a queue is a convention.** Any number may receive. Each message goes to exactly one of them,
//!   and a receiver that was told "readable" may find the queue empty.
//! - **The order is by priority**, the highest first, and the oldest first within one priority.
//! - **The priority argument of C's `mq_receive` is a pointer**, through which the call returns the priority
//!   ([`Received::priority`] here). It does not select messages.
//! - **An empty message is a message**, not an end of file. A queue has no end of file, and does not say when its
//!   senders have closed it.
//!
//! # Why `mq_notify` is not used
//!
//! A registration with `mq_notify(3)` is for one notification and for one process, and it fires only when a message
//! comes to an *empty* queue. So one that is made while messages wait does not fire, and a message that comes between
//! the last read and the registration is missed. Polling the queue's descriptor has none of these faults.

mod options;

use std::{
    fmt,
    io::{self, ErrorKind},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::sys::{file, mq};

pub use options::QueueOptions;

/// The epoch, as a deadline that has passed: a timed call then never waits.
const PAST: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };

/// An open POSIX message queue.
///
/// Open it with [`Queue::options`] or [`Queue::open`]. Drop closes it, and removes neither the queue nor its messages
/// ([`Queue::unlink`] does). The descriptor is close-on-exec. All calls take `&self`: the kernel orders concurrent
/// senders and receivers, and never splits or mixes messages.
#[derive(Debug)]
pub struct Queue {
    fd: OwnedFd,
    message_size: usize,
}

/// A message that was received into the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The message's length in bytes. It is at the start of the buffer. 0 for an empty message.
    pub len: usize,
    /// The priority that it was sent with, at most [`Queue::PRIORITY_MAX`].
    pub priority: u32,
}

/// A queue's sizes and state, from [`Queue::attributes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The most messages that the queue holds. Set when the queue is created.
    pub capacity: usize,
    /// Bytes of the longest message, and so of the shortest buffer to receive with. Set when the queue is created.
    pub message_size: usize,
    /// How many messages are in the queue now.
    pub queued: usize,
    /// Whether calls with this descriptor fail with [`ErrorKind::WouldBlock`] where they would wait.
    pub nonblocking: bool,
}

/// A queue's owner and permissions, from [`Queue::owner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user who created the queue.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// The permission bits, at most `0o777`.
    pub mode: u32,
}

/// Why [`Queue::try_send`] has not sent a message.
#[derive(Debug)]
pub enum TrySendError {
    /// The queue is full. The message can be sent later.
    Full,
    /// The message can never be sent, or not with this descriptor.
    Failed(io::Error),
}

impl Queue {
    /// The highest priority that a message can have: Linux's `MQ_PRIO_MAX` - 1.
    pub const PRIORITY_MAX: u32 = 32_767;

    /// Options to open or create a queue.
    pub fn options() -> QueueOptions {
        QueueOptions::default()
    }

    /// Opens an existing queue to send and to receive. It is short for `Queue::options().open(name)`.
    ///
    /// # Errors
    /// Those of [`QueueOptions::open`].
    pub fn open(name: &str) -> io::Result<Queue> {
        Queue::options().open(name)
    }

    /// Removes a queue's name, and the queue itself as soon as no process has it open: `mq_unlink(3)`.
    ///
    /// # Errors
    /// - [`NotFound`](ErrorKind::NotFound): there is no such queue.
    /// - [`PermissionDenied`](ErrorKind::PermissionDenied): it belongs to another user.
    /// - [`InvalidInput`](ErrorKind::InvalidInput): no queue can have such a name.
    pub fn unlink(name: &str) -> io::Result<()> {
        mq::unlink(&options::checked_name(name)?)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot unlink queue {name}: {error}")))
    }

    /// Sends one message, and waits while the queue is full: `mq_send(3)`.
    ///
    /// # Errors
    /// - [`WouldBlock`](ErrorKind::WouldBlock): the queue is full, and this descriptor is non-blocking.
    /// - [`InvalidInput`](ErrorKind::InvalidInput): the message is longer than [`message_size`](Self::message_size), or
    ///   the priority is above [`PRIORITY_MAX`](Self::PRIORITY_MAX).
    /// - [`PermissionDenied`](ErrorKind::PermissionDenied): the queue was not opened for writing.
    pub fn send(&self, message: &[u8], priority: u32) -> io::Result<()> {
        uninterrupted(|| mq::send(self.as_fd(), message, priority))
            .map_err(|error| self.explain_send(error, message.len(), priority))
    }

    /// Sends one message, and waits for at most `timeout` while the queue is full: `mq_timedsend(3)`.
    ///
    /// The kernel measures the wait with `CLOCK_REALTIME`: a clock that is set forward shortens it, and one that is set
    /// back lengthens it. With a non-blocking descriptor the call does not wait. A timeout beyond the clock's range has
    /// no end.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut): the queue stayed full. Otherwise those of [`send`](Self::send).
    pub fn send_timeout(&self, message: &[u8], priority: u32, timeout: Duration) -> io::Result<()> {
        let Some(deadline) = deadline(timeout) else { return self.send(message, priority) };
        uninterrupted(|| mq::send_by(self.as_fd(), message, priority, &deadline))
            .map_err(|error| self.explain_send(error, message.len(), priority))
    }

    /// Sends one message if there is room. It never waits, also with a blocking descriptor.
    ///
    /// # Errors
    /// [`TrySendError::Full`], or the error of [`send`](Self::send).
    ///
    /// ```no_run
    /// # fn main() -> std::io::Result<()> {
    /// use ipc_reactor::queue::{Queue, TrySendError};
    ///
    /// match Queue::open("/adder-jobs")?.try_send(b"job", 0) {
    ///     Err(TrySendError::Full) => eprintln!("the queue is full: job dropped"),
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

    /// Receives the oldest message of the highest priority, and waits while the queue is empty: `mq_receive(3)`.
    ///
    /// The buffer must have room for the longest message of the queue ([`message_size`](Self::message_size)), even if
    /// the next one is shorter. It makes one system call, and allocates nothing when the queue is empty.
    ///
    /// # Errors
    /// - [`WouldBlock`](ErrorKind::WouldBlock): the queue is empty, and this descriptor is non-blocking.
    /// - [`InvalidInput`](ErrorKind::InvalidInput): the buffer is too short. No message is lost.
    /// - [`PermissionDenied`](ErrorKind::PermissionDenied): the queue was not opened for reading.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        uninterrupted(|| mq::recv(self.as_fd(), buffer))
            .map(Received::from)
            .map_err(|error| self.explain_recv(error, buffer.len()))
    }

    /// Receives a message as [`recv`](Self::recv) does, and waits for at most `timeout`: `mq_timedreceive(3)`.
    ///
    /// The clock is that of [`send_timeout`](Self::send_timeout), with the same effects of setting it.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut): no message came. Otherwise those of [`recv`](Self::recv).
    pub fn recv_timeout(&self, buffer: &mut [u8], timeout: Duration) -> io::Result<Received> {
        let Some(deadline) = deadline(timeout) else { return self.recv(buffer) };
        uninterrupted(|| mq::recv_by(self.as_fd(), buffer, &deadline))
            .map(Received::from)
            .map_err(|error| self.explain_recv(error, buffer.len()))
    }

    /// Receives a message, or returns `None` if the queue is empty. It never waits, also with a blocking descriptor.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv) except `WouldBlock`.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        match uninterrupted(|| mq::recv_by(self.as_fd(), buffer, &PAST)) {
            Ok(received) => Ok(Some(received.into())),
            Err(error) if would_wait(&error) => Ok(None),
            Err(error) => Err(self.explain_recv(error, buffer.len())),
        }
    }

    /// Bytes of the longest message, and so of the shortest buffer for [`recv`](Self::recv). It never changes, and this
    /// makes no system call.
    pub fn message_size(&self) -> usize {
        self.message_size
    }

    /// The queue's sizes, and how many messages are in it: `mq_getattr(3)`.
    ///
    /// # Errors
    /// None is expected.
    pub fn attributes(&self) -> io::Result<Attributes> {
        let now = mq::getattr(self.as_fd())?;
        Ok(Attributes {
            capacity: size(now.mq_maxmsg),
            message_size: self.message_size,
            queued: size(now.mq_curmsgs),
            nonblocking: now.mq_flags & libc::c_long::from(libc::O_NONBLOCK) != 0,
        })
    }

    /// Makes calls fail with [`WouldBlock`](ErrorKind::WouldBlock), or wait, while the queue is full or empty:
    /// `mq_setattr(3)`.
    ///
    /// This is a property of the open file description, which duplicates of the descriptor share. Each opening of the
    /// queue by its name makes another one.
    ///
    /// # Errors
    /// None is expected.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        mq::set_nonblocking(self.as_fd(), nonblocking)
    }

    /// The queue's owner and permissions: `fstat(2)`.
    ///
    /// Any user can create a queue under a free name, so a queue of the right name may belong to another user.
    /// [`QueueOptions::trusted_owner`] checks the owner when it opens a queue.
    ///
    /// # Errors
    /// None is expected.
    pub fn owner(&self) -> io::Result<Owner> {
        let stat = file::fstat(self.as_fd())?;
        Ok(Owner { uid: stat.uid, gid: stat.gid, mode: stat.mode & 0o777 })
    }

    /// Whether the queue's name was removed: no other process can open it, and messages sent to it may never be
    /// received.
    ///
    /// There is no event for this. Call it from time to time. It makes one `fstat(2)`.
    ///
    /// # Errors
    /// None is expected.
    pub fn is_unlinked(&self) -> io::Result<bool> {
        Ok(file::fstat(self.as_fd())?.is_unlinked)
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

/// Adopts a descriptor that was inherited or received. Fails with `InvalidInput` if it is not of a queue, and closes it
/// then.
impl TryFrom<OwnedFd> for Queue {
    type Error = io::Error;

    fn try_from(fd: OwnedFd) -> io::Result<Queue> {
        match mq::getattr(fd.as_fd()) {
            Ok(now) => Ok(Queue { fd, message_size: size(now.mq_msgsize) }),
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => Err(io::Error::new(
                ErrorKind::InvalidInput,
                "the descriptor is not a message queue's; pass one from mq_open(3)",
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

/// For a deadline in the past: a blocking descriptor fails with `ETIMEDOUT`, a non-blocking one with `EAGAIN`.
fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Repeats a call that a signal interrupts. Deadlines are absolute, so this does not lengthen the wait.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The time of `CLOCK_REALTIME` that is `timeout` from now. `None`: it is beyond the clock's range.
fn deadline(timeout: Duration) -> Option<libc::timespec> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let end = now.checked_add(timeout)?;
    Some(libc::timespec { tv_sec: end.as_secs().try_into().ok()?, tv_nsec: end.subsec_nanos().into() })
}

/// A size or a count from the kernel's type. None is negative.
fn size(n: libc::c_long) -> usize {
    n.try_into().unwrap_or(0)
}
