//! Runs commands in parallel, as a small supervisor does.
//!
//! ```text
//! cargo run --release --example children -- 'ping -c 3 localhost' 'sleep 2; echo done; exit 3'
//! ```
//!
//! prints each line of their output with the command's number before it, `1: …` or `2: …`, on the stream to which
//! they wrote it, and on standard error how each ended. Ctrl-C (or SIGTERM) sends SIGTERM to all of them, and SIGKILL
//! to those that still run after the grace period, or at the next Ctrl-C.
//!
//! It ends with 0 if every command did, 1 if one did not, 2 for a wrong command line, and 130 after Ctrl-C.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    mem,
    os::unix::process::CommandExt,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use clap::Parser;
use ipc_reactor::{Cause, ChildHandler, Context, Reactor, Signal, children::Exit};
use rustix::process::{Pid, kill_process_group};

/// Runs shell commands in parallel, shows their output line by line, and ends them all on Ctrl-C.
#[derive(Parser)]
struct Arguments {
    /// One shell command each
    #[arg(required = true)]
    commands: Vec<String>,
    /// How long they may take to end after Ctrl-C, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    grace: u64,
    /// End the others when one fails
    #[arg(long)]
    fail_fast: bool,
}

#[derive(Default)]
struct Crew {
    /// The process group of each running command, by the command's number.
    running: BTreeMap<usize, u32>,
    failed: bool,
    fail_fast: bool,
    interrupted: bool,
    ending: bool,
    grace: Duration,
}

impl Crew {
    /// Signals the whole process groups, because a shell has children of its own.
    fn send(&self, signal: rustix::process::Signal) {
        for group in self.running.values().filter_map(|&pid| Pid::from_raw(pid as i32)) {
            // It fails only if all processes of the group have ended.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Sends SIGTERM at the first call, and SIGKILL at the second call or after the grace period.
    fn end(&mut self, cx: &mut Context<'_, Crew>) {
        if mem::replace(&mut self.ending, true) {
            return self.send(rustix::process::Signal::KILL);
        }
        self.send(rustix::process::Signal::TERM);
        cx.after(self.grace, |_, crew| {
            crew.send(rustix::process::Signal::KILL);
            Ok(())
        });
    }
}

/// The longest line that is printed in one piece.
const LINE_MAX: usize = 64 << 10;

/// One command's output, cut into lines.
struct Lines {
    number: usize,
    out: Vec<u8>,
    err: Vec<u8>,
}

fn lines(number: usize, held: &mut Vec<u8>, bytes: &[u8], to: &mut dyn Write) -> io::Result<()> {
    held.extend_from_slice(bytes);
    let mut rest = &held[..];
    while let Some(length) =
        rest.iter().position(|&byte| byte == b'\n').or((rest.len() > LINE_MAX).then_some(LINE_MAX))
    {
        let end = length + usize::from(rest[length] == b'\n');
        write_line(number, &rest[..length], to)?;
        rest = &rest[end..];
    }
    let left = rest.len();
    held.drain(..held.len() - left);
    Ok(())
}

fn write_line(number: usize, line: &[u8], to: &mut dyn Write) -> io::Result<()> {
    // In one write, so that lines of standard output and standard error do not mix on a terminal.
    to.write_all(&[format!("{number}: ").as_bytes(), line, b"\n"].concat())
}

impl Lines {
    fn rest(&mut self) -> io::Result<()> {
        for (held, to) in
            [(&mut self.out, &mut io::stdout() as &mut dyn Write), (&mut self.err, &mut io::stderr())]
        {
            if !held.is_empty() {
                write_line(self.number, held, to)?;
            }
        }
        Ok(())
    }

    fn gone(&self, cx: &mut Context<'_, Crew>, crew: &mut Crew) {
        crew.running.remove(&self.number);
        if crew.failed && crew.fail_fast && !crew.ending {
            crew.end(cx);
        }
        if crew.running.is_empty() {
            cx.stop();
        }
    }
}

impl ChildHandler<Crew> for Lines {
    fn on_stdout(&mut self, bytes: &[u8], _: &mut Context<'_, Crew>, _: &mut Crew) -> io::Result<()> {
        lines(self.number, &mut self.out, bytes, &mut io::stdout())
    }

    fn on_stderr(&mut self, bytes: &[u8], _: &mut Context<'_, Crew>, _: &mut Crew) -> io::Result<()> {
        lines(self.number, &mut self.err, bytes, &mut io::stderr())
    }

    fn on_exit(&mut self, exit: Exit, cx: &mut Context<'_, Crew>, crew: &mut Crew) -> io::Result<()> {
        let shown = self.rest();
        match exit.status {
            // `exit status: 3`, or `signal: 15 (SIGTERM)`.
            Some(status) => eprintln!("{}: ended, {status}", self.number),
            None => eprintln!("{}: ended, exit status unknown", self.number),
        }
        crew.failed |= !exit.status.is_some_and(|status| status.success());
        self.gone(cx, crew);
        shown
    }

    /// The child was killed before its end, for instance because our output has no reader any more.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Crew>, crew: &mut Crew) {
        eprintln!("{}: given up: {cause}", self.number);
        crew.failed = true;
        self.gone(cx, crew);
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match run(Arguments::parse()) {
        Ok(crew) if crew.interrupted => ExitCode::from(130),
        Ok(crew) if crew.failed => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("children: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> io::Result<Crew> {
    let mut reactor = Reactor::<Crew>::new()?;
    let grace = Duration::from_secs(arguments.grace);
    let mut crew = Crew { grace, fail_fast: arguments.fail_fast, ..Crew::default() };
    // Before the first child: from now on a signal cannot end this process while its children run.
    reactor.signals([Signal::INT, Signal::TERM, Signal::HUP], |info, cx, crew| {
        eprintln!("children: {}: ending {} of them", info.signal(), crew.running.len());
        crew.interrupted = true;
        crew.end(cx);
        Ok(())
    })?;
    for (number, text) in (1..).zip(&arguments.commands) {
        let mut command = Command::new("sh");
        command.args(["-c", text]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A process group of its own: Ctrl-C at the terminal reaches only this process, which signals the group.
        command.process_group(0);
        let key = reactor.run_child(&mut command, Lines { number, out: Vec::new(), err: Vec::new() })?;
        let pid = reactor.child(key).expect("it has just been started").pid();
        crew.running.insert(number, pid);
        eprintln!("{number}: pid {pid}: {text}");
    }
    reactor.run(&mut crew)?;
    Ok(crew)
}
