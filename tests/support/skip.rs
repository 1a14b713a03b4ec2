//! Tests that cannot run on every machine, and how they report that.

use std::{
    env,
    fs::OpenOptions,
    io::{self, Write},
    panic::Location,
    process::{Command, Stdio},
    thread,
};

/// How each line of a skipped test begins.
pub(crate) const SKIPPED: &str = "SKIPPED";

/// Says on standard error that the running test cannot run here, and why: `SKIPPED test: reason`. If `IPC_SKIPPED` names a
/// file, the line is appended to it. Under `CI` a test must run, unless its lines are collected in that file.
#[track_caller]
pub(crate) fn skip(reason: &str) {
    let line = format!("{SKIPPED} {}: {reason}\n", test_name());
    // Not `eprintln!`: the harness hides its text if the test passes.
    io::stderr().write_all(line.as_bytes()).expect("standard error");
    match env::var_os("IPC_SKIPPED") {
        // One write of one line: other processes append, too.
        Some(path) => OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the file that IPC_SKIPPED names"),
        None => assert!(env::var_os("CI").is_none(), "CI is set: {line}"),
    }
}

/// The running test, as the harness or the arguments name it; its place in the source where the harness runs tests without a thread of their own.
#[track_caller]
fn test_name() -> String {
    let named = || thread::current().name().filter(|name| *name != "main").map(str::to_owned);
    let exact = || {
        let mut args = env::args().skip(1);
        args.any(|arg| arg == "--exact").then(|| env::args().skip(1).find(|arg| !arg.starts_with('-')))?
    };
    super::isolated::case().or_else(named).or_else(exact).unwrap_or_else(|| Location::caller().to_string())
}

/// Whether a condition holds without which the test cannot run; it is skipped otherwise.
#[track_caller]
pub(crate) fn can(condition: bool, reason: &str) -> bool {
    if !condition {
        skip(reason);
    }
    condition
}

/// Whether a program is installed; the test is skipped otherwise, and fails under `CI`, where all of them are installed.
#[track_caller]
pub(crate) fn have(program: &str) -> bool {
    // `-V` suits each of them that has no `--version`. All that counts is that it starts.
    let start = Command::new(program)
        .arg("-V")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(start.is_ok() || env::var_os("CI").is_none(), "CI is set, and {program} is not installed");
    can(start.is_ok(), &format!("{program} is not installed"))
}

/// Whether this process has the rights of root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the test may do what only root may; it is skipped otherwise.
#[track_caller]
pub(crate) fn needs_root(what: &str) -> bool {
    can(is_root(), &format!("only root {what}"))
}
