//! Starts the examples, connects to them, and ends them even if the test fails.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::{
        Once,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Instant, SystemTime},
};

use ipc_reactor::{Interest, Progress, Queue, Reactor, Signal, children::PidFd, signals};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use crate::support::PATIENCE;

/// An example, about to run.
pub(crate) fn example(name: &str) -> Command {
    Command::new(executable(name))
}

/// An example's executable, which is beside this one. `cargo test` has built it; `cargo test --test programs` has
/// not, so what is missing or old is built here.
pub(crate) fn executable(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    let this = env::current_exe().unwrap();
    let profile = this.ancestors().nth(2).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    BUILD.call_once(|| {
        let built =
            |path: &Path| path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let sources = newest(&root.join("examples")).max(newest(&root.join("src")));
        let oldest = EXAMPLES.iter().map(|name| built(&profile.join("examples").join(name))).min().unwrap();
        if oldest < sources {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--examples", "--target-dir"]).arg(profile.parent().unwrap());
            build.args(profile.ends_with("release").then_some("--release"));
            assert!(build.current_dir(root).status().unwrap().success(), "{build:?}");
        }
    });
    let path = profile.join("examples").join(name);
    assert!(path.exists(), "{path:?} is not built");
    path
}

/// Those that tests run.
const EXAMPLES: [&str; 14] = [
    "activated",
    "children",
    "client",
    "kernel_events",
    "multiplexing",
    "pipes",
    "queue",
    "routing_table",
    "server",
    "shm_publish",
    "shm_subscribe",
    "signals",
    "stress",
    "echo",
];

/// When a file below this folder was changed last.
fn newest(folder: &Path) -> SystemTime {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let times = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => newest(&entry.path()),
        false => entry.metadata().unwrap().modified().unwrap(),
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn client(arguments: &[&str]) -> Output {
    run(example("client").args(arguments))
}

/// A running example, killed at the end of the test even if it fails.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdout: Receiver<String>,
    pub(crate) stderr: Receiver<String>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Running { child, stdout, stderr }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        signals::kill(self.child.id(), signal).unwrap();
    }

    /// The next line for programs, which must be of this kind.
    pub(crate) fn event(&self, kind: &str) -> Value {
        let line = self.stdout.recv_timeout(PATIENCE).expect("a line on standard output");
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["event"], kind, "{line}");
        event
    }

    /// The next line for people that has this in it.
    pub(crate) fn says(&self, wanted: &str) -> String {
        let mut said = Vec::new();
        while let Ok(line) = self.stderr.recv_timeout(PATIENCE) {
            if line.contains(wanted) {
                return line;
            }
            said.push(line);
        }
        panic!("no {wanted:?} in {said:#?}");
    }

    pub(crate) fn stdin(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().unwrap()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        if let Ok(pidfd) = PidFd::from_child(&self.child) {
            wait_for(pidfd);
        }
        self.child.wait().unwrap()
    }
}

/// Returns when the process has ended.
pub(crate) fn wait_for(pidfd: PidFd) {
    let mut reactor = Reactor::<bool>::new().unwrap();
    reactor
        .fd(pidfd, Interest::READABLE, |_, _, cx, ended| {
            *ended = true;
            cx.stop();
            Ok(Progress::Drained)
        })
        .unwrap();
    reactor.after(PATIENCE, |cx, _| {
        cx.stop();
        Ok(())
    });
    let mut ended = false;
    reactor.run(&mut ended).unwrap();
    assert!(ended, "the process does not end");
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (to, lines) = mpsc::channel();
    thread::spawn(move || {
        BufReader::new(from).lines().map_while(Result::ok).try_for_each(|line| to.send(line))
    });
    lines
}

/// A `server` on a Unix stream, a seqpacket, a TCP socket and a queue.
pub(crate) struct Server {
    pub(crate) running: Running,
    pub(crate) folder: TempDir,
    pub(crate) addresses: Vec<String>,
    pub(crate) queue: String,
}

impl Server {
    pub(crate) fn start(options: &[&str]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let queue = format!("/{}", crate::support::names::unique());
        let mut command = example("server");
        command
            .arg(format!("unix:{}", folder.path().join("stream").display()))
            .arg(format!("unix-seq:{}", folder.path().join("records").display()))
            .arg("tcp:127.0.0.1:0")
            .arg(format!("mq:{queue}"))
            .args(options);
        let running = Running::start(&mut command);
        let mut server = Server { running, folder, addresses: Vec::new(), queue };
        let ready = server.running.event("ready");
        let addresses = ready["addresses"].as_array().unwrap();
        server.addresses = addresses.iter().map(|address| address.as_str().unwrap().into()).collect();
        server
    }

    pub(crate) fn stream(&self) -> PathBuf {
        self.folder.path().join("stream")
    }

    pub(crate) fn totals(&self) -> Value {
        self.running.signal(Signal::USR1);
        self.running.event("totals")
    }

    /// Totals in which that many messages have come out of the queue.
    pub(crate) fn totals_after(&self, messages: u64) -> Value {
        let start = Instant::now();
        loop {
            let totals = self.totals();
            if totals["queue"]["messages"].as_u64() >= Some(messages) {
                return totals;
            }
            assert!(start.elapsed() < PATIENCE, "{totals}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Queue::unlink(&self.queue);
    }
}
