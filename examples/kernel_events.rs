//! Events from the kernel, through descriptors that the program puts into the poll set itself (`PollSet::fd`).
//!
//! ```text
//! cargo run --release --example kernel_events -- netlink              # then: ip addr add 192.0.2.1/32 dev lo
//! cargo run --release --example kernel_events -- uevents              # then: plug something in
//! cargo run --release --example kernel_events -- inotify /tmp         # then: touch /tmp/new; mv /tmp/new /tmp/old
//! cargo run --release --example kernel_events -- pty -- stty size     # a program on a terminal of its own
//! ```
//!
//! Each event is a line: `link lo up`, `add@/devices/virtual/net/v0`, `created new`, `output "24 80\r\n"`. Ctrl-C ends
//! it, and so does the event number `--count`; the exit code is 0 for success, 1 for a failure, 2 for a wrong command
//! line.
#![allow(unsafe_code, reason = "a program gets its controlling terminal between fork and exec")]

use std::{
    io::{self, ErrorKind},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use clap::{Parser, Subcommand};
use ipc_reactor::{ChildHandler, Context, Interest, Key, PollSet, Progress, Reactor, Signal, children::Exit};
use rustix::{
    io::{dup, ioctl_fionbio, read},
    process::{ioctl_tiocsctty, setsid},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

#[path = "shared/inotify.rs"]
mod inotify;
#[path = "shared/netlink.rs"]
mod netlink;
#[path = "shared/say.rs"]
mod say;

use netlink::Received;
use say::say;

/// Prints the kernel's own events: network changes, devices, files, and a terminal.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    source: Channel,
    /// End after this many events
    #[arg(short, long, global = true, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

#[derive(Subcommand)]
enum Channel {
    /// Links and addresses that come, go and change
    Netlink,
    /// Devices that come, go and change
    Uevents,
    /// What is created, written, renamed and deleted in a directory
    Inotify { path: PathBuf },
    /// Run a program on a terminal of its own, and show what it writes there
    Pty {
        /// Rows and columns of the terminal
        #[arg(long, default_value = "24x80", value_parser = size)]
        size: (u16, u16),
        /// The program and its arguments
        #[arg(required = true, last = true)]
        program: Vec<String>,
    },
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let (rows, columns) = text.split_once('x').ok_or("ROWSxCOLUMNS, such as 24x80")?;
    Ok((rows.parse().map_err(|_| "rows are a number")?, columns.parse().map_err(|_| "columns are a number")?))
}

struct State {
    /// How many more events to print.
    left: Option<u64>,
    /// The program on the terminal has failed.
    failed: bool,
    /// A terminal ends after two events, in either order: its program's exit, and its hang-up.
    ends: u8,
}

impl State {
    fn end(&mut self, cx: &mut PollSet<State>) {
        self.ends += 1;
        if self.ends == 2 {
            cx.stop();
        }
    }

    fn event(&mut self, cx: &mut PollSet<State>, line: &str) {
        if self.left == Some(0) {
            return;
        }
        say(cx, format_args!("{line}"));
        self.left = self.left.map(|left| left - 1);
        if self.left == Some(0) {
            cx.stop();
        }
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match run(Arguments::parse()) {
        Ok(State { failed: false, .. }) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kernel_events: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> io::Result<State> {
    let mut reactor = Reactor::<State>::new()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, _| {
        cx.stop();
        Ok(())
    })?;
    match arguments.source {
        Channel::Netlink => listen(&mut reactor, netlink::changes()?, netlink::describe_changes)?,
        Channel::Uevents => listen(&mut reactor, netlink::uevents()?, |bytes| {
            netlink::describe_uevent(bytes).into_iter().collect()
        })?,
        Channel::Inotify { path } => watch(&mut reactor, inotify::watch(&path)?)?,
        Channel::Pty { size, program } => on_terminal(&mut reactor, size, &program)?,
    };
    eprintln!("kernel_events: listening");
    let mut state = State { left: arguments.count, failed: false, ends: 0 };
    reactor.run(&mut state)?;
    Ok(state)
}

fn listen(
    reactor: &mut Reactor<State>,
    socket: OwnedFd,
    describe: impl Fn(&[u8]) -> Vec<String> + 'static,
) -> io::Result<Key> {
    Ok(reactor.fd(socket, Interest::READABLE, move |socket, _, cx, state| {
        let mut buffer = [0; 16 << 10];
        match netlink::receive(socket, &mut buffer)? {
            Received::Message(length) => {
                describe(&buffer[..length]).iter().for_each(|line| state.event(cx, line));
            }
            Received::Stranger(port) => eprintln!("kernel_events: not from the kernel, but from port {port}"),
            Received::Lost => eprintln!("kernel_events: some events are lost"),
        }
        Ok(Progress::More)
    })?)
}

fn watch(reactor: &mut Reactor<State>, inotify: OwnedFd) -> io::Result<Key> {
    Ok(reactor.fd(inotify, Interest::READABLE, |inotify, _, cx, state| {
        inotify::each(inotify, |what, name| state.event(cx, format!("{what} {name}").trim_end()))?;
        Ok(Progress::More)
    })?)
}

struct OnTerminal;

impl ChildHandler<State> for OnTerminal {
    fn on_exit(&mut self, exit: Exit, cx: &mut Context<'_, State>, state: &mut State) -> io::Result<()> {
        state.failed = !exit.status.is_some_and(|status| status.success());
        if let Some(status) = exit.status.filter(|status| !status.success()) {
            eprintln!("kernel_events: the program has ended with {status}");
        }
        state.end(cx);
        Ok(())
    }
}

fn on_terminal(
    reactor: &mut Reactor<State>,
    (rows, columns): (u16, u16),
    program: &[String],
) -> io::Result<Key> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    ioctl_fionbio(&ours, true)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    tcsetwinsize(&ours, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    let stdio = || -> io::Result<Stdio> { Ok(dup(&theirs)?.into()) };
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).stdin(stdio()?).stdout(stdio()?).stderr(stdio()?);
    take_terminal(&mut command);
    reactor.run_child(&mut command, OnTerminal)?;
    Ok(reactor.fd(ours, Interest::READABLE, |terminal, _, cx, state| {
        let mut buffer = [0; 4096];
        match read(terminal, &mut buffer).map_err(io::Error::from) {
            Ok(count) => {
                let text = String::from_utf8_lossy(&buffer[..count]);
                state.event(cx, &format!("output {text:?}"));
                Ok(Progress::More)
            }
            // EIO: no process has the other side open any more.
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                // The kernel would report it again when the program's last descriptor is closed.
                cx.finish();
                state.event(cx, "hang-up");
                state.end(cx);
                Ok(Progress::Drained)
            }
            Err(error) => Err(error),
        }
    })?)
}

/// Makes the child's standard input its controlling terminal.
fn take_terminal(command: &mut Command) {
    let take = || {
        setsid()?;
        // SAFETY: descriptor 0 is open: `command` puts the terminal there before this runs.
        let stdin = unsafe { std::os::fd::BorrowedFd::borrow_raw(0) };
        Ok(ioctl_tiocsctty(stdin)?)
    };
    // SAFETY: between fork and exec, it makes two system calls and touches no memory of the parent.
    unsafe { command.pre_exec(take) };
}
