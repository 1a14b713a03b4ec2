//! Two plots in one SVG: the percentile curve, and throughput with latency over time.

use std::{error::Error, io, path::Path};

use hdrhistogram::Histogram;
use plotters::{coord::Shift, prelude::*};

use crate::{
    engine::Outcome,
    record::{Interval, Phase},
};

const SIZE: (u32, u32) = (960, 960);
const LATENCY: RGBColor = RGBColor(0xc2, 0x3b, 0x22);
const SERVICE: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
const RATE: RGBColor = RGBColor(0x2e, 0x7d, 0x32);

type Drawn = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// # Errors
/// The file cannot be written.
pub(crate) fn write(path: &Path, title: &str, outcome: &Outcome) -> io::Result<()> {
    draw(path, title, outcome)
        .map_err(|error| io::Error::other(format!("cannot write the plot to {}: {error}", path.display())))
}

fn draw(path: &Path, title: &str, outcome: &Outcome) -> Drawn {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, ("sans-serif", 18))?;
    let (upper, lower) = root.split_vertically(470);
    curve(&upper, outcome)?;
    over_time(&lower, &outcome.record.intervals)?;
    root.present()?;
    Ok(())
}

/// How many nines: 0.9 is at 1, 0.99 at 2, 0.999 at 3.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// Points up to the last percentile that has more than one value above it.
fn points(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let last = (histogram.len().max(2) as f64).log10();
    let count = 200;
    (0..=count)
        .map(|step| f64::from(step) * last / f64::from(count))
        .map(|x| (x, micros(histogram.value_at_quantile(1.0 - 10_f64.powf(-x)).max(100))))
        .collect()
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn curve(area: &Area<'_>, outcome: &Outcome) -> Drawn {
    let record = &outcome.record;
    let curves = [
        ("latency, from when it was due", LATENCY, points(&record.latency)),
        ("service time, from when it was sent", SERVICE, points(&record.service)),
    ];
    let all = || curves.iter().flat_map(|(_, _, points)| points.iter());
    let least = all().map(|&(_, y)| y).fold(f64::MAX, f64::min) * 0.8;
    let most = all().map(|&(_, y)| y).fold(1.0, f64::max) * 1.5;
    let right = all().map(|&(x, _)| x).fold(nines(0.9), f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, 78)
        .set_label_area_size(LabelAreaPosition::Bottom, 42)
        .build_cartesian_2d(0.0..right, (least..most).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        // One for each nine.
        .x_labels(right as usize + 1)
        .x_label_formatter(&|x| format!("{}", (100.0 - 100.0 * 10_f64.powf(-x)) as f32))
        .y_desc("time, logarithmic")
        .y_label_formatter(&|micros| time(*micros))
        .draw()?;
    for (name, colour, points) in curves {
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

fn over_time(area: &Area<'_>, intervals: &[Interval]) -> Drawn {
    // A scrap of an interval has no rate worth drawing.
    let shown: Vec<&Interval> =
        intervals.iter().filter(|interval| interval.length.as_millis() >= 20).collect();
    let middle = |interval: &Interval| (interval.start + interval.length / 2).as_secs_f64();
    let rate = |interval: &Interval| interval.answers as f64 / interval.length.as_secs_f64();
    let end = shown.last().map_or(1.0, |last| (last.start + last.length).as_secs_f64());
    let rate_max = shown.iter().map(|interval| rate(interval)).fold(1.0, f64::max) * 1.2;
    let p99_max = shown.iter().map(|interval| micros(interval.p99_ns)).fold(1.0, f64::max) * 1.2;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, 78)
        .set_label_area_size(LabelAreaPosition::Right, 78)
        .set_label_area_size(LabelAreaPosition::Bottom, 42)
        .build_cartesian_2d(0.0..end, 0.0..rate_max)?
        .set_secondary_coord(0.0..end, 0.0..p99_max);
    let warm = shown.iter().filter(|interval| interval.phase == Phase::Warmup);
    let warm_end = warm.map(|interval| (interval.start + interval.length).as_secs_f64()).fold(0.0, f64::max);
    chart.draw_series([Rectangle::new([(0.0, 0.0), (warm_end, rate_max)], BLACK.mix(0.07).filled())])?;
    chart
        .configure_mesh()
        .x_desc("seconds; the grey ones are warm-up")
        .y_desc("answers a second")
        .y_label_formatter(&|rate| format!("{rate:.0}"))
        .draw()?;
    chart
        .configure_secondary_axes()
        .y_desc("p99 of the interval")
        .y_label_formatter(&|micros| time(*micros))
        .draw()?;
    let rates = shown.iter().map(|interval| (middle(interval), rate(interval)));
    chart
        .draw_series(LineSeries::new(rates, RATE.stroke_width(2)).point_size(2))?
        .label("answers a second")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], RATE.stroke_width(2)));
    let p99s = shown.iter().map(|interval| (middle(interval), micros(interval.p99_ns)));
    chart
        .draw_secondary_series(LineSeries::new(p99s, LATENCY.stroke_width(2)).point_size(2))?
        .label("p99 latency")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], LATENCY.stroke_width(2)));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

fn time(micros: f64) -> String {
    match micros {
        ..1.0 => format!("{:.0} ns", micros * 1e3),
        1.0..1e3 => format!("{micros:.0} µs"),
        1e3..1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}
