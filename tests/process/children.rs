//! Child processes, each case in a process of its own.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::isolated::{Case, mask};
use ipc_reactor::children::{self, Exit, PidFd, Reaper};
use ipc_reactor::signals::{self, Signal, SignalBatch, Signals};
use mio::unix::SourceFd;

pub(crate) const CASES: &[Case] = &[
    ("a_std_child_inherits_the_mask_and_ours_starts_clean", ours_starts_clean),
    ("a_child_of_ours_ends_by_sigterm", ends_by_sigterm),
    ("a_command_can_be_spawned_twice", spawned_twice),
    ("what_cannot_be_spawned_is_an_error", spawn_error),
    ("a_thousand_children_in_bursts_are_reaped_and_no_foreign_one", a_thousand_children),
    ("an_exit_before_the_signal_was_watched_is_found", exit_before_is_found),
    ("a_sigchld_tells_of_a_child_and_what_became_of_it", sigchld_tells),
    ("a_child_reaped_by_another_is_gone_with_unknown_status", reaped_by_another),
    ("a_child_whose_status_is_known_is_not_mistaken_for_its_pid", known_status),
    ("a_watched_child_sees_the_end_of_its_pipes", pipes_are_closed),
    ("pids_to_watch_are_checked", watch_pid_is_checked),
    ("a_pidfd_waits_signals_and_collects", pidfd_collects),
    ("a_pidfd_is_cloexec", pidfd_is_cloexec),
    ("a_pidfd_refuses_what_is_not_one_process", pidfd_refuses),
];

const ESRCH: i32 = 3;
const ECHILD: i32 = 10;

/// Ends a child that would outlive a failed assertion.
struct Guard(Option<Child>);

impl Guard {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn sleeper() -> Guard {
    Guard(Some(children::spawn(Command::new("sleep").arg("60")).unwrap()))
}

fn command(program: &str) -> Child {
    children::spawn(Command::new(program).stdin(Stdio::null())).unwrap()
}

/// Waits until a descriptor is readable.
struct Waiter(mio::Poll, mio::Events);

impl Waiter {
    fn new(source: impl AsFd) -> Waiter {
        let poll = mio::Poll::new().unwrap();
        let fd = source.as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), mio::Token(0), mio::Interest::READABLE).unwrap();
        Waiter(poll, mio::Events::with_capacity(1))
    }

    fn wait(&mut self) {
        self.0.poll(&mut self.1, Some(Duration::from_secs(20))).unwrap();
        assert!(!self.1.is_empty(), "nothing to read");
    }
}

/// Returns when the child is a zombie, not yet waited for.
fn until_ended(child: &Child) {
    let pidfd = PidFd::from_child(child).unwrap();
    Waiter::new(&pidfd).wait();
}

fn status_field(field: &str, spawn: impl FnOnce(&mut Command) -> std::io::Result<Child>) -> u64 {
    let mut command = Command::new("grep");
    command.args([field, "/proc/self/status"]).stdout(Stdio::piped());
    let output = spawn(&mut command).unwrap().wait_with_output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

fn ours_starts_clean() {
    let bit = |signal: Signal| 1 << (signal.as_raw() - 1);
    let rt = Signal::rt(5).unwrap();
    let _signals = Signals::new([Signal::TERM, Signal::CHLD, rt]).unwrap();
    let blocked = bit(Signal::TERM) | bit(Signal::CHLD) | bit(rt);
    assert_eq!(status_field("SigBlk", Command::spawn), blocked, "std");
    assert_eq!(status_field("SigBlk", children::spawn), 0, "ours");
    assert_eq!(mask("/proc/thread-self/status", "SigBlk"), blocked, "the parent keeps its own");
    assert_eq!(status_field("SigIgn", children::spawn) & bit(Signal::PIPE), 0);
}

fn ends_by_sigterm() {
    let _signals = Signals::new([Signal::TERM]).unwrap();
    let mut sleeper = sleeper();
    signals::kill(sleeper.child().id(), Signal::TERM).unwrap();
    assert_eq!(sleeper.child().wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
}

fn spawned_twice() {
    let _signals = Signals::new([Signal::TERM]).unwrap();
    let mut command = Command::new("grep");
    command.args(["SigBlk", "/proc/self/status"]).stdout(Stdio::piped());
    for _ in 0..3 {
        let output = children::spawn(&mut command).unwrap().wait_with_output().unwrap();
        assert_eq!(output.stdout, b"SigBlk:\t0000000000000000\n");
    }
}

fn spawn_error() {
    let error = children::spawn(&mut Command::new("/nonexistent/program")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

fn a_thousand_children() {
    const BURSTS: usize = 10;
    const BURST: usize = 100;
    let signals = Signals::new([Signal::CHLD]).unwrap();
    let mut waiter = Waiter::new(&signals);
    let mut foreign = Guard(Some(Command::new("false").spawn().unwrap()));
    let mut reaper = Reaper::new();
    let mut batch = SignalBatch::new();
    let mut ended = std::collections::HashSet::new();
    let mut records = 0;
    for _ in 0..BURSTS {
        for _ in 0..BURST {
            reaper.watch(command("true"));
        }
        let mut expected: std::collections::HashSet<u32> = reaper.pids().collect();
        assert_eq!(expected.len(), BURST);
        while !reaper.is_empty() {
            waiter.wait();
            records += signals.read_into(&mut batch).unwrap();
            let reaped = reaper.reap(|Exit { pid, status }| {
                assert!(expected.remove(&pid), "{pid} is foreign, or came twice");
                assert!(status.expect("ours to wait for").success());
                ended.insert(pid);
            });
            assert_eq!(reaper.len(), expected.len());
            assert!(reaped <= BURST);
        }
        // The last exits may have left a signal record after they were reaped, and so an edge for the next burst.
        records += signals.read_into(&mut batch).unwrap();
    }
    assert_eq!(ended.len(), BURSTS * BURST);
    assert!((1..=BURSTS * BURST + 1).contains(&records), "{records} records");
    assert_eq!(
        foreign.child().wait().unwrap().code(),
        Some(1),
        "the foreign child is still there to be waited for"
    );
}

fn exit_before_is_found() {
    let children = [command("true"), command("false")];
    children.iter().for_each(until_ended);
    let signals = Signals::new([Signal::CHLD]).unwrap();
    let mut reaper = Reaper::new();
    let [first, second] = children.map(|child| reaper.watch(child));
    assert!(signals.recv().unwrap().is_none(), "the signal was ignored when they ended");
    let mut exits = Vec::new();
    assert_eq!(reaper.reap(|exit| exits.push((exit.pid, exit.status.unwrap().code()))), 2);
    assert_eq!(exits, [(first, Some(0)), (second, Some(1))]);
    assert_eq!(reaper.reap(|exit| panic!("{exit:?} twice")), 0);
}

fn sigchld_tells() {
    let signals = Signals::new([Signal::CHLD]).unwrap();
    let mut waiter = Waiter::new(&signals);
    let child = command("false");
    waiter.wait();
    let info = signals.recv().unwrap().unwrap();
    assert_eq!((info.signal(), info.pid()), (Signal::CHLD, child.id()));
    let mut reaper = Reaper::new();
    reaper.watch(child);
    reaper.reap(|exit| assert_eq!(exit.status, info.status()));
    assert!(reaper.is_empty());

    let mut sleeper = sleeper();
    let pid = sleeper.child().id();
    let mut status_after = |signal| {
        signals::kill(pid, signal).unwrap();
        waiter.wait();
        let info = signals.recv().unwrap().unwrap();
        assert_eq!(info.pid(), pid);
        info.status().unwrap()
    };
    assert_eq!(status_after(Signal::STOP).stopped_signal(), Some(Signal::STOP.as_raw()));
    assert!(status_after(Signal::CONT).continued());
    let status = status_after(Signal::KILL);
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(sleeper.child().wait().unwrap(), status);

    signals::raise(Signal::CHLD).unwrap();
    assert_eq!(signals.recv().unwrap().unwrap().status(), None, "no child is behind a raise");
}

fn reaped_by_another() {
    let mut stolen = command("true");
    let ours = command("false");
    until_ended(&ours);
    let mut reaper = Reaper::new();
    reaper.watch_pid(stolen.id()).unwrap();
    let ours = reaper.watch(ours);
    stolen.wait().unwrap();
    let mut exits = Vec::new();
    reaper.reap(|exit| exits.push((exit.pid, exit.status.map(|status| status.code()))));
    assert_eq!(exits, [(stolen.id(), None), (ours, Some(Some(1)))], "the sweep goes on behind the lost one");
    assert!(reaper.is_empty());
}

fn known_status() {
    let mut child = command("false");
    let status = child.wait().unwrap();
    let mut reaper = Reaper::new();
    reaper.watch(child);
    assert_eq!(reaper.reap(|exit| assert_eq!(exit.status, Some(status))), 1);
}

fn pipes_are_closed() {
    let mut cat = Command::new("cat");
    let mut child = children::spawn(cat.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let pidfd = PidFd::from_child(&child).unwrap();
    let mut reaper = Reaper::new();
    reaper.watch(child);
    assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
    Waiter::new(&pidfd).wait();
    assert_eq!(reaper.reap(|exit| assert!(exit.status.unwrap().success())), 1);
}

fn watch_pid_is_checked() {
    let mut reaper = Reaper::new();
    for pid in [0, i32::MAX as u32 + 1, u32::MAX] {
        assert_eq!(reaper.watch_pid(pid).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let mut sleeper = sleeper();
    let pid = sleeper.child().id();
    reaper.watch_pid(pid).unwrap();
    assert_eq!(reaper.watch_pid(pid).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(reaper.reap(|exit| panic!("{exit:?} runs")), 0);
    sleeper.child().kill().unwrap();
    until_ended(sleeper.child());
    let killed = |exit: Exit| assert_eq!(exit.status.unwrap().signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(reaper.reap(killed), 1);
    assert_eq!(reaper.len(), 0);
}

fn pidfd_collects() {
    let mut sleeper = sleeper();
    let pidfd = PidFd::from_child(sleeper.child()).unwrap();
    assert_eq!(pidfd.try_wait().unwrap(), None);
    pidfd.kill(Signal::TERM).unwrap();
    Waiter::new(&pidfd).wait();
    let status = pidfd.try_wait().unwrap().expect("ended");
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    sleeper.0 = None;
    assert_eq!(pidfd.try_wait().unwrap_err().raw_os_error(), Some(ECHILD));
    assert_eq!(pidfd.kill(Signal::TERM).unwrap_err().raw_os_error(), Some(ESRCH));

    for (program, code) in [("true", 0), ("false", 1)] {
        let pidfd = PidFd::open(command(program).id()).unwrap();
        Waiter::new(&pidfd).wait();
        assert_eq!(pidfd.try_wait().unwrap().unwrap().code(), Some(code));
    }
}

fn pidfd_is_cloexec() {
    let fd = OwnedFd::from(PidFd::open(std::process::id()).unwrap());
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
    assert_eq!(flags & 0o2_000_000, 0o2_000_000, "O_CLOEXEC in {flags:o}");
}

fn pidfd_refuses() {
    for pid in [0, i32::MAX as u32 + 1, u32::MAX] {
        assert_eq!(PidFd::open(pid).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(PidFd::open(i32::MAX as u32).unwrap_err().raw_os_error(), Some(ESRCH));
    let own = PidFd::open(std::process::id()).unwrap();
    assert_eq!(own.try_wait().unwrap_err().raw_os_error(), Some(ECHILD), "not a child");
}
