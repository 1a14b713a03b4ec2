//! A test runner for cases that need a process of their own: masks, pending signals and children belong to processes.
//!
//! Each case is this binary again, started with `--case NAME`, so it has one thread and a clean mask. A case may start the
//! binary once more in a role, to see from outside how that process ends.

use std::env;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ipc_reactor::children;

/// A name and what runs under it.
pub(crate) type Case = (&'static str, fn());

/// Ends a case that hangs, so that the rest still runs.
const CASE_LIMIT: Duration = Duration::from_secs(60);

/// The whole of `main`: one case or role if asked for by name, else every case that the filter lets through.
pub(crate) fn main(cases: &[Case], roles: &[Case]) -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [flag, name] = &args[..]
        && flag == "--case"
    {
        let (_, run) =
            cases.iter().chain(roles).find(|(case, _)| case == name).expect("a case of this binary");
        run();
        return ExitCode::SUCCESS;
    }
    let exact = args.iter().any(|arg| arg == "--exact");
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let chosen = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|f| if exact { name == f.as_str() } else { name.contains(f.as_str()) })
    };
    let mut chosen: Vec<&str> = cases.iter().map(|(name, _)| *name).filter(|name| chosen(name)).collect();
    if args.iter().any(|arg| arg == "--ignored") {
        chosen.clear();
    }
    if args.iter().any(|arg| arg == "--list") {
        chosen.iter().for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let failed = chosen.iter().filter(|name| !passes(name)).count();
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {} passed; {failed} failed", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn passes(name: &str) -> bool {
    match run(name) {
        Ok(output) if output.status.success() => {
            println!("test {name} ... ok");
            // What a case did not do is said even where nobody looks at its output.
            for text in [&output.stdout, &output.stderr] {
                String::from_utf8_lossy(text)
                    .lines()
                    .filter(|line| line.starts_with("SKIPPED"))
                    .for_each(|line| println!("{line}"));
            }
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

/// This binary, about to run that case or role.
pub(crate) fn this_binary(name: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("the path of this binary"));
    command.args(["--case", name]);
    command
}

/// A hexadecimal field of a `status` file under /proc, such as `SigBlk`.
pub(crate) fn mask(path: &str, field: &str) -> u64 {
    let status = std::fs::read_to_string(path).expect("/proc");
    let value =
        status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("the field");
    u64::from_str_radix(value.trim(), 16).expect("hexadecimal")
}
