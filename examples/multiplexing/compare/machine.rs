//! What the numbers were measured on, and how quiet it was there.

use std::fs;
use std::io;
use std::thread::available_parallelism;

use serde_json::{Value, json};

/// The machine, and its other business during the run.
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    load_before: String,
    load_after: String,
    cpu_before: CpuTimes,
    /// Of all processor time, the share that the hypervisor gave to others.
    steal_percent: f64,
}

/// From the first line of /proc/stat (proc_stat(5)), in ticks.
#[derive(Clone, Copy)]
struct CpuTimes {
    total: u64,
    steal: u64,
}

impl Machine {
    pub(super) fn before() -> io::Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let cpu = cpuinfo
            .lines()
            .find(|line| line.starts_with("model name"))
            .and_then(|line| line.split_once(':'))
            .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned());
        Ok(Self {
            cpu,
            cores: available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
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
        let Self { cpu, cores, kernel, load_before, load_after, steal_percent, .. } = self;
        let profile = if cfg!(debug_assertions) { "; a debug build: build with --release" } else { "" };
        [
            format!("{cpu}, {cores} cores, Linux {kernel}{profile}"),
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
            "load_average_before": self.load_before.parse::<f64>().ok(),
            "load_average_after": self.load_after.parse::<f64>().ok(),
            "steal_percent": self.steal_percent,
            "debug_build": cfg!(debug_assertions),
        })
    }
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
