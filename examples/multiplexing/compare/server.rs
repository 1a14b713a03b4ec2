//! A server under test: this same executable as a child process, and its processor time and system calls.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::load::Halt;

/// How long a child may take to end by itself, before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A child process that is killed and reaped when this is dropped.
struct Owned(Child);

impl Owned {
    fn spawn(command: &mut Command) -> io::Result<Self> {
        // A process group of its own: Ctrl-C reaches only this process, which ends the child after reading its numbers.
        command.process_group(0);
        // SAFETY: between fork and exec only prctl runs, which is async-signal-safe and uses no memory.
        unsafe { command.pre_exec(die_with_parent) };
        command.spawn().map(Self)
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: no pointers. The child is not reaped yet, so the pid is still its own.
        unsafe { libc::kill(self.0.id() as libc::pid_t, signal) };
    }

    fn wait(&mut self) -> io::Result<std::process::ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a child process does not end"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends the server even if this process is killed by SIGKILL (PR_SET_PDEATHSIG(2const)).
fn die_with_parent() -> io::Result<()> {
    // SAFETY: no pointers.
    crate::net::check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

pub(super) struct Server {
    child: Owned,
    /// The abstract name: no path to clean up, however this ends.
    address: String,
    errors: File,
    clock: libc::clockid_t,
}

impl Server {
    pub(super) fn start(style: &str) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let address = format!("multiplexing-compare-{}-{count}", std::process::id());
        // A file and not a pipe: the server never blocks because a pipe is full.
        let errors = tempfile::tempfile()?;
        let mut child = Owned::spawn(
            Command::new(std::env::current_exe()?)
                .args(["serve", style, &format!("abstract:{address}")])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(errors.try_clone()?),
        )?;
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().expect("was piped")).read_line(&mut line)?;
        if !line.starts_with("listening on ") {
            return Err(io::Error::other(format!("the {style} server did not start")));
        }
        let clock = cpu_clock(child.0.id())?;
        Ok(Self { child, address, errors, clock })
    }

    /// The abstract name it listens on.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The server's message about the first client that it refused.
    pub(super) fn refusal(&self) -> Option<String> {
        let mut start = [0; 4096];
        let len = self.errors.read_at(&mut start, 0).ok()?;
        let text = String::from_utf8_lossy(&start[..len]);
        let line = text.lines().find_map(|line| line.strip_prefix("refused a client: "))?;
        Some(line.split(';').next().unwrap_or(line).to_owned())
    }

    /// User and system time so far. What /proc/PID/stat says in ticks of 10 ms, to the nanosecond.
    pub(super) fn cpu_time(&self) -> io::Result<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is valid and outlives the call.
        crate::net::check(unsafe { libc::clock_gettime(self.clock, &mut time) })?;
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// Sends SIGTERM, waits for the end, and requires status 0.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.child.signal(libc::SIGTERM);
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("the server ended with {status}")))
        }
    }

    /// Runs `load` with strace attached, and returns each system call's count per message.
    pub(super) fn count_calls(
        &self,
        load: impl FnOnce() -> Result<u64, Halt>,
    ) -> Result<Option<Calls>, Halt> {
        if strace_version().is_none() {
            return Ok(None);
        }
        let directory = tempfile::tempdir()?;
        let output = directory.path().join("calls");
        let mut strace = Owned::spawn(
            Command::new("strace")
                .args(["-c", "-f", "-p", &self.child.0.id().to_string(), "-o"])
                .arg(&output)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped()),
        )?;
        let mut line = String::new();
        let mut messages_of_strace = BufReader::new(strace.0.stderr.take().expect("was piped"));
        messages_of_strace.read_line(&mut line)?;
        if !line.contains("attached") {
            return Ok(None); // not allowed to trace, for one
        }
        let messages = load()?;
        strace.signal(libc::SIGINT); // it detaches and writes its table
        strace.wait()?;
        Ok(Calls::parse(&std::fs::read_to_string(&output)?, messages))
    }
}

/// System calls per message, by name.
pub(super) struct Calls(pub(super) BTreeMap<String, f64>);

impl Calls {
    /// Rows are `% time, seconds, usecs/call, calls, errors (or nothing), syscall`.
    fn parse(table: &str, messages: u64) -> Option<Self> {
        let mut calls = BTreeMap::new();
        for line in table.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(Ok(_)), Some(Ok(count))) =
                (fields.first().map(|f| f.parse::<f64>()), fields.get(3).map(|f| f.parse::<f64>()))
            else {
                continue;
            };
            match fields.last() {
                Some(&"total") | None => {}
                Some(&name) => drop(calls.insert(name.to_owned(), count / messages as f64)),
            }
        }
        (!calls.is_empty() && messages > 0).then_some(Self(calls))
    }

    pub(super) fn total(&self) -> f64 {
        self.0.values().sum()
    }
}

/// The first line of `strace -V`, where there is a strace.
pub(super) fn strace_version() -> Option<String> {
    let output = Command::new("strace").arg("-V").stderr(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned))?
}

fn cpu_clock(pid: u32) -> io::Result<libc::clockid_t> {
    let mut clock = MaybeUninit::uninit();
    // SAFETY: `clock` is valid for writing and outlives the call.
    let error = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, clock.as_mut_ptr()) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: the call succeeded, so it has written it.
    Ok(unsafe { clock.assume_init() })
}
