//! A token bucket in front of the log: a peer cannot flood the log with its faults.

use log::Level;
use std::fmt;

/// Lines that a kind may write at once.
const BURST: u32 = 10;
/// Nanoseconds after which a kind may write another line.
const REFILL_NS: u64 = 1_000_000_000;

/// What a line is about. Each kind has its own bucket, so that a flood of one kind hides no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Limit,
    Accept,
    Client,
    Handler,
    Panic,
    Queue,
    Source,
}

const KINDS: [Kind; 7] =
    [Kind::Limit, Kind::Accept, Kind::Client, Kind::Handler, Kind::Panic, Kind::Queue, Kind::Source];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Limit => "limit",
            Kind::Accept => "accept",
            Kind::Client => "client",
            Kind::Handler => "handler",
            Kind::Panic => "panic",
            Kind::Queue => "queue",
            Kind::Source => "source",
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: u32,
    refilled_ns: u64,
    suppressed: u64,
}

#[derive(Debug)]
pub(crate) struct Throttle {
    buckets: [Bucket; KINDS.len()],
}

impl Throttle {
    pub(crate) fn new() -> Throttle {
        Throttle { buckets: [Bucket { tokens: BURST, refilled_ns: 0, suppressed: 0 }; KINDS.len()] }
    }

    /// Whether a line of this kind may be written now, and how many were suppressed since the last one.
    fn take(&mut self, kind: Kind, now_ns: u64) -> Option<u64> {
        let bucket = &mut self.buckets[kind as usize];
        let earned = now_ns.saturating_sub(bucket.refilled_ns) / REFILL_NS;
        if earned > 0 {
            bucket.tokens = BURST.min(bucket.tokens.saturating_add(u32::try_from(earned).unwrap_or(BURST)));
            bucket.refilled_ns += earned * REFILL_NS;
        }
        if bucket.tokens == 0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.tokens -= 1;
        Some(std::mem::take(&mut bucket.suppressed))
    }

    pub(crate) fn log(&mut self, kind: Kind, level: Level, now_ns: u64, message: fmt::Arguments<'_>) {
        if !log::log_enabled!(target: "ipc_reactor", level) {
            return;
        }
        match self.take(kind, now_ns) {
            None => {}
            Some(0) => log::log!(target: "ipc_reactor", level, "{message}"),
            Some(n) => {
                log::log!(target: "ipc_reactor", level, "{message} ({n} more {kind} warnings suppressed)")
            }
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        for kind in KINDS {
            let suppressed = self.buckets[kind as usize].suppressed;
            if suppressed > 0 {
                log::warn!(target: "ipc_reactor", "{suppressed} more {kind} warnings suppressed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_faults_are_few_lines_and_an_exact_count() {
        let mut throttle = Throttle::new();
        let (mut lines, mut reported) = (0, 0);
        for fault in 0..1_000_000_u64 {
            // 20 seconds of faults, evenly.
            if let Some(suppressed) = throttle.take(Kind::Limit, fault * 20_000) {
                lines += 1;
                reported += suppressed;
            }
        }
        let left = throttle.buckets[Kind::Limit as usize].suppressed;
        throttle.buckets[Kind::Limit as usize].suppressed = 0;
        assert!(lines <= 100, "{lines} lines");
        assert_eq!(lines + reported + left, 1_000_000);
    }

    #[test]
    fn one_kind_does_not_silence_another() {
        let mut throttle = Throttle::new();
        while throttle.take(Kind::Limit, 0).is_some() {}
        assert_eq!(throttle.take(Kind::Accept, 0), Some(0));
        throttle.buckets = Throttle::new().buckets;
    }
}
