//! The machine on which the numbers were measured, and its other load.
#![allow(unsafe_code)]

use std::fs;
use std::io;

use serde_json::{Value, json};

use crate::net::check;

/// The machine, and its other load during the run.
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    /// The processor that server and clients share, if they are pinned.
    pinned: Option<usize>,
    load_before: String,
    load_after: String,
    cpu_before: CpuTimes,
    /// The share of all processor time that the hypervisor gave to other machines (steal).
    steal_percent: f64,
}

/// From the first line of /proc/stat (proc_stat(5)), in ticks.
#[derive(Clone, Copy)]
struct CpuTimes {
    total: u64,
    steal: u64,
}

impl Machine {
    pub(super) fn before(pinned: Option<usize>) -> io::Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let cpu = cpuinfo
            .lines()
            .find(|line| line.starts_with("model name"))
            .and_then(|line| line.split_once(':'))
            .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned());
        Ok(Self {
            cpu,
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            pinned,
            load_before: load_average()?,
            load_after: String::new(),
            cpu_before: CpuTimes::now()?,
            steal_percent: 0.0,
        })
    }

    pub(super) fn after(&mut self) -> io::Result<()> {
        self.load_after = load_average()?;
        let now = CpuTimes::now()?;
        let total = now.total.saturating_sub(self.cpu_before.total).max(1);
        self.steal_percent = 100.0 * now.steal.saturating_sub(self.cpu_before.steal) as f64 / total as f64;
        Ok(())
    }

    /// One line each: what it is, and how busy it was.
    pub(super) fn lines(&self) -> [String; 2] {
        let Self { cpu, cores, kernel, pinned, load_before, load_after, steal_percent, .. } = self;
        let profile = if cfg!(debug_assertions) { "; a debug build: build with --release" } else { "" };
        let place = match pinned {
            Some(number) => format!("server and clients share processor {number}"),
            None => "the scheduler places server and clients".to_owned(),
        };
        [
            format!("{cpu}, {cores} cores, Linux {kernel}; {place}{profile}"),
            format!(
                "load average {load_before} before, {load_after} after; {steal_percent:.1} % of the processor stolen"
            ),
        ]
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "kernel": self.kernel,
            "pinned_to": self.pinned,
            "load_average_before": self.load_before.parse::<f64>().ok(),
            "load_average_after": self.load_after.parse::<f64>().ok(),
            "steal_percent": self.steal_percent,
            "debug_build": cfg!(debug_assertions),
        })
    }
}

/// Keeps this process, and the children to come, on one processor: the last it may use, as interrupts
/// tend to go to the first. `None` if the system does not allow it.
pub(super) fn pin() -> Option<usize> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a cpu_set_t is an array of integers, and all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for `size` bytes; 0 is this thread.
    check(unsafe { libc::sched_getaffinity(0, size, &mut set) }).ok()?;
    // SAFETY: every number asked for is within the set.
    let last = (0..libc::CPU_SETSIZE as usize).rev().find(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })?;
    // SAFETY: as at the first one.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `last` was found within a set of the same size.
    unsafe { libc::CPU_SET(last, &mut one) };
    // SAFETY: `one` is valid for `size` bytes; 0 is this thread, and the only one.
    check(unsafe { libc::sched_setaffinity(0, size, &one) }).ok().map(|_| last)
}

impl CpuTimes {
    fn now() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or("")
            .split_whitespace()
            .skip(1)
            .filter_map(|t| t.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal; the rest is contained in user and nice.
        Ok(Self { total: ticks.iter().take(8).sum(), steal: ticks.get(7).copied().unwrap_or(0) })
    }
}

/// Of the last minute.
fn load_average() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/loadavg")?.split_whitespace().next().unwrap_or("?").to_owned())
}
