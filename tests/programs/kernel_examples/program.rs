//! An example as a child process: its lines, and its end.

pub(crate) use crate::support::PATIENCE;
use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::unix::fs::FileExt,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use ipc_reactor::{Signal, children, signals};

pub(crate) use crate::running::executable as example;

/// Runs an example to its end.
pub(crate) fn run(name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(example(name));
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    println!("{name} {arguments:?}: {output:?}");
    output
}

/// What it wrote to standard output, once it has ended with `code`.
pub(crate) fn output(name: &str, arguments: &[&str], code: i32) -> String {
    let output = run(name, arguments);
    assert_eq!(output.status.code(), Some(code));
    String::from_utf8(output.stdout).unwrap()
}

/// A running example, killed when dropped.
pub(crate) struct Program {
    pub(crate) child: Child,
    lines: Receiver<String>,
    errors: File,
}

impl Program {
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Program {
        Program::of(Command::new(example(name)).args(arguments))
    }

    /// Standard output is read here; standard input is whatever `command` says.
    pub(crate) fn of(command: &mut Command) -> Program {
        let errors = tempfile::tempfile().unwrap();
        command.stdout(Stdio::piped()).stderr(errors.try_clone().unwrap());
        let mut child = children::spawn(command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        // Ends with the child's output.
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Program { child, lines, errors }
    }

    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|error| panic!("no line: {error}; {}", self.errors()))
    }

    /// All lines up to its end.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    pub(crate) fn errors(&self) -> String {
        let mut text = vec![0; 1 << 20];
        let length = self.errors.read_at(&mut text, 0).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    /// Waits until standard error has `text`.
    #[track_caller]
    pub(crate) fn until_error(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.errors().contains(text) {
            assert!(Instant::now() < end, "{text:?} was not said: {}", self.errors());
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(self.errors().contains(text), "{status}: {}", self.errors());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        signals::kill(self.child.id(), signal).unwrap();
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end: {}", self.errors());
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[track_caller]
    pub(crate) fn ends_with(&mut self, code: i32) {
        let status = self.wait();
        assert_eq!(status.code(), Some(code), "{status}: {}", self.errors());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a shell script, with `$1` and so on; answers what it writes.
#[track_caller]
pub(crate) fn sh(script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("sh");
    let output = command.args(["-ec", script, "sh"]).args(arguments).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} {arguments:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
