//! Children as sources: shells, Python and the usual tools, each case in a process of its own.
#![allow(unsafe_code, reason = "SIGPIPE at its default, as a program in C has it")]

mod endings;
mod input;

use std::{
    collections::HashMap,
    fs, io, mem,
    process::{Command, Stdio},
};

use crate::support::turns::{run, settle, until};
use ipc_reactor::{
    Cause, ChildHandler, Context, Key, Limit, Limits, Posted, Reactor, Signal,
    children::{Exit, PidFd},
};

use crate::support::isolated::Case;

pub(crate) const CASES: &[Case] = &[
    ("a_mebibyte_on_both_outputs_comes_whole_and_before_the_exit", mebibyte),
    ("two_hundred_children_live_at_once", two_hundred),
    ("a_child_is_killed_by_its_pidfd", killed),
    ("codes_and_signals_are_told_apart", codes),
    ("four_mebibytes_go_through_cat", input::through_cat),
    ("what_a_child_does_not_read_is_bounded", input::bounded),
    ("a_child_that_closes_its_input_kills_nobody", input::closes_input),
    ("a_child_that_dies_with_input_waiting_is_told_of", input::dies_with_input_waiting),
    ("a_grandchild_that_keeps_the_pipe_does_not_hold_up_the_exit", endings::silent_grandchild),
    ("a_grandchild_that_never_stops_writing_does_not_either", endings::noisy_grandchild),
    ("what_is_left_when_the_budget_is_spent_is_not_forgotten", spent_budget),
    ("a_child_lives_on_without_its_outputs", without_outputs),
    ("closing_a_child_ends_it_and_leaves_no_zombie", endings::closing),
    ("the_end_of_a_reactor_ends_its_children", endings::end_of_reactor),
    ("a_handler_that_fails_loses_its_child_alone", endings::failing_handlers),
    ("a_handler_can_finish_with_its_child", endings::finishing),
    ("what_cannot_be_started_is_an_error_and_no_source", endings::not_started),
    ("a_kernel_without_pidfds_starts_nothing_and_says_what_is_missing", endings::without_pidfds),
    ("a_flood_leaves_room_for_others", flood),
    ("both_ways_to_hear_of_exits_live_together", both_ways),
    ("a_child_starts_with_clean_signals", clean_signals),
];

#[derive(Default)]
struct Seen {
    out: Vec<u8>,
    err: Vec<u8>,
    /// With the amount of output before it.
    exits: Vec<(Exit, usize, usize)>,
    closes: Vec<String>,
    flushed: usize,
}

impl Seen {
    fn exit(&self) -> Exit {
        assert_eq!(self.exits.len(), 1, "told once");
        self.exits[0].0
    }
}

struct Record;

impl ChildHandler<Seen> for Record {
    fn on_stdout(&mut self, bytes: &[u8], _: &mut Context<'_, Seen>, seen: &mut Seen) -> io::Result<()> {
        assert!(!bytes.is_empty());
        seen.out.extend_from_slice(bytes);
        Ok(())
    }

    fn on_stderr(&mut self, bytes: &[u8], _: &mut Context<'_, Seen>, seen: &mut Seen) -> io::Result<()> {
        assert!(!bytes.is_empty());
        seen.err.extend_from_slice(bytes);
        Ok(())
    }

    fn on_flushed(&mut self, _: &mut Context<'_, Seen>, seen: &mut Seen) -> io::Result<()> {
        seen.flushed += 1;
        Ok(())
    }

    fn on_exit(&mut self, exit: Exit, _: &mut Context<'_, Seen>, seen: &mut Seen) -> io::Result<()> {
        seen.exits.push((exit, seen.out.len(), seen.err.len()));
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Seen>, seen: &mut Seen) {
        seen.closes.push(cause.to_string());
    }
}

/// With all three pipes.
fn piped(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn shell(script: &str) -> Command {
    piped("sh", &["-c", script])
}

fn start(reactor: &mut Reactor<Seen>, command: &mut Command) -> Key {
    reactor.run_child(command, Record).unwrap()
}

fn new() -> (Reactor<Seen>, Seen) {
    (Reactor::new().unwrap(), Seen::default())
}

/// A reactor that reads so many bytes in a visit.
fn slow(bytes_per_visit: usize) -> (Reactor<Seen>, Seen) {
    let limits = Limits { bytes_per_visit, ..Limits::default() };
    (Reactor::<Seen>::builder().limits(limits).build().unwrap(), Seen::default())
}

fn to_exit(command: &mut Command) -> Seen {
    let (mut reactor, mut seen) = new();
    let key = start(&mut reactor, command);
    until(&mut reactor, &mut seen, |seen| !seen.exits.is_empty());
    settle(&mut reactor, &mut seen);
    assert!(reactor.child(key).is_none(), "it is out of the poll set");
    assert!(seen.closes.is_empty(), "on_exit or on_close, never both");
    seen
}

/// Whether the process is there, if only as a zombie.
fn is_there(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

fn until_gone(pid: u32, reactor: &mut Reactor<Seen>, seen: &mut Seen) {
    until(reactor, seen, |_| !is_there(pid));
}

/// The number on the first line of a shell's output.
fn first_number(out: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(out);
    text.split_once('\n')?.0.parse().ok()
}

fn mebibyte() {
    let script = "import os
for i in range(256):
    for fd, byte in ((1, b'o'), (2, b'e')):
        left = byte * 4096
        while left: left = left[os.write(fd, left):]
os._exit(3)";
    let seen = to_exit(&mut piped("python3", &["-c", script]));
    assert_eq!((seen.out.len(), seen.err.len()), (1 << 20, 1 << 20));
    assert!(seen.out.iter().all(|&byte| byte == b'o') && seen.err.iter().all(|&byte| byte == b'e'));
    let (exit, out, err) = seen.exits[0];
    assert_eq!((out, err), (1 << 20, 1 << 20), "all of it before the exit");
    assert_eq!(exit.status.unwrap().code(), Some(3));
}

fn two_hundred() {
    const COUNT: i32 = 200;
    #[derive(Default)]
    struct All {
        lines: HashMap<u32, Vec<u8>>,
        exits: HashMap<u32, i32>,
    }
    struct Each;
    impl ChildHandler<All> for Each {
        fn on_stdout(&mut self, bytes: &[u8], cx: &mut Context<'_, All>, all: &mut All) -> io::Result<()> {
            all.lines.entry(cx.child_process().unwrap().pid()).or_default().extend_from_slice(bytes);
            Ok(())
        }
        fn on_exit(&mut self, exit: Exit, _: &mut Context<'_, All>, all: &mut All) -> io::Result<()> {
            assert!(all.lines.contains_key(&exit.pid), "its output came first");
            all.exits.insert(exit.pid, exit.status.unwrap().code().unwrap());
            Ok(())
        }
    }
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let mut reactor = Reactor::new().unwrap();
    let mut all = All::default();
    let before = descriptors();
    let keys: Vec<Key> = (0..COUNT)
        .map(|_| {
            let mut command = Command::new("sh");
            command.args(["-c", "read n; echo got $n; exit $((n % 7))"]);
            reactor.run_child(command.stdin(Stdio::piped()).stdout(Stdio::piped()), Each).unwrap()
        })
        .collect();
    let mut expected = HashMap::new();
    for (n, key) in (0..COUNT).zip(&keys) {
        let child = reactor.child(*key).unwrap();
        expected.insert(child.pid(), n);
        assert_eq!(child.write(format!("{n}\n").as_bytes()).unwrap(), Posted::Sent);
    }
    assert_eq!(expected.len(), COUNT as usize);
    until(&mut reactor, &mut all, |all| all.exits.len() == COUNT as usize);
    for (pid, n) in expected {
        assert_eq!(all.exits[&pid], n % 7);
        assert_eq!(all.lines[&pid], format!("got {n}\n").into_bytes());
    }
    settle(&mut reactor, &mut all);
    assert_eq!(descriptors(), before, "every descriptor is closed");
}

fn killed() {
    let (mut reactor, mut seen) = new();
    let key = start(&mut reactor, &mut piped("sleep", &["60"]));
    reactor.child(key).unwrap().kill(Signal::TERM).unwrap();
    until(&mut reactor, &mut seen, |seen| !seen.exits.is_empty());
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(seen.exit().status.unwrap().signal(), Some(Signal::TERM.as_raw()));
}

fn codes() {
    use std::os::unix::process::ExitStatusExt;
    let status = |script| to_exit(&mut shell(script)).exit().status.unwrap();
    assert_eq!(status("exit 0").code(), Some(0));
    assert_eq!(status("exit 42").code(), Some(42));
    assert_eq!(status("kill -KILL $$").signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(status("kill -USR1 $$").signal(), Some(Signal::USR1.as_raw()));
}

/// What was left when the budget was spent is read without another event.
fn spent_budget() {
    let (mut reactor, mut seen) = slow(1000);
    let key = start(
        &mut reactor,
        &mut shell("head -c 50000 /dev/zero; head -c 30000 /dev/zero >&2; exec sleep 60"),
    );
    until(&mut reactor, &mut seen, |seen| (seen.out.len(), seen.err.len()) == (50_000, 30_000));
    reactor.abort(key);
}

fn without_outputs() {
    let (mut reactor, mut seen) = new();
    let key = start(&mut reactor, &mut shell("echo out; echo err >&2; exec >&- 2>&-; read n; exit $n"));
    until(&mut reactor, &mut seen, |seen| !seen.out.is_empty() && !seen.err.is_empty());
    settle(&mut reactor, &mut seen);
    assert!(seen.exits.is_empty());
    reactor.child(key).expect("it lives").write(b"9\n").unwrap();
    until(&mut reactor, &mut seen, |seen| !seen.exits.is_empty());
    assert_eq!(seen.exit().status.unwrap().code(), Some(9));
}

/// A child that writes as fast as it can is read within the visit's budget: others come to their turn.
fn flood() {
    #[derive(Default)]
    struct Counts {
        flood: usize,
        echoed: bool,
    }
    struct Flood;
    impl ChildHandler<Counts> for Flood {
        fn on_stdout(
            &mut self,
            bytes: &[u8],
            _: &mut Context<'_, Counts>,
            counts: &mut Counts,
        ) -> io::Result<()> {
            counts.flood += bytes.len();
            Ok(())
        }
    }
    struct Quiet;
    impl ChildHandler<Counts> for Quiet {
        fn on_stdout(
            &mut self,
            bytes: &[u8],
            _: &mut Context<'_, Counts>,
            counts: &mut Counts,
        ) -> io::Result<()> {
            counts.echoed |= bytes == b"here";
            Ok(())
        }
    }
    let limits = Limits { bytes_per_visit: 4096, ..Limits::default() };
    let mut reactor = Reactor::<Counts>::builder().limits(limits).build().unwrap();
    let mut counts = Counts::default();
    for _ in 0..2 {
        reactor.run_child(Command::new("yes").stdout(Stdio::piped()), Flood).unwrap();
    }
    until(&mut reactor, &mut counts, |counts| counts.flood > 1 << 20);
    let quiet = reactor.run_child(&mut piped("cat", &[]), Quiet).unwrap();
    reactor.child(quiet).unwrap().write(b"here").unwrap();
    until(&mut reactor, &mut counts, |counts| counts.echoed);
    assert!(reactor.stats().limit_count(Limit::Bytes) > 0);
}

fn both_ways() {
    let (mut reactor, mut seen) = new();
    reactor
        .children(|exit, _, seen: &mut Seen| {
            seen.exits.push((exit, 0, 0));
            Ok(())
        })
        .unwrap();
    let by_signal = reactor.spawn(Command::new("sh").args(["-c", "exit 4"])).unwrap();
    let key = start(&mut reactor, &mut shell("exit 6"));
    let by_pidfd = reactor.child(key).unwrap().pid();
    until(&mut reactor, &mut seen, |seen| seen.exits.len() == 2);
    let mut exits: Vec<_> =
        mem::take(&mut seen.exits).iter().map(|(exit, ..)| (exit.pid, exit.status.unwrap().code())).collect();
    exits.sort_by_key(|&(_, code)| code);
    assert_eq!(exits, [(by_signal, Some(4)), (by_pidfd, Some(6))]);
}

fn clean_signals() {
    let (mut reactor, mut seen) = new();
    reactor.signals([Signal::TERM, Signal::PIPE], |_, _, _| Ok(())).unwrap();
    start(&mut reactor, &mut piped("grep", &["-E", "SigBlk|SigIgn", "/proc/self/status"]));
    until(&mut reactor, &mut seen, |seen| !seen.exits.is_empty());
    let text = String::from_utf8(seen.out).unwrap();
    let masks: Vec<u64> = text
        .lines()
        .map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap())
        .collect();
    assert_eq!(masks[0], 0, "nothing is blocked");
    assert_eq!(masks[1] & 1 << (Signal::PIPE.as_raw() - 1), 0, "SIGPIPE is not ignored");
}
