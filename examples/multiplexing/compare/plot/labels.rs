//! The names at the lines' ends: placed so that they cover little, and never overlap.

use std::fmt::Write;

use super::{HEIGHT, LINE_OF_TEXT, NAMES, PANEL, TOP, text};

/// The end of a line, and its label.
pub(super) struct End {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) name: &'static str,
    pub(super) colour: &'static str,
    /// Why it ends before the other lines.
    pub(super) ceiling: Option<&'static str>,
}

/// A place on the picture.
#[derive(Clone, Copy)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    /// The area of text that begins at `x`, with its baseline at `y`.
    pub(super) fn of_words(x: f64, y: f64, words: &str) -> Self {
        Self { left: x, top: y - 12.0, width: words.len() as f64 * 7.5, height: LINE_OF_TEXT }
    }

    fn holds(&self, x: f64, y: f64) -> bool {
        (self.left..self.left + self.width).contains(&x) && (self.top..self.top + self.height).contains(&y)
    }

    fn touches(&self, other: &Self) -> bool {
        self.left < other.left + other.width
            && other.left < self.left + self.width
            && self.top < other.top + other.height
            && other.top < self.top + self.height
    }
}

/// What a panel already contains: points on its lines, which a label should not cover, and text, which it must not.
pub(super) struct Panel {
    pub(super) left: f64,
    pub(super) ink: Vec<(f64, f64)>,
    pub(super) words: Vec<Area>,
}

impl Panel {
    /// Writes every name: first those with a fixed position, then those that need a free one.
    pub(super) fn name_all(&mut self, svg: &mut String, ends: &[End]) {
        self.name_at_the_right(svg, ends.iter().filter(|end| end.ceiling.is_none()).collect());
        for end in ends {
            if let Some(ceiling) = end.ceiling {
                self.name_on_the_way(svg, end, ceiling);
            }
        }
    }

    /// The names of the lines that reach the last number of idle clients, moved apart where they would touch.
    fn name_at_the_right(&mut self, svg: &mut String, mut reaching: Vec<&End>) {
        reaching.sort_by(|a, b| a.y.total_cmp(&b.y));
        let mut at: Vec<f64> = reaching.iter().map(|end| end.y).collect();
        // Down from the top, then up from the bottom, where the numbers of the axis begin.
        let mut least = TOP;
        for y in &mut at {
            *y = y.max(least);
            least = *y + LINE_OF_TEXT;
        }
        let mut most = TOP + HEIGHT;
        for y in at.iter_mut().rev() {
            *y = y.min(most);
            most = *y - LINE_OF_TEXT;
        }
        let right = self.left + PANEL;
        for (end, y) in reaching.iter().zip(at) {
            line(svg, (end.x + 5.0, end.y), (right + 12.0, y), end.colour);
            name(svg, right + 15.0, y + 4.0, end);
            self.words.push(Area::of_words(right + 15.0, y + 4.0, end.name));
        }
    }

    /// The name of a line that ends earlier, with the reason, placed where it covers the least.
    fn name_on_the_way(&mut self, svg: &mut String, end: &End, ceiling: &str) {
        let size = (ceiling.len().max(end.name.len()) as f64 * 6.0, 2.0 * LINE_OF_TEXT);
        let (mut best, mut least) = (None, f64::INFINITY);
        for row in 0..(HEIGHT - size.1) as u32 / 6 {
            for column in 0..(PANEL + NAMES - size.0) as u32 / 6 {
                let (left, top) = (self.left + 4.0 + f64::from(column) * 6.0, TOP + f64::from(row) * 6.0);
                let area = Area { left, top, width: size.0, height: size.1 };
                let (x, y) = nearest(&area, end);
                let distance = (end.x - x).hypot(end.y - y);
                if distance < 8.0 || self.words.iter().any(|other| area.touches(other)) {
                    continue;
                }
                let wide =
                    Area { left: left - 4.0, top: top - 6.0, width: size.0 + 8.0, height: size.1 + 12.0 };
                let hidden = self.ink.iter().filter(|(x, y)| wide.holds(*x, *y)).count();
                // If two cover as much and are as near, take the one that is not to the side.
                let aside = (left + size.0 / 2.0 - end.x).abs();
                let cost = hidden as f64 * 12.0 + distance + aside / 8.0;
                if cost < least {
                    (best, least) = (Some(area), cost);
                }
            }
        }
        // A panel has room for many more names than there are styles.
        let Some(area) = best else { return };
        line(svg, (end.x, end.y), nearest(&area, end), end.colour);
        name(svg, area.left, area.top + 12.0, end);
        let look = format!(
            r#"font-size="11" fill="{}" stroke="white" stroke-width="3" paint-order="stroke""#,
            end.colour
        );
        text(svg, area.left, area.top + 12.0 + LINE_OF_TEXT, &look, ceiling);
        self.words.push(area);
    }
}

/// The point of `area` that is nearest to a line's end.
fn nearest(area: &Area, end: &End) -> (f64, f64) {
    (end.x.clamp(area.left, area.left + area.width), end.y.clamp(area.top, area.top + area.height))
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        r#"<path d="M{:.1} {:.1}L{:.1} {:.1}" stroke="{colour}" stroke-width="0.8"/>"#,
        from.0, from.1, to.0, to.1
    );
}

fn name(svg: &mut String, x: f64, y: f64, end: &End) {
    let look = format!(
        r#"font-weight="bold" fill="{}" stroke="white" stroke-width="3" paint-order="stroke""#,
        end.colour
    );
    text(svg, x, y, &look, end.name);
}
