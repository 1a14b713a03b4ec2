//! All roles at once, as child processes with unique socket and queue names; and a short session with them.

use std::{
    collections::VecDeque,
    env,
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use ipc_reactor::{Address, Cause, Context, Framing, PollSet, Reactor, Session, Signal, signals};

enum Step {
    Start(&'static str),
    Command(&'static str),
    Signal(Signal, &'static str),
}

const ROLES: [&str; 4] = ["manager", "logger", "subscriber 1", "subscriber 2"];

const SESSION: &[Step] = &[
    Step::Start("manager"),
    Step::Start("logger"),
    Step::Start("subscriber 1"),
    Step::Command("CREATE 10.0.0.0/8 10.1.1.1 eth0"),
    Step::Start("subscriber 2"),
    Step::Command("CREATE 10.2.0.0/16 10.1.1.2 eth1"),
    Step::Command("LOOKUP 10.2.3.4"),
    Step::Command("CREATE 10.2.3.4/16 10.1.1.2 eth1"),
    Step::Command("MAC-ADD 10.1.1.1 02:00:00:00:00:01"),
    Step::Signal(Signal::KILL, "subscriber 1"),
    Step::Command("UPDATE 10.2.0.0/16 10.1.1.9 eth2"),
    Step::Command("MAC-ADD 10.1.1.9 02:00:00:00:00:09"),
    Step::Start("subscriber 1"),
    Step::Signal(Signal::USR1, "subscriber 1"),
    Step::Signal(Signal::USR1, "manager"),
    Step::Signal(Signal::USR1, "subscriber 2"),
    Step::Signal(Signal::TERM, "subscriber 1"),
    Step::Signal(Signal::TERM, "manager"),
];

struct Demo {
    address: Address,
    queue: String,
    program: PathBuf,
    steps: VecDeque<&'static Step>,
    /// The child processes, by role.
    children: Vec<(&'static str, u32)>,
    failure: Option<io::Error>,
}

/// Prints a child's output, with its role before each line.
struct Printer(&'static str);

/// Sends one command over a connection of its own, and prints the last line of the answer.
struct Asker(&'static str);

/// Makes one step every `pace`, so that a user can read the output.
pub(crate) fn run(pace: Duration) -> io::Result<()> {
    let folder = tempfile::Builder::new().prefix("routing-table-").tempdir()?;
    // As random as the folder's name.
    let queue = format!("/{}", folder.path().file_name().unwrap_or_default().display());
    let mut demo = Demo {
        address: Address::UnixStream(folder.path().join("routes")),
        queue,
        program: env::current_exe()?,
        steps: SESSION.iter().collect(),
        children: Vec::new(),
        failure: None,
    };
    let mut reactor = Reactor::<Demo>::new()?;
    // The terminal has sent Ctrl-C to the children, too.
    reactor.signals([Signal::INT, Signal::TERM], |_, _, demo| {
        demo.end();
        Ok(())
    })?;
    reactor.children(|exit, _, demo| {
        let gone = demo.children.iter().position(|&(_, pid)| pid == exit.pid);
        let Some((role, _)) = gone.map(|at| demo.children.remove(at)) else { return Ok(()) };
        if role == "manager" {
            if !demo.steps.is_empty() {
                demo.failure = Some(io::Error::other("the manager ended too early"));
            }
            // A subscriber would wait for the next manager.
            demo.end();
        }
        match exit.status {
            Some(status) => say("demo", &format!("{role} has ended: {status}")),
            None => say("demo", &format!("{role} has ended")),
        }
    })?;
    reactor.every(pace, |cx, demo| {
        match demo.steps.pop_front() {
            Some(step) => {
                if let Err(error) = demo.take(step, cx) {
                    demo.failure = Some(error);
                    demo.end();
                }
            }
            // Their last output was printed one step ago.
            None if demo.children.is_empty() => cx.stop(),
            None => {}
        }
        Ok(())
    });
    reactor.run(&mut demo)?;
    demo.failure.map_or(Ok(()), Err)
}

impl Demo {
    fn take(&mut self, step: &'static Step, set: &mut PollSet<Demo>) -> io::Result<()> {
        match step {
            Step::Start(role) => {
                say("demo", &format!("starting: {role}"))?;
                self.start(role, set)
            }
            Step::Command(command) => {
                say("demo", &format!("command: {command}"))?;
                set.connect(&self.address, Framing::lines(), Asker(command)).map(drop)
            }
            Step::Signal(signal, role) => {
                say("demo", &format!("{signal} to: {role}"))?;
                self.children
                    .iter()
                    .filter(|(r, _)| r == role)
                    .try_for_each(|&(_, pid)| signals::kill(pid, *signal))
            }
        }
    }

    fn start(&mut self, role: &'static str, set: &mut PollSet<Demo>) -> io::Result<()> {
        debug_assert!(ROLES.contains(&role));
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        let mut command = Command::new(&self.program);
        match role {
            "manager" => command
                .arg("manager")
                .arg(self.address.to_string())
                .args(["--queue", &format!("mq:{}", self.queue)]),
            "logger" => command.args(["logger", &format!("mq:{}", self.queue)]),
            _ => command.arg("subscriber").arg(self.address.to_string()),
        };
        command.stdin(Stdio::null()).stderr(theirs.try_clone()?).stdout(theirs);
        let pid = set.spawn(&mut command)?;
        // `command` holds copies of the child's socket; they must be closed, or the connection never ends.
        drop(command);
        set.adopt(ours, Framing::lines(), Printer(role))?;
        self.children.push((role, pid));
        Ok(())
    }

    /// Skips the remaining steps.
    fn end(&mut self) {
        self.steps.clear();
        for &(_, pid) in &self.children {
            // A child that has ended needs no signal.
            let _ = signals::kill(pid, Signal::TERM);
        }
    }
}

/// Not `println!`, which panics if standard output has no reader any more, before the children are ended.
fn say(who: &str, text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{who:<12} | {text}")
}

impl Session<Demo> for Printer {
    fn on_request(&mut self, line: &[u8], _: &mut Context<'_, Demo>, _: &mut Demo) -> io::Result<()> {
        say(self.0, &String::from_utf8_lossy(line))
    }
}

impl Session<Demo> for Asker {
    fn on_open(&mut self, cx: &mut Context<'_, Demo>, _: &mut Demo) -> io::Result<()> {
        cx.reply(format!("{}\n", self.0).as_bytes())
    }

    fn on_request(&mut self, line: &[u8], cx: &mut Context<'_, Demo>, _: &mut Demo) -> io::Result<()> {
        if line.starts_with(b"OK") || line.starts_with(b"ERROR") {
            cx.finish();
            say("demo", &format!("answer: {}", String::from_utf8_lossy(line)))?;
        }
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Demo>, _: &mut Demo) {
        if !matches!(cause, Cause::Closed) {
            let _ = say("demo", &format!("no answer: {cause}"));
        }
    }
}
