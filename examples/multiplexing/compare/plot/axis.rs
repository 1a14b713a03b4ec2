//! The axes: positions of values, and which values get a label.

use super::{LINE_OF_TEXT, PANEL};

/// The distance between 0 and the logarithmic rest of the axis, which has no 0.
const ZERO_GAP: f64 = 42.0;

/// Maps values to positions, logarithmically.
pub(super) struct LogAxis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl LogAxis {
    pub(super) fn new(low: f64, high: f64, from: f64, to: f64) -> Self {
        Self { low, high, from, to }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        if self.high <= self.low {
            return (self.from + self.to) / 2.0;
        }
        self.from + (self.to - self.from) * (value / self.low).ln() / (self.high / self.low).ln()
    }

    /// As many round numbers as have room.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let steps: &[f64] = match self.high / self.low {
            ratio if ratio > 1e3 => &[1.0],
            ratio if ratio > 10.0 => &[1.0, 2.0, 5.0],
            _ => &[1.0, 2.0, 3.0, 4.0, 5.0, 7.0],
        };
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        decades
            .flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)))
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }
}

/// The numbers of idle clients: 0 at the left edge, the rest logarithmic.
pub(super) struct IdleAxis {
    pub(super) values: Vec<usize>,
    has_zero: bool,
    log: LogAxis,
}

impl IdleAxis {
    pub(super) fn new(mut values: Vec<usize>) -> Self {
        values.sort_unstable();
        values.dedup();
        let has_zero = values.first() == Some(&0);
        let low = values.iter().copied().find(|&idle| idle > 0).unwrap_or(1) as f64;
        let high = values.last().copied().unwrap_or(1).max(1) as f64;
        let from = if has_zero { 16.0 + ZERO_GAP } else { 16.0 };
        Self { values, has_zero, log: LogAxis::new(low, high, from, PANEL - 8.0) }
    }

    pub(super) fn at(&self, idle: usize) -> f64 {
        if idle == 0 { 14.0 } else { self.log.at(idle as f64) }
    }

    /// The break in the axis, between 0 and the rest.
    pub(super) fn tear(&self) -> Option<f64> {
        self.has_zero.then_some(ZERO_GAP / 2.0 + 8.0)
    }

    /// The numbers to write, each with its place and how far it has to move down. Where two would touch, the
    /// smaller one moves down a line; where that is taken too, it is left out.
    pub(super) fn labels(&self) -> Vec<(f64, f64, String)> {
        let mut rows = [f64::INFINITY; 2];
        let mut labels = Vec::new();
        for &idle in self.values.iter().rev() {
            let (at, label) = (self.at(idle), number(idle as f64));
            let half = label.len() as f64 * 3.8;
            if let Some(row) = rows.iter().position(|&taken_from| at + half + 4.0 < taken_from) {
                rows[row] = at - half;
                labels.push((at, row as f64 * LINE_OF_TEXT, label));
            }
        }
        labels
    }
}

/// 0.5, 20, 15,000.
pub(super) fn number(value: f64) -> String {
    if value < 1.0 {
        return format!("{}", (value * 1e6).round() / 1e6);
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
