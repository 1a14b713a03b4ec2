//! How a sleeping subscriber is told.

use crate::sys::shm as sys;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The transport of the notification "shared memory has been updated", one per subscriber.
///
/// [`Publisher::subscribe`](super::Publisher::subscribe) rings a [`Doorbell`];
/// [`subscribe_via`](super::Publisher::subscribe_via) takes any other, such as a message queue's or
/// a socket's sender, or a closure. It is called from within `publish`, so it must not block.
pub trait Notify: Send {
    /// Tells the subscriber.
    ///
    /// # Errors
    ///
    /// `WouldBlock` says that it could not be told now: the next update tries again. Any other
    /// error ends the subscription.
    fn notify(&mut self) -> io::Result<()>;
}

impl<F: FnMut() -> io::Result<()> + Send> Notify for F {
    fn notify(&mut self) -> io::Result<()> {
        self()
    }
}

/// The publisher's end of a doorbell: an eventfd that is only ever written to.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Notify for Bell {
    fn notify(&mut self) -> io::Result<()> {
        match sys::eventfd_add_one(self.0.as_fd()) {
            // 2^64 - 2 rings: there is an event outstanding, to say the least.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            rung => rung,
        }
    }
}

/// The subscriber's end: a descriptor that becomes readable when the publisher rings.
///
/// Register it edge-triggered for reading. Each ring is a new edge, so it is never read.
///
/// It is an epoll instance around the publisher's eventfd, and not that eventfd itself, because
/// `O_NONBLOCK` belongs to the open file description: a subscriber that has the eventfd could
/// clear the flag, fill the counter, and so hold up the publisher's next write for ever. Through an
/// epoll instance it can watch and nothing else, for less than 0.1 µs a ring.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    pub(super) fn pair() -> io::Result<(Bell, Doorbell)> {
        let (bell, watch) = (sys::eventfd()?, sys::epoll_create()?);
        sys::epoll_add_edge(watch.as_fd(), bell.as_fd())?;
        Ok((Bell(bell), Doorbell(watch)))
    }

    pub(super) fn from_fd(fd: OwnedFd) -> Doorbell {
        Doorbell(fd)
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Blocks for the next ring since the last call; false when the time is up.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        // Rounded up: half a millisecond must not become a busy loop of no wait at all.
        let ms = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
        sys::epoll_wait_one(self.0.as_fd(), ms)
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
