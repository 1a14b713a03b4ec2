//! `Source`: the closed enum of all sources, one per slot.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use crate::{
    observe::event::{SourceInfo, SourceKind, VisitEnd},
    set::{
        client::ClientIo,
        driver::Driver,
        endpoints::{Acceptor, ChildPort, DatagramPort, FdPort, QueuePort, SignalPort, SubscriptionPort},
        handlers::{ChildHandler, DatagramHandler, QueueHandler, SignalHandler, Subscription, TypedSource},
        remote::Inbox,
        session::Factory,
    },
    types::{cause::Cause, key::Key, ready::Ready},
};

/// Everything that can be in the poll set. `reactor/event_loop.rs` holds the one `match` that visits it.
///
/// Each variant has an endpoint, which stays in its slot, and a handler, which is taken out while it runs
/// (`set/call.rs`).
pub(crate) enum Source<S> {
    /// A listening socket: its events are connections to accept.
    Listener { port: Box<Acceptor>, handler: Option<Factory<S>> },
    /// A client: its events are requests.
    Client { io: ClientIo, session: Option<Box<dyn Driver<S>>> },
    /// A datagram socket.
    Datagram { port: Box<DatagramPort>, handler: Option<Box<dyn DatagramHandler<S>>> },
    /// A POSIX message queue. One that is only written has no handler.
    Queue { port: Box<QueuePort>, handler: Option<Box<dyn QueueHandler<S>>> },
    /// A signalfd.
    Signals { port: Box<SignalPort>, handler: Option<SignalHandler<S>> },
    /// A subscription to shared memory.
    Shm { port: SubscriptionPort, handler: Option<Box<Subscription<S>>> },
    /// A child process and its pipes.
    Child { port: Box<ChildPort>, handler: Option<Box<dyn ChildHandler<S>>> },
    /// Any other descriptor.
    Fd { port: FdPort, handler: Option<Box<dyn TypedSource<S>>> },
    /// The timerfd behind all timers.
    Timers,
    /// The eventfd behind all `Remote`s.
    Remote(Inbox<S>),
}

impl<S> Source<S> {
    /// The descriptor of the source. `None` for a subscription without a doorbell, and for the reactor's own sources,
    /// whose descriptors the timers and mio keep.
    pub(crate) fn raw_fd(&self) -> Option<RawFd> {
        match self {
            Source::Listener { port, .. } => Some(port.listener.as_fd().as_raw_fd()),
            Source::Client { io, .. } => Some(io.raw_fd()),
            Source::Datagram { port, .. } => Some(port.socket.as_fd().as_raw_fd()),
            Source::Queue { port, .. } => Some(port.queue.as_fd().as_raw_fd()),
            Source::Signals { port, .. } => Some(port.signals.as_fd().as_raw_fd()),
            Source::Shm { port, .. } => port.doorbell,
            Source::Child { port, .. } => Some(port.as_fd().as_raw_fd()),
            Source::Fd { port, .. } => Some(port.fd),
            Source::Timers | Source::Remote(_) => None,
        }
    }

    /// One of the reactor's own sources, which are never closed.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, Source::Timers | Source::Remote(_))
    }

    /// Whether a drain waits for it.
    pub(crate) fn is_drainable(&self) -> bool {
        match self {
            Source::Queue { port, .. } => !port.drained,
            source => {
                matches!(source, Source::Listener { .. } | Source::Client { .. } | Source::Datagram { .. })
            }
        }
    }

    /// The source as observers see it.
    pub(crate) fn info(&self, key: Key) -> SourceInfo {
        let kind = match self {
            Source::Listener { .. } => SourceKind::Listener,
            Source::Client { .. } => SourceKind::Client,
            Source::Datagram { .. } => SourceKind::Datagram,
            Source::Queue { .. } => SourceKind::Queue,
            Source::Signals { .. } => SourceKind::Signals,
            Source::Shm { .. } => SourceKind::SharedMemory,
            Source::Timers => SourceKind::Timers,
            Source::Remote(_) => SourceKind::Remote,
            Source::Child { .. } => SourceKind::Child,
            Source::Fd { .. } => SourceKind::Fd,
        };
        SourceInfo { key, fd: self.raw_fd(), kind }
    }
}

/// How a visit to a source ended.
#[must_use = "it decides whether the source is visited again, or closed"]
pub(crate) enum Visited {
    /// The descriptor is drained: nothing to do until the kernel reports the next edge.
    Drained,
    /// The budget is spent. The source keeps these edges, and is visited again in the next round.
    Again(Ready),
    /// Blocked: these edges are kept until a timer or an event resumes the source.
    Blocked(Ready),
    /// The source is to be removed.
    Closed(Box<Cause>),
}

impl Visited {
    pub(crate) fn closed(cause: Cause) -> Visited {
        Visited::Closed(Box::new(cause))
    }

    pub(crate) fn end(&self) -> VisitEnd {
        match self {
            Visited::Drained => VisitEnd::Drained,
            Visited::Again(_) => VisitEnd::Again,
            Visited::Blocked(_) => VisitEnd::Blocked,
            Visited::Closed(_) => VisitEnd::Closed,
        }
    }
}

/// The handler of a source that was removed; its `on_close` is called next.
pub(crate) struct PendingClose<S> {
    pub(crate) key: Key,
    pub(crate) cause: Cause,
    pub(crate) handler: Closed<S>,
}

pub(crate) enum Closed<S> {
    /// That of a client, whose descriptor is closed already.
    Session(Box<dyn Driver<S>>),
    /// That of any other source, with its endpoint.
    Source(Source<S>),
}
