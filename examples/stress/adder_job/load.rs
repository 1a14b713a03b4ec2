//! The clients, all in one thread on one reactor: each sends a series, awaits its answer, checks it, sends the next.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use ipc_reactor::{
    Address, Cause, Context, Framing, Key, Limit, Limits, PollSet, Queue, Reactor, Session, Signal,
};

use super::report::Progress;
use crate::{connect::connect, random::Random};

/// Looks at the clock, and at the queue.
const TICK: Duration = Duration::from_millis(1);
const PROGRESS: Duration = Duration::from_millis(200);
/// Messages that go to the queue whatever happens.
const QUEUE_AT_LEAST: u64 = 10;

/// What is to be done.
pub(crate) struct Plan {
    pub(crate) address: Address,
    pub(crate) queue: Option<String>,
    pub(crate) clients: u32,
    pub(crate) end: End,
    /// Numbers in a request.
    pub(crate) size: u32,
    /// For a connection, and for an answer.
    pub(crate) timeout: Duration,
    pub(crate) seed: u64,
}

#[derive(Clone, Copy)]
pub(crate) enum End {
    After(Duration),
    Requests(u64),
}

/// What was done, and what came of it.
pub(crate) struct Tally {
    pub(crate) connections: u64,
    pub(crate) requests: u64,
    /// Right ones.
    pub(crate) answers: u64,
    pub(crate) wrong: u64,
    pub(crate) missing: u64,
    /// By kind, wrong and missing answers included.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) first_wrong: Option<String>,
    /// Nanoseconds from a request to the end of its answer.
    pub(crate) latency: Histogram<u64>,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    pub(crate) interrupted: bool,
    pub(crate) queue_sent: u64,
    pub(crate) queue_sum: i64,
}

impl Tally {
    fn new() -> Tally {
        Tally {
            connections: 0,
            requests: 0,
            answers: 0,
            wrong: 0,
            missing: 0,
            errors: BTreeMap::new(),
            first_wrong: None,
            latency: Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("constant bounds are valid"),
            elapsed: Duration::ZERO,
            interrupted: false,
            queue_sent: 0,
            queue_sum: 0,
        }
    }

    fn error(&mut self, kind: impl Into<String>) {
        *self.errors.entry(kind.into()).or_default() += 1;
    }
}

/// The reactor's shared state.
struct Run {
    tally: Tally,
    random: Random,
    size: u32,
    timeout: Duration,
    started: Instant,
    /// No new request is sent.
    ending: bool,
    /// Requests that may still be sent.
    left: u64,
    /// Clients that are connected.
    callers: u32,
    /// When the last of them was done.
    done: Option<Instant>,
}

/// Carries the plan out.
///
/// # Errors
/// It could not even begin: a client could not connect, or the queue not be opened.
pub(crate) fn run(plan: &Plan) -> io::Result<Tally> {
    let mut reactor = Reactor::<Run>::builder().limits(limits(plan)).build()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, run: &mut Run| {
        if run.tally.interrupted {
            cx.stop();
        }
        (run.ending, run.tally.interrupted) = (true, true);
        Ok(())
    })?;
    let queue = match &plan.queue {
        Some(name) => Some(reactor.outbox(Queue::options().write(true).open(name)?)?),
        None => None,
    };
    for connected in 0..plan.clients {
        let socket = connect(&plan.address, plan.timeout).map_err(|error| {
            io::Error::new(error.kind(), format!("client {connected} of {}: {error}", plan.clients))
        })?;
        reactor.adopt(socket, Framing::raw(), Caller::default())?;
    }
    let mut run = Run {
        tally: Tally::new(),
        random: Random::new(plan.seed),
        size: plan.size,
        timeout: plan.timeout,
        started: Instant::now(),
        ending: false,
        left: if let End::Requests(requests) = plan.end { requests } else { u64::MAX },
        callers: plan.clients,
        done: None,
    };
    run.tally.connections = plan.clients.into();
    let end = plan.end;
    reactor.every(TICK, move |cx, run| {
        run.tick(end, queue, cx);
        Ok(())
    });
    if io::stderr().is_terminal() {
        let progress = Progress::new(end);
        reactor.every(PROGRESS, move |_, run| {
            progress.show(&run.tally, run.started.elapsed());
            Ok(())
        });
    }
    reactor.run(&mut run)?;
    run.tally.elapsed = run.done.unwrap_or_else(Instant::now) - run.started;
    Ok(run.tally)
}

fn limits(plan: &Plan) -> Limits {
    let clients = plan.clients as usize + 1;
    // On a seqpacket socket each number is a record, with its length before it.
    let request = (plan.size as usize + 1) * 8;
    let defaults = Limits::default();
    Limits {
        clients,
        clients_per_uid: clients,
        idle: Some(plan.timeout),
        output_high_water: request.max(defaults.output_high_water),
        output_max: request.max(defaults.output_max),
        buffered_max: usize::MAX,
        buffered_per_uid: usize::MAX,
        ..defaults
    }
}

impl Run {
    fn tick(&mut self, end: End, queue: Option<Key>, set: &mut PollSet<Run>) {
        let now = Instant::now();
        if let End::After(time) = end {
            self.ending |= now - self.started >= time;
        }
        let mut waiting = 0;
        if let Some(queue) = queue {
            // A message a tick, unless the server lags behind.
            let least = self.tally.queue_sent < QUEUE_AT_LEAST;
            if set.outbox_len(queue) == 0 && (!self.is_over() || least) {
                self.post(queue, set);
            }
            waiting = set.outbox_len(queue) + usize::from(self.tally.queue_sent < QUEUE_AT_LEAST);
        }
        if let Some(done) = self.done
            && (waiting == 0 || now - done > self.timeout)
        {
            set.stop();
        }
    }

    fn is_over(&self) -> bool {
        self.ending || self.left == 0 || self.callers == 0
    }

    fn post(&mut self, queue: Key, set: &mut PollSet<Run>) {
        let number = self.random.number();
        match set.post(queue, number.to_string().as_bytes(), 0) {
            Ok(_) => {
                self.tally.queue_sent += 1;
                self.tally.queue_sum += i64::from(number);
            }
            Err(error) => self.tally.error(format!("queue: {error}")),
        }
    }
}

/// One client.
#[derive(Default)]
struct Caller {
    /// The answer that must come, and how much of it has.
    expected: Vec<u8>,
    received: usize,
    /// When the request was made that is not answered yet.
    asked: Option<Instant>,
}

impl Caller {
    /// Sends the next request, if there is to be one.
    fn ask(&mut self, cx: &mut Context<'_, Run>, run: &mut Run) -> io::Result<()> {
        if run.ending || run.left == 0 {
            cx.finish();
            return Ok(());
        }
        run.left -= 1;
        run.tally.requests += 1;
        self.asked = Some(Instant::now());
        let mut sum = 0;
        for _ in 0..run.size {
            let number = run.random.number();
            sum += i64::from(number);
            cx.reply(&number.to_ne_bytes())?;
        }
        cx.reply(&0_i32.to_ne_bytes())?;
        self.expected.clear();
        self.received = 0;
        write!(self.expected, "Result = {sum}")
    }
}

impl Session<Run> for Caller {
    fn on_open(&mut self, cx: &mut Context<'_, Run>, run: &mut Run) -> io::Result<()> {
        self.ask(cx, run)
    }

    /// An answer, or a piece of one. Nothing marks its end, but one is expected at a time, and it is known.
    fn on_request(&mut self, piece: &[u8], cx: &mut Context<'_, Run>, run: &mut Run) -> io::Result<()> {
        if !self.expected[self.received..].starts_with(piece) {
            run.tally.wrong += 1;
            run.tally.error("wrong answer");
            run.tally.first_wrong.get_or_insert_with(|| {
                let got = [&self.expected[..self.received], piece].concat();
                format!(
                    "{:?} instead of {:?}",
                    String::from_utf8_lossy(&got),
                    String::from_utf8_lossy(&self.expected)
                )
            });
            // The beginning of the next answer is unknown.
            self.asked = None;
            cx.finish();
            return Ok(());
        }
        self.received += piece.len();
        if self.received < self.expected.len() {
            return Ok(());
        }
        if let Some(asked) = self.asked.take() {
            run.tally.answers += 1;
            run.tally.latency.saturating_record(asked.elapsed().as_nanos() as u64);
        }
        self.ask(cx, run)
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Run>, run: &mut Run) {
        run.callers -= 1;
        if self.asked.is_some() {
            run.tally.missing += 1;
            run.tally.error(match cause {
                Cause::Limit(Limit::Idle) => format!("no answer within {:?}", run.timeout),
                Cause::Stop => "not waited for".into(),
                cause => format!("no answer: {cause}"),
            });
        } else if !matches!(cause, Cause::Closed | Cause::Stop) {
            run.tally.error(format!("connection lost: {cause}"));
        }
        if run.callers == 0 {
            run.done = Some(Instant::now());
        }
    }
}
