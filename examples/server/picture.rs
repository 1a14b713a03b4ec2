//! The timeline as an SVG: one row a source, time to the right, sleep folded.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet, VecDeque},
    fmt::Write,
};

use ipc_reactor::{Key, SourceKind};

use crate::{
    names::Time,
    timeline::{Source, Turn},
};

const WIDTH: f64 = 1240.0;
/// Where the plot begins and ends; the names are to the left of it, the sums to the right.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 1060.0;
/// Where the sums end.
const WAITED: f64 = RIGHT + 88.0;
const RAN: f64 = WIDTH - 16.0;
const TOP: f64 = 92.0;
const ROW: f64 = 24.0;
/// More sources are not drawn: clients that waited and ran least are left out.
const ROWS_MAX: usize = 40;
/// The minimal width of a visit, so that a short one is visible.
const THINNEST: f64 = 1.6;

const RUNNING: &str = "#16407a";
const WAITING: &str = "#f2b84b";
const AWAKE: &str = "#6d7786";
/// A CIR's line, and the cross of a close.
const COMES: &str = "#2c8a4b";
const LEAVES: &str = "#b5382a";
const INK: &str = "#20262e";
const FAINT: &str = "#6b7480";

/// Maps times to positions: awake times to scale, each long sleep folded to the same width.
struct Axis {
    /// In order and without gaps.
    pieces: Vec<Piece>,
    /// Pixels a nanosecond, where it is to scale.
    scale: f64,
}

struct Piece {
    from_ns: u64,
    to_ns: u64,
    from_x: f64,
    to_x: f64,
    folded: bool,
}

impl Axis {
    fn new(turns: &VecDeque<Turn>) -> Axis {
        // The picture begins when the first turn wakes up: its sleep shows nothing.
        let start_ns = turns.front().map_or(0, |turn| turn.awake_ns);
        let end_ns = turns.back().map_or(0, |turn| turn.over_ns);
        let sleeps: Vec<(u64, u64)> =
            turns.iter().skip(1).map(|turn| (turn.asleep_ns, turn.awake_ns)).collect();
        let asleep_ns: u64 = sleeps.iter().map(|(from_ns, to_ns)| to_ns - from_ns).sum();
        let awake_ns = (end_ns - start_ns).saturating_sub(asleep_ns);
        let long: Vec<(u64, u64)> =
            sleeps.into_iter().filter(|(from_ns, to_ns)| to_ns - from_ns > awake_ns / 20).collect();
        let folded_ns: u64 = long.iter().map(|(from_ns, to_ns)| to_ns - from_ns).sum();
        let fold = (0.35 * (RIGHT - LEFT) / long.len().max(1) as f64).min(44.0);
        let scale = (RIGHT - LEFT - fold * long.len() as f64) / (end_ns - start_ns - folded_ns).max(1) as f64;

        let mut pieces = Vec::new();
        let (mut at_ns, mut x) = (start_ns, LEFT);
        for &(from_ns, to_ns) in &long {
            let awake_x = x + (from_ns - at_ns) as f64 * scale;
            pieces.push(Piece { from_ns: at_ns, to_ns: from_ns, from_x: x, to_x: awake_x, folded: false });
            (at_ns, x) = (to_ns, awake_x + fold);
            pieces.push(Piece { from_ns, to_ns, from_x: awake_x, to_x: x, folded: true });
        }
        pieces.push(Piece { from_ns: at_ns, to_ns: end_ns, from_x: x, to_x: RIGHT, folded: false });
        Axis { pieces, scale }
    }

    fn place(&self, at_ns: u64) -> f64 {
        let piece = self.pieces.iter().find(|piece| at_ns <= piece.to_ns);
        let Some(Piece { from_ns, to_ns, from_x, to_x, .. }) = piece.or(self.pieces.last()) else {
            return LEFT;
        };
        let part = at_ns.saturating_sub(*from_ns) as f64 / (to_ns - from_ns).max(1) as f64;
        from_x + part.min(1.0) * (to_x - from_x)
    }
}

struct Row {
    source: Source,
    waited_ns: u64,
    ran_ns: u64,
}

/// A row for each source that was visited: the server's own first, then its clients.
fn rows(turns: &VecDeque<Turn>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut at: HashMap<Key, usize> = HashMap::new();
    for visit in turns.iter().flat_map(|turn| &turn.visits) {
        let at = *at.entry(visit.source.key).or_insert_with(|| {
            rows.push(Row { source: visit.source.clone(), waited_ns: 0, ran_ns: 0 });
            rows.len() - 1
        });
        rows[at].waited_ns += visit.begun_ns - visit.ready_ns;
        rows[at].ran_ns += visit.over_ns - visit.begun_ns;
    }
    let is_client = |row: &Row| row.source.kind == SourceKind::Client;
    rows.sort_by_key(|row| (is_client(row), Reverse(row.waited_ns + row.ran_ns)));
    rows.truncate(ROWS_MAX);
    rows.sort_by_key(|Row { source, .. }| {
        (
            source.kind != SourceKind::Listener,
            source.kind == SourceKind::Client,
            source.name.len(),
            source.name.clone(),
        )
    });
    rows
}

/// Draws these turns. A closed document, also if there are none.
pub(crate) fn svg(turns: &VecDeque<Turn>) -> String {
    let (axis, rows) = (Axis::new(turns), rows(turns));
    let sources: HashSet<Key> =
        turns.iter().flat_map(|turn| &turn.visits).map(|visit| visit.source.key).collect();
    let mut picture = Picture { axis, places: HashMap::new(), svg: String::new() };
    for (at, row) in rows.iter().enumerate() {
        picture.places.insert(row.source.key, TOP + ROW * (at + 1) as f64);
    }
    let bottom = TOP + ROW * (rows.len() + 1) as f64;
    let height = bottom + 66.0;
    let left_out = sources.len() - rows.len();
    let _ = write!(
        picture.svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="12" fill="{INK}">
<title>Who waited and who ran, turn by turn</title>
<defs><pattern id="asleep" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="#f4f5f7"/><rect width="2" height="6" fill="#d5dae0"/></pattern></defs>
<rect width="100%" height="100%" fill="#fff"/>
"##
    );
    picture.heading(turns);
    picture.grid(&rows, bottom);
    turns.iter().for_each(|turn| picture.turn(turn));
    picture.time(bottom);
    if left_out > 0 {
        let y = bottom + 54.0;
        picture.text(
            LEFT,
            y,
            "start",
            FAINT,
            &format!("{left_out} more clients waited and ran less than these"),
        );
    }
    picture.svg + "</svg>\n"
}

struct Picture {
    axis: Axis,
    /// The upper edge of each source's row.
    places: HashMap<Key, f64>,
    svg: String,
}

impl Picture {
    fn text(&mut self, x: f64, y: f64, anchor: &str, fill: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.svg,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{fill}">{text}</text>"#
        );
    }

    fn rect(&mut self, from: (f64, f64), size: (f64, f64), fill: &str, title: &str) {
        let ((x, y), (width, height)) = (from, size);
        let _ = writeln!(
            self.svg,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{fill}"><title>{title}</title></rect>"#
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.svg,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{stroke}" stroke-width="{width}"/>"#
        );
    }

    fn cross(&mut self, x: f64, y: f64) {
        self.line((x - 4.0, y - 4.0), (x + 4.0, y + 4.0), LEAVES, 2.0);
        self.line((x - 4.0, y + 4.0), (x + 4.0, y - 4.0), LEAVES, 2.0);
    }

    fn circle(&mut self, x: f64, y: f64) {
        let _ = writeln!(
            self.svg,
            r##"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="#fff" stroke="{COMES}" stroke-width="2"/>"##
        );
    }

    /// The title and the legend.
    fn heading(&mut self, turns: &VecDeque<Turn>) {
        let _ = writeln!(
            self.svg,
            r#"<text x="{LEFT}" y="28" font-size="18" font-weight="600">Who waited and who ran: {}</text>"#,
            match (turns.front(), turns.back()) {
                (Some(first), Some(last)) => format!("turns {} to {}", first.number, last.number),
                _ => "no turn yet".into(),
            }
        );
        let y = 54.0;
        let mut x = LEFT;
        for (fill, words, width) in [
            (WAITING, "waits in the ready list", 172.0),
            (RUNNING, "runs: its system calls and its handler", 258.0),
            (AWAKE, "a turn of the loop", 142.0),
            ("url(#asleep)", "asleep in epoll_wait, folded", 200.0),
        ] {
            self.rect((x, y - 10.0), (16.0, 12.0), fill, words);
            self.text(x + 22.0, y, "start", INK, words);
            x += width;
        }
        self.circle(x + 6.0, y - 4.0);
        self.text(x + 16.0, y, "start", INK, "a client comes");
        self.cross(x + 118.0, y - 4.0);
        self.text(x + 128.0, y, "start", INK, "leaves");
    }

    /// Rows, their names and sums, and the folds that go through all of them.
    fn grid(&mut self, rows: &[Row], bottom: f64) {
        for (x, words) in [(WAITED, "waited"), (RAN, "ran")] {
            self.text(x, TOP - 8.0, "end", FAINT, words);
        }
        self.text(LEFT - 10.0, TOP + 16.0, "end", INK, "loop");
        for (at, row) in rows.iter().enumerate() {
            let y = TOP + ROW * (at + 1) as f64;
            if at % 2 == 0 {
                self.rect((0.0, y), (WIDTH, ROW), "#f4f6f9", &row.source.name);
            }
            self.text(LEFT - 10.0, y + 16.0, "end", INK, &row.source.name);
            self.text(WAITED, y + 16.0, "end", INK, &Time(row.waited_ns).to_string());
            self.text(RAN, y + 16.0, "end", INK, &Time(row.ran_ns).to_string());
        }
        for at in 0..self.axis.pieces.len() {
            let Piece { from_ns, to_ns, from_x, to_x, folded } = self.axis.pieces[at];
            if folded {
                let slept = Time(to_ns - from_ns).to_string();
                let (width, title) = (to_x - from_x, format!("asleep for {slept}"));
                self.rect((from_x, TOP), (width, bottom - TOP), "url(#asleep)", &title);
                if width > 40.0 {
                    self.text((from_x + to_x) / 2.0, TOP - 8.0, "middle", FAINT, &slept);
                }
            }
        }
    }

    /// A bar from one time to another.
    fn bar(&mut self, times: (u64, u64), y: f64, height: f64, fill: &str, title: &str) {
        let (from_x, to_x) = (self.axis.place(times.0), self.axis.place(times.1));
        self.rect((from_x, y), ((to_x - from_x).max(THINNEST), height), fill, title);
    }

    fn turn(&mut self, turn: &Turn) {
        let number = format!("turn {}", turn.number);
        self.bar((turn.awake_ns, turn.over_ns), TOP + 4.0, ROW - 8.0, AWAKE, &number);
        let (from_x, to_x) = (self.axis.place(turn.awake_ns), self.axis.place(turn.over_ns));
        if to_x - from_x > 34.0 {
            self.text((from_x + to_x) / 2.0, TOP + 16.0, "middle", "#fff", &turn.number.to_string());
        }
        for visit in &turn.visits {
            let Some(&y) = self.places.get(&visit.source.key) else { continue };
            let (waited, ran) = (visit.begun_ns - visit.ready_ns, visit.over_ns - visit.begun_ns);
            let title =
                format!("{}, {number}: waited {}, ran {}", visit.source.name, Time(waited), Time(ran));
            if waited > 0 {
                self.bar((visit.ready_ns, visit.begun_ns), y + 8.0, ROW - 16.0, WAITING, &title);
            }
            self.bar((visit.begun_ns, visit.over_ns), y + 4.0, ROW - 8.0, RUNNING, &title);
        }
        for birth in &turn.births {
            let places = (self.places.get(&birth.listener), self.places.get(&birth.client));
            if let (Some(&from), Some(&to)) = places {
                let x = self.axis.place(birth.at_ns);
                self.line((x, from + ROW / 2.0), (x, to + ROW / 2.0), COMES, 1.2);
                self.circle(x, to + ROW / 2.0);
            }
        }
        for visit in turn.visits.iter().filter(|visit| visit.closed) {
            if let Some(&y) = self.places.get(&visit.source.key) {
                self.cross(self.axis.place(visit.over_ns) + 6.0, y + ROW / 2.0);
            }
        }
    }

    /// The axis: when the loop woke, and steps of time that can be read off.
    fn time(&mut self, bottom: f64) {
        let step_ns = nice(90.0 / self.axis.scale);
        let start_ns = self.axis.pieces[0].from_ns;
        self.line((LEFT, bottom), (RIGHT, bottom), FAINT, 1.0);
        let mut free_x = f64::MIN;
        for at in 0..self.axis.pieces.len() {
            let Piece { from_ns, to_ns, from_x, folded, .. } = self.axis.pieces[at];
            if folded {
                continue;
            }
            self.line((from_x, bottom), (from_x, bottom + 8.0), INK, 1.4);
            if from_x >= free_x {
                self.text(from_x, bottom + 22.0, "middle", INK, &plain(from_ns - start_ns));
                free_x = from_x + 64.0;
            }
            // The label of the next wake-up has priority.
            let next_x = self.axis.pieces.get(at + 2).map_or(RIGHT + 54.0, |next| next.from_x);
            for tick in 1..=(to_ns - from_ns) / step_ns {
                let x = from_x + (tick * step_ns) as f64 * self.axis.scale;
                self.line((x, bottom), (x, bottom + 4.0), FAINT, 1.0);
                if x >= free_x && x < next_x - 64.0 {
                    self.text(x, bottom + 22.0, "middle", FAINT, &format!("+{}", plain(tick * step_ns)));
                    free_x = x + 64.0;
                }
            }
        }
        let words = format!(
            "time since the first turn shown; + from where the loop has woken, a tick each {}",
            plain(step_ns)
        );
        self.text(RIGHT, bottom + 44.0, "end", FAINT, &words);
    }
}

/// 1, 2 or 5 and zeros: the least that is not below `ns`.
fn nice(ns: f64) -> u64 {
    let ten = 10_f64.powf(ns.max(1.0).log10().floor());
    let digit = [1.0, 2.0, 5.0, 10.0].into_iter().find(|digit| digit * ten >= ns).unwrap_or(10.0);
    (digit * ten) as u64
}

/// A time without trailing zeros: 50 µs, not 50.0 µs.
fn plain(ns: u64) -> String {
    let time = Time(ns).to_string();
    match time.split_once(' ') {
        _ if ns == 0 => "0".into(),
        Some((value, unit)) if value.contains('.') => {
            format!("{} {unit}", value.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => time,
    }
}
