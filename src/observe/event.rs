//! A reactor that explains itself: what observers are told.

use std::{any::Any, os::fd::RawFd};

use crate::{
    net::peer::Peer,
    signals::SignalInfo,
    types::{
        cause::{Cause, Limit},
        key::{Key, TimerKey},
        ready::Ready,
    },
};

/// Sees what the reactor does, in the order in which it does it; put in with
/// [`PollSet::observe`](crate::PollSet::observe).
///
/// It is shown things, and can change none: it gets neither the poll set nor a session. It runs within the loop, so what it
/// takes, everybody waits for. One that panics is dropped, counted and logged, and the loop goes on. Without an
/// observer none of this costs anything.
///
/// ```
/// use ipc_reactor::{Observer, Reactor, Seen, What};
///
/// /// Whose handler held everybody up?
/// struct Longest(u64);
///
/// impl Observer for Longest {
///     fn observe(&mut self, seen: &Seen<'_>) {
///         if let What::Visited { took_ns, .. } = seen.what {
///             self.0 = self.0.max(took_ns);
///         }
///     }
/// }
///
/// let mut reactor = Reactor::<()>::new()?;
/// reactor.observe(Longest(0));
/// reactor.after(std::time::Duration::ZERO, |cx, ()| { cx.stop(); Ok(()) });
/// reactor.run(&mut ())?;
/// let longest = reactor.observer_mut::<Longest>().unwrap();
/// println!("the longest visit took {} ns", longest.0);
/// # std::io::Result::Ok(())
/// ```
pub trait Observer: Any {
    /// Something has happened. Must not block.
    fn observe(&mut self, seen: &Seen<'_>);

    /// How much it wants to see; asked once, when it is put in. Everything, unless said otherwise.
    fn detail(&self) -> Detail {
        Detail::Messages
    }
}

/// How much an [`Observer`] is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Turns, visits, timers, CIRs, closes, limits and faults. One clock reading a visit, and two a turn or a timer.
    Visits,
    /// Each event, read, message and send too, with the time that its handler took. One clock reading each.
    Messages,
}

/// Something that has happened, and when.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`. Things that happen between two clock readings have the same time.
    pub at_ns: u64,
    /// The turn's number: [`Stats::turns`](crate::Stats::turns).
    pub turn: u64,
    /// What.
    pub what: What<'a>,
}

/// A source in the poll set, as an observer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceInfo {
    /// Its key.
    pub key: Key,
    /// Its descriptor's number, to be shown; none where the source has none of its own.
    pub fd: Option<RawFd>,
    /// What it is.
    pub kind: SourceKind,
}

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceKind {
    /// A master socket: its events are CIRs.
    Listener,
    /// A client handle: its events are SRMs.
    Client,
    /// A datagram socket.
    Datagram,
    /// A POSIX message queue.
    Queue,
    /// A signalfd.
    Signals,
    /// A subscription to shared memory.
    SharedMemory,
    /// The timerfd behind all timers.
    Timers,
    /// The eventfd behind all [`Remote`](crate::Remote)s.
    Remote,
    /// A child process and its pipes.
    Child,
    /// Any other descriptor.
    Fd,
}

/// How a visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisitEnd {
    /// All that was ready is used up: nothing to do until the kernel's next edge.
    Drained,
    /// Its budget is spent: it is visited again in the next round.
    Again,
    /// Its edges stand, but something else must happen first: room, a deadline, a resumption.
    Blocked,
    /// It was closed.
    Closed,
}

/// What an observer is told.
///
/// A turn is told as [`Woke`](What::Woke); an [`Edge`](What::Edge) (or [`Stale`](What::Stale)) for each event; for each
/// source that is ready a [`Visit`](What::Visit), what happened in it, and [`Visited`](What::Visited); then
/// [`Turned`](What::Turned). Clients about which nothing is unusual are visited as their edges come, all others after the last
/// edge. [`Closed`](What::Closed) comes in a visit or between two.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum What<'a> {
    /// `epoll_wait` has returned.
    Woke {
        /// How many events it brought.
        events: usize,
        /// How long it took: how long the loop slept.
        waited_ns: u64,
    },
    /// An event. ([`Detail::Messages`]; a visit follows, with the same edges.)
    Edge {
        /// Whose.
        source: SourceInfo,
        /// What for.
        ready: Ready,
    },
    /// An event for a source that is gone; it was skipped.
    Stale {
        /// The key that the event carried.
        key: Key,
    },
    /// A source's turn has come. With [`Detail::Visits`] it is told only where something else is before the visit's end, and
    /// when somebody asks for the observer: [`Visited`](What::Visited) tells all of it anyway.
    Visit {
        /// Whose.
        source: SourceInfo,
        /// The edges that it has not used up.
        ready: Ready,
        /// How long it waited in the ready list.
        queued_ns: u64,
    },
    /// A connection initiation request was accepted, and has become a client handle.
    Accepted {
        /// The listener.
        listener: SourceInfo,
        /// The new client handle.
        client: SourceInfo,
        /// Who has connected.
        peer: &'a Peer<'a>,
        /// How long the factory took; 0 if no observer wants [`Detail::Messages`].
        handler_ns: u64,
        /// How many clients are connected now.
        clients: usize,
    },
    /// A connection initiation request was refused, by the factory, by a limit, or by the kernel.
    Refused {
        /// The listener.
        listener: SourceInfo,
    },
    /// Bytes were read from a client. ([`Detail::Messages`])
    Read {
        /// The client.
        source: SourceInfo,
        /// How many; 0 at its end of file.
        bytes: usize,
    },
    /// A service request message was handled. ([`Detail::Messages`])
    Request {
        /// The client.
        source: SourceInfo,
        /// The message, without what frames it.
        request: &'a [u8],
        /// Bytes that the handler has replied; they leave with all other replies of this visit.
        reply_bytes: usize,
        /// How long the handler took.
        handler_ns: u64,
    },
    /// Bytes were sent to a client. ([`Detail::Messages`])
    Sent {
        /// The client.
        source: SourceInfo,
        /// How many its socket took.
        bytes: usize,
        /// How many wait until it takes more.
        left: usize,
    },
    /// A message of a queue, a datagram, or a value from shared memory was handled. ([`Detail::Messages`])
    Message {
        /// Where it came from.
        source: SourceInfo,
        /// The message.
        bytes: &'a [u8],
        /// A queue's message has one.
        priority: Option<u32>,
        /// How long the handler took.
        handler_ns: u64,
    },
    /// A signal was handled. ([`Detail::Messages`])
    Signal {
        /// The signalfd.
        source: SourceInfo,
        /// Which, and who sent it.
        info: &'a SignalInfo,
        /// How long the handler took.
        handler_ns: u64,
    },
    /// A timer has fired, in the timers' visit.
    Timer {
        /// Whose handler has run: the client whose session has set it, or else the timers.
        source: SourceInfo,
        /// Which.
        timer: TimerKey,
        /// How much later than it was due.
        late_ns: u64,
        /// How long the handler took.
        handler_ns: u64,
    },
    /// A handler has failed or panicked.
    Fault {
        /// Whose.
        key: Key,
        /// How: [`Cause::Handler`] or [`Cause::Panic`].
        cause: &'a Cause,
    },
    /// A limit was reached.
    Limit {
        /// Which.
        limit: Limit,
    },
    /// A source has left the poll set. Its `on_close` comes next.
    Closed {
        /// Which. Its descriptor is closed, or about to be.
        source: SourceInfo,
        /// Why.
        cause: &'a Cause,
    },
    /// A visit is over.
    Visited {
        /// Whose.
        source: SourceInfo,
        /// The edges that it had not used up when the visit began.
        ready: Ready,
        /// How long it had waited.
        queued_ns: u64,
        /// How long it took, system calls and handlers together.
        took_ns: u64,
        /// How it ended.
        end: VisitEnd,
    },
    /// A turn is over.
    Turned {
        /// How long it took, without the waiting.
        took_ns: u64,
        /// How many sources are in the ready list for the next.
        ready: usize,
    },
}

impl What<'_> {
    pub(crate) fn detail(&self) -> Detail {
        match self {
            What::Edge { .. }
            | What::Read { .. }
            | What::Request { .. }
            | What::Sent { .. }
            | What::Message { .. }
            | What::Signal { .. } => Detail::Messages,
            _ => Detail::Visits,
        }
    }
}
