//! The load itself: one thread, on this crate's own reactor, so that ten thousand connections cost what they send.
//!
//! ```text
//!   Schedule ──due──► Dispatch ──(request, lane)──► Lane::send ──► server
//!                        ▲                                           │
//!                        └── release ◄── Record ◄── Lane::stream ◄───┘ answer, checked
//! ```
//!
//! A run has four phases: **connect** (until all lanes are open), **warmup**, **measure**, **drain** (until the last
//! request is answered or given up). A request belongs to the phase in which it was due. Every handler begins with
//! [`Run::reach`], so a phase ends at its time and not at the next tick. [`Run::pump`] (`traffic.rs`) is the one place
//! where requests are sent; it runs when an answer has made room, when a request comes due, and at each tick.

use std::{io, time::Duration};

use ipc_reactor::{PollSet, Reactor, Signal};

use crate::{
    clock,
    dispatch::Dispatch,
    hdr_log::HdrLog,
    lane::Lane,
    opening::Opening,
    plan::{Load, Plan},
    progress::Progress,
    protocol::Requests,
    record::{Phase, Record},
    schedule::Schedule,
    usage::{self, Sample, Shares},
};

/// Looks for requests without an answer, for lanes to open, for room.
const TICK: Duration = Duration::from_millis(10);
const PROGRESS: Duration = Duration::from_millis(200);

/// What was done.
pub(crate) struct Outcome {
    pub(crate) record: Record,
    /// How many stood when the load began.
    pub(crate) connected: u32,
    /// And at its end.
    pub(crate) connected_at_end: u32,
    /// Until all of them stood.
    pub(crate) connecting: Duration,
    /// How long it was measured, warm-up and drain not included.
    pub(crate) measured: Duration,
    pub(crate) shares: Option<Shares>,
    pub(crate) server_pid: Option<u32>,
    /// The server's memory with one connection, and with all of them.
    pub(crate) resident: Option<(u64, u64)>,
    pub(crate) interrupted: bool,
}

/// The reactor's shared state.
pub(crate) struct Run {
    pub(crate) plan: Plan,
    pub(crate) requests: Requests,
    pub(crate) dispatch: Dispatch<u32>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) opening: Opening,
    pub(crate) record: Record,
    pub(crate) phase: Phase,
    begun_ns: u64,
    /// When the load began, when it began to be measured, and when the last request is due.
    pub(crate) origin_ns: u64,
    measure_ns: u64,
    pub(crate) until_ns: u64,
    /// Lanes that had no room, or failed; tried again when there is room, or at the next tick.
    pub(crate) blocked: Vec<u32>,
    /// When the timer for the next request is due; `u64::MAX` if none is set.
    pub(crate) alarm_ns: u64,
    pub(crate) request: Vec<u8>,
    pub(crate) buffer: Vec<u8>,
    samples: (Option<Sample>, Option<Sample>),
    outcome: Tally,
}

#[derive(Default)]
struct Tally {
    connected: u32,
    connected_at_end: u32,
    resident: Option<(u64, u64)>,
    interrupted: bool,
}

/// Carries the plan out.
///
/// # Errors
/// It could not even begin: there is no server, or a size is more than the transport takes.
pub(crate) fn run(plan: &Plan, log: Option<HdrLog>) -> io::Result<Outcome> {
    let mut reactor = Reactor::<Run>::builder().limits(plan.limits()).build()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, run: &mut Run| {
        if run.outcome.interrupted || run.phase == Phase::Connect {
            cx.stop();
        }
        run.interrupt();
        Ok(())
    })?;
    let mut run = Run::new(plan, log);
    run.open_first(&mut reactor)?;
    let resident = run.plan.server_pid.and_then(usage::resident_bytes);
    run.outcome.resident = resident.zip(resident);
    reactor.every(TICK, |cx, run| {
        run.tick(cx);
        Ok(())
    });
    if let Some(mut progress) = Progress::new(plan) {
        reactor.every(PROGRESS, move |_, run| {
            progress.show(run);
            Ok(())
        });
    }
    run.tick(&mut reactor);
    reactor.run(&mut run)?;
    run.finish()
}

impl Run {
    fn new(plan: &Plan, log: Option<HdrLog>) -> Run {
        let (_, answer_max) = plan.protocol.wire_max(plan.sizes);
        Run {
            requests: Requests::new(plan.protocol.clone(), plan.sizes, plan.seed),
            dispatch: Dispatch::new(None, 0),
            lanes: (0..plan.connections).map(|lane| Lane::new(lane < plan.active)).collect(),
            opening: Opening::new(plan),
            record: Record::new(log),
            phase: Phase::Connect,
            begun_ns: clock::now_ns(),
            origin_ns: 0,
            measure_ns: u64::MAX,
            until_ns: u64::MAX,
            blocked: Vec::new(),
            alarm_ns: u64::MAX,
            request: Vec::new(),
            // One byte more, to see when an answer is too long.
            buffer: vec![0; answer_max + 1],
            samples: (None, None),
            outcome: Tally::default(),
            plan: plan.clone(),
        }
    }

    fn finish(mut self) -> io::Result<Outcome> {
        if self.phase == Phase::Connect {
            let why = match self.record.errors.keys().next() {
                Some((_, why)) if !self.outcome.interrupted => format!("no connection stands: {why}"),
                _ => "ended before the load began".into(),
            };
            return Err(io::Error::other(why));
        }
        let now_ns = clock::now_ns();
        self.record.end_interval(self.phase, self.origin_ns, now_ns);
        if let Some(log) = self.record.log.take() {
            log.finish()?;
        }
        Ok(Outcome {
            connected: self.outcome.connected,
            connected_at_end: self.outcome.connected_at_end,
            connecting: Duration::from_nanos(self.origin_ns - self.begun_ns),
            measured: Duration::from_nanos(self.until_ns.saturating_sub(self.measure_ns)),
            shares: self.samples.0.zip(self.samples.1).map(|(from, to)| from.shares_until(&to)),
            server_pid: self.plan.server_pid,
            resident: self.outcome.resident,
            interrupted: self.outcome.interrupted,
            record: self.record,
        })
    }

    /// All lanes are open that can be: the load begins, if there are any.
    pub(crate) fn start(&mut self, set: &mut PollSet<Run>) {
        let now_ns = clock::now_ns();
        self.outcome.connected = self.lanes_up();
        if self.outcome.connected == 0 {
            return set.stop();
        }
        if let (Some(resident), Some(pid)) = (&mut self.outcome.resident, self.plan.server_pid) {
            resident.1 = usage::resident_bytes(pid).unwrap_or(resident.0);
        }
        self.origin_ns = now_ns;
        self.measure_ns = now_ns + self.plan.warmup.as_nanos() as u64;
        self.until_ns = self.measure_ns + self.plan.duration.as_nanos() as u64;
        self.phase = Phase::Warmup;
        self.record.begin(now_ns);
        let schedule = match self.plan.load {
            Load::Open { rate, arrival } => Some(Schedule::new(arrival, rate, now_ns, self.plan.seed)),
            Load::Closed | Load::Published => None,
        };
        self.dispatch = Dispatch::new(schedule, self.until_ns);
        // Round by round: every connection gets its first request before any gets its second.
        for _ in 0..self.plan.pipeline {
            for lane in 0..self.lanes.len() as u32 {
                self.release(lane);
            }
        }
        self.pump(set);
    }

    /// Enters the phase that this time belongs to.
    pub(crate) fn reach(&mut self, now_ns: u64) {
        if self.phase == Phase::Warmup && now_ns >= self.measure_ns {
            self.record.end_interval(Phase::Warmup, self.origin_ns, self.measure_ns);
            self.phase = Phase::Measure;
            self.samples.0 = Some(Sample::take(self.plan.server_pid));
        }
        if self.phase == Phase::Measure && now_ns >= self.until_ns {
            self.record.end_interval(Phase::Measure, self.origin_ns, self.until_ns);
            self.phase = Phase::Drain;
            self.samples.1 = Some(Sample::take(self.plan.server_pid));
            self.outcome.connected_at_end = self.lanes_up();
        }
    }

    pub(crate) fn is_measured(&self, due_ns: u64) -> bool {
        (self.measure_ns..self.until_ns).contains(&due_ns)
    }

    pub(crate) fn lanes_up(&self) -> u32 {
        self.lanes.iter().filter(|lane| lane.is_up()).count() as u32
    }

    /// Ends the load early; what was sent is still waited for.
    fn interrupt(&mut self) {
        let now_ns = clock::now_ns();
        self.reach(now_ns);
        self.outcome.interrupted = true;
        if self.phase < Phase::Drain {
            self.dispatch.end(now_ns);
            self.measure_ns = self.measure_ns.min(now_ns);
            self.until_ns = now_ns;
            self.reach(now_ns);
        }
    }

    fn tick(&mut self, set: &mut PollSet<Run>) {
        let now_ns = clock::now_ns();
        self.reach(now_ns);
        self.open_more(set);
        if self.phase == Phase::Connect {
            return;
        }
        self.expire(now_ns, set);
        self.unblock_all(set);
        let interval_ns = now_ns.saturating_sub(self.record.interval_begun_ns());
        if self.phase < Phase::Drain && interval_ns >= self.plan.interval.as_nanos() as u64 {
            self.record.end_interval(self.phase, self.origin_ns, now_ns);
        }
        if self.phase == Phase::Drain && !self.is_under_way(now_ns) {
            set.stop();
        }
    }

    /// Whether anything that was due is neither here nor given up.
    fn is_under_way(&self, now_ns: u64) -> bool {
        match self.plan.load {
            // Values come in order, so one that was due later shows that there are no more.
            Load::Published => {
                let waits = |lane: &Lane| lane.is_up() && lane.last_due_ns < self.until_ns;
                now_ns < self.until_ns + self.plan.timeout.as_nanos() as u64 && self.lanes.iter().any(waits)
            }
            _ => self.dispatch.waiting() > 0 || self.lanes.iter().any(|lane| !lane.asked.is_empty()),
        }
    }
}
