//! The report of a load, as text and as JSON. `docs/stress.md` documents the JSON, and `docs/stress.schema.json`
//! describes it.

use std::fmt;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::{
    engine::Outcome,
    plan::{Load, Plan},
    syscalls::Syscalls,
    values::{Time, grouped},
    verdict::Verdict,
};

/// Rises when a field is removed or changes its meaning; not when one is added.
pub(crate) const VERSION: u32 = 1;

pub(crate) const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p75", 0.75), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

pub(crate) struct Report<'a> {
    pub(crate) mode: &'a str,
    pub(crate) plan: &'a Plan,
    pub(crate) outcome: &'a Outcome,
    pub(crate) verdict: &'a Verdict,
    pub(crate) syscalls: Option<&'a Syscalls>,
}

impl Report<'_> {
    pub(crate) fn rate(&self) -> f64 {
        self.outcome.rate()
    }

    pub(crate) fn json(&self) -> Value {
        let Report { mode, plan, outcome, verdict, syscalls } = self;
        let record = &outcome.record;
        let (load, asked, arrival) = match plan.load {
            Load::Open { rate, arrival } => ("open", Some(rate), Some(arrival.to_string())),
            Load::Closed => ("closed", None, None),
            Load::Published => ("published", None, None),
        };
        let per_second = |count: u64| count as f64 / outcome.measured.as_secs_f64().max(1e-9);
        let errors: Vec<Value> = record
            .errors
            .iter()
            .map(|((phase, kind), count)| json!({ "phase": phase.to_string(), "kind": kind, "count": count }))
            .collect();
        let intervals: Vec<Value> = record
            .intervals
            .iter()
            .map(|interval| {
                json!({
                    "phase": interval.phase.to_string(),
                    "start_s": interval.start.as_secs_f64(),
                    "length_s": interval.length.as_secs_f64(),
                    "answers": interval.answers,
                    "errors": interval.errors,
                    "p50_us": micros(interval.p50_ns),
                    "p99_us": micros(interval.p99_ns),
                    "max_us": micros(interval.max_ns),
                })
            })
            .collect();
        json!({
            "format": "ipc-reactor-stress",
            "version": VERSION,
            "mode": mode,
            "target": plan.target.to_string(),
            "protocol": plan.protocol.name(),
            "load": load,
            "rate_asked": asked,
            "arrival": arrival,
            "connections": plan.connections,
            "connections_loaded": plan.active,
            "pipeline": plan.pipeline,
            "size": { "min": plan.sizes.least, "max": plan.sizes.most },
            "seed": plan.seed,
            "timeout_s": plan.timeout.as_secs_f64(),
            "warmup_s": plan.warmup.as_secs_f64(),
            "measured_s": outcome.measured.as_secs_f64(),
            "interrupted": outcome.interrupted,
            "connect": {
                "connected": outcome.connected,
                "connected_at_end": outcome.connected_at_end,
                "seconds": outcome.connecting.as_secs_f64(),
            },
            "requests": record.requests,
            "answers": record.answers,
            "wrong": record.wrong,
            "missing": record.missing,
            "no_room": record.no_room,
            "rate": self.rate(),
            "bytes_out_per_second": per_second(record.bytes_out),
            "bytes_in_per_second": per_second(record.bytes_in),
            "latency_us": percentiles(&record.latency),
            "service_us": percentiles(&record.service),
            "lag_us": percentiles(&record.lag),
            "errors": errors,
            "cpu": {
                "client": outcome.shares.map(|shares| shares.client),
                "client_waited": outcome.shares.and_then(|shares| shares.client_waited),
                "server": outcome.shares.and_then(|shares| shares.server),
                "server_pid": outcome.server_pid,
            },
            "server_memory": outcome.resident.map(|(before, after)| json!({
                "before_bytes": before,
                "connected_bytes": after,
            })),
            "syscalls": syscalls.map(Syscalls::json),
            "intervals": intervals,
            "valid": verdict.is_valid(),
            "invalid": verdict.invalid,
            "failed": verdict.failed,
            "ok": verdict.is_good(),
        })
    }

    fn headline(&self) -> String {
        let Report { plan, outcome, .. } = self;
        let load = match plan.load {
            Load::Open { rate, arrival } => {
                format!("open loop, {}/s asked ({arrival})", grouped(rate as u64))
            }
            Load::Closed => {
                "closed loop: the highest throughput; its latencies are not those under a load".into()
            }
            Load::Published => "published by the server".into(),
        };
        let loaded = match plan.active == plan.connections {
            true => String::new(),
            false => format!(" ({} of them loaded)", grouped(plan.active.into())),
        };
        format!(
            "{}: {}, {} bytes, {} connections{loaded}, pipeline {}, {:.2} s after {:.2} s of warm-up{}\n  {load}",
            plan.target,
            plan.protocol.name(),
            plan.sizes,
            grouped(plan.connections.into()),
            plan.pipeline,
            outcome.measured.as_secs_f64(),
            plan.warmup.as_secs_f64(),
            if outcome.interrupted { " (ended early)" } else { "" },
        )
    }
}

impl Outcome {
    /// Right answers a second while it was measured.
    pub(crate) fn rate(&self) -> f64 {
        let seconds = self.measured.as_secs_f64();
        if seconds > 0.0 { self.record.answers_within as f64 / seconds } else { 0.0 }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { plan, outcome, verdict, .. } = self;
        let record = &outcome.record;
        writeln!(f, "{}", self.headline())?;
        writeln!(
            f,
            "  connections  {} stood after {:.2} s, {} at the end",
            grouped(outcome.connected.into()),
            outcome.connecting.as_secs_f64(),
            grouped(outcome.connected_at_end.into())
        )?;
        writeln!(
            f,
            "  answers      {} right of {} asked for; in the whole run {} wrong, {} missing",
            grouped(record.answers),
            grouped(record.requests),
            grouped(record.wrong),
            grouped(record.missing)
        )?;
        writeln!(f, "  rate         {}/s", grouped(self.rate().round() as u64))?;
        writeln!(f, "  latency      {}", line(&record.latency))?;
        if plan.load != Load::Closed {
            writeln!(f, "  service      {}", line(&record.service))?;
            writeln!(f, "  lag          {}", line(&record.lag))?;
        }
        if let Some(shares) = outcome.shares {
            write!(f, "  processor    client {}", shares.client_shown())?;
            match (shares.server, outcome.server_pid) {
                (Some(server), Some(pid)) => writeln!(f, ", server {:.0} % (process {pid})", server * 100.0)?,
                _ => writeln!(f, "; the server's process is not known (--server-pid)")?,
            }
        }
        if let Some((before, after)) = outcome.resident.filter(|_| self.mode == "idle") {
            let others = u64::from(outcome.connected.saturating_sub(1)).max(1);
            writeln!(
                f,
                "  memory       server {} KiB with one connection, {} KiB with all: {} bytes a connection",
                grouped(before >> 10),
                grouped(after >> 10),
                grouped(after.saturating_sub(before) / others)
            )?;
        }
        if let Some(syscalls) = self.syscalls {
            writeln!(f, "  syscalls     {syscalls}")?;
        }
        if record.no_room > 0 {
            writeln!(f, "  no room      {} sends were put off", grouped(record.no_room))?;
        }
        if record.errors.is_empty() {
            writeln!(f, "  errors       none")?;
        }
        for ((phase, kind), count) in &record.errors {
            writeln!(f, "  errors       {} in {phase}: {kind}", grouped(*count))?;
        }
        for why in &verdict.failed {
            writeln!(f, "  FAILED       {why}")?;
        }
        for why in &verdict.invalid {
            writeln!(f, "  INVALID      {why}")?;
        }
        Ok(())
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

pub(crate) fn percentiles(histogram: &Histogram<u64>) -> Value {
    let mut values: Map<String, Value> = QUANTILES
        .iter()
        .map(|&(name, quantile)| (name.into(), micros(histogram.value_at_quantile(quantile)).into()))
        .collect();
    values.insert("max".into(), micros(histogram.max()).into());
    values.insert("mean".into(), (histogram.mean() / 1e3).into());
    values.insert("count".into(), histogram.len().into());
    Value::Object(values)
}

pub(crate) fn line(histogram: &Histogram<u64>) -> String {
    if histogram.is_empty() {
        return "nothing measured".into();
    }
    let mut line = String::new();
    for (name, quantile) in QUANTILES {
        line += &format!("{name} {}, ", Time(histogram.value_at_quantile(quantile)));
    }
    line + &format!("max {}", Time(histogram.max()))
}
