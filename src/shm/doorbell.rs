//! How a sleeping subscriber is notified.

use std::{
    collections::VecDeque,
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use super::{
    foreign::{Foreign, discard},
    protocol::SLEEPS_UNREAD,
};
use crate::sys::{file, fork, scm, socket};

/// How one subscriber gets the notification "shared memory has been updated".
///
/// [`Publisher::subscribe`](super::Publisher::subscribe) uses a [`Doorbell`].
/// [`subscribe_via`](super::Publisher::subscribe_via) takes any other implementation: for a message queue
/// ([`QueueNotifier`](super::QueueNotifier)), for a socket ([`SocketNotifier`](super::SocketNotifier)), or a closure.
/// `publish` calls it, so it must not block.
pub trait Notify: Send {
    /// Notifies the subscriber.
    ///
    /// # Errors
    ///
    /// `WouldBlock`: it cannot be notified now, and the next update tries again. Any other error ends the subscription.
    fn notify(&mut self) -> io::Result<()>;
}

impl<F: FnMut() -> io::Result<()> + Send> Notify for F {
    fn notify(&mut self) -> io::Result<()> {
        self()
    }
}

/// Bytes of memory that unread rings may take: as few as the kernel allows, which is about five rings.
const RINGS_MAX_BYTES: u32 = 1;
/// Messages that are received before a doorbell is closed in another thread.
const DRAINED_AT_ONCE: usize = 64;

/// The publisher's end of a doorbell.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    /// Rings, in one call that neither blocks nor waits for the subscriber. `asked` is what the subscriber has written
    /// into its page.
    pub(super) fn ring(&self, asked: u64) -> io::Result<()> {
        if asked != SLEEPS_UNREAD {
            match socket::send(self.0.as_fd(), &[1]) {
                // There are rings that it has not read. It only has to be woken, as one that never reads.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM)) => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                sent => return sent.map(drop),
            }
        }
        // This end receives nothing since it was made, so this shuts nothing down. But the other end is told that the
        // state may have changed, and epoll finds the unread byte there: a new edge, and nothing more to read.
        socket::shutdown(self.0.as_fd(), Shutdown::Read)
    }
}

/// The subscriber's end: a socket that becomes readable when the publisher rings, and hangs up when the publisher is
/// gone or has ended the subscription.
///
/// Register it for reading, edge-triggered, and do not read it: each ring is a new edge, and
/// [`Subscriber::arm`](super::Subscriber::arm) relies on the bytes that are in it. What was rung before a hang-up comes
/// before it.
///
/// # Trust
///
/// With this descriptor a subscriber can neither hold up nor outlive its publisher. It cannot send anything, neither
/// bytes nor descriptors; it cannot change how the other end behaves, nor add watches that are charged to the
/// publisher's user, as it could with an epoll instance; and it can hold no lock that a ring takes, as it could with a
/// pipe. It can leave rings unread, which takes a few bytes of memory. It can register the descriptor in many epoll
/// instances of its own: each ring then costs the publisher the time to wake all of them, at most once for each value,
/// and only while the subscriber says that it sleeps.
#[derive(Debug)]
pub struct Doorbell {
    descriptor: Option<OwnedFd>,
    /// A forked child shares the socket with its parent.
    made_in: u32,
}

/// What is in a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing.
    Silence,
    /// Rings, which have been read now.
    Rings,
    /// The publisher has ended the subscription, or is gone.
    HangUp,
}

impl Doorbell {
    /// The publisher's end, and the one for the subscriber.
    pub(super) fn pair() -> io::Result<(Bell, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        // From now on what the other end sends fails: no descriptor can ever wait here to be closed.
        ours.shutdown(Shutdown::Read)?;
        socket::set_send_buffer(ours.as_fd(), RINGS_MAX_BYTES)?;
        Ok((Bell(ours.into()), theirs.into()))
    }

    /// `InvalidData` if it is no stream socket of this machine.
    pub(super) fn open(descriptor: Foreign) -> io::Result<Doorbell> {
        let has = |option, value| {
            socket::option(descriptor.as_fd(), libc::SOL_SOCKET, option).map(|found| found == value)
        };
        let proof = || -> io::Result<bool> {
            Ok(has(libc::SO_DOMAIN, libc::AF_UNIX)?
                && has(libc::SO_TYPE, libc::SOCK_STREAM)?
                && has(libc::SO_ACCEPTCONN, 0)?)
        };
        let why = match proof() {
            Ok(true) => {
                let descriptor = Some(descriptor.into_inner());
                return Ok(Doorbell { descriptor, made_in: fork::generation() });
            }
            Ok(false) => "it is a socket of another kind".to_owned(),
            Err(e) => format!("it is no socket ({e})"),
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("the doorbell refused: {why}")))
    }

    /// Blocks until there is something in it. False: the time is up.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        file::wait_readable(self.as_fd(), timeout)
    }

    /// Takes out what is in it, if anything. It does not block, whatever flags the descriptor has.
    pub(super) fn read(&self) -> io::Result<Heard> {
        let mut descriptors = VecDeque::new();
        let read = scm::recv(self.as_fd(), &mut [0; 256], &mut descriptors);
        // Closing them here could block.
        descriptors.into_iter().for_each(discard);
        match read {
            Ok(record) if record.end => Ok(Heard::HangUp),
            Ok(_) => Ok(Heard::Rings),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(Heard::Silence)
            }
            // No connection, or one that was reset: there will be no ring.
            Err(_) => Ok(Heard::HangUp),
        }
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_ref().expect("it is taken by the drop only").as_fd()
    }
}

/// The close of a socket closes the descriptors in the messages that are unread in it, which may block. So nothing more
/// is let in, and what is there is received.
impl Drop for Doorbell {
    fn drop(&mut self) {
        let is_ours = self.made_in == fork::generation();
        let is_shut = is_ours && socket::shutdown(self.as_fd(), Shutdown::Read).is_ok();
        let is_empty = is_shut && (0..DRAINED_AT_ONCE).any(|_| matches!(self.read(), Ok(Heard::HangUp)));
        if !is_empty && let Some(descriptor) = self.descriptor.take() {
            discard(descriptor);
        }
    }
}
