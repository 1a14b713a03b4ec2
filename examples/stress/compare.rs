//! `compare`: two reports side by side, and a verdict for scripts.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    options::{JsonOption, Refusal},
    report::{QUANTILES, VERSION},
    values,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A report of `run`, `idle` or `churn`: the baseline
    before: PathBuf,
    /// Another report, which is compared with the baseline
    after: PathBuf,
    /// Fail if a metric changed by more than this: p99+10%, rate-5%, cpu.server+20%; separate several by commas
    #[arg(long, value_name = "CONDITION", value_delimiter = ',', value_parser = condition)]
    fail_if: Vec<Condition>,
    #[command(flatten)]
    json: JsonOption,
}

/// A limit for the rise, or fall, of a metric, in percent.
#[derive(Debug, Clone)]
struct Condition {
    text: String,
    metric: String,
    rises: bool,
    percent: f64,
}

fn condition(text: &str) -> Result<Condition, String> {
    let wrong = || format!("{text:?} is no condition; p99+10% or rate-5% is");
    let sign = text.find(['+', '-']).ok_or_else(wrong)?;
    let percent: f64 =
        text[sign + 1..].strip_suffix('%').and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    let metric = &text[..sign];
    if !["rate", "cpu.client", "cpu.server"].contains(&metric) {
        values::quantile(metric)
            .map_err(|error| format!("{error}; rate, cpu.client and cpu.server are metrics, too"))?;
        if metric != "max" && !QUANTILES.iter().any(|&(name, _)| name == metric) {
            return Err(format!(
                "reports have no {metric}; they have p50, p75, p90, p99, p99.9, p99.99 and max"
            ));
        }
    }
    Ok(Condition { text: text.into(), metric: metric.into(), rises: &text[sign..=sign] == "+", percent })
}

fn read(path: &Path) -> Result<Value, Refusal> {
    let failed = |why: String| Refusal::Failed(io::Error::other(format!("{}: {why}", path.display())));
    let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
    let report: Value = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    if report["format"] != "ipc-reactor-stress" || !report["latency_us"].is_object() {
        return Err(failed("no report of `stress run`".into()));
    }
    if report["version"] != VERSION {
        return Err(failed(format!(
            "a report of version {}; this program reads {VERSION}",
            report["version"]
        )));
    }
    Ok(report)
}

fn metric(report: &Value, name: &str) -> Option<f64> {
    match name {
        "rate" => report["rate"].as_f64(),
        "cpu.client" => report["cpu"]["client"].as_f64(),
        "cpu.server" => report["cpu"]["server"].as_f64(),
        percentile => report["latency_us"][percentile].as_f64(),
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<u8, Refusal> {
    let mut json = arguments.json.open()?;
    let (before, after) = (read(&arguments.before)?, read(&arguments.after)?);
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    for (path, report) in [(&arguments.before, &before), (&arguments.after, &after)] {
        if report["valid"] != true {
            problems.push(format!("{} is of an invalid run: {}", path.display(), report["invalid"]));
        }
    }
    for what in [
        "target",
        "protocol",
        "load",
        "rate_asked",
        "arrival",
        "connections",
        "connections_loaded",
        "pipeline",
        "size",
    ] {
        if before[what] != after[what] {
            warnings.push(format!("they differ in {what}: {} and {}", before[what], after[what]));
        }
    }
    let percentiles = QUANTILES.iter().map(|&(name, _)| name).chain(["max"]);
    let mut rows = Vec::new();
    let mut text = format!("  {:<11} {:>14} {:>14} {:>9}\n", "", "before", "after", "change");
    for name in ["rate"].into_iter().chain(percentiles).chain(["cpu.client", "cpu.server"]) {
        let (Some(old), Some(new)) = (metric(&before, name), metric(&after, name)) else { continue };
        let change = (new / old - 1.0) * 100.0;
        let unit = match name {
            "rate" => "/s",
            "cpu.client" | "cpu.server" => "",
            _ => "µs",
        };
        text += &format!(
            "  {name:<11} {:>14} {:>14} {change:>+8.1}%\n",
            format!("{old:.2} {unit}"),
            format!("{new:.2} {unit}")
        );
        rows.push(json!({ "metric": name, "before": old, "after": new, "change_percent": change.is_finite().then_some(change) }));
    }
    let failed: Vec<String> = arguments
        .fail_if
        .iter()
        .filter_map(|condition| {
            let (Some(old), Some(new)) =
                (metric(&before, &condition.metric), metric(&after, &condition.metric))
            else {
                problems.push(format!("{}: not in both reports", condition.metric));
                return None;
            };
            let by = if condition.rises { new - old } else { old - new };
            (by > old * condition.percent / 100.0)
                .then(|| format!("{}: from {old:.2} to {new:.2}", condition.text))
        })
        .collect();
    let lines = [("FAILED", &failed), ("INVALID", &problems), ("note", &warnings)];
    for (word, line) in lines.iter().flat_map(|(word, lines)| lines.iter().map(move |line| (word, line))) {
        text += &format!("  {word:<8} {line}\n");
    }
    json.say(&text)?;
    json.write(&json!({
        "format": "ipc-reactor-stress",
        "version": VERSION,
        "mode": "compare",
        "metrics": rows,
        "failed": failed,
        "invalid": problems,
        "differences": warnings,
        "valid": problems.is_empty(),
        "ok": problems.is_empty() && failed.is_empty(),
    }))?;
    Ok(match (problems.is_empty(), failed.is_empty()) {
        (false, _) => 3,
        (true, false) => 1,
        (true, true) => 0,
    })
}
