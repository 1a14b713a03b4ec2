//! The load itself: one thread, on this crate's own reactor, so that ten thousand connections cost what they send.
//!
//! ```text
//!   Schedule ──due──► Dispatch ──(request, lane)──► Lane::send ──► server
//!                        ▲                                           │
//!                        └── release ◄── Record ◄── Lane::stream ◄───┘ answer, checked
//! ```
//!
//! A run has four phases: **connect** (until all lanes stand), **warmup**, **measure**, **drain** (until the last request is answered or given up).
//! A request belongs to the phase in which it was due. Every handler begins with [`Run::reach`], so a phase ends at its time and not at the next tick.
//! [`Run::pump`] is the one place where requests are sent; it runs when an answer has made room, when a request comes due, and at each tick.

use std::{io, mem, time::Duration};

use ipc_reactor::{Limits, PollSet, Reactor, Signal};

use crate::{
    clock,
    dispatch::{Dispatch, Due},
    hdr_log::HdrLog,
    lane::{Arrived, Asked, Lane, Way},
    opening::Opening,
    progress::Progress,
    protocol::{Protocol, Requests},
    record::{Phase, Record, Times},
    schedule::{Arrival, Schedule},
    target::Target,
    usage::{self, Sample, Shares},
    values::Sizes,
};

/// Looks for requests without an answer, for lanes to open, for room.
const TICK: Duration = Duration::from_millis(10);
const PROGRESS: Duration = Duration::from_millis(200);
/// Requests sent in one go: answers wait meanwhile.
const BATCH: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Load {
    Open {
        rate: f64,
        arrival: Arrival,
    },
    Closed,
    /// A publisher in shared memory sends by its own schedule.
    Published,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) protocol: Protocol,
    pub(crate) sizes: Sizes,
    pub(crate) connections: u32,
    /// How many of them are loaded.
    pub(crate) active: u32,
    /// Connections a second; None: as fast as the server takes them.
    pub(crate) ramp: Option<f64>,
    pub(crate) load: Load,
    /// Requests under way on a connection at a time.
    pub(crate) pipeline: u32,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    /// For an answer, for a connection, and for room to send.
    pub(crate) timeout: Duration,
    pub(crate) interval: Duration,
    pub(crate) seed: u64,
    pub(crate) server_pid: Option<u32>,
}

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
    /// The server's memory before the first connection but one, and with all of them.
    pub(crate) resident: Option<(u64, u64)>,
    pub(crate) interrupted: bool,
}

/// The reactor's shared state.
pub(crate) struct Run {
    pub(crate) plan: Plan,
    pub(crate) requests: Requests,
    dispatch: Dispatch<u32>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) opening: Opening,
    pub(crate) record: Record,
    pub(crate) phase: Phase,
    begun_ns: u64,
    /// When the load began, when it began to be measured, and when the last request is due.
    pub(crate) origin_ns: u64,
    measure_ns: u64,
    until_ns: u64,
    /// Lanes that had no room, or failed; tried again when there is room, or at the next tick.
    blocked: Vec<u32>,
    /// When the timer for the next request is due; `u64::MAX` if none is set.
    alarm_ns: u64,
    request: Vec<u8>,
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
/// It could not even begin: nobody is there, or a size is more than the transport takes.
pub(crate) fn run(plan: &Plan, log: Option<HdrLog>) -> io::Result<Outcome> {
    let mut reactor = Reactor::<Run>::builder().limits(limits(plan)).build()?;
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

fn limits(plan: &Plan) -> Limits {
    let defaults = Limits::default();
    let connections = plan.connections as usize + 1;
    let (request, answer) = plan.protocol.wire_max(plan.sizes);
    let output = (request + 64) * plan.pipeline as usize * 2;
    Limits {
        clients: connections,
        clients_per_uid: connections,
        idle: None,
        half_frame: None,
        connect: plan.timeout,
        frame_max: answer.max(defaults.frame_max),
        output_high_water: output.max(defaults.output_high_water),
        output_max: output.max(defaults.output_max),
        held_max: usize::MAX,
        held_per_uid: usize::MAX,
        ..defaults
    }
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
            return Err(io::Error::new(io::ErrorKind::Interrupted, "ended before the load began"));
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

    // ---- Phases ----

    /// All lanes that will stand do: the load begins.
    pub(crate) fn start(&mut self, set: &mut PollSet<Run>) {
        let now_ns = clock::now_ns();
        self.outcome.connected = self.lanes_up();
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

    fn is_measured(&self, due_ns: u64) -> bool {
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
        self.unblock(set);
        let interval_ns = now_ns.saturating_sub(self.record.interval_begun_ns());
        if self.phase < Phase::Drain && interval_ns >= self.plan.interval.as_nanos() as u64 {
            self.record.end_interval(self.phase, self.origin_ns, now_ns);
        }
        let under_way = self.dispatch.waiting() > 0 || self.lanes.iter().any(|lane| !lane.asked.is_empty());
        if self.phase == Phase::Drain && !under_way {
            set.stop();
        }
    }

    // ---- Requests ----

    /// Sends what is due, as far as there is room, and sees to it that it is called again for what is due next.
    pub(crate) fn pump(&mut self, set: &mut PollSet<Run>) {
        for _ in 0..BATCH {
            let now_ns = clock::now_ns();
            let Some((due, lane)) = self.dispatch.next(now_ns) else {
                if let Some(upcoming_ns) = self.dispatch.upcoming_ns() {
                    self.alarm(now_ns, upcoming_ns, set);
                }
                return;
            };
            let mut request = mem::take(&mut self.request);
            let expected = self.requests.make(&mut request);
            let sent = self.lanes[lane as usize].send(&request, set);
            let asked = Asked { due, sent_ns: now_ns, expected, bytes: request.len() };
            self.request = request;
            match sent {
                Ok(true) => self.sent(lane, asked),
                Ok(false) => {
                    self.record.no_room += 1;
                    self.dispatch.put_back(due);
                    self.blocked.push(lane);
                }
                Err(error) => {
                    self.record.missing += 1;
                    self.record.error(self.phase, format!("cannot send: {error}"));
                    self.blocked.push(lane);
                }
            }
        }
        let now_ns = clock::now_ns();
        self.alarm(now_ns, now_ns, set);
    }

    /// Has `pump` called at `due_ns`, or sooner.
    fn alarm(&mut self, now_ns: u64, due_ns: u64, set: &mut PollSet<Run>) {
        if self.alarm_ns <= due_ns {
            return;
        }
        self.alarm_ns = due_ns;
        set.after(Duration::from_nanos(due_ns.saturating_sub(now_ns)), |cx, run: &mut Run| {
            run.alarm_ns = u64::MAX;
            run.reach(clock::now_ns());
            run.pump(cx);
            Ok(())
        });
    }

    fn sent(&mut self, lane: u32, asked: Asked) {
        let Due { intended_ns, held } = asked.due;
        if self.is_measured(intended_ns) {
            self.record.requests += 1;
            self.record.bytes_out += asked.bytes as u64;
            if !held {
                self.record.lag.saturating_record(asked.sent_ns.saturating_sub(intended_ns));
            }
        }
        if self.plan.protocol == Protocol::OneWay {
            self.answered(lane, asked, 0, clock::now_ns());
        } else {
            self.lanes[lane as usize].asked.push_back(asked);
        }
    }

    /// The lane has room for one request more.
    fn release(&mut self, lane: u32) {
        let takes_part = self.lanes[lane as usize].is_up() && self.lanes[lane as usize].is_active;
        if takes_part && self.plan.load != Load::Published {
            self.dispatch.release(lane);
        }
    }

    fn answered(&mut self, lane: u32, asked: Asked, bytes: usize, now_ns: u64) {
        let intended_ns = asked.due.intended_ns;
        let times = Times { intended_ns, sent_ns: Some(asked.sent_ns), ended_ns: now_ns };
        let measured = self.is_measured(intended_ns);
        self.record.bytes_in += if measured { bytes as u64 } else { 0 };
        self.record.answered(self.phase, times, measured);
        self.release(lane);
    }

    /// Takes in what a lane has received: on a stream any number of answers, else one message. False: the lane is of no more use.
    pub(crate) fn arrived(&mut self, lane: u32, mut bytes: &[u8], set: &mut PollSet<Run>) -> bool {
        let now_ns = clock::now_ns();
        self.reach(now_ns);
        let is_message = !matches!(self.plan.target, Target::Connections(_));
        let is_record = self.plan.target.is_seqpacket();
        loop {
            let state = &mut self.lanes[lane as usize];
            let arrived = match is_message {
                true => state.message(bytes, &self.requests),
                false => state.stream(bytes, is_record, &self.requests),
            };
            match arrived {
                Arrived::Answer(asked, used) => {
                    self.answered(lane, asked, used, now_ns);
                    bytes = &bytes[used..];
                }
                Arrived::Partial => break,
                Arrived::Stray => self.record.error(self.phase, "an answer that came too late, or twice"),
                Arrived::Wrong(why) => {
                    self.record.wrong += 1;
                    self.record.error(self.phase, "wrong answer");
                    self.record.first_wrong.get_or_insert(why);
                    if !is_message {
                        // Where the next answer would begin, nobody knows.
                        return false;
                    }
                }
            }
            if bytes.is_empty() || is_message {
                break;
            }
        }
        self.pump(set);
        true
    }

    /// A value from a publisher in shared memory, which says when it was due and when it was published.
    pub(crate) fn published(&mut self, intended_ns: u64, sent_ns: u64, bytes: usize) {
        let now_ns = clock::now_ns();
        self.reach(now_ns);
        if self.phase == Phase::Connect || intended_ns < self.origin_ns {
            return;
        }
        let measured = self.is_measured(intended_ns);
        if measured {
            self.record.requests += 1;
            self.record.bytes_in += bytes as u64;
            self.record.lag.saturating_record(sent_ns.saturating_sub(intended_ns));
        }
        let times = Times { intended_ns, sent_ns: Some(sent_ns), ended_ns: now_ns };
        self.record.answered(self.phase, times, measured);
    }

    // ---- What does not go well ----

    /// Gives up what has waited for too long.
    fn expire(&mut self, now_ns: u64, set: &mut PollSet<Run>) {
        let before_ns = now_ns.saturating_sub(self.plan.timeout.as_nanos() as u64);
        while let Some(Due { intended_ns, .. }) = self.dispatch.expire(before_ns) {
            let measured = self.is_measured(intended_ns);
            self.record.requests += u64::from(measured);
            let why = format!("not sent within {:?}: no connection had room", self.plan.timeout);
            let times = Times { intended_ns, sent_ns: None, ended_ns: now_ns };
            self.record.given_up(self.phase, times, measured, why);
        }
        for lane in 0..self.lanes.len() {
            while let Some(&asked) = self.lanes[lane].asked.front().filter(|asked| asked.sent_ns <= before_ns)
            {
                self.lanes[lane].asked.pop_front();
                let intended_ns = asked.due.intended_ns;
                let times = Times { intended_ns, sent_ns: Some(asked.sent_ns), ended_ns: now_ns };
                let why = format!("no answer within {:?}", self.plan.timeout);
                self.record.given_up(self.phase, times, self.is_measured(intended_ns), why);
                match self.lanes[lane].way {
                    // Its answer may still come, and would be taken for the next one's.
                    Way::Connection { key, .. } => {
                        set.abort(key);
                        break;
                    }
                    _ => self.release(lane as u32),
                }
            }
        }
        self.pump(set);
    }

    /// There may be room now.
    pub(crate) fn unblock(&mut self, set: &mut PollSet<Run>) {
        if self.blocked.is_empty() {
            return;
        }
        for lane in mem::take(&mut self.blocked) {
            self.release(lane);
        }
        self.pump(set);
    }

    /// The lane's connection is gone, and with it the answers that it owed.
    pub(crate) fn down(&mut self, lane: u32, why: &str) {
        let state = &mut self.lanes[lane as usize];
        state.way = Way::None;
        state.received = 0;
        let owed = mem::take(&mut state.asked);
        for _ in owed {
            self.record.missing += 1;
            self.record.error(self.phase, format!("no answer: {why}"));
        }
    }

    /// It is not to be asked any more, until it is up again.
    pub(crate) fn withdraw(&mut self, lane: u32) {
        self.dispatch.withdraw(lane);
        self.blocked.retain(|&blocked| blocked != lane);
    }

    /// A lane stands (again).
    pub(crate) fn up(&mut self, lane: u32, way: Way, set: &mut PollSet<Run>) {
        self.lanes[lane as usize].way = way;
        if self.phase != Phase::Connect {
            for _ in 0..self.plan.pipeline {
                self.release(lane);
            }
            self.pump(set);
        }
    }
}
