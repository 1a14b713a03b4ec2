//! `examples/activated.rs` under a mock of a service manager.

#![allow(unsafe_code)]

use crate::running::executable;
use std::{
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::support::fds::*;
use tempfile::TempDir;

/// A service manager: where it is notified, and where its service listens.
struct Manager {
    folder: TempDir,
    notified: UnixDatagram,
}

struct Service(Child);

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let notified = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        notified.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { folder, notified }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("echo")
    }

    /// Starts the service; a listener that is passed comes as descriptor 3, by way of the shell.
    fn start(&self, passed: Option<&OwnedFd>, arguments: &[&str], watchdog_us: Option<u32>) -> Service {
        let mut command = match passed {
            Some(_) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "sh"]);
                shell.arg(executable("activated"));
                shell
            }
            None => Command::new(executable("activated")),
        };
        command.stdin(passed.map_or_else(Stdio::null, |fd| fd.try_clone().unwrap().into()));
        command.args(arguments).env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        if let Some(microseconds) = watchdog_us {
            command.env("WATCHDOG_USEC", microseconds.to_string());
        }
        Service(command.stderr(Stdio::null()).spawn().unwrap())
    }

    /// The next notification, and what came with it.
    fn hears(&self) -> (String, Vec<OwnedFd>) {
        let mut buffer = [0; 256];
        let (got, passed) = recv_with(&self.notified, &mut buffer).unwrap();
        (String::from_utf8(buffer[..got].to_vec()).unwrap().trim().to_owned(), passed)
    }

    /// The next notification must be this.
    fn expect(&self, expected: &str) {
        assert_eq!(self.hears().0, expected);
    }
}

impl Service {
    fn end(mut self, signal: libc::c_int) -> ExitStatus {
        // SAFETY: takes no pointer; the child has not been waited for, so its number is its own.
        assert_eq!(unsafe { libc::kill(self.0.id() as libc::pid_t, signal) }, 0);
        self.0.wait().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn echo(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(message)?;
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, message);
    Ok(())
}

#[test]
fn connections_made_before_the_start_are_served() {
    let manager = Manager::new();
    let listener = UnixListener::bind(manager.path()).unwrap();
    let mut early: Vec<_> = (0..3).map(|_| UnixStream::connect(manager.path()).unwrap()).collect();
    early.iter_mut().for_each(|stream| stream.write_all(b"early").unwrap());
    let service = manager.start(Some(&listener.into()), &[], None);
    manager.expect("READY=1");
    for stream in &mut early {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"early");
    }
    echo(&mut UnixStream::connect(manager.path()).unwrap(), b"late").unwrap();
    assert!(service.end(libc::SIGTERM).success());
    manager.expect("STOPPING=1");
    assert!(manager.path().exists(), "a path that the manager bound stays");
}

#[test]
fn the_watchdog_is_told_that_the_loop_turns() {
    let manager = Manager::new();
    let address = format!("unix:{}", manager.path().display());
    let service = manager.start(None, &[&address], Some(20_000));
    manager.expect("READY=1");
    for _ in 0..5 {
        manager.expect("WATCHDOG=1");
    }
    assert!(service.end(libc::SIGINT).success());
    while manager.hears().0 != "STOPPING=1" {}
    assert!(!manager.path().exists(), "a path of its own goes with it");
}

#[test]
fn without_a_watchdog_nothing_is_told_in_between() {
    let manager = Manager::new();
    let service = manager.start(None, &[&format!("unix:{}", manager.path().display())], None);
    manager.expect("READY=1");
    echo(&mut UnixStream::connect(manager.path()).unwrap(), b"hello").unwrap();
    assert!(service.end(libc::SIGTERM).success());
    manager.expect("STOPPING=1");
}

#[test]
fn a_restart_hands_the_listener_over_and_refuses_nobody() {
    let manager = Manager::new();
    let address = format!("unix:{}", manager.path().display());
    let mut service = manager.start(None, &["--store", &address], None);
    let (stored, mut fds) = manager.hears();
    assert_eq!(stored, "FDSTORE=1\nFDNAME=master");
    let stored = fds.pop().expect("the listener");
    manager.expect("READY=1");

    let stop = AtomicBool::new(false);
    let ask = || {
        let mut asked = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            let mut stream = UnixStream::connect(manager.path())?;
            echo(&mut stream, &asked.to_ne_bytes())?;
            asked += 1;
        }
        io::Result::Ok(asked)
    };
    thread::scope(|scope| {
        let end = Raise(&stop);
        let client = scope.spawn(ask);
        for round in 0..20 {
            assert!(
                std::mem::replace(&mut service, manager.start(Some(&stored), &[], None))
                    .end(libc::SIGTERM)
                    .success()
            );
            let mut told = [manager.hears().0, manager.hears().0];
            told.sort();
            assert_eq!(told, ["READY=1", "STOPPING=1"], "round {round}");
        }
        drop(end);
        assert!(client.join().unwrap().unwrap() > 20);
    });
    // And without a server a connection waits for the next start.
    assert!(service.end(libc::SIGTERM).success());
    manager.expect("STOPPING=1");
    let mut waiting = UnixStream::connect(manager.path()).unwrap();
    let service = manager.start(Some(&stored), &[], None);
    echo(&mut waiting, b"at last").unwrap();
    manager.expect("READY=1");
    drop(waiting);
    assert!(service.end(libc::SIGTERM).success());
}

#[test]
fn what_is_passed_for_another_process_is_not_taken() {
    let output = Command::new(executable("activated"))
        .envs([("LISTEN_FDS", "1"), ("LISTEN_PID", "1")])
        .env_remove("NOTIFY_SOCKET")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("no address given"), "{text}");
}
