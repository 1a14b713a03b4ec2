//! The plots: one file a question, one panel for each number of active clients, one line a style.
//!
//! Written as text: the SVG has only lines and labels, and a library would not place the labels.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::report::{Cell, Measured, Report, Spread, clients};
use crate::STYLES;

mod axis;
mod labels;

use axis::{IdleAxis, LogAxis, number};
use labels::{Area, End, Panel};

const PANEL: f64 = 290.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 80.0;
/// Right of a panel, for the names at the lines' ends.
const NAMES: f64 = 96.0;
const TOP: f64 = 124.0;
/// Where the notes begin, below the numbers and the name of the axis.
const FOOT: f64 = TOP + HEIGHT + 74.0;
/// From one panel's names to the next panel.
const GAP: f64 = 24.0;
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

/// Draws each plot for which there are measurements, and prints its path.
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

    let width = LEFT + actives.len() as f64 * (PANEL + NAMES + GAP) - GAP + 8.0;
    let width = width.max(820.0);
    let notes: Vec<String> = report.notes().iter().flat_map(|note| wrapped(note, width - 40.0)).collect();
    let height = FOOT + notes.len() as f64 * LINE_OF_TEXT;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" font-family="'DejaVu Sans', Verdana, Arial, sans-serif" font-size="12" fill="#222">
<rect width="100%" height="100%" fill="white"/>"##
    );
    text(&mut svg, 20.0, 32.0, r#"font-size="18" font-weight="bold""#, question.title);
    let how = format!(
        "{}; both axes are logarithmic; thin upright lines span the slices of a measurement",
        question.better
    );
    text(&mut svg, 20.0, 54.0, r##"font-size="11" fill="#555""##, &how);

    for (i, &active) in actives.iter().enumerate() {
        let left = LEFT + i as f64 * (PANEL + NAMES + GAP);
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
    for (i, note) in notes.iter().enumerate() {
        text(&mut svg, 20.0, FOOT + i as f64 * LINE_OF_TEXT, r##"font-size="11" fill="#555""##, note);
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
    if let Some(tear) = x.tear() {
        let tear = left + tear;
        let _ = writeln!(
            svg,
            r##"<rect x="{:.1}" y="{:.1}" width="8" height="4" fill="white"/><path d="M{:.1} {:.1}l6 -10m2 10l6 -10" stroke="#888"/>"##,
            tear - 4.0,
            bottom - 2.0,
            tear - 7.0,
            bottom + 5.0,
        );
    }
    for &idle in &x.values {
        let at = left + x.at(idle);
        let _ = writeln!(svg, r##"<path d="M{at:.1} {bottom:.1}v5" stroke="#888"/>"##);
    }
    for (at, down, label) in x.labels() {
        text(svg, left + at, bottom + 20.0 + down, r#"text-anchor="middle""#, &label);
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
    let mut panel = Panel { left, ink: Vec::new(), words: Vec::new() };
    let mut ends = Vec::new();
    let mut absent = 0.0;
    for style in STYLES {
        let mut own: Vec<&Cell> = cells.iter().copied().filter(|cell| cell.style == style.name).collect();
        own.sort_by_key(|cell| cell.idle);
        let Some(last_idle) = own.last().map(|cell| cell.idle) else { continue };
        let points: Vec<(f64, f64, Spread)> = own
            .iter()
            .filter_map(|cell| spread(cell).map(|s| (left + x.at(cell.idle), y.at(s.middle), s)))
            .collect();
        let Some(&(end_x, end_y, _)) = points.last() else {
            let (words, at) =
                (format!("{}: not possible, {}", style.name, style.ceiling), TOP - 18.0 + absent);
            text(svg, left, at, r##"font-size="11" fill="#777""##, &words);
            panel.words.push(Area::of_words(left, at, &words));
            absent += LINE_OF_TEXT;
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
        panel.ink.extend(points.windows(2).flat_map(|pair| {
            (0..=20).map(move |i| {
                let t = f64::from(i) / 20.0;
                (pair[0].0 + t * (pair[1].0 - pair[0].0), pair[0].1 + t * (pair[1].1 - pair[0].1))
            })
        }));
        panel.ink.push((end_x, end_y));
        let stopped = own.iter().any(|cell| cell.idle == last_idle && cell.measured().is_none());
        ends.push(End {
            x: end_x,
            y: end_y,
            name: style.name,
            colour,
            ceiling: stopped.then_some(style.ceiling),
        });
    }
    panel.name_all(svg, &ends);
}

/// Colours that differ for the colour-blind too, dark enough for words; dashes where lines may coincide.
fn look(style: &str) -> (&'static str, &'static str) {
    match style {
        "blocking" => ("#444444", "none"),
        "select" => ("#c44601", "none"),
        "poll" => ("#a06a00", "10 4"),
        "epoll-level" => ("#0068a8", "none"),
        "epoll-edge" => ("#00805c", "7 5"),
        _ => ("#a8397e", "2 4"),
    }
}

/// Breaks a line where it would reach beyond `width`.
fn wrapped(note: &str, width: f64) -> Vec<String> {
    let most = (width / 6.6) as usize;
    let mut lines = vec![String::new()];
    for word in note.split(' ') {
        let line = lines.last_mut().expect("it begins with one");
        if !line.is_empty() && line.len() + 1 + word.len() > most {
            lines.push(word.to_owned());
        } else {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    lines
}

fn text(svg: &mut String, x: f64, y: f64, look: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" {look}>{words}</text>"#);
}
