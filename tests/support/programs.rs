//! Starts the examples, talks to them, and ends them whatever becomes of the test.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use ipc_reactor::{Interest, Progress, Queue, Reactor, Signal, children::PidFd, signals};
use serde_json::Value;
use tempfile::TempDir;

/// Ends a test that waits for what never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// `cargo test` builds the examples beside the tests.
pub(crate) fn example(name: &str) -> Command {
    let deps = env::current_exe().unwrap().parent().unwrap().to_owned();
    let path = deps.with_file_name("examples").join(name);
    assert!(path.exists(), "{path:?} is not built; run `cargo test`, or `cargo build --examples` first");
    Command::new(path)
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

/// A running example, killed at the end of the test whatever becomes of it.
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
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let queue = format!("/ipc-reactor-examples-{}-{number}", std::process::id());
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
