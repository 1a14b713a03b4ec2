//! The measurements of a run: histograms, errors by kind and phase, and intervals over time.
//!
//! Three times are recorded for each request. **Latency** is from when it was due to the end of its answer: what a user
//! feels. **Service time** is from when it was sent. **Lag** is how late the generator itself sent it. In a closed loop
//! a request is due when it is sent, and there is no lag.
//!
//! A request that timed out is in the histograms with the time at which it timed out: a lower bound, but without it the
//! percentiles would miss the slowest requests.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;

use crate::hdr_log::HdrLog;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Connect,
    Warmup,
    Measure,
    Drain,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Connect => "connect",
            Phase::Warmup => "warmup",
            Phase::Measure => "measure",
            Phase::Drain => "drain",
        })
    }
}

/// An interval of the run.
pub(crate) struct Interval {
    pub(crate) phase: Phase,
    /// Since the load began.
    pub(crate) start: Duration,
    pub(crate) length: Duration,
    pub(crate) answers: u64,
    pub(crate) errors: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) max_ns: u64,
}

pub(crate) struct Record {
    pub(crate) latency: Histogram<u64>,
    pub(crate) service: Histogram<u64>,
    pub(crate) lag: Histogram<u64>,
    /// Requests sent in the measure phase, and how many of them got the right answer.
    pub(crate) requests: u64,
    pub(crate) answers: u64,
    /// Right answers that arrived in the measure phase, whenever their requests were sent: the throughput.
    pub(crate) answers_within: u64,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    /// In all phases.
    pub(crate) answers_ever: u64,
    pub(crate) wrong: u64,
    /// Requests without an answer, sent or not.
    pub(crate) missing: u64,
    /// Sends for which the transport had no room; they were tried again.
    pub(crate) no_room: u64,
    pub(crate) first_wrong: Option<String>,
    pub(crate) errors: BTreeMap<(Phase, String), u64>,
    pub(crate) intervals: Vec<Interval>,
    pub(crate) log: Option<HdrLog>,
    now: Now,
}

/// The current interval.
struct Now {
    start_ns: u64,
    answers: u64,
    errors: u64,
    latency: Histogram<u64>,
    service: Histogram<u64>,
}

/// One answered request's times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) intended_ns: u64,
    /// None if it timed out before it could be sent.
    pub(crate) sent_ns: Option<u64>,
    pub(crate) ended_ns: u64,
}

/// 1 ns to an hour, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("constant bounds are valid")
}

impl Record {
    pub(crate) fn new(log: Option<HdrLog>) -> Record {
        Record {
            latency: histogram(),
            service: histogram(),
            lag: histogram(),
            requests: 0,
            answers: 0,
            answers_within: 0,
            bytes_out: 0,
            bytes_in: 0,
            answers_ever: 0,
            wrong: 0,
            missing: 0,
            no_room: 0,
            first_wrong: None,
            errors: BTreeMap::new(),
            intervals: Vec::new(),
            log,
            now: Now { start_ns: 0, answers: 0, errors: 0, latency: histogram(), service: histogram() },
        }
    }

    pub(crate) fn error(&mut self, phase: Phase, kind: impl Into<String>) {
        *self.errors.entry((phase, kind.into())).or_default() += 1;
        self.now.errors += 1;
    }

    pub(crate) fn errors_in_all(&self) -> u64 {
        self.errors.values().sum()
    }

    /// A right answer; `measured` if its request was due in the measure phase.
    pub(crate) fn answered(&mut self, phase: Phase, times: Times, measured: bool) {
        self.answers_ever += 1;
        self.answers_within += u64::from(phase == Phase::Measure);
        self.answers += u64::from(measured);
        self.now.answers += 1;
        self.times(phase, times, measured);
    }

    /// A request that timed out.
    pub(crate) fn given_up(&mut self, phase: Phase, times: Times, measured: bool, why: String) {
        self.missing += 1;
        self.error(phase, why);
        self.times(phase, times, measured);
    }

    fn times(&mut self, phase: Phase, times: Times, measured: bool) {
        let latency_ns = times.ended_ns.saturating_sub(times.intended_ns);
        let service_ns = times.sent_ns.map(|sent_ns| times.ended_ns.saturating_sub(sent_ns));
        // The intervals of the measured phases together are the measurement.
        let histograms = [
            measured.then_some((&mut self.latency, &mut self.service)),
            (measured || phase == Phase::Warmup).then_some((&mut self.now.latency, &mut self.now.service)),
        ];
        for (latency, service) in histograms.into_iter().flatten() {
            latency.saturating_record(latency_ns);
            if let Some(service_ns) = service_ns {
                service.saturating_record(service_ns);
            }
        }
    }

    pub(crate) fn interval_begun_ns(&self) -> u64 {
        self.now.start_ns
    }

    /// The load begins.
    pub(crate) fn begin(&mut self, now_ns: u64) {
        if let Some(log) = &mut self.log {
            log.begin();
        }
        self.now.start_ns = now_ns;
    }

    /// Ends an interval, and begins the next. `origin_ns` is when the load began.
    pub(crate) fn end_interval(&mut self, phase: Phase, origin_ns: u64, now_ns: u64) {
        let now = &mut self.now;
        if now_ns <= now.start_ns {
            return;
        }
        let start = Duration::from_nanos(now.start_ns - origin_ns);
        let length = Duration::from_nanos(now_ns - now.start_ns);
        if let Some(log) = self.log.as_mut().filter(|_| phase >= Phase::Measure) {
            log.write(start, length, &now.latency, &now.service);
        }
        self.intervals.push(Interval {
            phase,
            start,
            length,
            answers: now.answers,
            errors: now.errors,
            p50_ns: now.latency.value_at_quantile(0.5),
            p99_ns: now.latency.value_at_quantile(0.99),
            max_ns: now.latency.max(),
        });
        (now.start_ns, now.answers, now.errors) = (now_ns, 0, 0);
        now.latency.reset();
        now.service.reset();
    }
}
