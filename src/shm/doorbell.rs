//! How a sleeping subscriber is notified.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use crate::sys::{epoll, time::timeout_ms};

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

/// The publisher's end of a doorbell: an eventfd, which is only written to.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Notify for Bell {
    fn notify(&mut self) -> io::Result<()> {
        match epoll::eventfd_add_one(self.0.as_fd()) {
            // The counter is at 2^64 - 2, so an event is outstanding already.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            rung => rung,
        }
    }
}

/// The subscriber's end: a descriptor that becomes readable when the publisher rings.
///
/// Register it for reading, edge-triggered. Each ring is a new edge, so it need not be read.
///
/// It is an epoll instance that contains the publisher's eventfd, and not the eventfd itself. `O_NONBLOCK` belongs to
/// the open file description, so a subscriber that has the eventfd could clear the flag and fill the counter, and the
/// publisher's next write would block for ever. With an epoll instance the subscriber can only poll. That costs less
/// than 0.1 µs for a ring.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    pub(super) fn pair() -> io::Result<(Bell, Doorbell)> {
        let (bell, doorbell) = (epoll::eventfd()?, epoll::epoll_create()?);
        epoll::epoll_add_edge(doorbell.as_fd(), bell.as_fd())?;
        Ok((Bell(bell), Doorbell(doorbell)))
    }

    pub(super) fn from_fd(fd: OwnedFd) -> Doorbell {
        Doorbell(fd)
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Blocks until the next ring since the last call. False: the time is up.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        epoll::epoll_wait_one(self.0.as_fd(), timeout_ms(timeout))
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
