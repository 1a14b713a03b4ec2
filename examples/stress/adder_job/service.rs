//! The built-in adder, which runs in a child: this executable again.

use std::{
    env,
    io::{self, BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use ipc_reactor::{Address, Interest, Limits, Listener, Progress, Queue, Reactor, Signal, children};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::adder::{self, Adder, Totals};

const DRAIN: Duration = Duration::from_secs(5);

/// The child's arguments.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    queue: String,
    #[arg(long)]
    clients: u32,
}

/// The child: serves until its standard input ends, which it also does when the parent is killed.
pub(crate) fn serve(arguments: &Arguments) -> io::Result<()> {
    let clients = arguments.clients as usize + 16;
    let defaults = Limits::default();
    let limits = Limits {
        clients: clients.max(defaults.clients),
        clients_per_uid: clients.max(defaults.clients_per_uid),
        ..defaults
    };
    let mut reactor = Reactor::<Totals>::builder().limits(limits).build()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, _| cx.drain(DRAIN))?;
    reactor.fd(io::stdin(), Interest::READABLE, |stdin, _, cx, _| {
        if stdin.read(&mut [0; 64])? == 0 {
            cx.drain(DRAIN)?;
            cx.finish();
        }
        Ok(Progress::Drained)
    })?;
    let (queue, _own) = adder::open_queue(&arguments.queue)?;
    reactor.queue(queue, adder::on_message)?;
    let listener = Listener::unix(&arguments.socket)?;
    reactor.listen(listener, adder::framing(), |_, _| Ok(Adder::default()))?;
    adder::tell(&json!({ "event": "ready" }));

    let mut totals = Totals::default();
    reactor.run(&mut totals)?;
    adder::tell(&adder::report(&totals, reactor.stats()));
    Ok(())
}

/// The parent's end: the child, and what there is to clean up after it.
pub(crate) struct Service {
    child: Child,
    lines: BufReader<ChildStdout>,
    folder: TempDir,
    queue: String,
}

impl Service {
    /// Starts the child, and returns when it listens.
    pub(crate) fn start(clients: u32) -> io::Result<Service> {
        let folder = tempfile::Builder::new().prefix("ipc-reactor-stress-").tempdir()?;
        // As random as the folder's name.
        let queue = format!("/{}", folder.path().file_name().unwrap_or_default().display());
        let mut command = Command::new(env::current_exe()?);
        command
            .args(["serve-adder", "--queue", &queue, "--clients", &clients.to_string(), "--socket"])
            .arg(folder.path().join("adder"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C at the terminal is for the parent alone, which still wants answers.
            .process_group(0);
        let mut child = children::spawn(&mut command)?;
        let stdout = child.stdout.take().expect("it was piped");
        let mut service = Service { child, lines: BufReader::new(stdout), folder, queue };
        let ready = service.line()?;
        if ready["event"] != "ready" {
            return Err(io::Error::other(format!("the built-in server did not start: it said {ready}")));
        }
        Ok(service)
    }

    pub(crate) fn address(&self) -> Address {
        Address::UnixStream(self.folder.path().join("adder"))
    }

    pub(crate) fn queue(&self) -> &str {
        &self.queue
    }

    /// Ends the child in order, and returns what it has counted.
    pub(crate) fn finish(mut self) -> io::Result<Value> {
        drop(self.child.stdin.take());
        let totals = self.line();
        let status = self.child.wait()?;
        if !status.success() {
            return Err(io::Error::other(format!("the built-in server ended with {status}")));
        }
        totals
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            return Err(io::Error::other(format!("the built-in server ended early, with {status}")));
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // After `finish` all of this is done already, and does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Queue::unlink(&self.queue);
    }
}
