//! The server's system calls a message, counted by strace. Tracing slows the server, so this is a separate run, whose
//! times are discarded.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use ipc_reactor::{Signal, signals};
use serde_json::{Value, json};

use crate::{engine, plan::Plan};

/// What was counted, connecting and closing included.
pub(crate) struct Syscalls {
    calls: BTreeMap<String, u64>,
    answers: u64,
}

/// Ends strace when dropped, because otherwise it continues to trace the server.
struct Strace(Child);

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = signals::kill(self.0.id(), Signal::INT);
        let _ = self.0.wait();
    }
}

/// Loads the server for a second while strace counts.
///
/// # Errors
/// There is no strace, or it may not trace the server.
pub(crate) fn count(plan: &Plan, pid: u32) -> io::Result<Syscalls> {
    let table = tempfile::NamedTempFile::new()?;
    let mut child = Command::new("strace")
        .args(["-f", "-c", "-U", "name,calls", "-p", &pid.to_string(), "-o"])
        .arg(table.path())
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("strace: {error}; --syscalls needs it")))?;
    let mut said = BufReader::new(child.stderr.take().expect("it was piped"));
    let strace = Strace(child);
    let mut line = String::new();
    while !line.contains("attached") || line.contains("attach:") {
        line.clear();
        if said.read_line(&mut line)? == 0 {
            return Err(io::Error::other(format!("strace could not trace process {pid}; root may")));
        }
    }
    let plan = Plan {
        warmup: Duration::ZERO,
        duration: plan.duration.min(Duration::from_secs(1)),
        // The server is slower now.
        timeout: plan.timeout.max(Duration::from_secs(10)),
        ..plan.clone()
    };
    let outcome = engine::run(&plan, None)?;
    drop(strace);
    let table = fs::read_to_string(table.path())?;
    Ok(Syscalls { calls: parse(&table), answers: outcome.record.answers_ever })
}

/// Lines of a name and a number; the total is not a call.
fn parse(table: &str) -> BTreeMap<String, u64> {
    table
        .lines()
        .filter_map(|line| {
            let (name, calls) = line.split_once(char::is_whitespace)?;
            Some((name.to_owned(), calls.trim().parse().ok()?))
        })
        .filter(|(name, _)| name != "total")
        .collect()
}

impl Syscalls {
    fn a_message(&self, calls: u64) -> f64 {
        calls as f64 / self.answers.max(1) as f64
    }

    fn all(&self) -> f64 {
        self.a_message(self.calls.values().sum())
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "answers": self.answers, "calls": self.calls, "per_message": self.all() })
    }
}

impl fmt::Display for Syscalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} a message:", self.all())?;
        let mut calls: Vec<_> = self.calls.iter().collect();
        calls.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
        for (place, (name, &count)) in calls.into_iter().take(5).enumerate() {
            write!(f, "{} {name} {:.2}", if place > 0 { "," } else { "" }, self.a_message(count))?;
        }
        Ok(())
    }
}
