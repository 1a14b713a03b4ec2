//! A test runner for cases that need a process of their own: masks, pending signals, children and limits belong to processes.
//!
//! Each case is this binary again, started with `--case SUITE::NAME`: it has one thread and a clean mask. A case may
//! start the binary once more in a role, and check from outside how that process ends.

use std::env;
use std::num::NonZero;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ipc_reactor::children;

/// A name and what runs under it.
pub(crate) type Case = (&'static str, fn());

/// The cases of a module. A role is run only by a case that asks for it.
#[derive(Clone, Copy)]
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) cases: &'static [Case],
    pub(crate) roles: &'static [Case],
}

/// A list of cases whose names are those of their functions.
macro_rules! cases {
    ($($function:ident),* $(,)?) => { &[$((stringify!($function), $function as fn())),*] };
}
pub(crate) use cases;

/// A case that hangs is ended after this time, so that the rest still runs.
const CASE_LIMIT: Duration = Duration::from_secs(120);

/// The whole of `main`: one case or role if it is asked for by name, else every case that the filters let through. It
/// accepts the usual harness's arguments that a person or `cargo test` is likely to pass.
pub(crate) fn main(suites: &[Suite]) -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [flag, name] = &args[..]
        && flag == "--case"
    {
        find(suites, name).unwrap_or_else(|| panic!("{name} is no case of this binary"))();
        return ExitCode::SUCCESS;
    }
    let exact = args.iter().any(|arg| arg == "--exact");
    let (mut filters, mut skipped, mut threads) = (Vec::new(), Vec::new(), None);
    let mut rest = args.iter().map(String::as_str);
    while let Some(arg) = rest.next() {
        match arg.split_once('=').unwrap_or((arg, "")) {
            ("--test-threads", "") => threads = rest.next().and_then(|n| n.parse().ok()),
            ("--test-threads", n) => threads = n.parse().ok(),
            ("--skip", "") => skipped.extend(rest.next()),
            ("--skip", name) => skipped.push(name),
            ("--format" | "--color" | "-Z", "") => drop(rest.next()),
            (flag, _) if flag.starts_with('-') => {}
            _ => filters.push(arg),
        }
    }
    let matches = |name: &str, filter: &str| if exact { name == filter } else { name.contains(filter) };
    let chosen: Vec<String> = suites
        .iter()
        .flat_map(|suite| suite.cases.iter().map(|(case, _)| format!("{}::{case}", suite.name)))
        .filter(|name| filters.is_empty() || filters.iter().any(|filter| matches(name, filter)))
        .filter(|name| !skipped.iter().any(|filter| matches(name, filter)))
        .filter(|_| !args.iter().any(|arg| arg == "--ignored"))
        .collect();
    if args.iter().any(|arg| arg == "--list") {
        chosen.iter().for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let threads = threads.or_else(|| thread::available_parallelism().ok().map(NonZero::get)).unwrap_or(1);
    run_all(&chosen, threads.max(1))
}

fn find(suites: &[Suite], wanted: &str) -> Option<fn()> {
    let (suite, case) = wanted.split_once("::")?;
    let suite = suites.iter().find(|it| it.name == suite)?;
    suite.cases.iter().chain(suite.roles).find(|(name, _)| *name == case).map(|(_, run)| *run)
}

fn run_all(names: &[String], threads: usize) -> ExitCode {
    println!("\nrunning {} tests", names.len());
    let (next, (done, results)) = (AtomicUsize::new(0), mpsc::channel());
    let mut failed = Vec::new();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (next, done) = (&next, done.clone());
            scope.spawn(move || {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    done.send((name, run(name))).unwrap();
                }
            });
        }
        drop(done);
        for (name, result) in results {
            if !report(name, result) {
                failed.push(name);
            }
        }
    });
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    if !failed.is_empty() {
        println!("\nfailures:");
        failed.iter().for_each(|name| println!("    {name}"));
    }
    println!("\ntest result: {verdict}. {} passed; {} failed", names.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints how a case ended; returns whether it passed.
fn report(name: &str, result: Result<Output, String>) -> bool {
    match result {
        Ok(output) if output.status.success() => {
            println!("test {name} ... ok");
            // What a case skipped is printed even if it passed.
            let text = String::from_utf8_lossy(&output.stderr);
            text.lines().filter(|line| line.starts_with(super::SKIPPED)).for_each(|line| println!("{line}"));
            true
        }
        Ok(output) => {
            println!("test {name} ... FAILED ({})", output.status);
            print!("{}", String::from_utf8_lossy(&output.stdout));
            print!("{}", String::from_utf8_lossy(&output.stderr));
            false
        }
        Err(why) => {
            println!("test {name} ... FAILED ({why})");
            false
        }
    }
}

fn run(name: &str) -> Result<Output, String> {
    use std::os::unix::process::CommandExt;
    let mut command = this_binary(name);
    // A group of its own: a case that hangs is ended with all that it started.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = children::spawn(&mut command).map_err(|e| e.to_string())?;
    let group = format!("-{}", child.id());
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    match result.recv_timeout(CASE_LIMIT) {
        Ok(output) => output.map_err(|e| e.to_string()),
        Err(_) => {
            let killed = Command::new("kill").args(["-KILL", "--", &group]).status();
            Err(format!("no end after {CASE_LIMIT:?}; killed: {killed:?}"))
        }
    }
}

/// This binary, about to run that case or role: `SUITE::NAME`.
pub(crate) fn this_binary(name: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("the path of this binary"));
    command.args(["--case", name]);
    command
}

/// The case that this process runs.
pub(crate) fn case() -> Option<String> {
    let mut args = env::args().skip(1);
    (args.next()? == "--case").then(|| args.next())?
}

/// A hexadecimal field of a `status` file under /proc, such as `SigBlk`.
pub(crate) fn mask(path: &str, field: &str) -> u64 {
    let status = std::fs::read_to_string(path).expect("/proc");
    let value =
        status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("the field");
    u64::from_str_radix(value.trim(), 16).expect("hexadecimal")
}
