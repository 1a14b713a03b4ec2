//! `churn`: connection initiation requests, and nothing else. Each connection is closed as soon as it is established,
//! or with `--ask` once one request is answered.
//!
//! A Unix connection is established for its client as soon as it is in the master socket's backlog; that the server has
//! accepted it shows only in its answer.

use std::{io, time::Duration};

use ipc_reactor::{
    Address, Cause, Context, Framing, Limit, Limits, PollSet, Reactor, Session, Signal, TimerKey,
};
use serde_json::json;

use crate::{
    clock,
    connect::connect,
    dispatch::{Dispatch, Due},
    options::{Bytes, JsonOption, Refusal, make_room, parsed_bytes},
    record::{Phase, Record, Times},
    report::{VERSION, line, percentiles},
    schedule::{Arrival, Schedule},
    target::Target,
    usage::{Sample, peer_pid},
    values::{self, grouped},
    verdict,
};

const TICK: Duration = Duration::from_millis(10);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// unix:PATH, unix-seq:PATH, abstract:NAME, abstract-seq:NAME or tcp:HOST:PORT
    target: Target,
    /// Connections a second
    #[arg(long, value_name = "RATE", default_value = "1k", value_parser = values::rate)]
    connects: f64,
    /// How they come due: constant or poisson
    #[arg(long, value_name = "HOW", default_value_t = Arrival::Constant)]
    arrival: Arrival,
    /// Send this over each, and wait for as many bytes: it shows that the server has accepted
    #[arg(long, value_name = "BYTES", value_parser = parsed_bytes)]
    ask: Option<Bytes>,
    /// How long to measure
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = values::duration)]
    duration: Duration,
    /// Load before that, which is not measured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::duration)]
    warmup: Duration,
    /// For a connection, and for the answer on it
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::duration)]
    timeout: Duration,
    /// How many connections may be under way at a time: what comes due beyond them waits
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    at_a_time: u32,
    /// The server's process, for its processor time [default: who listens, as the kernel tells it of Unix sockets]
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Begins the random numbers
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The run is invalid if one connection in a hundred is begun later than this through the generator's own fault
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = values::duration)]
    max_lag: Duration,
    #[command(flatten)]
    json: JsonOption,
}

/// The reactor's shared state.
struct Churn {
    address: Address,
    ask: Vec<u8>,
    timeout: Duration,
    /// A place for each connection that may be under way.
    dispatch: Dispatch<()>,
    record: Record,
    measure_ns: u64,
    until_ns: u64,
    pid: Option<u32>,
    samples: (Option<Sample>, Option<Sample>),
    under_way: u32,
    alarmed: bool,
    interrupted: bool,
}

impl Churn {
    /// The phase that this time belongs to; processor time is read where one ends.
    fn reach(&mut self, now_ns: u64) -> Phase {
        if now_ns >= self.measure_ns && self.samples.0.is_none() {
            self.samples.0 = Some(Sample::take(self.pid));
        }
        if now_ns >= self.until_ns && self.samples.1.is_none() {
            self.samples.1 = Some(Sample::take(self.pid));
        }
        match now_ns {
            _ if now_ns >= self.until_ns => Phase::Drain,
            _ if now_ns >= self.measure_ns => Phase::Measure,
            _ => Phase::Warmup,
        }
    }

    fn is_measured(&self, due_ns: u64) -> bool {
        (self.measure_ns..self.until_ns).contains(&due_ns)
    }

    /// Begins what is due.
    fn pump(&mut self, set: &mut PollSet<Churn>) {
        let mut now_ns = clock::now_ns();
        let phase = self.reach(now_ns);
        while let Some((Due { intended_ns, held }, ())) = self.dispatch.next(now_ns) {
            let measured = self.is_measured(intended_ns);
            self.record.requests += u64::from(measured);
            if measured && !held {
                self.record.lag.saturating_record(now_ns - intended_ns);
            }
            let times = Times { intended_ns, sent_ns: Some(now_ns), ended_ns: now_ns };
            match set.connect(&self.address, Framing::raw(), Knock { times, received: 0, is_done: false }) {
                Ok(_) => self.under_way += 1,
                Err(error) => {
                    self.record.given_up(phase, times, measured, format!("cannot connect: {error}"));
                    self.dispatch.release(());
                }
            }
            now_ns = clock::now_ns();
        }
        if let Some(upcoming_ns) = self.dispatch.upcoming_ns().filter(|_| !self.alarmed) {
            self.alarmed = true;
            set.after(Duration::from_nanos(upcoming_ns.saturating_sub(now_ns)), |cx, churn: &mut Churn| {
                churn.alarmed = false;
                churn.pump(cx);
                Ok(())
            });
        }
    }

    fn tick(&mut self, set: &mut PollSet<Churn>) {
        let now_ns = clock::now_ns();
        let phase = self.reach(now_ns);
        while let Some(Due { intended_ns, .. }) =
            self.dispatch.expire(now_ns.saturating_sub(self.timeout.as_nanos() as u64))
        {
            let measured = self.is_measured(intended_ns);
            self.record.requests += u64::from(measured);
            let times = Times { intended_ns, sent_ns: None, ended_ns: now_ns };
            self.record.given_up(phase, times, measured, "not begun in time: too many were under way".into());
        }
        if phase == Phase::Drain && self.under_way == 0 && self.dispatch.waiting() == 0 {
            set.stop();
        }
    }

    fn interrupt(&mut self) {
        let now_ns = clock::now_ns();
        self.reach(now_ns);
        self.interrupted = true;
        self.dispatch.end(now_ns);
        self.measure_ns = self.measure_ns.min(now_ns);
        self.until_ns = self.until_ns.min(now_ns);
        self.reach(now_ns);
    }
}

/// One connection, from its CIR to its close.
struct Knock {
    times: Times,
    received: usize,
    is_done: bool,
}

impl Knock {
    fn done(&mut self, cx: &mut Context<'_, Churn>, churn: &mut Churn) {
        let now_ns = clock::now_ns();
        self.is_done = true;
        self.times.ended_ns = now_ns;
        let phase = churn.reach(now_ns);
        churn.record.answered(phase, self.times, churn.is_measured(self.times.intended_ns));
        cx.finish();
    }
}

impl Session<Churn> for Knock {
    fn on_open(&mut self, cx: &mut Context<'_, Churn>, churn: &mut Churn) -> io::Result<()> {
        if churn.ask.is_empty() {
            self.done(cx, churn);
            return Ok(());
        }
        cx.wake_after(churn.timeout);
        cx.reply(&churn.ask)
    }

    fn on_request(&mut self, bytes: &[u8], cx: &mut Context<'_, Churn>, churn: &mut Churn) -> io::Result<()> {
        self.received += bytes.len();
        if self.received >= churn.ask.len() && !self.is_done {
            self.done(cx, churn);
        }
        Ok(())
    }

    fn on_timer(&mut self, _: TimerKey, cx: &mut Context<'_, Churn>, _: &mut Churn) -> io::Result<()> {
        let key = cx.key();
        cx.abort(key);
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Churn>, churn: &mut Churn) {
        churn.under_way -= 1;
        churn.dispatch.release(());
        if !self.is_done {
            let now_ns = clock::now_ns();
            let phase = churn.reach(now_ns);
            let why = match cause {
                Cause::Connect(error) => format!("cannot connect: {error}"),
                Cause::Limit(Limit::Connect) => format!("no connection within {:?}", churn.timeout),
                Cause::Closed => format!("no answer within {:?}", churn.timeout),
                cause => format!("no answer: {cause}"),
            };
            self.times.ended_ns = now_ns;
            let measured = churn.is_measured(self.times.intended_ns);
            churn.record.given_up(phase, self.times, measured, why);
        }
        churn.pump(cx);
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<u8, Refusal> {
    let Target::Connections(address) = arguments.target.clone().resolved()? else {
        return Err(Refusal::Usage(
            "churn wants connections: unix:, unix-seq:, abstract:, abstract-seq: or tcp:".into(),
        ));
    };
    let mut json = arguments.json.open()?;
    make_room(arguments.at_a_time)?;
    let churn = load(arguments, address)?;
    let shares = churn.samples.0.zip(churn.samples.1).map(|(from, to)| from.shares_until(&to));
    let record = &churn.record;
    let measured = Duration::from_nanos(churn.until_ns.saturating_sub(churn.measure_ns));
    let rate = record.answers_within as f64 / measured.as_secs_f64().max(1e-9);
    let mut invalid = Vec::new();
    let lag_ns = record.lag.value_at_quantile(0.99);
    if lag_ns > arguments.max_lag.as_nanos() as u64 {
        invalid.push(verdict::lagged(lag_ns, arguments.max_lag));
    }
    invalid.extend(shares.and_then(verdict::bottleneck));
    let failed = match record.missing {
        0 => vec![],
        missing => vec![format!("{} connections were not made, or not answered", grouped(missing))],
    };
    let mut text = format!(
        "{}: {}/s asked ({}), {:.2} s after {:.2} s of warm-up{}\n",
        arguments.target,
        grouped(arguments.connects as u64),
        arguments.arrival,
        measured.as_secs_f64(),
        arguments.warmup.as_secs_f64(),
        if churn.interrupted { " (ended early)" } else { "" },
    );
    text += &format!(
        "  connections  {} of {}, {}/s\n",
        grouped(record.answers),
        grouped(record.requests),
        grouped(rate as u64)
    );
    text += &format!("  latency      {}\n", line(&record.latency));
    text += &format!("  service      {}\n", line(&record.service));
    text += &format!("  lag          {}\n", line(&record.lag));
    if let Some(shares) = shares {
        let server = shares.server.map_or("not known".into(), |server| format!("{:.0} %", server * 100.0));
        text += &format!("  processor    client {}, server {server}\n", shares.client_shown());
    }
    for ((phase, kind), count) in &record.errors {
        text += &format!("  errors       {} in {phase}: {kind}\n", grouped(*count));
    }
    for (word, why) in
        failed.iter().map(|why| ("FAILED", why)).chain(invalid.iter().map(|why| ("INVALID", why)))
    {
        text += &format!("  {word:<12} {why}\n");
    }
    json.say(&text)?;
    let errors: Vec<_> = record
        .errors
        .iter()
        .map(|((phase, kind), count)| json!({ "phase": phase.to_string(), "kind": kind, "count": count }))
        .collect();
    json.write(&json!({
        "format": "ipc-reactor-stress",
        "version": VERSION,
        "mode": "churn",
        "target": arguments.target.to_string(),
        "rate_asked": arguments.connects,
        "arrival": arguments.arrival.to_string(),
        "measured_s": measured.as_secs_f64(),
        "interrupted": churn.interrupted,
        "requests": record.requests,
        "answers": record.answers,
        "missing": record.missing,
        "rate": rate,
        "latency_us": percentiles(&record.latency),
        "service_us": percentiles(&record.service),
        "lag_us": percentiles(&record.lag),
        "errors": errors,
        "cpu": {
            "client": shares.map(|shares| shares.client),
                "client_waited": shares.and_then(|shares| shares.client_waited),
            "server": shares.and_then(|shares| shares.server),
            "server_pid": churn.pid,
        },
        "valid": invalid.is_empty(),
        "invalid": invalid,
        "failed": failed,
        "ok": invalid.is_empty() && failed.is_empty(),
    }))?;
    Ok(match (invalid.is_empty(), failed.is_empty()) {
        (false, _) => 3,
        (true, false) => 1,
        (true, true) => 0,
    })
}

fn load(arguments: &Arguments, address: Address) -> io::Result<Churn> {
    let probe = connect(&address, arguments.timeout)?;
    let pid = match (&address, arguments.server_pid) {
        (Address::Tcp(_), pid) | (_, pid @ Some(_)) => pid,
        _ => peer_pid(&probe),
    };
    drop(probe);
    let limits = Limits {
        clients: arguments.at_a_time as usize + 1,
        clients_per_uid: arguments.at_a_time as usize + 1,
        connect: arguments.timeout,
        ..Limits::default()
    };
    let mut reactor = Reactor::<Churn>::builder().limits(limits).build()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, churn: &mut Churn| {
        if churn.interrupted {
            cx.stop();
        }
        churn.interrupt();
        Ok(())
    })?;
    let start_ns = clock::now_ns();
    let measure_ns = start_ns + arguments.warmup.as_nanos() as u64;
    let until_ns = measure_ns + arguments.duration.as_nanos() as u64;
    let schedule = Schedule::new(arguments.arrival, arguments.connects, start_ns, arguments.seed);
    let mut dispatch = Dispatch::new(Some(schedule), until_ns);
    for _ in 0..arguments.at_a_time {
        dispatch.release(());
    }
    let mut churn = Churn {
        address,
        ask: arguments.ask.clone().map_or(vec![], |ask| ask.0),
        timeout: arguments.timeout,
        dispatch,
        record: Record::new(None),
        measure_ns,
        until_ns,
        pid,
        samples: (None, None),
        under_way: 0,
        alarmed: false,
        interrupted: false,
    };
    reactor.every(TICK, |cx, churn| {
        churn.tick(cx);
        Ok(())
    });
    churn.pump(&mut reactor);
    reactor.run(&mut churn)?;
    Ok(churn)
}
