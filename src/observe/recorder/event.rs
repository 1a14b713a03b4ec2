//! A record: the parts of an event that have a fixed size.

use crate::{
    observe::event::{SourceInfo, VisitEnd},
    signals::signal::Signal,
    types::{
        cause::{Cause, Limit},
        key::{Key, TimerKey},
        ready::Ready,
    },
};

#[derive(Clone, Copy)]
pub(super) struct Record {
    pub(super) at_ns: u64,
    pub(super) event: Event,
}

const _: () = assert!(size_of::<Record>() <= 48, "a record fits in a cache line");

/// [`What`](crate::What), without borrowed data.
#[derive(Clone, Copy)]
pub(super) enum Event {
    /// `ready` is `None` until the turn has ended.
    Turn {
        turn: u64,
        events: u32,
        ready: Option<u32>,
        waited_ns: u64,
        took_ns: u64,
    },
    /// `end` is `None` until the visit has ended.
    Visit {
        source: SourceInfo,
        ready: Ready,
        end: Option<VisitEnd>,
        queued_ns: u64,
        took_ns: u64,
    },
    Stale {
        key: Key,
    },
    Accepted {
        client: SourceInfo,
        clients: u32,
        handler_ns: u64,
    },
    Refused,
    Read {
        bytes: usize,
    },
    Request {
        bytes: u32,
        reply_bytes: u32,
        handler_ns: u64,
    },
    Sent {
        bytes: usize,
        left: usize,
    },
    Message {
        bytes: usize,
        handler_ns: u64,
    },
    Signal {
        signal: Signal,
        pid: u32,
        handler_ns: u64,
    },
    Timer {
        timer: TimerKey,
        /// The timers, or a client.
        of: Key,
        late_ns: u64,
        handler_ns: u64,
    },
    Fault {
        key: Key,
        panic: bool,
    },
    Limit {
        limit: Limit,
    },
    Closed {
        source: SourceInfo,
        cause: Why,
    },
}

/// The fixed text of a [`Cause`].
#[derive(Clone, Copy)]
pub(super) struct Why(pub(super) &'static str);

impl Why {
    pub(super) fn of(cause: &Cause) -> Why {
        Why(match cause {
            Cause::Peer => "by the peer",
            Cause::PartialFrame => "by the peer in the middle of a frame",
            Cause::Reset => "the peer left with bytes unread",
            Cause::Closed => "by a handler",
            Cause::Connect(_) => "connecting failed",
            Cause::Io(_) => "input or output failed",
            Cause::Handler(_) => "the handler failed",
            Cause::Malformed(_) => "malformed frame",
            Cause::Panic(_) => "the handler panicked",
            Cause::Limit(_) => "limit reached",
            Cause::Drain => "drained",
            Cause::DrainDeadline => "the drain's deadline passed",
            Cause::Stop => "the reactor stopped",
        })
    }
}
