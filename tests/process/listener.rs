//! Master sockets seen from outside and across `fork` and `exec`: each test runs itself again as a child process.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipc_reactor::Listener;

use crate::support::child::{KillOnDrop, again, alone, succeeds};
use crate::support::have;
use crate::support::isolated::{Case, cases};

pub(crate) const CASES: &[Case] = cases![
    the_umask_only_narrows_the_mode,
    the_mode_is_set_before_bind_and_never_after,
    of_two_processes_one_serves_and_a_killed_one_is_replaced,
    a_forked_child_removes_nothing,
    a_started_program_inherits_nothing,
    no_descriptor_is_leaked
];

const CHILD: &str = "LISTENER_CHILD_PATH";

/// In the child: the path to work at.
fn child_path() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// This test binary again, to run the case `name` alone as a child.
fn itself(name: &str, path: &Path) -> Command {
    let mut command = again(&format!("listener::{name}"));
    command.env(CHILD, path);
    command
}

fn the_umask_only_narrows_the_mode() {
    let Some(path) = child_path() else {
        let folder = tempfile::tempdir().unwrap();
        return succeeds(&mut itself("the_umask_only_narrows_the_mode", &folder.path().join("s")));
    };
    for (umask, mode, expected) in
        [(0, 0o600, 0o600), (0, 0o666, 0o666), (0o027, 0o666, 0o640), (0o777, 0o600, 0)]
    {
        // SAFETY: takes and returns a number; this process runs this test alone.
        unsafe { libc::umask(umask) };
        let _master = Listener::options().mode(mode).unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, expected);
    }
}

fn the_mode_is_set_before_bind_and_never_after() {
    let name = "the_mode_is_set_before_bind_and_never_after";
    if let Some(path) = child_path() {
        let first = Listener::unix(&path).unwrap();
        let _second = Listener::options().takeover(true).unix(&path).unwrap();
        return drop(first);
    }
    let folder = tempfile::tempdir().unwrap();
    if !have("strace") {
        return;
    }
    let trace = folder.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=bind,listen,/chmod", "-o"]).arg(&trace);
    strace.arg(std::env::current_exe().unwrap()).args(alone(&format!("listener::{name}")));
    succeeds(strace.env(CHILD, folder.path().join("s")));
    let trace = fs::read_to_string(trace).unwrap();
    let calls: Vec<_> =
        trace.lines().filter_map(|line| line.split_whitespace().nth(1)?.split('(').next()).collect();
    let calls: Vec<_> =
        calls.into_iter().filter(|call| call.chars().all(|c| c.is_ascii_alphanumeric())).collect();
    assert_eq!(calls, ["fchmod", "bind", "listen"].repeat(2), "{trace}");
    assert!(
        trace.lines().filter(|line| line.contains("fchmod(")).all(|line| line.contains(", 0600)")),
        "{trace}"
    );
}

fn of_two_processes_one_serves_and_a_killed_one_is_replaced() {
    let name = "of_two_processes_one_serves_and_a_killed_one_is_replaced";
    if let Some(path) = child_path() {
        let _master = Listener::unix(path).unwrap();
        println!("\nlistening");
        loop {
            std::thread::park();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mut command = itself(name, &path);
    let mut child = KillOnDrop(command.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "listening"), "the child ended early");

    let error = Listener::unix(&path).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
    drop(child);
    assert!(path.exists(), "a killed process removes nothing");
    drop(Listener::unix(&path).expect("stale"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn a_forked_child_removes_nothing() {
    let Some(path) = child_path() else {
        let folder = tempfile::tempdir().unwrap();
        return succeeds(&mut itself("a_forked_child_removes_nothing", &folder.path().join("s")));
    };
    let master = Listener::unix(&path).unwrap();
    let lock = path.with_extension("lock");
    // SAFETY: the child only drops the value and exits; the C library's allocator is usable after fork.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop(master);
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0);
    assert!(path.exists() && lock.exists());
    UnixStream::connect(&path).unwrap();
    drop(master);
    assert!(!path.exists() && !lock.exists());
}

/// The descriptors that a program started from here has.
fn inherited() -> BTreeSet<String> {
    let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split_once("-> "))
        .map(|(_, to)| to.to_owned())
        .filter(|to| to.starts_with("socket:") || to.contains(".lock"))
        .collect()
}

fn a_started_program_inherits_nothing() {
    let Some(path) = child_path() else {
        let folder = tempfile::tempdir().unwrap();
        return succeeds(&mut itself("a_started_program_inherits_nothing", &folder.path().join("s")));
    };
    let before = inherited();
    let plain = UnixListener::bind(path.with_extension("plain")).unwrap();
    let fd = OwnedFd::from(plain);
    // SAFETY: clears FD_CLOEXEC; takes no pointer.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) };
    assert_eq!(inherited().len(), before.len() + 1, "the check must see what is inherited");
    let masters = [
        Listener::try_from(fd).unwrap(),
        Listener::unix(&path).unwrap(),
        Listener::options().takeover(true).unix_seqpacket(&path).unwrap(),
        Listener::tcp("127.0.0.1:0").unwrap(),
        Listener::unix_abstract(path.as_os_str().as_encoded_bytes()).unwrap(),
    ];
    assert_eq!(inherited(), before);
    drop(masters);
}

fn no_descriptor_is_leaked() {
    let Some(path) = child_path() else {
        let folder = tempfile::tempdir().unwrap();
        return succeeds(&mut itself("no_descriptor_is_leaked", &folder.path().join("s")));
    };
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let round = || {
        let first = Listener::unix(&path).unwrap();
        Listener::unix(&path).unwrap_err();
        let second = Listener::options().takeover(true).unix(&path).unwrap();
        drop(first);
        drop(second.into_fd());
        drop(Listener::unix(&path).expect("stale"));
        fs::create_dir(&path).unwrap();
        Listener::unix(&path).unwrap_err();
        Listener::options().takeover(true).unix(&path).unwrap_err();
        fs::remove_dir(&path).unwrap();
        Listener::unix(path.join("x".repeat(200))).unwrap_err();
        Listener::try_from(OwnedFd::from(fs::File::open("/dev/null").unwrap())).unwrap_err();
        Listener::tcp("127.0.0.1:0").unwrap();
    };
    round();
    let before = open();
    (0..10).for_each(|_| round());
    assert_eq!(open(), before);
}
