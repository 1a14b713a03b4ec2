//! The examples of queues, signals, children, pipes and the kernel's events, each against the tools of a shell.

mod program;

use crate::support::names::QueueName;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ipc_reactor::Signal;
use program::{PATIENCE, Program, example, output, run, sh};
use tempfile::TempDir;

/// The C library's calls, from Python: `queue` is open, and `mq` has the calls.
const PYTHON_QUEUE: &str = "import ctypes, sys
mq = ctypes.CDLL(None, use_errno=True)
queue = mq.mq_open(sys.argv[1].encode(), 2)
if queue < 0: sys.exit(f'errno {ctypes.get_errno()}')
def send(text, priority):
    if mq.mq_send(queue, text, len(text), priority): sys.exit('mq_send')
def receive():
    buffer, priority = ctypes.create_string_buffer(8192), ctypes.c_uint()
    length = mq.mq_receive(queue, buffer, 8192, ctypes.byref(priority))
    return priority.value, buffer.raw[:length].decode()
";

fn python(script: &str, argument: &str) -> String {
    sh("exec python3 -c \"$1\" \"$2\"", &[&format!("{PYTHON_QUEUE}{script}"), argument])
}

const SMALL: [&str; 5] = ["--create", "--capacity", "5", "--message-size", "64"];

#[test]
fn queue_sends_and_receives_by_priority() {
    let name = QueueName::new();
    assert_eq!(output("queue", &[&["send", &name.0, "low"], &SMALL[..]].concat(), 0), "");
    assert_eq!(output("queue", &["send", &name.0, "--priority", "9", "first", "second"], 0), "");
    let stat = output("queue", &["stat", &name.0], 0);
    assert!(stat.starts_with(&format!("{}: 3 of 5 messages, 64 bytes each", name.0)), "{stat}");
    assert!(stat.contains("mode 600"), "{stat}");
    assert_eq!(python("print(*receive()); send(b'from python', 30)", &name.0), "9 first");
    assert_eq!(output("queue", &["receive", &name.0, "--count", "1"], 0), "30 from python\n");
    assert_eq!(output("queue", &["receive", &format!("mq:{}", name.0)], 0), "9 second\n0 low\n");
    assert_eq!(output("queue", &["receive", &name.0], 3), "", "nothing is there");
    assert_eq!(output("queue", &["send", &name.0, "1", "2", "3", "4", "5"], 0), "");
    assert_eq!(output("queue", &["send", &name.0, "6"], 3), "", "full");
    assert_eq!(output("queue", &["unlink", &name.0], 0), "");
    for gone in ["stat", "receive", "unlink"] {
        output("queue", &[gone, &name.0], 1);
    }
}

#[test]
fn queue_follows() {
    let name = QueueName::new();
    let arguments = [&["receive", &name.0, "--follow"][..], &SMALL].concat();
    let mut follower = Program::start("queue", &arguments);
    follower.until_error("following");
    python("send(b'hello', 3)", &name.0);
    assert_eq!(follower.line(), "3 hello");
    let sender = example("queue");
    sh("seq 3 | \"$1\" send \"$2\" --wait 20", &[sender.to_str().unwrap(), &name.0]);
    assert_eq!([follower.line(), follower.line(), follower.line()], ["0 1", "0 2", "0 3"]);
    follower.signal(Signal::INT);
    follower.ends_with(0);

    let mut follower = Program::start("queue", &["receive", &name.0, "--follow", "--count", "2"]);
    follower.until_error("following");
    output("queue", &["send", &name.0, "a", "b", "c"], 0);
    follower.ends_with(0);
    assert_eq!(follower.rest(), ["0 a", "0 b"]);
    assert_eq!(output("queue", &["receive", &name.0], 0), "0 c\n", "what it did not want is still there");

    let mut follower = Program::start("queue", &["receive", &name.0, "--follow"]);
    follower.until_error("following");
    output("queue", &["unlink", &name.0], 0);
    follower.until_error("unlinked");
    follower.ends_with(0);
}

/// The pid that the example prints.
fn ready(program: &Program) -> String {
    program.line().strip_prefix("ready ").expect("its pid").to_owned()
}

#[test]
fn signals_tells_the_sender_and_the_value() {
    let mut program = Program::start("signals", &[]);
    let pid = ready(&program);
    let uid = sh("id -u", &[]);
    for signal in ["USR1", "HUP"] {
        let sender = sh("kill -$1 $2; echo $$", &[signal, &pid]);
        assert_eq!(program.line(), format!("SIG{signal} from pid {sender} uid {uid}"));
    }
    let mut kill = Program::of(Command::new("/bin/kill").args(["-USR2", "-q", "42", &pid]));
    let sender = kill.child.id();
    kill.ends_with(0);
    assert_eq!(program.line(), format!("SIGUSR2 from pid {sender} uid {uid} value 42"));
    program.signal(Signal::INT);
    program.ends_with(0);
    assert!(program.errors().contains("after 3"), "{}", program.errors());
}

#[test]
fn signals_counts() {
    let mut program = Program::start("signals", &["RTMIN+1", "TERM", "--count", "3"]);
    let pid = ready(&program);
    sh("kill -TERM $1", &[&pid]);
    assert!(program.line().starts_with("SIGTERM from pid"));
    // Real-time signals queue one by one.
    let script = "import os, signal, sys
for _ in range(5): os.kill(int(sys.argv[1]), signal.SIGRTMIN + 1)";
    sh("exec python3 -c \"$1\" \"$2\" || true", &[script, &pid]);
    program.ends_with(0);
    let rest = program.rest();
    assert!(rest.len() == 2 && rest.iter().all(|line| line.starts_with("SIGRTMIN+1 from pid")), "{rest:?}");
}

#[test]
fn children_prefixes_and_reports() {
    let commands = ["echo out; echo err >&2; printf unfinished", "seq 3; exit 4", "kill -TERM $$"];
    let ran = run("children", &commands);
    assert_eq!(ran.status.code(), Some(1), "one has failed");
    let out = String::from_utf8(ran.stdout).unwrap();
    let of =
        |number: &str| -> Vec<&str> { out.lines().filter_map(|line| line.strip_prefix(number)).collect() };
    assert_eq!(of("1: "), ["out", "unfinished"]);
    assert_eq!(of("2: "), ["1", "2", "3"]);
    assert_eq!(out.lines().count(), 5);
    let err = String::from_utf8(ran.stderr).unwrap();
    for expected in
        ["1: err", "1: ended, exit status: 0", "2: ended, exit status: 4", "3: ended, signal: 15 (SIGTERM)"]
    {
        assert!(err.lines().any(|line| line == expected), "{expected:?} in {err}");
    }
    assert_eq!(output("children", &["true", "sleep 0"], 0), "");
    let long = output("children", &["head -c 200000 /dev/zero | tr '\\0' x"], 0);
    assert_eq!(long.matches('x').count(), 200_000);
}

/// Waits until neither the commands nor what they have started is left: all got the signal at once, and the example
/// waits only for those that it started itself.
fn until_all_gone(marker: &str) {
    let end = std::time::Instant::now() + PATIENCE;
    while !sh("pgrep -f \"$1\" || true", &[marker]).is_empty() {
        assert!(std::time::Instant::now() < end, "some are left");
    }
}

#[test]
fn children_ends_all_on_ctrl_c() {
    // Its unusual duration tells it from other `sleep` processes.
    let sleep = format!("61.{}", std::process::id());
    let tree = format!("echo up; sleep {sleep} & sleep {sleep} | cat");
    let mut program = Program::start("children", &[&tree, &tree]);
    assert!(program.line().ends_with(": up") && program.line().ends_with(": up"));
    program.signal(Signal::INT);
    program.ends_with(130);
    until_all_gone(&format!("^sleep {sleep}"));
}

#[test]
fn children_insists_where_sigterm_is_ignored() {
    let stubborn = "trap '' TERM; echo up; while kill -0 $PPID; do sleep 0.05; done";
    let mut program = Program::start("children", &[stubborn, "--grace", "0"]);
    program.line();
    program.signal(Signal::TERM);
    program.ends_with(130);
    assert!(program.errors().contains("SIGKILL"), "{}", program.errors());

    let mut program = Program::start("children", &[stubborn, "--grace", "1000"]);
    program.line();
    program.signal(Signal::INT);
    program.until_error("SIGINT");
    program.signal(Signal::INT);
    program.ends_with(130);
}

#[test]
fn children_fails_fast() {
    let ran = run("children", &["exec sleep 60", "exit 1", "--fail-fast"]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("1: ended, signal: 15 (SIGTERM)"));
}

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    (folder, path)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn pipes_reads_echo_after_echo() {
    let (_folder, path) = place();
    let mut reader = Program::start("pipes", &["read", text(&path), "--mode", "620"]);
    reader.until_error("reading");
    assert_eq!(sh("stat -c '%F %a' \"$1\"", &[text(&path)]), "fifo 620");
    for word in ["one", "two"] {
        sh("echo $2 > \"$1\"", &[text(&path), word]);
        assert_eq!(reader.line(), word);
    }
    reader.until_error("left");
    reader.signal(Signal::INT);
    reader.ends_with(0);
    assert!(!path.exists(), "removed");

    let mut once = Program::start("pipes", &["read", text(&path), "--once"]);
    once.until_error("reading");
    sh("exec 3> \"$1\"; echo a >&3; sleep 0; echo b >&3", &[text(&path)]);
    once.ends_with(0);
    assert_eq!(once.rest(), ["a", "b"]);

    std::fs::write(&path, "precious").unwrap();
    output("pipes", &["read", text(&path)], 1);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

/// A writer that waits for its reader, with what a shell writes as its standard input. When it is killed, so is the shell:
/// by SIGPIPE.
fn writer(path: &Path, script: &str) -> Program {
    let mut shell = Command::new("sh");
    let mut shell = ipc_reactor::children::spawn(shell.args(["-c", script]).stdout(Stdio::piped())).unwrap();
    let input = Stdio::from(shell.stdout.take().unwrap());
    std::thread::spawn(move || shell.wait());
    let mut writer = Command::new(example("pipes"));
    let mut writer = Program::of(writer.args(["write", text(path), "--wait"]).stdin(input));
    writer.until_error("waiting");
    writer
}

#[test]
fn pipes_writes_to_cat() {
    let (_folder, path) = place();
    sh("mkfifo \"$1\"", &[text(&path)]);
    let refused = run("pipes", &["write", text(&path)]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("reading"), "it says that nobody reads");

    let mut writer = writer(&path, "yes 0123456789abcde | head -c 5000000");
    let sum = sh("cksum < \"$1\"", &[text(&path)]);
    writer.ends_with(0);
    assert_eq!(sum, sh("yes 0123456789abcde | head -c 5000000 | cksum", &[]));
}

#[test]
fn pipes_fails_when_its_reader_leaves() {
    let (_folder, path) = place();
    sh("mkfifo \"$1\"", &[text(&path)]);
    let mut writer = writer(&path, "exec yes");
    assert_eq!(sh("head -1 \"$1\"", &[text(&path)]), "y");
    writer.ends_with(1);
    assert!(writer.errors().contains("reader"), "{}", writer.errors());
}

#[test]
fn kernel_events_sees_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start("kernel_events", &["inotify", text(folder.path()), "--count", "4"]);
    program.until_error("listening");
    sh("cd \"$1\"; mkdir a; mv a b; rmdir b", &[text(folder.path())]);
    program.ends_with(0);
    assert_eq!(program.rest(), ["created a", "renamed from a", "renamed to b", "deleted b"]);
    output("kernel_events", &["inotify", "/nonexistent/place"], 1);
}

#[test]
fn kernel_events_runs_a_program_on_a_terminal() {
    let shown = output("kernel_events", &["pty", "--size", "40x132", "--", "stty", "size"], 0);
    assert_eq!(shown, "output \"40 132\\r\\n\"\nhang-up\n");
    let controlling = ["pty", "--", "sh", "-c", "echo yes > /dev/tty; exit 7"];
    assert_eq!(output("kernel_events", &controlling, 1), "output \"yes\\r\\n\"\nhang-up\n");
    let mut program = Program::start("kernel_events", &["pty", "--", "cat"]);
    program.until_error("listening");
    program.signal(Signal::TERM);
    program.ends_with(0);
}

/// An example in a network namespace of its own; None, with a message, where that is not possible.
fn in_a_namespace(arguments: &[&str]) -> Option<Program> {
    let can = Command::new("unshare").args(["-n", "sh", "-c", "nsenter -n -t $$ ip link"]).output();
    if !can.as_ref().is_ok_and(|output| output.status.success()) {
        crate::support::skip(&format!("no network namespaces (root, util-linux and iproute2): {can:?}"));
        return None;
    }
    // unshare becomes the example: the pid is the same.
    let mut program =
        Program::of(Command::new("unshare").arg("-n").arg(example("kernel_events")).args(arguments));
    program.until_error("listening");
    Some(program)
}

fn inside(program: &Program, script: &str) {
    sh("exec nsenter -n -t $1 sh -ec \"$2\"", &[&program.child.id().to_string(), script]);
}

#[test]
fn kernel_events_hears_netlink() {
    let Some(mut program) = in_a_namespace(&["netlink"]) else { return };
    inside(&program, "ip addr add 192.0.2.9/32 dev lo");
    assert_eq!(program.line(), "address 192.0.2.9/32 added to link 1");
    inside(&program, "ip link set lo up");
    while program.line() != "link lo up" {}
    program.signal(Signal::INT);
    program.ends_with(0);
}

#[test]
fn kernel_events_hears_uevents() {
    let Some(mut program) = in_a_namespace(&["uevents", "--count", "1"]) else { return };
    inside(
        &program,
        "for kind in bridge dummy veth ifb; do ip link add events0 type $kind && break; done 2>/dev/null",
    );
    assert!(program.line().starts_with("add@"));
    program.ends_with(0);
}

#[test]
fn all_have_help_and_refuse_nonsense() {
    for name in ["queue", "signals", "children", "pipes", "kernel_events"] {
        assert!(output(name, &["--help"], 0).contains("Usage:"));
        output(name, &["--nonsense"], 2);
    }
    output("queue", &["stat", "no-slash"], 2);
    output("signals", &["NOSUCH"], 2);
    output("children", &[], 2);
    output("pipes", &["read", "x", "--mode", "9"], 2);
    output("kernel_events", &["pty", "--size", "big", "--", "true"], 2);
}
