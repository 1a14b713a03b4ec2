//! The kernel's own channels through the open variant: netlink, uevents, inotify, terminals and eventfds, each event
//! caused by a foreign program; each case in a process of its own.

#[path = "../../examples/shared/announced.rs"]
mod announced;
#[path = "../../examples/shared/inotify.rs"]
mod inotify;
#[path = "../../examples/shared/netlink.rs"]
mod netlink;

use crate::support::child::KillOnDrop;
use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use crate::support::turns::{run, settle, until};
use announced::read_announced;
use ipc_reactor::{Interest, Progress, Reactor, children};
use netlink::Received;
use rustix::{
    event::{EventfdFlags, eventfd},
    io::{dup, read, write},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcgetwinsize, tcsetwinsize},
};

use crate::support::isolated::Case;
use crate::support::skip;

pub(crate) const CASES: &[Case] = &[
    ("links_and_addresses_of_a_namespace_are_heard_of", links_and_addresses),
    ("a_stranger_on_a_netlink_group_is_known_as_one", strangers),
    ("devices_that_come_and_go_are_heard_of", devices),
    ("files_that_a_shell_makes_renames_and_deletes_are_seen", files),
    ("a_terminal_is_read_and_written", terminal),
    ("a_terminal_has_a_size_that_its_program_hears_of", terminal_size),
    ("an_eventfd_counts_what_a_child_adds", eventfd_from_a_shell),
    ("a_terminal_program_reads_its_standard_input", stdin_of_a_terminal),
];

pub(crate) const ROLES: &[Case] = &[
    ("in_namespace", in_namespace),
    ("stranger", stranger),
    ("device_listener", device_listener),
    ("terminal_program", terminal_program),
];

fn start(command: &mut Command) -> KillOnDrop {
    KillOnDrop(children::spawn(command).unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a role of this binary in a network namespace of its own, or reports that it cannot.
fn in_a_namespace(role: &str) {
    let options: &[&str] = if rustix::process::geteuid().is_root() { &["-n"] } else { &["-r", "-n"] };
    let can = Command::new("unshare").args(options).args(["ip", "link"]).output();
    let why = match can {
        Ok(output) if output.status.success() => {
            let mut command = Command::new("unshare");
            let this = env::current_exe().unwrap();
            let output = command.args(options).arg(this).args(["--case", role]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            println!("{text}");
            return assert!(output.status.success(), "{role}: {}", output.status);
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    skip(&format!("no network namespace with `unshare` (util-linux) and `ip` (iproute2): {why}"));
}

fn links_and_addresses() {
    in_a_namespace("kernel_events::in_namespace");
}

/// A reactor that records each line of what a netlink socket reports.
fn listening(socket: OwnedFd, describe: impl Fn(&[u8]) -> Vec<String> + 'static) -> Reactor<Vec<String>> {
    let mut reactor = Reactor::new().unwrap();
    reactor
        .fd(socket, Interest::READABLE, move |socket, _, _, lines: &mut Vec<String>| {
            let mut buffer = [0; 16 << 10];
            match netlink::receive(socket, &mut buffer)? {
                Received::Message(length) => lines.extend(describe(&buffer[..length])),
                Received::Stranger(port) => lines.push(format!("stranger {port}")),
                Received::Lost => lines.push("lost".into()),
            }
            Ok(Progress::More)
        })
        .unwrap();
    reactor
}

fn in_namespace() {
    let mut reactor = listening(netlink::changes().unwrap(), netlink::describe_changes);
    let mut lines = Vec::new();
    let steps = [
        ("ip link set lo up", "link lo up"),
        ("ip addr add 192.0.2.7/24 dev lo", "address 192.0.2.7/24 added to link 1"),
        ("ip addr add 2001:db8::7/64 dev lo", "address 2001:db8::7/64 added to link 1"),
        ("ip addr del 192.0.2.7/24 dev lo", "address 192.0.2.7/24 removed from link 1"),
        ("ip link set lo down", "link lo down"),
    ];
    for (command, expected) in steps {
        lines.clear();
        sh(command);
        until(&mut reactor, &mut lines, |lines| lines.iter().any(|line| line == expected));
    }
}

fn strangers() {
    in_a_namespace("kernel_events::stranger");
}

/// Root in the namespace can send to a group: here a Python program does.
fn stranger() {
    let mut reactor =
        listening(netlink::uevents().unwrap(), |bytes| netlink::describe_uevent(bytes).into_iter().collect());
    let mut lines = Vec::new();
    let script = "import socket
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
s.bind((0, 0))
s.sendto(b'add@/devices/forged\\0ACTION=add\\0', (0, 1))
print(s.getsockname()[0])";
    let output = Command::new("python3").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let port = String::from_utf8(output.stdout).unwrap();
    until(&mut reactor, &mut lines, |lines| !lines.is_empty());
    settle(&mut reactor, &mut lines);
    assert_eq!(lines, [format!("stranger {}", port.trim())], "and nothing of what it said");
}

fn devices() {
    in_a_namespace("kernel_events::device_listener");
}

fn device_listener() {
    let mut reactor =
        listening(netlink::uevents().unwrap(), |bytes| netlink::describe_uevent(bytes).into_iter().collect());
    let kinds = ["bridge", "dummy", "veth", "ifb"];
    let made = |kind: &&str| {
        Command::new("ip").args(["link", "add", "reactor0", "type", kind]).output().unwrap().status.success()
    };
    if !kinds.iter().any(made) {
        return skip("this kernel makes no virtual network device");
    }
    let mut lines = Vec::new();
    let add = |line: &String| line.starts_with("add@") && line.ends_with("/net/reactor0");
    until(&mut reactor, &mut lines, |lines| lines.iter().any(add));
    sh("ip link del reactor0");
    let remove = |line: &String| line.starts_with("remove@") && line.ends_with("/net/reactor0");
    until(&mut reactor, &mut lines, |lines| lines.iter().any(remove));
}

fn files() {
    let folder = tempfile::tempdir().unwrap();
    let mut reactor = Reactor::new().unwrap();
    reactor
        .fd(
            inotify::watch(folder.path()).unwrap(),
            Interest::READABLE,
            |inotify, _, _, seen: &mut Vec<String>| {
                inotify::each(inotify, |what, name| seen.push(format!("{what} {name}")))?;
                Ok(Progress::More)
            },
        )
        .unwrap();
    let mut seen = Vec::new();
    sh(&format!("cd '{}'; echo hello > new; mv new old; rm old", folder.path().display()));
    let expected = ["created new", "written new", "renamed from new", "renamed to old", "deleted old"];
    until(&mut reactor, &mut seen, |seen| seen.len() >= expected.len());
    assert_eq!(seen, expected);

    // More than one read's buffer holds: none is lost, none is reported twice.
    seen.clear();
    sh(&format!(
        "cd '{}'; for i in $(seq 300); do : > a-name-of-some-length-$i; done",
        folder.path().display()
    ));
    until(&mut reactor, &mut seen, |seen| seen.len() >= 600);
    assert_eq!(seen.iter().filter(|line| line.starts_with("created")).count(), 300);
    fs::remove_dir_all(folder.path()).unwrap();
    until(&mut reactor, &mut seen, |seen| seen.iter().any(|line| line.starts_with("deleted itself")));
}

/// A terminal: the side that we hold, and the side that a program is given.
fn open_terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).unwrap();
    rustix::io::ioctl_fionbio(&ours, true).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let theirs =
        ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    (ours, theirs)
}

#[derive(Default)]
struct Screen {
    text: String,
    hung_up: bool,
}

/// A reactor that shows what the terminal's program writes.
fn showing(terminal: OwnedFd) -> Reactor<Screen> {
    let mut reactor = Reactor::new().unwrap();
    reactor
        .fd(terminal, Interest::READABLE, |terminal, _, _, screen: &mut Screen| {
            let mut buffer = [0; 1024];
            match read(terminal, &mut buffer) {
                Ok(count) => screen.text.push_str(&String::from_utf8_lossy(&buffer[..count])),
                // The last program has closed its side: EIO, not an end of file.
                Err(rustix::io::Errno::IO) => {
                    screen.hung_up = true;
                    return Ok(Progress::Drained);
                }
                Err(errno) => return Err(errno.into()),
            }
            Ok(Progress::More)
        })
        .unwrap();
    reactor
}

/// A program on the terminal, which is also its controlling one.
fn on_terminal(theirs: OwnedFd, program: &[&str]) -> KillOnDrop {
    let stdio = || Stdio::from(dup(&theirs).unwrap());
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).args(program);
    start(command.stdin(stdio()).stdout(stdio()).stderr(stdio()))
}

fn terminal() {
    let (ours, theirs) = open_terminal();
    let keyboard = dup(&ours).unwrap();
    let mut reactor = showing(ours);
    let mut screen = Screen::default();
    let mut shell =
        on_terminal(theirs, &["sh", "-c", "tty >/dev/null && echo ready; read word; echo heard $word"]);
    until(&mut reactor, &mut screen, |screen| screen.text.contains("ready"));
    write(&keyboard, b"hello\n").unwrap();
    until(&mut reactor, &mut screen, |screen| screen.text.contains("heard hello"));
    until(&mut reactor, &mut screen, |screen| screen.hung_up);
    assert!(shell.0.wait().unwrap().success());
}

fn terminal_size() {
    let (ours, theirs) = open_terminal();
    let size = |rows, columns| Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&ours, size(24, 80)).unwrap();
    let knob = dup(&ours).unwrap();
    let mut reactor = showing(ours);
    let mut screen = Screen::default();
    let script = "import os, signal, sys
signal.signal(signal.SIGWINCH, lambda *_: print('now', *os.get_terminal_size(), flush=True))
print('at', *os.get_terminal_size(), flush=True)
while True: signal.pause()";
    let _python = on_terminal(theirs, &["python3", "-c", script]);
    until(&mut reactor, &mut screen, |screen| screen.text.contains("at 80 24"));
    tcsetwinsize(&knob, size(50, 132)).unwrap();
    until(&mut reactor, &mut screen, |screen| screen.text.contains("now 132 50"));
    assert_eq!(tcgetwinsize(&knob).unwrap().ws_col, 132);
}

/// The shell's standard output is the eventfd: what printf writes in one go is the eight bytes of a number.
fn eventfd_from_a_shell() {
    let counter = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
    let given = dup(&counter).unwrap();
    let mut reactor = Reactor::<u64>::new().unwrap();
    reactor
        .fd(counter, Interest::READABLE, |counter, _, _, sum| {
            let mut value = [0; 8];
            read(counter, &mut value)?;
            *sum += u64::from_ne_bytes(value);
            Ok(Progress::More)
        })
        .unwrap();
    let mut sum = 0;
    let add = |number: u64| {
        let octal: String = number.to_ne_bytes().iter().map(|byte| format!("\\{byte:03o}")).collect();
        let mut printf = Command::new("printf");
        let status = printf.arg(octal).stdout(Stdio::from(dup(&given).unwrap())).status().unwrap();
        assert!(status.success());
    };
    add(5);
    until(&mut reactor, &mut sum, |&sum| sum == 5);
    add(30);
    add(7);
    until(&mut reactor, &mut sum, |&sum| sum == 42);
}

fn stdin_of_a_terminal() {
    let this = env::current_exe().unwrap();
    let mut script = Command::new("script");
    script.args([
        "-qefc",
        &format!("'{}' --case kernel_events::terminal_program", this.display()),
        "/dev/null",
    ]);
    let mut script = start(script.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut screen = BufReader::new(script.0.stdout.take().unwrap()).lines();
    let mut keyboard = script.0.stdin.take().unwrap();
    let mut await_line = |wanted: &str| {
        let seen = screen.by_ref().map(|line| line.unwrap()).any(|line| line.trim() == wanted);
        assert!(seen, "{wanted:?} never came");
    };
    await_line("ready");
    for word in ["hello", "world"] {
        writeln!(keyboard, "{word}").unwrap();
        await_line(&format!("heard {word}"));
    }
    writeln!(keyboard, "quit").unwrap();
    await_line("heard quit");
    assert!(script.0.wait().unwrap().success());
}

/// A role: a program whose standard input is a terminal, left blocking, because the shell shares it.
fn terminal_program() {
    let mut reactor = Reactor::<()>::new().unwrap();
    let stdin = io::stdin();
    assert!(rustix::termios::isatty(&stdin));
    reactor
        .fd(stdin, Interest::READABLE, |stdin, _, cx, ()| {
            let mut buffer = [0; 256];
            let count = read_announced(stdin, &mut buffer)?;
            let line = String::from_utf8_lossy(&buffer[..count]);
            println!("heard {}", line.trim());
            if line.trim() == "quit" || count == 0 {
                cx.stop();
            }
            Ok(Progress::More)
        })
        .unwrap();
    println!("ready");
    run(&mut reactor, &mut ());
}
