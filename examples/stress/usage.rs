//! What a load costs: processor time of both sides, and the server's memory.

use std::{
    fs, io,
    os::{fd::AsRawFd, unix::net::UnixStream},
};

use crate::clock;

/// What `/proc` counts in: USER_HZ is 100 wherever Linux runs on 64 bits.
const TICK_NS: u64 = 10_000_000;

/// Processor time used so far, and when that was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    wall_ns: u64,
    client_ns: u64,
    client_waited_ns: Option<u64>,
    server_ns: Option<u64>,
}

/// Shares of one core between two samples; 1.0 is one core all the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shares {
    pub(crate) client: f64,
    /// The time in which it was ready to run and another process ran, if the kernel reports it.
    pub(crate) client_waited: Option<f64>,
    /// None where the server's process is not known. Its children are not in it.
    pub(crate) server: Option<f64>,
}

impl Shares {
    pub(crate) fn client_shown(&self) -> String {
        let waited =
            self.client_waited.map_or("an unknown time".into(), |waited| format!("{:.0} %", waited * 100.0));
        format!("{:.0} % (waited for it {waited})", self.client * 100.0)
    }
}

impl Sample {
    pub(crate) fn take(server_pid: Option<u32>) -> Sample {
        Sample {
            wall_ns: clock::now_ns(),
            client_ns: own_ns(),
            client_waited_ns: own_wait_ns(),
            server_ns: server_pid.and_then(|pid| process_ns(pid).ok()),
        }
    }

    pub(crate) fn shares_until(&self, end: &Sample) -> Shares {
        let wall_ns = end.wall_ns.saturating_sub(self.wall_ns).max(1) as f64;
        let share = |from: u64, to: u64| to.saturating_sub(from) as f64 / wall_ns;
        Shares {
            client: share(self.client_ns, end.client_ns),
            client_waited: self.client_waited_ns.zip(end.client_waited_ns).map(|(from, to)| share(from, to)),
            server: self.server_ns.zip(end.server_ns).map(|(from, to)| share(from, to)),
        }
    }
}

#[allow(unsafe_code, reason = "getrusage(2)")]
fn own_ns() -> u64 {
    // SAFETY: all zeros are a rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` lives through the call, which writes it. It cannot fail for the process itself.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1_000;
    ns(usage.ru_utime) + ns(usage.ru_stime)
}

/// How long this thread, the only one, has waited for a processor.
fn own_wait_ns() -> Option<u64> {
    fs::read_to_string("/proc/self/schedstat").ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// User and system time of all its threads, to a clock tick (10 ms).
fn process_ns(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Its name, in parentheses, can have anything in it, spaces too.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 =
        fields.split_ascii_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks * TICK_NS)
}

/// Memory of a process that is in RAM, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// The process that listens at the other end of a Unix socket; None where it lives in a namespace that is not seen from
/// here.
#[allow(unsafe_code, reason = "getsockopt(2)")]
pub(crate) fn peer_pid(socket: &UnixStream) -> Option<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` and `length` live through the call, and `length` is the size of `peer`.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    u32::try_from(peer.pid).ok().filter(|&pid| got == 0 && pid > 0)
}
