//! Requests that are due meet connections that have room.
//!
//! In an **open loop** requests come due by a schedule that knows nothing of the server. One that finds no connection
//! with room waits here, and its latency counts from the time at which it was due: while a server stalls, the requests
//! after the stall get slow, too, as they would for users. A **closed loop** has no schedule: a connection that has
//! room gets the next request, so a server that stalls is asked less (that is "coordinated omission", and the reason
//! why a closed loop tells the highest throughput, and no latencies under a load).
//!
//! No request belongs to a connection before it is sent: as from a pool, each goes out on the one that has been free
//! for longest.
//!
//! There is no clock in here, so that the accounting can be tested to the nanosecond.

use std::collections::VecDeque;

use crate::schedule::Schedule;

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// When it should go out.
    pub(crate) intended_ns: u64,
    /// No lane had room for it when it was due: the server made it late, not the generator.
    pub(crate) held: bool,
}

pub(crate) struct Dispatch<P> {
    /// None: a closed loop.
    schedule: Option<Schedule>,
    /// Nothing is due from here on.
    until_ns: u64,
    due: VecDeque<Due>,
    /// A place is in here once for each request that it has room for.
    free: VecDeque<P>,
}

impl<P: Copy + PartialEq> Dispatch<P> {
    pub(crate) fn new(schedule: Option<Schedule>, until_ns: u64) -> Dispatch<P> {
        Dispatch { schedule, until_ns, due: VecDeque::new(), free: VecDeque::new() }
    }

    /// Nothing is due any more, and what waits is forgotten; returns how many those were.
    pub(crate) fn end(&mut self, now_ns: u64) -> u64 {
        self.until_ns = self.until_ns.min(now_ns);
        let forgotten = self.due.len() as u64;
        self.due.clear();
        forgotten
    }

    /// `place` has room for one request more.
    pub(crate) fn release(&mut self, place: P) {
        self.free.push_back(place);
    }

    /// `place` is closed.
    pub(crate) fn withdraw(&mut self, place: P) {
        self.free.retain(|&free| free != place);
    }

    /// When the next request comes due that has not yet.
    pub(crate) fn upcoming_ns(&self) -> Option<u64> {
        let next_ns = self.schedule.as_ref()?.next_ns();
        (next_ns < self.until_ns).then_some(next_ns)
    }

    /// Takes note of what has come due by `now_ns`.
    fn advance(&mut self, now_ns: u64) {
        let Some(schedule) = &mut self.schedule else { return };
        while schedule.next_ns() <= now_ns && schedule.next_ns() < self.until_ns {
            let held = self.free.len() <= self.due.len();
            self.due.push_back(Due { intended_ns: schedule.next_ns(), held });
            schedule.advance();
        }
    }

    /// The next request to send, and where.
    pub(crate) fn next(&mut self, now_ns: u64) -> Option<(Due, P)> {
        self.advance(now_ns);
        if self.schedule.is_none() {
            let place = if now_ns < self.until_ns { self.free.pop_front()? } else { return None };
            return Some((Due { intended_ns: now_ns, held: false }, place));
        }
        if self.free.is_empty() {
            return None;
        }
        Some((self.due.pop_front()?, self.free.pop_front()?))
    }

    /// It could not be sent: it stays the oldest that waits. In a closed loop it was not due.
    pub(crate) fn put_back(&mut self, due: Due) {
        if self.schedule.is_some() {
            self.due.push_front(Due { held: true, ..due });
        }
    }

    /// Forgets the oldest request if it was due at `before_ns` or earlier.
    pub(crate) fn expire(&mut self, before_ns: u64) -> Option<Due> {
        let oldest = self.due.front()?;
        if oldest.intended_ns > before_ns {
            return None;
        }
        self.due.pop_front()
    }

    /// How many are due and wait.
    pub(crate) fn waiting(&self) -> usize {
        self.due.len()
    }
}
