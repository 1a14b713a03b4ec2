//! Signals and children in a reactor, each case in a process of its own.

mod isolated;
mod turning;

use std::collections::HashSet;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use ipc_reactor::children::{self, Exit, PidFd};
use ipc_reactor::signals::{self, Signal, SignalInfo};
use ipc_reactor::{
    Context, Drain, Framing, Interest, Limits, Listener, Progress, Reactor, Session, TimerKey,
};
use isolated::{mask, this_binary};
use turning::{PATIENCE, run, settle, until};

fn main() -> ExitCode {
    isolated::main(
        &[
            ("a_signal_comes_with_its_sender_in_normal_control_flow", with_its_sender),
            ("real_time_signals_come_one_by_one_with_their_values", real_time),
            ("what_was_pending_before_is_delivered", pending_before),
            ("a_storm_of_signals_coalesces_and_is_seen", storm),
            ("a_signal_during_a_handler_waits_for_its_end", during_a_handler),
            ("a_handler_that_fails_or_panics_leaves_the_signals", faults),
            ("a_closed_signal_source_leaves_the_mask_as_it_was", closed_source),
            ("a_thousand_children_in_bursts_and_none_foreign", a_thousand_children),
            ("a_child_that_ended_before_is_told_of", ended_before),
            ("a_child_spawned_by_an_exit_is_watched_too", spawned_by_an_exit),
            ("a_spawned_child_blocks_nothing", blocks_nothing),
            ("nothing_is_spawned_that_nobody_would_reap", nobody_would_reap),
            ("sigterm_with_requests_in_flight_answers_every_one", requests_in_flight),
            ("sigterm_with_cirs_in_the_backlog_serves_them", cirs_in_the_backlog),
            ("a_second_sigterm_ends_a_drain_at_once", second_sigterm),
            ("a_drain_by_sigterm_ends_at_its_deadline", deadline),
        ],
        &[("pending", role_pending), ("server", role_server)],
    )
}

fn own_pid() -> u32 {
    std::process::id()
}

/// A reactor that writes down its signals.
fn noting(signals: impl IntoIterator<Item = Signal>) -> Reactor<Vec<SignalInfo>> {
    let mut reactor = Reactor::<Vec<SignalInfo>>::new().unwrap();
    reactor
        .signals(signals, |signal, _, noted| {
            noted.push(signal);
            Ok(())
        })
        .unwrap();
    reactor
}

fn with_its_sender() {
    let mut reactor = noting([Signal::TERM, Signal::HUP]);
    let mut noted = Vec::new();
    signals::kill(own_pid(), Signal::TERM).unwrap();
    until(&mut reactor, &mut noted, |noted| noted.len() == 1);
    let mut stranger = Command::new("kill").args(["-HUP", &own_pid().to_string()]).spawn().unwrap();
    until(&mut reactor, &mut noted, |noted| noted.len() == 2);
    stranger.wait().unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap());
    let told: Vec<_> = noted.iter().map(|info| (info.signal(), info.pid(), info.uid())).collect();
    assert_eq!(told, [(Signal::TERM, own_pid(), uid), (Signal::HUP, stranger.id(), uid)]);
    assert_eq!(reactor.stats().signals, 2);
}

fn real_time() {
    let rt = Signal::rt(3).unwrap();
    let mut reactor = noting([rt]);
    // More than one read brings, and more than a visit handles.
    reactor.set_limits(Limits { messages_per_visit: 20, ..Limits::default() });
    for value in 0..100 {
        signals::queue(own_pid(), rt, value).unwrap();
    }
    let mut noted = Vec::new();
    until(&mut reactor, &mut noted, |noted| noted.len() == 100);
    assert!(noted.iter().map(SignalInfo::value).eq((0..100).map(Some)));
}

fn pending_before() {
    // A child of std's inherits what is blocked here.
    let _reactor = noting([Signal::USR1]);
    let status = this_binary("pending").status().unwrap();
    assert!(status.success(), "{status}");
}

fn role_pending() {
    assert_ne!(mask("/proc/self/status", "SigBlk"), 0, "this role starts with a signal blocked");
    signals::kill(own_pid(), Signal::USR1).unwrap();
    let mut reactor = noting([Signal::USR1]);
    let mut noted = Vec::new();
    until(&mut reactor, &mut noted, |noted| noted.len() == 1);
    assert_eq!(noted[0].signal(), Signal::USR1);
}

fn storm() {
    const SIGNALS: usize = 2_000;
    let mut reactor = noting([Signal::USR1]);
    let remote = reactor.remote();
    // Made after the mask was set, so it blocks the signal too.
    let sender = thread::spawn(move || {
        for _ in 0..SIGNALS {
            signals::kill(own_pid(), Signal::USR1).unwrap();
        }
        remote.stop().unwrap();
    });
    let mut noted = Vec::new();
    run(&mut reactor, &mut noted);
    sender.join().unwrap();
    assert!((1..=SIGNALS).contains(&noted.len()), "{}", noted.len());

    let mut reactor = {
        drop(reactor);
        noting([Signal::USR1])
    };
    noted.clear();
    for _ in 0..SIGNALS {
        signals::kill(own_pid(), Signal::USR1).unwrap();
    }
    settle(&mut reactor, &mut noted);
    assert_eq!(noted.len(), 1, "while one waits unread, the others vanish");
    signals::kill(own_pid(), Signal::USR1).unwrap();
    until(&mut reactor, &mut noted, |noted| noted.len() == 2);
}

fn during_a_handler() {
    let mut reactor = Reactor::<Vec<&str>>::new().unwrap();
    reactor
        .signals([Signal::USR1], |_, _, log: &mut Vec<&str>| {
            log.push("signal");
            Ok(())
        })
        .unwrap();
    reactor.after(Duration::ZERO, |_, log| {
        log.push("begins");
        for _ in 0..50 {
            signals::kill(own_pid(), Signal::USR1)?;
        }
        log.push("ends");
        Ok(())
    });
    let mut log = Vec::new();
    until(&mut reactor, &mut log, |log| log.contains(&"signal"));
    settle(&mut reactor, &mut log);
    assert_eq!(log, ["begins", "ends", "signal"]);
}

fn faults() {
    let mut reactor = Reactor::<u32>::new().unwrap();
    reactor
        .signals([Signal::USR1], |_, _, count| {
            *count += 1;
            match *count {
                1 => Err(io::Error::other("the first fails")),
                2 => panic!("the second panics"),
                _ => Ok(()),
            }
        })
        .unwrap();
    let mut count = 0;
    for expected in 1..=3 {
        signals::kill(own_pid(), Signal::USR1).unwrap();
        until(&mut reactor, &mut count, |&count| count == expected);
    }
    assert_eq!((reactor.stats().handler_errors, reactor.stats().panics), (1, 1));
}

fn closed_source() {
    let before = mask("/proc/self/status", "SigBlk");
    let mut reactor = Reactor::<u32>::new().unwrap();
    let count = |_: SignalInfo, cx: &mut Context<'_, u32>, count: &mut u32| {
        *count += 1;
        cx.finish();
        Ok(())
    };
    for expected in 1..=2 {
        reactor.signals([Signal::USR2], count).unwrap();
        assert_ne!(mask("/proc/self/status", "SigBlk"), before);
        let twice = reactor.signals([Signal::USR2], count).unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::ResourceBusy);
        signals::kill(own_pid(), Signal::USR2).unwrap();
        let mut calls = expected - 1;
        until(&mut reactor, &mut calls, |&calls| calls == expected);
        settle(&mut reactor, &mut calls);
        assert_eq!(mask("/proc/self/status", "SigBlk"), before);
    }
}

/// A reactor that writes down the exits of its children.
fn reaping() -> Reactor<Vec<Exit>> {
    let mut reactor = Reactor::<Vec<Exit>>::new().unwrap();
    reactor
        .children(|exit, _, exits| {
            exits.push(exit);
            Ok(())
        })
        .unwrap();
    reactor
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command
}

fn a_thousand_children() {
    const BURSTS: usize = 20;
    const EACH: usize = 50;
    let mut reactor = reaping();
    // Ended before all others, and nobody's business but ours.
    let mut foreign = children::spawn(&mut Command::new("true")).unwrap();
    let (mut exits, mut pids) = (Vec::new(), HashSet::new());
    for burst in 1..=BURSTS {
        for _ in 0..EACH {
            pids.insert(reactor.spawn(&mut Command::new("true")).unwrap());
        }
        // Now and then the bursts run into each other.
        if burst % 3 == 0 {
            until(&mut reactor, &mut exits, |exits| exits.len() >= (burst - 1) * EACH);
        }
    }
    until(&mut reactor, &mut exits, |exits| exits.len() == BURSTS * EACH);
    assert!(exits.iter().all(|exit| exit.status.unwrap().success()));
    // A pid may have been given out again, so there may be fewer of them.
    assert!(exits.iter().all(|exit| pids.contains(&exit.pid)));
    assert!(!pids.contains(&foreign.id()));
    assert!(foreign.wait().unwrap().success(), "it is left for us to wait for");
    assert_eq!(reactor.stats().handler_errors, 0);
}

fn ended_before() {
    let child = children::spawn(&mut shell("exit 7")).unwrap();
    let pid = child.id();
    let mut waiter = Reactor::<()>::new().unwrap();
    let pidfd = PidFd::from_child(&child).unwrap();
    waiter
        .fd(pidfd, Interest::READABLE, |_, _, cx, ()| {
            cx.stop();
            Ok(Progress::Drained)
        })
        .unwrap();
    run(&mut waiter, &mut ());

    let mut reactor = Reactor::<Vec<Exit>>::new().unwrap();
    let error = reactor.watch_child(shell("exit 1").spawn().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "nobody handles exits; call children() first");
    drop(reactor);
    let mut reactor = reaping();
    // Its SIGCHLD went by when nobody was listening.
    let mut exits = Vec::new();
    settle(&mut reactor, &mut exits);
    assert_eq!(reactor.watch_child(child).unwrap(), pid);
    until(&mut reactor, &mut exits, |exits| exits.len() == 1);
    assert_eq!((exits[0].pid, exits[0].status.unwrap().code()), (pid, Some(7)));
}

fn spawned_by_an_exit() {
    let mut reactor = Reactor::<Vec<Option<i32>>>::new().unwrap();
    reactor
        .children(|exit, cx, codes| {
            let code = exit.status.unwrap().code();
            codes.push(code);
            match code {
                Some(0) => return Ok(()),
                Some(3) => panic!("the third panics"),
                _ => {}
            }
            cx.spawn(&mut shell(&format!("exit {}", code.unwrap() - 1)))?;
            Err(io::Error::other("the others fail"))
        })
        .unwrap();
    reactor.spawn(&mut shell("exit 5")).unwrap();
    let mut codes = Vec::new();
    until(&mut reactor, &mut codes, |codes| codes.len() == 3);
    reactor.spawn(&mut shell("exit 1")).unwrap();
    until(&mut reactor, &mut codes, |codes| codes.len() == 5);
    assert_eq!(codes, [5, 4, 3, 1, 0].map(Some));
    assert_eq!((reactor.stats().handler_errors, reactor.stats().panics), (3, 1));
}

fn blocks_nothing() {
    let mut reactor = reaping();
    let key = reactor.signals([Signal::TERM, Signal::INT], |_, _, _| Ok(())).unwrap();
    assert_ne!(mask("/proc/self/status", "SigBlk"), 0);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("status");
    let mut exits = Vec::new();
    let mut grep = Command::new("cat");
    grep.arg("/proc/self/status").stdout(fs::File::create(&path).unwrap());
    reactor.spawn(&mut grep).unwrap();
    until(&mut reactor, &mut exits, |exits| exits.len() == 1);
    assert_eq!(mask(path.to_str().unwrap(), "SigBlk"), 0);

    let pid = reactor.spawn(Command::new("sleep").arg("60")).unwrap();
    signals::kill(pid, Signal::TERM).unwrap();
    until(&mut reactor, &mut exits, |exits| exits.len() == 2);
    assert_eq!((exits[1].pid, exits[1].status.unwrap().signal()), (pid, Some(libc::SIGTERM)));
    assert!(reactor.close(key));
}

fn nobody_would_reap() {
    let directory = tempfile::tempdir().unwrap();
    let witness = directory.path().join("witness");
    let mut touch = Command::new("touch");
    touch.arg(&witness);
    let mut reactor = Reactor::<Vec<Exit>>::new().unwrap();
    let refused = |reactor: &mut Reactor<Vec<Exit>>, touch: &mut Command| {
        let error = reactor.spawn(touch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "nobody handles exits; call children() first");
        let children = fs::read_to_string("/proc/thread-self/children").unwrap();
        assert_eq!(children, "", "no child was started");
        assert!(!witness.exists());
    };
    refused(&mut reactor, &mut touch);
    let key = reactor.children(|_, _, _| Ok(())).unwrap();
    reactor.close(key);
    settle(&mut reactor, &mut Vec::new());
    refused(&mut reactor, &mut touch);
}

// ---- A server that drains when it is told to end ----

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
    println!("answered {} of {}, cut {}", served.answered, stats.srms, stats.drain_cut);
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
        let mut command = this_binary("server");
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

    /// Holds the whole process up, so that what is sent now is found all at once.
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
    // Two of them are owed an answer for ever.
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
