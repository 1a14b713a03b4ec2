//! What people and programs get: a bar while it runs, then text or JSON.

use std::{fmt, io, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::load::{End, Plan, Tally};
use crate::values::{Time, grouped};

const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// The bar on a terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    end: End,
}

impl Progress {
    pub(crate) fn new(end: End) -> Progress {
        let length = match end {
            End::After(time) => time.as_millis() as u64,
            End::Requests(requests) => requests,
        };
        let style =
            ProgressStyle::with_template("{bar:30} {percent:>3}% {msg}").expect("a constant template");
        Progress { bar: ProgressBar::new(length).with_style(style), end }
    }

    pub(crate) fn show(&self, tally: &Tally, elapsed: Duration) {
        self.bar.set_position(match self.end {
            End::After(_) => elapsed.as_millis() as u64,
            End::Requests(_) => tally.requests,
        });
        let errors: u64 = tally.errors.values().sum();
        self.bar.set_message(format!(
            "{} requests/s, {} errors, p99 {}",
            grouped(rate(tally.answers, elapsed)),
            grouped(errors),
            Time(tally.latency.value_at_quantile(0.99)),
        ));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The outcome, judged.
pub(crate) struct Report<'a> {
    plan: &'a Plan,
    tally: &'a Tally,
    /// What the built-in server has counted.
    server: Option<Value>,
    problems: Vec<String>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(plan: &'a Plan, tally: &'a Tally, server: Option<io::Result<Value>>) -> Report<'a> {
        let mut problems = Vec::new();
        let server =
            server.and_then(|counted| counted.map_err(|error| problems.push(error.to_string())).ok());
        if let Some(wrong) = &tally.first_wrong {
            problems.push(format!("{} wrong answers, the first: {wrong}", grouped(tally.wrong)));
        }
        if tally.missing > 0 {
            problems.push(format!("{} answers are missing", grouped(tally.missing)));
        }
        if let Some(server) = &server {
            let mut compare = |what: &str, sent: i64, counted: &Value| {
                if counted.as_i64() != Some(sent) {
                    problems.push(format!("{what}: {sent} here, {counted} at the server"));
                }
            };
            // Answers that were given up may have been given.
            if tally.wrong + tally.missing == 0 {
                compare("answers", tally.answers as i64, &server["answers"]);
            }
            compare("messages in the queue", tally.queue_sent as i64, &server["queue"]["messages"]);
            compare("sum of the queue's numbers", tally.queue_sum, &server["queue"]["sum"]);
        }
        Report { plan, tally, server, problems }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    pub(crate) fn json(&self) -> Value {
        let Report { plan, tally, server, problems } = self;
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let mut latency: Map<String, Value> = QUANTILES
            .iter()
            .map(|&(name, quantile)| (name.into(), micros(tally.latency.value_at_quantile(quantile)).into()))
            .collect();
        latency.insert("max".into(), micros(tally.latency.max()).into());
        json!({
            "address": plan.address.to_string(),
            "clients": plan.clients,
            "numbers_per_request": plan.size,
            "seed": plan.seed,
            "interrupted": tally.interrupted,
            "seconds": tally.elapsed.as_secs_f64(),
            "connections": tally.connections,
            "requests": tally.requests,
            "answers": tally.answers,
            "wrong": tally.wrong,
            "missing": tally.missing,
            "requests_per_second": rate(tally.answers, tally.elapsed),
            "latency_us": latency,
            "errors": tally.errors,
            "queue": plan.queue.as_ref().map(|_| json!({ "messages": tally.queue_sent, "sum": tally.queue_sum })),
            "server": server,
            "problems": problems,
            "ok": self.is_good(),
        })
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { plan, tally, server, problems } = self;
        let early = if tally.interrupted { " (ended early)" } else { "" };
        writeln!(
            f,
            "{}: {} clients in a closed loop, {} numbers a request, {:.2} s{early}",
            plan.address,
            grouped(plan.clients.into()),
            plan.size,
            tally.elapsed.as_secs_f64(),
        )?;
        writeln!(f, "  connections  {}", grouped(tally.connections))?;
        writeln!(f, "  requests     {}", grouped(tally.requests))?;
        writeln!(
            f,
            "  answers      {} right, {} wrong, {} missing",
            grouped(tally.answers),
            grouped(tally.wrong),
            grouped(tally.missing)
        )?;
        writeln!(f, "  rate         {} requests/s", grouped(rate(tally.answers, tally.elapsed)))?;
        if tally.answers > 0 {
            write!(f, "  latency      ")?;
            for (name, quantile) in QUANTILES {
                write!(f, "{name} {}, ", Time(tally.latency.value_at_quantile(quantile)))?;
            }
            writeln!(f, "max {}", Time(tally.latency.max()))?;
        }
        if plan.queue.is_some() {
            writeln!(f, "  queue        {} messages, sum {}", grouped(tally.queue_sent), tally.queue_sum)?;
        }
        if let Some(server) = server {
            let count = |value: &Value| grouped(value.as_u64().unwrap_or_default());
            writeln!(
                f,
                "  server       {} CIRs, {} SRMs, {} answers, {} messages, {} turns, {} events",
                count(&server["reactor"]["cirs"]),
                count(&server["reactor"]["srms"]),
                count(&server["answers"]),
                count(&server["queue"]["messages"]),
                count(&server["reactor"]["turns"]),
                count(&server["reactor"]["events"]),
            )?;
        }
        if tally.errors.is_empty() {
            writeln!(f, "  errors       none")?;
        }
        for (kind, count) in &tally.errors {
            writeln!(f, "  errors       {}: {kind}", grouped(*count))?;
        }
        for problem in problems {
            writeln!(f, "  FAILED       {problem}")?;
        }
        Ok(())
    }
}

fn rate(count: u64, time: Duration) -> u64 {
    if time.is_zero() { 0 } else { (count as f64 / time.as_secs_f64()).round() as u64 }
}
