//! The plots: one file a question, one panel for each number of active clients, one line a style.
//!
//! Written as text: an SVG is lines and labels, and a library would not place the labels for us.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::report::{Cell, Measured, Report, Spread, clients};
use crate::STYLES;

const PANEL: f64 = 290.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 72.0;
/// Right of a panel, for the names at the lines' ends.
const NAMES: f64 = 96.0;
const TOP: f64 = 124.0;
const BOTTOM: f64 = 128.0;
/// Between the place of 0 and the logarithmic rest of the axis, which has no 0.
const ZERO_GAP: f64 = 42.0;
const LINE_OF_TEXT: f64 = 15.0;

struct Question {
    file: &'static str,
    title: &'static str,
    better: &'static str,
    value: fn(&Measured) -> Option<Spread>,
}

const QUESTIONS: &[Question] = &[
    Question {
        file: "rate.svg",
        title: "Messages answered per second, all active clients together",
        better: "higher is better",
        value: |m| Some(m.rate),
    },
    Question {
        file: "cpu.svg",
        title: "Processor time the server spends on one message, in microseconds",
        better: "lower is better",
        value: |m| Some(m.cpu_us),
    },
    Question {
        file: "calls.svg",
        title: "System calls the server makes for one message",
        better: "lower is better",
        value: |m| m.calls.as_ref().map(|calls| Spread::of(vec![calls.total()])),
    },
    Question {
        file: "latency-p50.svg",
        title: "Time until the answer, in microseconds: half of all messages are faster",
        better: "lower is better",
        value: |m| Some(m.p50_us),
    },
    Question {
        file: "latency-p99.svg",
        title: "Time until the answer, in microseconds: 99 of 100 messages are faster",
        better: "lower is better",
        value: |m| Some(m.p99_us),
    },
];

/// Draws each question that has an answer, and says where.
pub(super) fn draw_all(report: &Report, directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut drawn = Vec::new();
    for question in QUESTIONS {
        if let Some(svg) = draw(report, question) {
            let path = directory.join(question.file);
            fs::write(&path, svg)?;
            drawn.push(path);
        }
    }
    Ok(drawn)
}

fn draw(report: &Report, question: &Question) -> Option<String> {
    let spread = |cell: &Cell| cell.measured().and_then(question.value);
    let all: Vec<Spread> = report.cells.iter().filter_map(spread).collect();
    let low = all.iter().map(|s| s.low).fold(f64::INFINITY, f64::min);
    let high = all.iter().map(|s| s.high).fold(0.0, f64::max);
    if all.is_empty() || low <= 0.0 {
        return None;
    }
    let y = LogAxis::new(low / 1.25, high * 1.25, TOP + HEIGHT, TOP);
    let mut actives: Vec<usize> = report.cells.iter().map(|cell| cell.active).collect();
    actives.sort_unstable();
    actives.dedup();
    let x = IdleAxis::new(report.cells.iter().map(|cell| cell.idle).collect());

    let width = LEFT + actives.len() as f64 * (PANEL + NAMES) + (actives.len() - 1) as f64 * 24.0 + 8.0;
    let width = width.max(760.0);
    let notes = report.notes();
    let height = TOP + HEIGHT + BOTTOM + (notes.len() as f64 - 2.0) * LINE_OF_TEXT;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" font-family="'DejaVu Sans', Verdana, Arial, sans-serif" font-size="12" fill="#222">
    <rect width="100%" height="100%" fill="white"/>"##
    );
    text(&mut svg, 20.0, 32.0, r#"font-size="18" font-weight="bold""#, question.title);
    text(
        &mut svg,
        20.0,
        54.0,
        r##"fill="#555""##,
        &format!(
            "{}; both axes are logarithmic; thin upright lines span the slices of a measurement",
            question.better
        ),
    );

    for (i, &active) in actives.iter().enumerate() {
        let left = LEFT + i as f64 * (PANEL + NAMES + 24.0);
        text(
            &mut svg,
            left,
            TOP - 34.0,
            r#"font-size="14" font-weight="bold""#,
            &format!("{} active", clients(active)),
        );
        grid(&mut svg, left, &x, &y, i == 0);
        let cells: Vec<&Cell> = report.cells.iter().filter(|cell| cell.active == active).collect();
        lines(&mut svg, left, &x, &y, &cells, &spread);
    }
    let foot = TOP + HEIGHT + 74.0;
    for (i, note) in notes.iter().enumerate() {
        text(&mut svg, 20.0, foot + i as f64 * LINE_OF_TEXT, r##"font-size="11" fill="#555""##, note);
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn grid(svg: &mut String, left: f64, x: &IdleAxis, y: &LogAxis, with_numbers: bool) {
    let right = left + PANEL;
    let bottom = TOP + HEIGHT;
    for tick in y.ticks() {
        let at = y.at(tick);
        let _ = writeln!(svg, r##"<path d="M{left:.1} {at:.1}H{right:.1}" stroke="#e4e4e4"/>"##);
        if with_numbers {
            text(svg, left - 8.0, at + 4.0, r#"text-anchor="end""#, &number(tick));
        }
    }
    let _ = writeln!(svg, r##"<path d="M{left:.1} {bottom:.1}H{right:.1}" stroke="#888"/>"##);
    if x.has_zero {
        // The axis is torn between 0 and the rest.
        let tear = left + ZERO_GAP / 2.0 + 8.0;
        let _ = writeln!(
            svg,
            r##"<rect x="{:.1}" y="{:.1}" width="8" height="4" fill="white"/><path d="M{:.1} {:.1}l6 -10m2 10l6 -10" stroke="#888"/>"##,
            tear - 4.0,
            bottom - 2.0,
            tear - 7.0,
            bottom + 5.0,
        );
    }
    let mut last = f64::NEG_INFINITY;
    for &idle in &x.values {
        let at = left + x.at(idle);
        let _ = writeln!(svg, r##"<path d="M{at:.1} {bottom:.1}v5" stroke="#888"/>"##);
        let label = number(idle as f64);
        // Where two would touch, the later one moves down a line.
        let half = label.len() as f64 * 3.8;
        let down = if at - half < last { LINE_OF_TEXT } else { 0.0 };
        last = if down > 0.0 { last } else { at + half + 4.0 };
        text(svg, at, bottom + 20.0 + down, r#"text-anchor="middle""#, &label);
    }
    text(
        svg,
        left + PANEL / 2.0,
        bottom + 50.0,
        r##"text-anchor="middle" fill="#555""##,
        "idle clients beside them",
    );
}

fn lines(
    svg: &mut String,
    left: f64,
    x: &IdleAxis,
    y: &LogAxis,
    cells: &[&Cell],
    spread: &dyn Fn(&Cell) -> Option<Spread>,
) {
    let mut ends = Vec::new();
    let mut absent = Vec::new();
    let mut ink = Vec::new();
    for style in STYLES {
        let mut own: Vec<&Cell> = cells.iter().copied().filter(|cell| cell.style == style.name).collect();
        own.sort_by_key(|cell| cell.idle);
        let Some(last_idle) = own.last().map(|cell| cell.idle) else { continue };
        let points: Vec<(f64, f64, Spread)> = own
            .iter()
            .filter_map(|cell| spread(cell).map(|s| (left + x.at(cell.idle), y.at(s.middle), s)))
            .collect();
        let Some(&(end_x, end_y, _)) = points.last() else {
            absent.push(format!("{}: not possible, {}", style.name, style.ceiling));
            continue;
        };
        let (colour, dash) = look(style.name);
        let path: Vec<String> = points.iter().map(|(x, y, _)| format!("{x:.1} {y:.1}")).collect();
        let _ = writeln!(
            svg,
            r#"<path d="M{}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dash}"/>"#,
            path.join("L")
        );
        for &(x, middle, s) in &points {
            let (low, high) = (y.at(s.low), y.at(s.high));
            let _ = writeln!(
                svg,
                r#"<path d="M{x:.1} {low:.1}V{high:.1}" stroke="{colour}" stroke-width="1"/><circle cx="{x:.1}" cy="{middle:.1}" r="3.5" fill="{colour}"/>"#
            );
        }
        ink.extend(points.windows(2).flat_map(|pair| {
            (0..=20).map(move |i| {
                let t = f64::from(i) / 20.0;
                (pair[0].0 + t * (pair[1].0 - pair[0].0), pair[0].1 + t * (pair[1].1 - pair[0].1))
            })
        }));
        ink.push((end_x, end_y));
        let stopped = own.iter().any(|cell| cell.idle == last_idle && cell.measured().is_none());
        ends.push(End {
            x: end_x,
            y: end_y,
            name: style.name,
            colour,
            ceiling: stopped.then_some(style.ceiling),
        });
    }
    names_at_the_right(svg, left + PANEL, &mut ends);
    for end in ends.iter().filter(|end| end.ceiling.is_some()) {
        name_on_the_way(svg, left, end, &mut ink);
    }
    for (i, line) in absent.iter().enumerate() {
        let y = TOP - 18.0 + i as f64 * LINE_OF_TEXT;
        text(svg, left, y, r##"font-size="11" fill="#777""##, line);
    }
}

/// Where a line ends, and what to write there.
struct End {
    x: f64,
    y: f64,
    name: &'static str,
    colour: &'static str,
    /// Why it goes no further, where the others do.
    ceiling: Option<&'static str>,
}

/// The names of those that reach the last number of idle clients, pushed apart where they would touch.
fn names_at_the_right(svg: &mut String, right: f64, ends: &mut [End]) {
    ends.sort_by(|a, b| a.y.total_cmp(&b.y));
    let reaching: Vec<&End> = ends.iter().filter(|end| end.ceiling.is_none()).collect();
    let mut at: Vec<f64> = reaching.iter().map(|end| end.y).collect();
    for _ in 0..100 {
        for i in 1..at.len() {
            let overlap = at[i - 1] + LINE_OF_TEXT - at[i];
            if overlap > 0.0 {
                at[i - 1] -= overlap / 2.0;
                at[i] += overlap / 2.0;
            }
        }
    }
    for (end, y) in reaching.iter().zip(at) {
        let _ = writeln!(
            svg,
            r#"<path d="M{:.1} {:.1}L{:.1} {y:.1}" stroke="{}" stroke-width="0.8"/>"#,
            end.x + 5.0,
            end.y,
            right + 12.0,
            end.colour
        );
        name(svg, right + 15.0, y + 4.0, "start", end.colour, end.name);
    }
}

/// The name of one that stops before, set where it hides the least.
fn name_on_the_way(svg: &mut String, left: f64, end: &End, ink: &mut Vec<(f64, f64)>) {
    let ceiling = end.ceiling.unwrap_or_default();
    let width = ceiling.len().max(end.name.len()) as f64 * 6.0;
    let height = 2.0 * LINE_OF_TEXT;
    let mut best = (f64::INFINITY, 0.0, 0.0);
    for step in 0..14 {
        for up in [false, true] {
            let distance = 8.0 + f64::from(step) * 12.0;
            let top = if up { end.y - distance - height } else { end.y + distance };
            if top < TOP - 4.0 || top + height > TOP + HEIGHT - 4.0 {
                continue;
            }
            for shift in [0.0, -0.5, -1.0] {
                let start = (end.x + shift * width).clamp(left + 4.0, left + PANEL + NAMES - width);
                let hidden = ink
                    .iter()
                    .filter(|(x, y)| {
                        (start - 4.0..start + width + 4.0).contains(x)
                            && (top - 4.0..top + height + 4.0).contains(y)
                    })
                    .count();
                let cost = hidden as f64 * 12.0 + distance;
                if cost < best.0 {
                    best = (cost, start, top);
                }
            }
        }
    }
    let (_, start, top) = best;
    // From the point to the nearer edge of the words.
    let to = if top > end.y { top } else { top + height };
    let over = end.x.clamp(start, start + width);
    let _ = writeln!(
        svg,
        r#"<path d="M{:.1} {:.1}L{over:.1} {to:.1}" stroke="{}" stroke-width="0.8"/>"#,
        end.x, end.y, end.colour
    );
    name(svg, start, top + 12.0, "start", end.colour, end.name);
    text(
        svg,
        start,
        top + 12.0 + LINE_OF_TEXT,
        &format!(
            r#"font-size="11" fill="{}" stroke="white" stroke-width="3" paint-order="stroke""#,
            end.colour
        ),
        ceiling,
    );
    for i in 0..=10 {
        for j in 0..=3 {
            ink.push((start + width * f64::from(i) / 10.0, top + height * f64::from(j) / 3.0));
        }
    }
}

fn name(svg: &mut String, x: f64, y: f64, anchor: &str, colour: &str, name: &str) {
    let look = format!(
        r#"text-anchor="{anchor}" font-weight="bold" fill="{colour}" stroke="white" stroke-width="3" paint-order="stroke""#
    );
    text(svg, x, y, &look, name);
}

/// Colours that differ for the colour-blind too, dark enough for words; dashes where lines may coincide.
fn look(style: &str) -> (&'static str, &'static str) {
    match style {
        "blocking" => ("#444444", "none"),
        "select" => ("#c44601", "none"),
        "poll" => ("#a06a00", "none"),
        "epoll-level" => ("#0068a8", "none"),
        "epoll-edge" => ("#00805c", "7 5"),
        _ => ("#a8397e", "2 4"),
    }
}

/// From values to places, logarithmic.
struct LogAxis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl LogAxis {
    fn new(low: f64, high: f64, from: f64, to: f64) -> Self {
        Self { low, high, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        if self.high <= self.low {
            return (self.from + self.to) / 2.0;
        }
        self.from + (self.to - self.from) * (value / self.low).ln() / (self.high / self.low).ln()
    }

    /// As many round numbers as have room.
    fn ticks(&self) -> Vec<f64> {
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
struct IdleAxis {
    values: Vec<usize>,
    has_zero: bool,
    log: LogAxis,
}

impl IdleAxis {
    fn new(mut values: Vec<usize>) -> Self {
        values.sort_unstable();
        values.dedup();
        let has_zero = values.first() == Some(&0);
        let low = values.iter().copied().find(|&idle| idle > 0).unwrap_or(1) as f64;
        let high = values.last().copied().unwrap_or(1).max(1) as f64;
        let from = if has_zero { 16.0 + ZERO_GAP } else { 16.0 };
        Self { values, has_zero, log: LogAxis::new(low, high, from, PANEL - 8.0) }
    }

    fn at(&self, idle: usize) -> f64 {
        if idle == 0 { 14.0 } else { self.log.at(idle as f64) }
    }
}

/// 0.5, 20, 15,000.
fn number(value: f64) -> String {
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

fn text(svg: &mut String, x: f64, y: f64, look: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" {look}>{words}</text>"#);
}
