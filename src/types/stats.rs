//! Counters of what the reactor has done.

use std::{fmt, io, time::Duration};

use crate::types::cause::Limit;

/// Counters since the reactor was made. They only grow, except for [`clients`](Stats::clients).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Turns of the loop: one `epoll_wait` each.
    pub turns: u64,
    /// Events that the kernel reported.
    pub events: u64,
    /// Events for a source that had been closed before the event was handled. They are skipped.
    pub stale_events: u64,
    /// Connections (CIRs) accepted.
    pub accepted: u64,
    /// Connections (CIRs) refused: by the factory, by a limit, or because the setup failed.
    pub refused: u64,
    /// Requests (SRMs) of clients handled.
    pub requests: u64,
    /// Messages received from queues.
    pub queue_messages: u64,
    /// Datagrams received.
    pub datagrams: u64,
    /// Updates read from shared memory.
    pub updates: u64,
    /// Signals received. The kernel merges equal signals that are pending (`signal(7)`), so one may stand for several.
    pub signals: u64,
    /// Timers that fired.
    pub timers: u64,
    /// Waits in which the loop polled before it slept ([`Builder::spin`](crate::Builder::spin)).
    pub spins: u64,
    /// Spins in which an event came before the loop slept.
    pub spin_hits: u64,
    /// Time spent polling in spins.
    pub spin_time: Duration,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Bytes of replies discarded because the peer no longer reads.
    pub bytes_dropped: u64,
    /// Clients connected now.
    pub clients: usize,
    /// Clients closed, for any cause.
    pub closed: u64,
    /// Clients that a drain closed when they had nothing left to do.
    pub drained: u64,
    /// Clients that a drain closed when its deadline passed.
    pub drain_cut: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Handlers that returned an error.
    pub handler_errors: u64,
    /// Descriptors that peers passed and no handler took, closed when they were received or with their client. Those in
    /// messages that were never received are not counted.
    pub descriptors_discarded: u64,
    limits: [u64; 32],
    errors: Vec<(io::ErrorKind, u64)>,
}

impl Stats {
    /// How often a limit was reached.
    pub fn limit_count(&self, limit: Limit) -> u64 {
        self.limits[limit as usize]
    }

    /// Errors of system calls: each kind with its count, in the order in which the kinds were first seen.
    pub fn errors(&self) -> impl Iterator<Item = (io::ErrorKind, u64)> + '_ {
        self.errors.iter().copied()
    }

    pub(crate) fn count_limit(&mut self, limit: Limit) {
        self.limits[limit as usize] += 1;
    }

    pub(crate) fn failed(&mut self, kind: io::ErrorKind) {
        match self.errors.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => self.errors.push((kind, 1)),
        }
    }
}

impl fmt::Display for Stats {
    /// One line: the totals, then the limits that were reached and the errors that were seen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "clients {} (accepted {}, refused {}, closed {}), requests {}, queue messages {}, datagrams {}, signals {}, \
             bytes in {} out {}, turns {}, events {} (stale {})",
            self.clients,
            self.accepted,
            self.refused,
            self.closed,
            self.requests,
            self.queue_messages,
            self.datagrams,
            self.signals,
            self.bytes_in,
            self.bytes_out,
            self.turns,
            self.events,
            self.stale_events,
        )?;
        if self.spins > 0 {
            write!(f, ", spins {} (hits {}, {:?})", self.spins, self.spin_hits, self.spin_time)?;
        }
        if self.descriptors_discarded > 0 {
            write!(f, ", descriptors discarded {}", self.descriptors_discarded)?;
        }
        for &limit in Limit::ALL.iter().filter(|&&limit| self.limit_count(limit) > 0) {
            write!(f, ", {limit}: {}", self.limit_count(limit))?;
        }
        for (kind, count) in self.errors() {
            write!(f, ", {kind}: {count}")?;
        }
        Ok(())
    }
}

const _: () = assert!(Limit::ALL.len() <= 32, "Stats::limits has a counter for each limit");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_a_counter_of_its_own_and_is_shown_by_its_name() {
        for &limit in Limit::ALL {
            let mut stats = Stats::default();
            stats.count_limit(limit);
            stats.count_limit(limit);
            for &other in Limit::ALL {
                assert_eq!(stats.limit_count(other), if other == limit { 2 } else { 0 });
            }
            assert!(stats.to_string().ends_with(&format!(", {limit}: 2")), "{stats}");
        }
    }

    #[test]
    fn errors_are_counted_by_kind_in_the_order_in_which_they_came() {
        let (full, broken) = (io::ErrorKind::StorageFull, io::ErrorKind::BrokenPipe);
        let mut stats = Stats::default();
        for kind in [full, broken, full] {
            stats.failed(kind);
        }
        assert!(stats.errors().eq([(full, 2), (broken, 1)]));
        assert!(stats.to_string().ends_with(&format!(", {full}: 2, {broken}: 1")), "{stats}");
    }
}
