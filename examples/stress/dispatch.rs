//! Assigns requests that are due to connections that have room.
//!
//! In an **open loop** requests become due on a schedule that does not depend on the server. One that finds no
//! connection with room waits here, and its latency counts from the time at which it was due: if a server stalls, the
//! requests after the stall are slow, too, as they are for users. A **closed loop** has no schedule: a connection that
//! has room gets the next request, so a server that stalls gets fewer requests (that is "coordinated omission"; so a
//! closed loop measures the highest throughput, and no latencies under a given load).
//!
//! A request gets its connection only when it is sent: the one that has been free for longest, as in a pool.
//!
//! This module reads no clock, so that tests can check the accounting to the nanosecond.

use std::collections::VecDeque;

use crate::schedule::Schedule;

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// When it should be sent.
    pub(crate) intended_ns: u64,
    /// No lane had room for it when it was due: the server caused the delay, not the generator.
    pub(crate) held: bool,
}

pub(crate) struct Dispatch<P> {
    /// None: a closed loop.
    schedule: Option<Schedule>,
    /// No request is due from this time on.
    until_ns: u64,
    due: VecDeque<Due>,
    /// Contains a lane once for each request for which it has room.
    free: VecDeque<P>,
}

impl<P: Copy + PartialEq> Dispatch<P> {
    pub(crate) fn new(schedule: Option<Schedule>, until_ns: u64) -> Dispatch<P> {
        Dispatch { schedule, until_ns, due: VecDeque::new(), free: VecDeque::new() }
    }

    /// Stops the schedule and drops the waiting requests; returns their number.
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

    /// When the next request becomes due.
    pub(crate) fn upcoming_ns(&self) -> Option<u64> {
        let next_ns = self.schedule.as_ref()?.next_ns();
        (next_ns < self.until_ns).then_some(next_ns)
    }

    /// Queues the requests that are due at `now_ns`.
    fn advance(&mut self, now_ns: u64) {
        let Some(schedule) = &mut self.schedule else { return };
        while schedule.next_ns() <= now_ns && schedule.next_ns() < self.until_ns {
            let held = self.free.len() <= self.due.len();
            self.due.push_back(Due { intended_ns: schedule.next_ns(), held });
            schedule.advance();
        }
    }

    /// The next request to send, and its lane.
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

    /// A request could not be sent: it stays the oldest that waits. In a closed loop it was not due.
    pub(crate) fn put_back(&mut self, due: Due) {
        if self.schedule.is_some() {
            self.due.push_front(Due { held: true, ..due });
        }
    }

    /// Drops the oldest request if it was due at `before_ns` or earlier.
    pub(crate) fn expire(&mut self, before_ns: u64) -> Option<Due> {
        let oldest = self.due.front()?;
        if oldest.intended_ns > before_ns {
            return None;
        }
        self.due.pop_front()
    }

    /// How many requests are due and wait.
    pub(crate) fn waiting(&self) -> usize {
        self.due.len()
    }
}
