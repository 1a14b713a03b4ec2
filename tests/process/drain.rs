//! A server process that drains when SIGTERM comes, seen by its clients.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::isolated::{Case, this_binary};
use crate::support::turns::PATIENCE;
use ipc_reactor::children;
use ipc_reactor::signals::{self, Signal};
use ipc_reactor::{Context, Drain, Framing, Listener, Reactor, Session, TimerKey};

pub(crate) const CASES: &[Case] = &[
    ("sigterm_with_requests_in_flight_answers_every_one", requests_in_flight),
    ("sigterm_with_cirs_in_the_backlog_serves_them", cirs_in_the_backlog),
    ("a_second_sigterm_ends_a_drain_at_once", second_sigterm),
    ("a_drain_by_sigterm_ends_at_its_deadline", deadline),
];

pub(crate) const ROLES: &[Case] = &[("server", role_server)];

/// What the server's sessions have done.
#[derive(Default)]
struct Served {
    draining: bool,
    answered: u64,
}

/// Answers `i` at once, `t` by a timer, and `n` never.
#[derive(Default)]
struct Service {
    owed: u32,
}

impl Session<Served> for Service {
    fn on_request(
        &mut self,
        request: &[u8],
        cx: &mut Context<'_, Served>,
        served: &mut Served,
    ) -> io::Result<()> {
        match request {
            b"i" => {
                served.answered += 1;
                return cx.reply(b"I");
            }
            b"t" => drop(cx.wake_after(Duration::from_millis(10))),
            _ => {}
        }
        self.owed += 1;
        Ok(())
    }

    fn on_timer(&mut self, _: TimerKey, cx: &mut Context<'_, Served>, served: &mut Served) -> io::Result<()> {
        self.owed -= 1;
        served.answered += 1;
        cx.reply(b"T")?;
        if served.draining && self.owed == 0 {
            cx.finish();
        }
        Ok(())
    }

    fn on_drain(&mut self, _: &mut Context<'_, Served>, _: &mut Served) -> io::Result<Drain> {
        Ok(if self.owed > 0 { Drain::Wait } else { Drain::Close })
    }
}

const PATH: &str = "IPC_REACTOR_TEST_PATH";
const DRAIN_MS: &str = "IPC_REACTOR_TEST_DRAIN_MS";

/// SIGTERM drains; a second one stops.
fn role_server() {
    let within = Duration::from_millis(env::var(DRAIN_MS).unwrap().parse().unwrap());
    let mut reactor = Reactor::<Served>::new().unwrap();
    reactor
        .signals([Signal::TERM], move |_, cx, served| {
            if std::mem::replace(&mut served.draining, true) {
                cx.stop();
                return Ok(());
            }
            println!("draining");
            cx.drain(within)
        })
        .unwrap();
    let listener = Listener::unix(env::var(PATH).unwrap()).unwrap();
    reactor.listen(listener, Framing::fixed(1), |_, _| Ok(Service::default())).unwrap();
    println!("ready");
    let mut served = Served::default();
    reactor.run(&mut served).unwrap();
    let stats = reactor.stats();
    println!("answered {} of {}, cut {}", served.answered, stats.requests, stats.drain_cut);
}

/// A server in a process of its own, gone when this is.
struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start(drain_within: Duration) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let mut command = this_binary("drain::server");
        command.env(PATH, &path).env(DRAIN_MS, drain_within.as_millis().to_string());
        let mut child = children::spawn(command.stdout(Stdio::piped())).unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut server = Server { child, output, path, _directory: directory };
        assert_eq!(server.line(), "ready");
        server
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        signals::kill(self.child.id(), signal).unwrap();
    }

    /// Connects a client that asks all that at once.
    fn client(&self, requests: &str) -> UnixStream {
        let mut client = UnixStream::connect(&self.path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(requests.as_bytes()).unwrap();
        client
    }

    /// Stops the whole process, so that it finds all that is sent now at once.
    fn pause(&self) {
        self.signal(Signal::STOP);
        let stat = Path::new("/proc").join(self.child.id().to_string()).join("stat");
        while !fs::read_to_string(&stat).unwrap().contains(") T ") {
            thread::yield_now();
        }
    }

    /// Its last line, and whether it ended well.
    fn end(mut self) -> String {
        let line = self.line();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {line}");
        assert!(!self.path.exists(), "its socket is removed");
        line
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answers(mut client: UnixStream) -> String {
    let mut answers = String::new();
    client.read_to_string(&mut answers).unwrap();
    answers
}

fn requests_in_flight() {
    const CLIENTS: usize = 500;
    let mut server = Server::start(PATIENCE);
    let requests = ["i", "t", "iti", "tt"];
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(server.client(requests[number % 4]));
    }
    // Some are answered, some wait for their timer, some are yet to be read.
    server.signal(Signal::TERM);
    assert_eq!(server.line(), "draining");
    for (number, client) in clients.into_iter().enumerate() {
        assert_eq!(answers(client), ["I", "T", "IIT", "TT"][number % 4], "client {number}");
    }
    assert_eq!(server.end(), "answered 875 of 875, cut 0");
}

fn cirs_in_the_backlog() {
    const CLIENTS: usize = 200;
    let mut server = Server::start(PATIENCE);
    server.pause();
    let clients: Vec<_> = (0..CLIENTS).map(|_| server.client("it")).collect();
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    assert_eq!(server.line(), "draining");
    for client in clients {
        assert_eq!(answers(client), "IT");
    }
    assert_eq!(server.end(), "answered 400 of 400, cut 0");
}

fn second_sigterm() {
    let mut server = Server::start(PATIENCE);
    let clients = ["n", "i", "n"].map(|requests| server.client(requests));
    server.signal(Signal::TERM);
    assert_eq!(server.line(), "draining");
    // Two of them wait for an answer for ever.
    server.signal(Signal::TERM);
    assert_eq!(clients.map(answers), ["", "I", ""]);
    assert_eq!(server.end(), "answered 1 of 3, cut 0");
}

fn deadline() {
    let mut server = Server::start(Duration::from_millis(50));
    let clients = ["n", "i", "n", "t"].map(|requests| server.client(requests));
    server.signal(Signal::TERM);
    assert_eq!(server.line(), "draining");
    assert_eq!(clients.map(answers), ["", "I", "", "T"]);
    assert_eq!(server.end(), "answered 2 of 4, cut 2");
}
