//! Values as users write them: `64..4096`, `50k`, `500/s`, `30s`, `p99.9=1ms`.

use std::{fmt, time::Duration};

/// Bytes of a request: a fixed number, or a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) least: usize,
    pub(crate) most: usize,
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.least == self.most {
            true => write!(f, "{}", self.most),
            false => write!(f, "{}..{}", self.least, self.most),
        }
    }
}

/// `64`, `1k`, `64..4096` (both ends included).
pub(crate) fn sizes(text: &str) -> Result<Sizes, String> {
    let (least, most) = match text.split_once("..") {
        Some((least, most)) => (size(least)?, size(most)?),
        None => (size(text)?, size(text)?),
    };
    if least > most {
        return Err(format!("from {least} to {most} bytes there is nothing"));
    }
    Ok(Sizes { least, most })
}

/// `64`, `1k`, `1m`: powers of 1,024, as sizes are.
fn size(text: &str) -> Result<usize, String> {
    let (digits, factor) = suffixed(text, &[("k", 1 << 10), ("m", 1 << 20)]);
    let number: usize = digits.parse().map_err(|_| format!("{text:?} is no size; 64, 1k or 64..4096 is"))?;
    match number.checked_mul(factor as usize) {
        Some(bytes @ 1..=0x1000_0000) => Ok(bytes),
        _ => Err("a size is from 1 byte to 256m".into()),
    }
}

/// `50k`, `500/s`, `1.5m/s`: powers of 1,000, as rates are.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let (digits, factor) =
        suffixed(text.strip_suffix("/s").unwrap_or(text), &[("k", 1_000), ("m", 1_000_000)]);
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is no rate; 500/s or 50k is"))?;
    let rate = number * factor as f64;
    if (0.001..=1e9).contains(&rate) {
        Ok(rate)
    } else {
        Err("a rate is more than 0.001/s, and up to 1000m/s".into())
    }
}

/// `30s`, `100ms`, `50us`, `5m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    // `ms` comes before `s`: a unit whose last letter is another unit is tried first.
    const UNITS: [(&str, u64); 7] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let (digits, nanos) = suffixed(text, &UNITS);
    let wrong = || format!("{text:?} is no duration; 30s, 100ms or 50us is");
    if digits == text && text != "0" {
        return Err(format!("{} (its unit is missing)", wrong()));
    }
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let nanos = number * nanos as f64;
    if (0.0..=1e17).contains(&nanos) { Ok(Duration::from_nanos(nanos as u64)) } else { Err(wrong()) }
}

fn suffixed<'a>(text: &'a str, suffixes: &[(&str, u64)]) -> (&'a str, u64) {
    suffixes
        .iter()
        .find_map(|&(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)))
        .unwrap_or((text, 1))
}

/// Text with `\r`, `\n`, `\t`, `\0`, `\\` and `\xNN` in it.
pub(crate) fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        bytes.push(match rest.next() {
            Some('r') => b'\r',
            Some('n') => b'\n',
            Some('t') => b'\t',
            Some('0') => 0,
            Some('\\') => b'\\',
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16).map_err(|_| format!("\\x{digits} is no byte"))?
            }
            other => return Err(format!("\\{} means nothing", other.unwrap_or(' '))),
        });
    }
    Ok(bytes)
}

/// A percentile by its name, as a quantile: `p99.9` is 0.999, `max` is 1.
pub(crate) fn quantile(name: &str) -> Result<f64, String> {
    if name == "max" {
        return Ok(1.0);
    }
    let percent: Option<f64> = name.strip_prefix('p').and_then(|digits| digits.parse().ok());
    match percent {
        // 99.9 / 100.0 is a little more than 0.999, which would select another value.
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok((percent * 1e6).round() / 1e8),
        _ => Err(format!("{name:?} is no percentile; p50, p99.9 or max is")),
    }
}

/// A service level objective: this percentile is at most this long.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Objective {
    pub(crate) name: String,
    pub(crate) quantile: f64,
    pub(crate) limit: Duration,
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ≤ {}", self.name, Time(self.limit.as_nanos() as u64))
    }
}

/// `p99.9=1ms`.
pub(crate) fn objective(text: &str) -> Result<Objective, String> {
    let (name, limit) = text.split_once('=').ok_or("an objective is like p99.9=1ms")?;
    Ok(Objective { name: name.into(), quantile: quantile(name)?, limit: duration(limit)? })
}

/// Nanoseconds, with a suitable unit.
pub(crate) struct Time(pub(crate) u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0 as f64;
        match self.0 {
            0..1_000_000 => write!(f, "{:.1} µs", nanos / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.2} ms", nanos / 1e6),
            _ => write!(f, "{:.2} s", nanos / 1e9),
        }
    }
}

/// Digits in threes.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
