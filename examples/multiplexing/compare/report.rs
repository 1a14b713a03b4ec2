//! What was measured, as a table and as JSON.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::SLICES;
use super::machine::Machine;
use super::server::Calls;

/// The median of the slices, and their minimum and maximum.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    pub(super) low: f64,
    pub(super) middle: f64,
    pub(super) high: f64,
}

impl Spread {
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { low: values[0], middle: values[values.len() / 2], high: values[values.len() - 1] }
    }

    fn percent(&self) -> f64 {
        100.0 * (self.high - self.low) / self.middle
    }

    fn to_json(self) -> Value {
        json!({ "low": self.low, "median": self.middle, "high": self.high })
    }
}

pub(super) struct Measured {
    /// Messages a second, over all active clients.
    pub(super) rate: Spread,
    /// User and system time of the server, for one message.
    pub(super) cpu_us: Spread,
    pub(super) p50_us: Spread,
    pub(super) p99_us: Spread,
    /// `None` where strace is missing or may not trace.
    pub(super) calls: Option<Calls>,
}

pub(super) enum Outcome {
    Measured(Measured),
    Impossible(String),
}

/// One style with one number of idle and one of active clients.
pub(super) struct Cell {
    pub(super) style: &'static str,
    pub(super) idle: usize,
    pub(super) active: usize,
    pub(super) outcome: Outcome,
}

impl Cell {
    pub(super) fn impossible(style: &'static str, idle: usize, active: usize, why: String) -> Self {
        Self { style, idle, active, outcome: Outcome::Impossible(why) }
    }

    pub(super) fn measured(&self) -> Option<&Measured> {
        match &self.outcome {
            Outcome::Measured(measured) => Some(measured),
            Outcome::Impossible(_) => None,
        }
    }
}

pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) cells: Vec<Cell>,
    pub(super) interrupted: bool,
    seconds: f64,
    strace: Option<String>,
}

impl Report {
    pub(super) fn new(machine: Machine, seconds: f64, strace: Option<String>) -> Self {
        Self { machine, cells: Vec::new(), interrupted: false, seconds, strace }
    }

    /// How far the slices of one cell differ, in percent of the rate: median and maximum.
    fn noise_percent(&self) -> Option<(f64, f64)> {
        let spreads: Vec<f64> =
            self.cells.iter().filter_map(Cell::measured).map(|m| m.rate.percent()).collect();
        (!spreads.is_empty()).then(|| {
            let spread = Spread::of(spreads);
            (spread.middle, spread.high)
        })
    }

    /// What a reader must know before trusting a number.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = self.machine.lines().to_vec();
        if let Some((middle, worst)) = self.noise_percent() {
            notes.push(format!(
                "noise: {SLICES} slices of the same {} s differ by {middle:.0} % in the middle, {worst:.0} % at worst; \
                 smaller differences mean nothing",
                self.seconds
            ));
        }
        if self.interrupted {
            notes.push("interrupted: a partial report".to_owned());
        }
        notes
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for note in self.notes() {
            writeln!(out, "{note}")?;
        }
        writeln!(
            out,
            "64-byte messages; rate and latency include the clients' work on the same cores, CPU is the server's own"
        )?;
        match &self.strace {
            Some(version) => {
                writeln!(out, "system calls counted apart, under {version}, with a pause after each answer")?
            }
            None => writeln!(out, "system calls not measured: strace is not installed")?,
        }
        let mut cells: Vec<&Cell> = self.cells.iter().collect();
        // Stable: within a group the styles keep their order.
        cells.sort_by_key(|cell| (cell.active, cell.idle));
        let mut group = None;
        for cell in cells {
            if group != Some(cell.active) {
                group = Some(cell.active);
                writeln!(out, "\n{} active\n", clients(cell.active))?;
                writeln!(
                    out,
                    "{:>6}  {:<12} {:>11} {:>12} {:>11} {:>10} {:>10} {:>8}",
                    "idle", "style", "messages/s", "CPU µs/msg", "calls/msg", "p50 µs", "p99 µs", "spread"
                )?;
            }
            write!(out, "{:>6}  {:<12} ", cell.idle, cell.style)?;
            match &cell.outcome {
                Outcome::Impossible(why) => writeln!(out, "not possible: {why}")?,
                Outcome::Measured(m) => writeln!(
                    out,
                    "{:>11.0} {:>12.2} {:>11} {:>10.1} {:>10.1} {:>6.0} %",
                    m.rate.middle,
                    m.cpu_us.middle,
                    m.calls.as_ref().map_or_else(|| "—".to_owned(), |calls| format!("{:.2}", calls.total())),
                    m.p50_us.middle,
                    m.p99_us.middle,
                    m.rate.percent(),
                )?,
            }
        }
        if self.interrupted {
            writeln!(out, "\ninterrupted: what is missing above was not measured")?;
        }
        writeln!(out)
    }

    pub(super) fn to_json(&self) -> Value {
        let cells: Vec<Value> = self
            .cells
            .iter()
            .map(|cell| {
                let mut value = json!({
                    "style": cell.style,
                    "idle": cell.idle,
                    "active": cell.active,
                    "possible": cell.measured().is_some(),
                });
                match &cell.outcome {
                    Outcome::Impossible(why) => value["why"] = json!(why),
                    Outcome::Measured(m) => {
                        value["messages_per_second"] = m.rate.to_json();
                        value["cpu_us_per_message"] = m.cpu_us.to_json();
                        value["latency_us"] = json!({ "p50": m.p50_us.to_json(), "p99": m.p99_us.to_json() });
                        value["calls_per_message"] = json!(m.calls.as_ref().map(Calls::total));
                        value["calls_by_name"] = json!(m.calls.as_ref().map(|calls| &calls.0));
                    }
                }
                value
            })
            .collect();
        let noise = self.noise_percent();
        json!({
            "machine": self.machine.to_json(),
            "seconds_per_cell": self.seconds,
            "message_bytes": 64,
            "strace": self.strace,
            "noise_percent": { "median": noise.map(|n| n.0), "worst": noise.map(|n| n.1) },
            "interrupted": self.interrupted,
            "results": cells,
        })
    }
}

/// "1 client", "10 clients".
pub(super) fn clients(count: usize) -> String {
    if count == 1 { "1 client".to_owned() } else { format!("{count} clients") }
}
