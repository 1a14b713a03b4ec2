//! A line on the terminal while a load runs.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    clock,
    engine::Run,
    plan::Plan,
    record::Phase,
    values::{Time, grouped},
};

pub(crate) struct Progress {
    bar: ProgressBar,
    /// Answers, when it was last shown, and when that was.
    last: (u64, u64),
}

impl Progress {
    /// None where standard error is no terminal.
    pub(crate) fn new(plan: &Plan) -> Option<Progress> {
        if !io::stderr().is_terminal() {
            return None;
        }
        let style = ProgressStyle::with_template("{prefix:8} {bar:24} {percent:>3}% {msg}")
            .expect("a constant template");
        let all = (plan.warmup + plan.duration).max(Duration::from_millis(1));
        let bar = ProgressBar::new(all.as_millis() as u64).with_style(style);
        Some(Progress { bar, last: (0, clock::now_ns()) })
    }

    pub(crate) fn show(&mut self, run: &Run) {
        let now_ns = clock::now_ns();
        let record = &run.record;
        let (answers, then_ns) = std::mem::replace(&mut self.last, (record.answers_ever, now_ns));
        let seconds = now_ns.saturating_sub(then_ns).max(1) as f64 / 1e9;
        let rate = (record.answers_ever - answers) as f64 / seconds;
        if run.phase != Phase::Connect {
            self.bar.set_position((now_ns - run.origin_ns) / 1_000_000);
        }
        self.bar.set_prefix(run.phase.to_string());
        self.bar.set_message(format!(
            "{}/s, {} errors, p99 {}, {} connections",
            grouped(rate as u64),
            grouped(record.errors_in_all()),
            Time(record.latency.value_at_quantile(0.99)),
            grouped(run.lanes_up().into()),
        ));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
