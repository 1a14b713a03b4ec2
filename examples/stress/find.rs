//! `find`: the highest rate at which the objectives hold. Doubles the rate until they do not, then halves the interval
//! between.
//!
//! A server that is too slow needs no separate rule: in an open loop its latencies grow.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::{
    engine::{self, Outcome},
    options::{JsonOption, Refusal, Work, make_room},
    plan::{Load, Plan},
    report::{VERSION, percentiles},
    values::{self, Objective, Time, grouped},
    verdict::Verdict,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    work: Work,
    /// Objectives, such as p99.9=1ms; separate several by commas. A wrong or missing answer always fails
    #[arg(long, value_name = "OBJECTIVE", required = true, value_delimiter = ',', value_parser = values::objective)]
    slo: Vec<Objective>,
    /// The rate to begin with
    #[arg(long, value_name = "RATE", default_value = "1k", value_parser = values::rate)]
    from: f64,
    /// The rate not to go beyond
    #[arg(long, value_name = "RATE", default_value = "10m", value_parser = values::rate)]
    to: f64,
    /// Precision of the result, in percent of the rate
    #[arg(long, value_name = "PERCENT", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    precision: u8,
    #[command(flatten)]
    json: JsonOption,
}

/// One rate that was tried.
struct Probe {
    rate: f64,
    outcome: Outcome,
    verdict: Verdict,
    /// The objectives that do not hold.
    broken: Vec<String>,
}

impl Probe {
    fn holds(&self) -> bool {
        self.verdict.is_good() && self.broken.is_empty()
    }

    fn line(&self, objectives: &[Objective]) -> String {
        let mut line = format!("  {:>11}/s  ", grouped(self.rate.round() as u64));
        for objective in objectives {
            let value = self.outcome.record.latency.value_at_quantile(objective.quantile);
            write!(line, "{} {}, ", objective.name, Time(value)).expect("text can be appended to text");
        }
        line += &match (
            self.holds(),
            self.broken.first(),
            self.verdict.failed.first(),
            self.verdict.invalid.first(),
        ) {
            (true, ..) => "holds".into(),
            (_, _, _, Some(invalid)) => format!("invalid: {invalid}"),
            (_, _, Some(why), _) | (_, Some(why), ..) => why.clone(),
            _ => String::new(),
        };
        line + "\n"
    }

    fn json(&self) -> Value {
        json!({
            "rate_asked": self.rate,
            "rate": self.outcome.rate(),
            "latency_us": percentiles(&self.outcome.record.latency),
            "missing": self.outcome.record.missing,
            "wrong": self.outcome.record.wrong,
            "cpu": {
                "client": self.outcome.shares.map(|shares| shares.client),
                "client_waited": self.outcome.shares.and_then(|shares| shares.client_waited),
                "server": self.outcome.shares.and_then(|shares| shares.server),
            },
            "broken": self.broken,
            "failed": self.verdict.failed,
            "invalid": self.verdict.invalid,
            "holds": self.holds(),
        })
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<u8, Refusal> {
    let mut json = arguments.json.open()?;
    let plan = plan_at(arguments, arguments.from)?;
    make_room(plan.connections)?;
    json.say(&format!("{}: the highest rate with {}\n", plan.target, all(&arguments.slo)))?;
    let mut probes: Vec<Probe> = Vec::new();
    let (mut low, mut high) = (0.0, f64::INFINITY);
    let mut rate = arguments.from;
    let mut interrupted = false;
    while !interrupted {
        let probe = probe(arguments, rate)?;
        interrupted = probe.outcome.interrupted;
        if !interrupted {
            json.say(&probe.line(&arguments.slo))?;
            if probe.holds() {
                low = rate
            } else {
                high = rate
            }
            probes.push(probe);
        }
        let found = low >= arguments.to
            || high.is_finite() && high - low <= high * f64::from(arguments.precision) / 100.0;
        // If the first rate fails, no lower one is tried.
        if found || low == 0.0 && high <= arguments.from {
            break;
        }
        rate = if high.is_finite() { (low + high) / 2.0 } else { (low * 2.0).min(arguments.to) };
    }
    // If the generator is the limit, the rate is not the server's limit.
    let bounded = probes.iter().find(|probe| probe.rate == high);
    let is_valid = !interrupted && bounded.is_none_or(|probe| probe.verdict.is_valid());
    let found = format!("{}/s", grouped(low.round() as u64));
    let (code, conclusion) = match () {
        () if interrupted => (3, format!("ended early; so far {found} holds")),
        () if low == 0.0 && is_valid => {
            (1, format!("does not hold at {}/s, where it began (--from)", grouped(arguments.from as u64)))
        }
        () if !is_valid => {
            (3, format!("INVALID: {found} holds, and beyond that the generator itself is in the way"))
        }
        () if !high.is_finite() => (0, format!("{found} holds, and no higher rate was asked for (--to)")),
        () => (0, format!("{found} holds, {}/s does not", grouped(high.round() as u64))),
    };
    json.say(&format!("{conclusion}\n"))?;
    json.write(&json!({
        "format": "ipc-reactor-stress",
        "version": VERSION,
        "mode": "find",
        "target": plan.target.to_string(),
        "objectives": arguments.slo.iter().map(|slo| json!({ "percentile": slo.name, "limit_us": slo.limit.as_secs_f64() * 1e6 })).collect::<Vec<_>>(),
        "rate": low,
        "fails_at": high.is_finite().then_some(high),
        "probes": probes.iter().map(Probe::json).collect::<Vec<_>>(),
        "conclusion": conclusion,
        "valid": is_valid,
        "ok": code == 0,
    }))?;
    Ok(code)
}

fn plan_at(arguments: &Arguments, rate: f64) -> Result<Plan, Refusal> {
    arguments.work.plan(Load::Open { rate, arrival: arguments.work.arrival }, None)
}

fn probe(arguments: &Arguments, rate: f64) -> Result<Probe, Refusal> {
    let plan = plan_at(arguments, rate)?;
    let outcome = engine::run(&plan, None)?;
    let verdict = Verdict::of(&plan, &outcome, arguments.work.max_lag);
    let broken: Vec<String> = arguments
        .slo
        .iter()
        .filter(|slo| outcome.record.latency.value_at_quantile(slo.quantile) > slo.limit.as_nanos() as u64)
        .map(|slo| format!("not {slo}"))
        .collect();
    Ok(Probe { rate, outcome, verdict, broken })
}

fn all(objectives: &[Objective]) -> String {
    objectives.iter().map(Objective::to_string).collect::<Vec<_>>().join(", ")
}
