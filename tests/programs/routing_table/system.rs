//! All the processes of a routing-table system, and what they print.

use crate::support::names::unique;
use std::{
    collections::BTreeMap,
    io,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use ipc_reactor::{Queue, Signal};
use serde_json::Value;
use tempfile::TempDir;

use crate::running::{PATIENCE, Running, example, run, text};

/// A manager, on names that no other test has.
pub(crate) struct System {
    pub(crate) manager: Running,
    pub(crate) folder: TempDir,
    pub(crate) queue: String,
}

impl System {
    pub(crate) fn start() -> System {
        let folder = tempfile::tempdir().unwrap();
        let queue = format!("/{}", unique());
        let manager = start_manager(&folder.path().join("routes"), &queue);
        System { manager, folder, queue }
    }

    /// A new manager where the last one was.
    pub(crate) fn restart(&mut self) {
        self.manager = start_manager(&self.path(), &self.queue);
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("routes")
    }

    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.path().display())
    }

    /// The lines of the answer to one command, the last one being `OK …` or `ERROR …`.
    pub(crate) fn command(&self, command: &str) -> Vec<String> {
        let output = run(example("routing_table").args(["command", &self.address(), command]));
        let lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
        let last = lines.last().unwrap_or_else(|| panic!("{command}: {}", text(&output.stderr)));
        assert_eq!(output.status.success(), last.starts_with("OK"), "{command}: {last}");
        lines
    }

    /// One of the numbers in the answer to `STATUS`.
    pub(crate) fn status(&self, name: &str) -> u64 {
        let answer = self.command("STATUS").remove(0);
        let value = answer.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {name} in {answer}")).parse().unwrap()
    }

    /// Asks for the status, until it is so.
    pub(crate) fn await_status(&self, name: &str, wanted: impl Fn(u64) -> bool) {
        let start = Instant::now();
        while !wanted(self.status(name)) {
            assert!(start.elapsed() < PATIENCE, "{name} does not become what it should");
        }
    }

    /// Types lines at the manager's keyboard.
    pub(crate) fn type_in(&mut self, lines: &str) {
        self.manager.stdin().write_all(lines.as_bytes()).unwrap();
    }

    /// Ends the manager in order; returns what it reports of its log: lines written, dropped, and dropped without a
    /// report.
    pub(crate) fn end(&mut self) -> [u64; 3] {
        self.manager.signal(Signal::TERM);
        let account = self.manager.says("lines for the log");
        assert_eq!(self.manager.wait().code(), Some(0));
        let numbers = account.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
        numbers.map(|number| number.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap()
    }

    /// Neither socket nor lock nor queue. The shared memory never had a name.
    pub(crate) fn assert_nothing_left(&self) {
        let left: Vec<_> = self.folder.path().read_dir().unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(Queue::open(&self.queue).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = Queue::unlink(&self.queue);
    }
}

fn start_manager(path: &Path, queue: &str) -> Running {
    let mut command = example("routing_table");
    command.arg("manager").arg(format!("unix:{}", path.display())).args(["--queue", &format!("mq:{queue}")]);
    let manager = Running::start(&mut command);
    let ready = manager.stdout.recv_timeout(PATIENCE);
    assert!(
        ready.as_ref().is_ok_and(|line| line.starts_with("ready ")),
        "{ready:?}: {:?}",
        manager.stderr.try_recv()
    );
    manager
}

/// A subscriber, and the last change that it has reported.
pub(crate) struct Subscriber {
    pub(crate) running: Running,
    pub(crate) sequence: Option<u64>,
    pub(crate) revision: Option<u64>,
}

impl Subscriber {
    pub(crate) fn start(system: &System) -> Subscriber {
        let running =
            Running::start(example("routing_table").args(["subscriber", &system.address(), "--json"]));
        Subscriber { running, sequence: None, revision: None }
    }

    /// The next thing that it reports.
    fn event(&mut self) -> Value {
        let line = self.running.stdout.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|_| {
            panic!("at {:?} and {:?}: {:?}", self.sequence, self.revision, self.running.stderr.try_recv())
        });
        let event: Value = serde_json::from_str(&line).unwrap();
        match event["event"].as_str().unwrap() {
            "table" | "change" => self.sequence = event["sequence"].as_u64(),
            "macs" => self.revision = event["revision"].as_u64(),
            _ => {}
        }
        event
    }

    /// Returns when it has whole tables, of whatever age.
    pub(crate) fn await_tables(&mut self) {
        while self.sequence.is_none() || self.revision.is_none() {
            self.event();
        }
    }

    /// Returns when it has both tables as of these changes.
    pub(crate) fn await_changes(&mut self, sequence: u64, revision: u64) {
        while self.sequence < Some(sequence) || self.revision < Some(revision) {
            self.event();
        }
    }

    /// Both its tables.
    pub(crate) fn tables(&mut self) -> Value {
        self.running.signal(Signal::USR1);
        self.await_event("tables")
    }

    pub(crate) fn await_event(&mut self, kind: &str) -> Value {
        loop {
            let event = self.event();
            if event["event"] == kind {
                return event;
            }
        }
    }

    /// Ends it in order; returns its last output, which is its tables.
    pub(crate) fn end(&mut self) -> Value {
        self.running.signal(Signal::TERM);
        let tables = self.await_event("tables");
        assert_eq!(self.running.wait().code(), Some(0));
        tables
    }
}

/// What a logger has printed, and what was missing from it.
#[derive(Default)]
pub(crate) struct Log {
    /// The lines by their numbers, which begin at 1.
    pub(crate) lines: BTreeMap<u64, String>,
    /// How many lines the log itself says were dropped.
    pub(crate) told: u64,
}

impl Log {
    pub(crate) fn take(&mut self, line: &str) {
        let (_level, text) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let (number, text) = text.trim_start().split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let number = number.parse().unwrap_or_else(|_| panic!("{line:?}"));
        if text.starts_with("lines were dropped") {
            self.told += number;
        } else {
            assert!(self.lines.insert(number, text.into()).is_none(), "line {number} came twice");
        }
    }

    /// The numbers of the changes that were logged.
    pub(crate) fn changes(&self) -> Vec<u64> {
        let number = |text: &String| text.strip_prefix("CHANGE ")?.split(' ').next()?.parse().ok();
        self.lines.values().filter_map(number).collect()
    }
}

pub(crate) fn start_logger(system: &System) -> Running {
    Running::start(example("routing_table").args(["logger", &format!("mq:{}", system.queue)]))
}

/// A client that is not ours, which takes commands on its standard input and prints at least the last lines of the answers.
pub(crate) struct Foreign {
    running: Running,
}

impl Foreign {
    /// Sends a command, and reads the answer; then the next.
    pub(crate) fn python(system: &System) -> Foreign {
        let script = "import socket, sys\n\
                      s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f = s.makefile('rw')\n\
                      for command in sys.stdin:\n\
                      \x20   f.write(command); f.flush()\n\
                      \x20   for line in f:\n\
                      \x20       if line.startswith(('OK', 'ERROR')): print(line, end='', flush=True); break\n";
        Foreign { running: Running::start(Command::new("python3").args(["-ISc", script]).arg(system.path())) }
    }

    /// Sends and prints all at once.
    pub(crate) fn socat(system: &System) -> Foreign {
        let address = format!("UNIX-CONNECT:{}", system.path().display());
        Foreign { running: Running::start(Command::new("socat").args(["-", &address])) }
    }

    pub(crate) fn send(&mut self, commands: &str) {
        self.running.stdin().write_all(commands.as_bytes()).unwrap();
    }

    /// The last lines of so many answers.
    pub(crate) fn answers(&self, count: usize) -> Vec<String> {
        answers(&self.running, count)
    }
}

/// The last lines of so many answers on a program's standard output.
pub(crate) fn answers(running: &Running, count: usize) -> Vec<String> {
    let mut answers = Vec::new();
    while answers.len() < count {
        let line = running.stdout.recv_timeout(PATIENCE).expect("an answer");
        if line.starts_with("OK") || line.starts_with("ERROR") {
            answers.push(line);
        }
    }
    answers
}

pub(crate) use crate::support::have as has;
