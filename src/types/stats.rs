//! What the reactor has done so far, in numbers.

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
    /// Events for a source that was gone by then, skipped.
    pub stale_events: u64,
    /// Connection initiation requests accepted.
    pub accepted: u64,
    /// Connection initiation requests refused: by the factory, by a limit, or because setting up failed.
    pub refused: u64,
    /// Service request messages handled.
    pub requests: u64,
    /// Messages received from queues.
    pub queue_messages: u64,
    /// Datagrams received.
    pub datagrams: u64,
    /// Updates read from shared memory.
    pub updates: u64,
    /// Signals received (a signal is a level: several may have come as one).
    pub signals: u64,
    /// Timers that fired.
    pub timers: u64,
    /// Waits in which the loop polled before it slept ([`Builder::spin`](crate::Builder::spin)).
    pub spins: u64,
    /// Those of them in which something came before it slept.
    pub spin_hits: u64,
    /// Processor time that was spent polling in them.
    pub spin_time: Duration,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Bytes of replies thrown away because the peer no longer reads.
    pub bytes_dropped: u64,
    /// Clients connected now.
    pub clients: usize,
    /// Clients closed, for whatever cause.
    pub closed: u64,
    /// Clients that a drain closed when they were idle.
    pub drained: u64,
    /// Clients that a drain's deadline cut off.
    pub drain_cut: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Handlers that returned an error.
    pub handler_errors: u64,
    limits: [u64; 32],
    errors: Vec<(io::ErrorKind, u64)>,
}

impl Stats {
    /// How often a limit was reached.
    pub fn limit_count(&self, limit: Limit) -> u64 {
        self.limits[limit as usize]
    }

    /// Errors of the kernel's calls, by kind, in the order in which each was first seen.
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
    /// One line: the totals, then the limits and the errors that were met.
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
