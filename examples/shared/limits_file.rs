//! A file of limits: lines of `name = value`; `#` begins a comment. A limit that is not named has its default.

use std::{fs, num::NonZeroUsize, path::Path, str::FromStr, time::Duration};

use ipc_reactor::{Limits, SlowConsumer, WhenFull};

/// Reads a whole file. The error names the line, and what is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Limits, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map_err(|(line, why)| format!("{} line {line}: {why}", path.display()))
}

fn parse(text: &str) -> Result<Limits, (usize, String)> {
    let mut limits = Limits::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            set(&mut limits, line).map_err(|why| (number, why))?;
        }
    }
    Ok(limits)
}

fn set(limits: &mut Limits, line: &str) -> Result<(), String> {
    let (name, value) = line.split_once('=').ok_or_else(|| format!("{line:?} is not name = value"))?;
    let (name, value) = (name.trim(), value.trim());
    let wrong = |why: String| format!("{name} = {value}: {why}");
    match name {
        "clients" => limits.clients = count(value).map_err(wrong)?,
        "clients_per_uid" => limits.clients_per_uid = count(value).map_err(wrong)?,
        "buffered_max" => limits.buffered_max = count(value).map_err(wrong)?,
        "buffered_per_uid" => limits.buffered_per_uid = count(value).map_err(wrong)?,
        "when_full" => {
            limits.when_full =
                one_of(value, &[("wait", WhenFull::Wait), ("shed", WhenFull::Shed)]).map_err(wrong)?;
        }
        "accepts_per_visit" => limits.accepts_per_visit = count(value).map_err(wrong)?,
        "bytes_per_visit" => limits.bytes_per_visit = count(value).map_err(wrong)?,
        "messages_per_visit" => limits.messages_per_visit = count(value).map_err(wrong)?,
        "output_high_water" => limits.output_high_water = count(value).map_err(wrong)?,
        "output_max" => limits.output_max = count(value).map_err(wrong)?,
        "slow_consumer" => {
            let choices = [("pause", SlowConsumer::Pause), ("disconnect", SlowConsumer::Disconnect)];
            limits.slow_consumer = one_of(value, &choices).map_err(wrong)?;
        }
        "idle" => limits.idle = time_or_none(value).map_err(wrong)?,
        "frame_timeout" => limits.frame_timeout = time_or_none(value).map_err(wrong)?,
        "flush" => limits.flush = time(value).map_err(wrong)?,
        "drain" => limits.drain = time(value).map_err(wrong)?,
        "accept_retry" => limits.accept_retry = time(value).map_err(wrong)?,
        "queue_check" => limits.queue_check = time_or_none(value).map_err(wrong)?,
        _ => {
            return Err(format!(
                "{name:?} is no limit; there are clients, clients_per_uid, buffered_max, buffered_per_uid, when_full, \
                 accepts_per_visit, bytes_per_visit, messages_per_visit, output_high_water, output_max, \
                 slow_consumer, idle, frame_timeout, flush, drain, accept_retry, queue_check"
            ));
        }
    }
    Ok(())
}

fn count(value: &str) -> Result<usize, String> {
    NonZeroUsize::from_str(value)
        .map(NonZeroUsize::get)
        .map_err(|error| format!("{error}; a number from 1 up is wanted"))
}

fn time(value: &str) -> Result<Duration, String> {
    let wanted = || "a time such as 30s or 250ms is wanted".to_owned();
    let (digits, unit): (_, fn(u64) -> Duration) = match value.strip_suffix("ms") {
        Some(digits) => (digits, Duration::from_millis),
        None => (value.strip_suffix('s').ok_or_else(wanted)?, Duration::from_secs),
    };
    digits.trim().parse().map(unit).map_err(|_| wanted())
}

fn time_or_none(value: &str) -> Result<Option<Duration>, String> {
    if value == "none" {
        return Ok(None);
    }
    time(value).map(Some).map_err(|why| format!("{why}, or none"))
}

fn one_of<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == value).map(|&(_, choice)| choice).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|&(name, _)| name).collect();
        format!("{} is wanted", names.join(" or "))
    })
}
