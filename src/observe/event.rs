//! The events that observers see.

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

/// Sees what the reactor does, in order. [`PollSet::observe`](crate::PollSet::observe) adds one.
///
/// An observer cannot change anything: it gets neither the poll set nor a session. It runs in the loop, so every source
/// waits while it runs. An observer that panics is dropped, counted and logged, and the loop goes on. Without observers
/// the loop pays nothing for them.
///
/// ```
/// use ipc_reactor::{Observer, Reactor, Seen, What};
///
/// /// The longest visit, in nanoseconds.
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
    /// Called for each event. Must not block.
    fn observe(&mut self, seen: &Seen<'_>);

    /// How much it wants to see. Called once, when the observer is added. By default everything.
    fn detail(&self) -> Detail {
        Detail::Messages
    }
}

/// How much an [`Observer`] sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Turns, visits, timers, connections, closes, limits and faults. The reactor reads the clock once for each visit,
    /// twice for each turn and each timer.
    Visits,
    /// Also each event, read, message and send, with the time that its handler took. The reactor reads the clock once
    /// more for each of them.
    Messages,
}

/// What has happened, and when.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`. Events between two clock readings have the same time.
    pub at_ns: u64,
    /// The turn's number: [`Stats::turns`](crate::Stats::turns).
    pub turn: u64,
    /// What has happened.
    pub what: What<'a>,
}

/// A source in the poll set, as an observer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceInfo {
    /// Its key.
    pub key: Key,
    /// The number of its descriptor, for display only. `None` if the source has no descriptor of its own.
    pub fd: Option<RawFd>,
    /// Its kind.
    pub kind: SourceKind,
}

/// The kind of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceKind {
    /// A listener (master socket): its events are connections (CIRs).
    Listener,
    /// A client (client handle): its events are requests (SRMs).
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
    /// The descriptor is drained: nothing to do until the kernel reports the next edge.
    Drained,
    /// The budget is spent: the source is visited again in the next round.
    Again,
    /// Blocked: its readiness is kept until a timer or an event resumes it.
    Blocked,
    /// It was closed.
    Closed,
}

/// An event that an observer sees.
///
/// The events of a turn come in this order: [`Woke`](What::Woke); an [`Edge`](What::Edge) (or
/// [`Stale`](What::Stale)) for each event of the kernel; for each ready source a [`Visit`](What::Visit), what happens
/// in it, and [`Visited`](What::Visited); [`Turned`](What::Turned). Most clients are visited as soon as their event is
/// read, all other sources after the last event. [`Closed`](What::Closed) comes in a visit or between two.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum What<'a> {
    /// `epoll_wait` has returned.
    Woke {
        /// How many events it returned.
        events: usize,
        /// How long the loop slept, in nanoseconds.
        waited_ns: u64,
    },
    /// The kernel reported an event. A visit with the same edges follows. ([`Detail::Messages`])
    Edge {
        /// The source.
        source: SourceInfo,
        /// What it is ready for.
        ready: Ready,
    },
    /// The kernel reported an event for a source that has been closed; it was skipped.
    Stale {
        /// The key that the event carried.
        key: Key,
    },
    /// The visit to a source begins. With [`Detail::Visits`] the reactor leaves it out, unless another event comes
    /// before the visit's end or a handler asks for the observer: [`Visited`](What::Visited) has the same fields.
    Visit {
        /// The source.
        source: SourceInfo,
        /// What it is ready for.
        ready: Ready,
        /// How long it waited in the ready list, in nanoseconds.
        queued_ns: u64,
    },
    /// A connection (CIR) was accepted, and has become a client.
    Accepted {
        /// The listener.
        listener: SourceInfo,
        /// The new client.
        client: SourceInfo,
        /// The other end of the connection.
        peer: &'a Peer<'a>,
        /// How long the factory took, in nanoseconds; 0 if no observer wants [`Detail::Messages`].
        handler_ns: u64,
        /// How many clients are connected now.
        clients: usize,
    },
    /// A connection (CIR) was refused: by the factory, by a limit, or by the kernel.
    Refused {
        /// The listener.
        listener: SourceInfo,
    },
    /// Bytes were read from a client. ([`Detail::Messages`])
    Read {
        /// The client.
        source: SourceInfo,
        /// The system call: `recv`, or `recvmsg` where descriptors or records can come.
        call: &'static str,
        /// How many; 0 at the end of file.
        bytes: usize,
    },
    /// A read of a client found nothing (`EAGAIN`). ([`Detail::Messages`])
    Empty {
        /// The client.
        source: SourceInfo,
        /// The system call: `recv` or `recvmsg`.
        call: &'static str,
    },
    /// A request (SRM) was handled. ([`Detail::Messages`])
    Request {
        /// The client.
        source: SourceInfo,
        /// The payload of its frame.
        request: &'a [u8],
        /// How many bytes the handler replied. They are sent with all other replies of this visit.
        reply_bytes: usize,
        /// How long the handler took, in nanoseconds.
        handler_ns: u64,
    },
    /// Bytes were sent to a client. ([`Detail::Messages`])
    Sent {
        /// The client.
        source: SourceInfo,
        /// How many the socket accepted.
        bytes: usize,
        /// How many are buffered until the socket accepts more.
        left: usize,
    },
    /// A message of a queue, a datagram, or a value from shared memory was handled. ([`Detail::Messages`])
    Message {
        /// The source.
        source: SourceInfo,
        /// The message.
        bytes: &'a [u8],
        /// The priority of a queue's message; `None` for the others.
        priority: Option<u32>,
        /// How long the handler took, in nanoseconds.
        handler_ns: u64,
    },
    /// A signal was handled. ([`Detail::Messages`])
    Signal {
        /// The signalfd.
        source: SourceInfo,
        /// The signal and its sender.
        info: &'a SignalInfo,
        /// How long the handler took, in nanoseconds.
        handler_ns: u64,
    },
    /// A timer has fired, in the visit to the timers.
    Timer {
        /// The client, if its session set the timer; otherwise the timers.
        source: SourceInfo,
        /// The timer.
        timer: TimerKey,
        /// How long after it was due, in nanoseconds.
        late_ns: u64,
        /// How long the handler took, in nanoseconds.
        handler_ns: u64,
    },
    /// A handler returned an error or panicked.
    Fault {
        /// Its source.
        key: Key,
        /// [`Cause::Handler`] or [`Cause::Panic`].
        cause: &'a Cause,
    },
    /// A limit was reached.
    Limit {
        /// The limit.
        limit: Limit,
    },
    /// A source was removed from the poll set. Its `on_close` is called next.
    Closed {
        /// The source. Its descriptor is closed, or will be after `on_close`.
        source: SourceInfo,
        /// Why.
        cause: &'a Cause,
    },
    /// A visit has ended.
    Visited {
        /// The source.
        source: SourceInfo,
        /// What it was ready for when the visit began.
        ready: Ready,
        /// How long it waited in the ready list, in nanoseconds.
        queued_ns: u64,
        /// How long the visit took, system calls and handlers together, in nanoseconds.
        took_ns: u64,
        /// How the visit ended.
        end: VisitEnd,
    },
    /// A turn has ended.
    Turned {
        /// How long it took, without the sleep, in nanoseconds.
        took_ns: u64,
        /// How many sources are in the ready list for the next turn.
        ready: usize,
    },
}

impl What<'_> {
    pub(crate) fn detail(&self) -> Detail {
        match self {
            What::Edge { .. }
            | What::Read { .. }
            | What::Empty { .. }
            | What::Request { .. }
            | What::Sent { .. }
            | What::Message { .. }
            | What::Signal { .. } => Detail::Messages,
            _ => Detail::Visits,
        }
    }
}
