//! What the slab holds: a closed enum of sources, and the edges that the kernel has reported for each.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use mio::event::Event;

use crate::{
    poll::heap::NOWHERE,
    set::{client::Client, remote::Inbox},
    sources::{
        accept::Master, datagram::DatagramSource, fd::Open, queue::QueueSource, shm::ShmSource,
        signals::SignalSource,
    },
    types::cause::Cause,
};

/// Everything that can be in the poll set. `Reactor::visit` holds the one `match` over it.
pub(crate) enum Source<S> {
    /// Taken out of its slot, because its handler runs.
    Running,
    /// A master socket: its events are CIRs.
    Master(Box<Master<S>>),
    /// A client handle: its events are SRMs.
    Client(Client<S>),
    /// A datagram socket.
    Datagram(Box<DatagramSource<S>>),
    /// A POSIX message queue.
    Queue(Box<QueueSource<S>>),
    /// A signalfd.
    Signals(Box<SignalSource<S>>),
    /// A subscription to shared memory.
    Shm(Box<ShmSource<S>>),
    /// The timerfd behind all timers.
    Timers,
    /// The eventfd behind all `Remote`s.
    Remote(Inbox<S>),
    /// Any other descriptor.
    Open(Box<Open<S>>),
}

impl<S> Source<S> {
    /// The descriptor in the poll set; none while its handler runs, for a subscription without a doorbell, and for the
    /// reactor's own, which the timers and mio keep.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Source::Running | Source::Remote(_) | Source::Timers => None,
            Source::Master(master) => Some(master.listener.as_fd()),
            Source::Client(client) => Some(client.socket.as_fd()),
            Source::Datagram(datagram) => Some(datagram.socket.as_fd()),
            Source::Queue(queue) => Some(queue.queue.as_fd()),
            Source::Signals(signals) => Some(signals.signals.as_fd()),
            Source::Shm(shm) => shm.subscriber.doorbell().map(AsFd::as_fd),
            Source::Open(open) => Some(open.source.as_fd()),
        }
    }

    pub(crate) fn raw_fd(&self) -> Option<RawFd> {
        self.fd().map(|fd| fd.as_raw_fd())
    }
}

pub(crate) struct Slot<S> {
    pub(crate) source: Source<S>,
    pub(crate) serial: u32,
    /// Where its deadline is in the heap; kept here, not in the client, so that the heap can move entries while
    /// the client is taken out.
    pub(crate) deadline: u32,
    /// The kernel's edges, until they are used up.
    pub(crate) ready: Ready,
    /// It is in the ready list.
    pub(crate) queued: bool,
}

impl<S> Slot<S> {
    pub(crate) fn new(source: Source<S>, serial: u32) -> Slot<S> {
        Slot { source, serial, deadline: NOWHERE, ready: Ready::NONE, queued: false }
    }
}

/// What a source is ready for, as the kernel last said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready(u8);

impl Ready {
    pub(crate) const NONE: Ready = Ready(0);
    pub(crate) const READABLE: Ready = Ready(1);
    pub(crate) const WRITABLE: Ready = Ready(2);
    pub(crate) const PRIORITY: Ready = Ready(4);
    pub(crate) const READ_CLOSED: Ready = Ready(8);
    pub(crate) const WRITE_CLOSED: Ready = Ready(16);
    pub(crate) const ERROR: Ready = Ready(32);

    /// Whether the event says that there is something to read, and nothing else. Nearly all do. (That nobody reads any more
    /// comes as a hang-up, or with one of these.)
    #[inline]
    pub(crate) fn is_just_readable(event: &Event) -> bool {
        event.is_readable()
            && !(event.is_read_closed() || event.is_writable() | event.is_priority() | event.is_error())
    }

    pub(crate) fn of(event: &Event) -> Ready {
        let mut ready = Ready::NONE;
        if event.is_readable() {
            ready |= Ready::READABLE;
        }
        if event.is_writable() {
            ready |= Ready::WRITABLE;
        }
        if event.is_priority() {
            ready |= Ready::PRIORITY;
        }
        if event.is_read_closed() {
            ready |= Ready::READ_CLOSED;
        }
        if event.is_write_closed() {
            ready |= Ready::WRITE_CLOSED;
        }
        if event.is_error() {
            ready |= Ready::ERROR;
        }
        ready
    }

    #[inline]
    pub(crate) fn has(self, any: Ready) -> bool {
        self.0 & any.0 != 0
    }

    #[inline]
    pub(crate) fn without(self, gone: Ready) -> Ready {
        Ready(self.0 & !gone.0)
    }

    /// There is something to read, or an end of file (`EPOLLIN`).
    pub fn is_readable(self) -> bool {
        self.has(Ready::READABLE)
    }

    /// There is room to write (`EPOLLOUT`).
    pub fn is_writable(self) -> bool {
        self.has(Ready::WRITABLE)
    }

    /// There is urgent data, or an exceptional condition (`EPOLLPRI`).
    pub fn is_priority(self) -> bool {
        self.has(Ready::PRIORITY)
    }

    /// The other end has closed, or shut down its writing side (`EPOLLRDHUP`, `EPOLLHUP`).
    pub fn is_read_closed(self) -> bool {
        self.has(Ready::READ_CLOSED)
    }

    /// Nobody reads what we would write (`EPOLLHUP`, or `EPOLLERR` on a pipe).
    pub fn is_write_closed(self) -> bool {
        self.has(Ready::WRITE_CLOSED)
    }

    /// An error waits to be fetched (`EPOLLERR`).
    pub fn is_error(self) -> bool {
        self.has(Ready::ERROR)
    }
}

/// In epoll's words: `readable, rdhup`. Nothing, if it is ready for nothing.
impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.is_readable(), "readable"),
            (self.is_writable(), "writable"),
            (self.is_priority(), "urgent"),
            (self.is_read_closed() && !self.is_write_closed(), "rdhup"),
            (self.is_write_closed(), "hup"),
            (self.is_error(), "error"),
        ];
        let mut between = "";
        for (_, word) in words.iter().filter(|(is_set, _)| *is_set) {
            write!(f, "{between}{word}")?;
            between = ", ";
        }
        Ok(())
    }
}

impl BitOr for Ready {
    type Output = Ready;

    fn bitor(self, other: Ready) -> Ready {
        Ready(self.0 | other.0)
    }
}

impl BitOrAssign for Ready {
    #[inline]
    fn bitor_assign(&mut self, other: Ready) {
        self.0 |= other.0;
    }
}

/// How a visit to a source ended.
pub(crate) enum Visited {
    /// All that was ready is used up: nothing to do until the kernel's next edge.
    Drained,
    /// Its budget is spent. These edges stand, and it is visited again in the next round.
    Again(Ready),
    /// These edges stand, but something else must happen first: room, a deadline, a resumption.
    Parked(Ready),
    /// It is finished.
    Closed(Box<Cause>),
}

impl Visited {
    pub(crate) fn closed(cause: Cause) -> Visited {
        Visited::Closed(Box::new(cause))
    }
}
