//! Whether a run is valid, and whether its figures are good.
//!
//! The generator checks itself: if it was late, or had no processor time left, the figures describe the generator and
//! not the server. Such a run is invalid.

use std::time::Duration;

use crate::{
    engine::Outcome,
    plan::{Load, Plan},
    usage::Shares,
    values::{Time, grouped},
};

/// From this share on the generator's one thread is saturated: it measures itself.
const BUSY: f64 = 0.95;

/// Why a run with this lag is invalid.
pub(crate) fn lagged(lag_ns: u64, lag_max: Duration) -> String {
    format!(
        "the generator lagged: one request in a hundred went out {} late or more, and {} are allowed (--max-lag); give it a core of \
         its own, or ask for a lower rate",
        Time(lag_ns),
        Time(lag_max.as_nanos() as u64)
    )
}

/// Why the run is invalid, if the generator was saturated. Time in which it waited for a processor counts as used.
pub(crate) fn bottleneck(shares: Shares) -> Option<String> {
    is_busy(shares).then(|| {
        format!(
            "the generator was the bottleneck: it used {:.0} % of its core, and waited for it {:.0} % of the time; the server may well be \
             faster than this",
            shares.client * 100.0,
            shares.client_waited.unwrap_or_default() * 100.0
        )
    })
}

pub(crate) fn is_busy(shares: Shares) -> bool {
    shares.client + shares.client_waited.unwrap_or_default() >= BUSY
}

#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Why the run is invalid.
    pub(crate) invalid: Vec<String>,
    /// What the server did wrong.
    pub(crate) failed: Vec<String>,
    /// An answer was wrong: the run fails even if it is invalid.
    has_wrong: bool,
}

impl Verdict {
    pub(crate) fn of(plan: &Plan, outcome: &Outcome, lag_max: Duration) -> Verdict {
        let mut verdict = Verdict { has_wrong: outcome.record.wrong > 0, ..Verdict::default() };
        let record = &outcome.record;
        let lag_ns = record.lag.value_at_quantile(0.99);
        if matches!(plan.load, Load::Open { .. }) && lag_ns > lag_max.as_nanos() as u64 {
            verdict.invalid.push(lagged(lag_ns, lag_max));
        }
        verdict.invalid.extend(outcome.shares.and_then(bottleneck));
        if record.answers == 0 && !outcome.interrupted {
            verdict.failed.push("nothing was answered while it was measured".into());
        }
        if outcome.connected < plan.connections {
            verdict.failed.push(format!(
                "{} of {} connections stood when the load began",
                grouped(outcome.connected.into()),
                grouped(plan.connections.into())
            ));
        }
        if let Some(wrong) = &record.first_wrong {
            verdict.failed.push(format!("{} wrong answers, the first: {wrong}", grouped(record.wrong)));
        }
        if record.missing > 0 {
            verdict.failed.push(format!("{} answers are missing", grouped(record.missing)));
        }
        verdict
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.invalid.is_empty()
    }

    pub(crate) fn is_good(&self) -> bool {
        self.is_valid() && self.failed.is_empty()
    }

    /// 0 good, 1 wrong answers or a failed objective, 3 an invalid run.
    pub(crate) fn exit_code(&self) -> u8 {
        match (self.is_valid(), self.failed.is_empty()) {
            _ if self.has_wrong => 1,
            (false, _) => 3,
            (true, false) => 1,
            (true, true) => 0,
        }
    }
}
