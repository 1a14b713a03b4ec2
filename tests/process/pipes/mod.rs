//! Pipes and FIFOs, with shells, Python and a program in C at the other end; each case in a process of its own.
#![allow(unsafe_code, reason = "SIGPIPE at its default, as a program in C has it")]

mod paths;

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
            net::UnixListener,
            process::ExitStatusExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::isolated::{Case, mask, this_binary};
use crate::support::turns::{PATIENCE, settle, until};
use ipc_reactor::{
    Interest, Posted, Progress, Reactor, Signal, Signals, children,
    pipe::{self, Fifo, Outbox, PipeReader, PipeWriter},
};
use tempfile::TempDir;

pub(crate) const CASES: &[Case] = &[
    ("a_reader_hears_each_echo_and_each_hang_up", echoes),
    ("a_reader_kept_open_never_sees_an_end", kept_open),
    ("a_reader_opened_before_any_writer_waits_in_the_poll_set", before_any_writer),
    ("without_a_reader_nobody_can_write", no_reader),
    ("an_outbox_empties_itself_into_cat", outbox_into_cat),
    ("an_outbox_is_bounded", outbox_is_bounded),
    ("an_outbox_closes_when_its_reader_leaves", outbox_closes),
    ("nobody_dies_of_sigpipe", survives),
    ("a_watched_sigpipe_is_left_to_its_watcher", watched),
    ("the_ends_of_children_are_made_non_blocking", ends_of_children),
    ("small_writes_of_many_programs_do_not_mix", records_in_c),
    ("what_waits_can_be_counted", unread),
    ("no_end_is_inherited", not_inherited),
    ("a_fifo_has_its_mode_whatever_the_umask", paths::modes),
    ("nothing_but_a_fifo_of_ours_is_taken_over", paths::occupied),
    ("a_fifo_left_by_a_crash_is_taken_over", paths::left_over),
    ("a_path_that_means_another_file_stays", paths::swapped),
    ("a_directory_that_is_not_there_is_named", paths::no_directory),
];

pub(crate) const ROLES: &[Case] = &[("dies", dies)];

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    (folder, path)
}

/// A shell that has the FIFO's path as `$1`. Killed when dropped.
struct Shell(Child);

impl Shell {
    fn start(script: &str, path: &Path) -> Shell {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(path).stdin(Stdio::null()).stdout(Stdio::piped());
        Shell(children::spawn(&mut command).unwrap())
    }

    fn run(script: &str, path: &Path) {
        assert!(Shell::start(script, path).0.wait().unwrap().success(), "{script}");
    }

    fn output(mut self) -> String {
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.0.wait().unwrap().success(), "{text}");
        text
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Default, Debug)]
struct Heard {
    bytes: Vec<u8>,
    ends: usize,
    hang_ups: usize,
}

fn listen(reactor: &mut Reactor<Heard>, reader: PipeReader) -> ipc_reactor::Key {
    reactor
        .fd(reader, Interest::READABLE, |pipe, ready, _, heard| {
            let mut buffer = [0; 4096];
            let count = pipe.read(&mut buffer)?;
            heard.bytes.extend_from_slice(&buffer[..count]);
            if count > 0 {
                return Ok(Progress::More);
            }
            heard.ends += 1;
            heard.hang_ups += usize::from(ready.is_read_closed());
            Ok(Progress::Drained)
        })
        .unwrap()
}

fn echoes() {
    let (_folder, path) = place();
    let fifo = Fifo::create(&path, 0o600).unwrap();
    let (mut reactor, mut heard) = (Reactor::new().unwrap(), Heard::default());
    listen(&mut reactor, fifo.reader().unwrap());
    for (turn, word) in ["one", "two", "three"].into_iter().enumerate() {
        Shell::run(&format!("echo {word} > \"$1\""), &path);
        until(&mut reactor, &mut heard, |heard| heard.ends > turn);
        settle(&mut reactor, &mut heard);
    }
    assert_eq!(heard.bytes, b"one\ntwo\nthree\n");
    assert_eq!((heard.ends, heard.hang_ups), (3, 3), "one for each shell");
}

fn kept_open() {
    let (_folder, path) = place();
    let fifo = Fifo::create(&path, 0o600).unwrap();
    let (mut reactor, mut heard) = (Reactor::new().unwrap(), Heard::default());
    listen(&mut reactor, fifo.reader_kept_open().unwrap());
    for word in ["one", "two"] {
        let before = heard.bytes.len();
        Shell::run(&format!("echo {word} > \"$1\""), &path);
        until(&mut reactor, &mut heard, |heard| heard.bytes.len() == before + 4);
        settle(&mut reactor, &mut heard);
    }
    assert_eq!((heard.bytes.as_slice(), heard.ends), (&b"one\ntwo\n"[..], 0));
}

fn before_any_writer() {
    let (_folder, path) = place();
    let fifo = Fifo::create(&path, 0o600).unwrap();
    let mut reader = fifo.reader().unwrap();
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "an end of file");
    let (mut reactor, mut heard) = (Reactor::new().unwrap(), Heard::default());
    listen(&mut reactor, reader);
    settle(&mut reactor, &mut heard);
    assert_eq!(heard.ends, 0, "no event: nobody has hung up");
    // A writer that is held open, in pieces: no end between them.
    let mut python = Command::new("python3");
    python
        .args(["-uc", "import sys\nf = open(sys.argv[1], 'wb', 0)\nfor l in sys.stdin: f.write(l.encode())"]);
    let mut python = Shell(python.arg(&path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    let mut lines = python.0.stdin.take().unwrap();
    for count in 1..=3 {
        lines.write_all(b"line\n").unwrap();
        until(&mut reactor, &mut heard, |heard| heard.bytes.len() == 5 * count);
        assert_eq!(heard.ends, 0);
    }
    drop(lines);
    until(&mut reactor, &mut heard, |heard| heard.ends == 1);
}

fn no_reader() {
    let (_folder, path) = place();
    let fifo = Fifo::create(&path, 0o600).unwrap();
    for error in [fifo.writer().unwrap_err(), PipeWriter::open(&path).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        assert!(error.to_string().contains("reading"), "{error}");
    }
    let mut cat = Shell::start("echo ready; exec cat \"$1\"", &path);
    let mut line = [0; 6];
    cat.0.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    // It opens the FIFO some time after it has reported that.
    let mut writer = loop {
        match fifo.writer() {
            Err(error) if error.kind() == ErrorKind::NotConnected => std::thread::yield_now(),
            writer => break writer.unwrap(),
        }
    };
    writer.write_all(b"hello").unwrap();
    let mut echoed = [0; 5];
    cat.0.stdout.as_mut().unwrap().read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"hello");
    cat.0.kill().unwrap();
    cat.0.wait().unwrap();
    assert_eq!(writer.write(b"anybody?").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(fifo.writer().unwrap_err().kind(), ErrorKind::NotConnected);
}

fn outbox_into_cat() {
    const LENGTH: usize = 3 << 20;
    let (_folder, path) = place();
    let fifo = Fifo::create(&path, 0o600).unwrap();
    // Held by us, so that the writer can open it before cat does.
    let held = fifo.reader().unwrap();
    let (mut reactor, mut state) = (Reactor::<()>::new().unwrap(), ());
    let key = reactor
        .fd_source(Outbox::new(fifo.writer().unwrap(), LENGTH), Interest::WRITABLE)
        .map_err(io::Error::from)
        .unwrap();
    let outbox = reactor.fd_source_mut::<Outbox>(key).unwrap();
    assert_eq!(outbox.send(&vec![b'x'; LENGTH]).unwrap(), Posted::Buffered);
    let cat = Shell::start("exec cat \"$1\" | sha256sum", &path);
    // It ends when nothing waits and we close our end.
    let end = std::time::Instant::now() + PATIENCE;
    while reactor.fd_source_mut::<Outbox>(key).unwrap().unsent() > 0 {
        let _ = reactor.turn(Some(PATIENCE), &mut state).unwrap();
        assert!(std::time::Instant::now() < end);
    }
    assert!(reactor.close(key));
    settle(&mut reactor, &mut state);
    let sum = cat.output();
    drop(held);
    let mut python = Command::new("python3");
    python.args(["-c", "import hashlib; print(hashlib.sha256(b'x' * (3 << 20)).hexdigest(), ' -')"]);
    assert_eq!(sum, String::from_utf8(python.output().unwrap().stdout).unwrap());
}

fn outbox_is_bounded() {
    let (mut reader, writer) = pipe::pair().unwrap();
    let mut outbox = Outbox::new(writer, 1000);
    assert_eq!(outbox.send(&[0; 1001]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(reader.unread().unwrap(), 0, "all or nothing");
    assert_eq!(outbox.send(b"").unwrap(), Posted::Sent);
    let mut sent = 0;
    while outbox.send(&[1; 1000]).unwrap() == Posted::Sent {
        sent += 1000;
    }
    let waits = outbox.unsent();
    assert!((1..=1000).contains(&waits));
    assert_eq!(outbox.send(&[2; 1000]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(outbox.flush().unwrap_err().kind(), ErrorKind::WouldBlock);
    let mut read = 0;
    loop {
        match reader.read(&mut [0; 8192]) {
            Ok(count) => read += count,
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let _ = outbox.flush();
    }
    assert_eq!((read, outbox.unsent()), (sent + 1000, 0));
}

fn outbox_closes() {
    let (reader, writer) = pipe::pair().unwrap();
    let (mut reactor, mut state) = (Reactor::<()>::new().unwrap(), ());
    let key = reactor.fd_source(Outbox::new(writer, 1 << 20), Interest::WRITABLE).unwrap();
    assert_eq!(reactor.fd_source_mut::<Outbox>(key).unwrap().send(&[0; 1 << 19]).unwrap(), Posted::Buffered);
    settle(&mut reactor, &mut state);
    drop(reader);
    settle(&mut reactor, &mut state);
    assert!(reactor.fd_source_mut::<Outbox>(key).is_none());
    assert_eq!(reactor.stats().handler_errors, 1);
}

/// Puts SIGPIPE at its default, as a program has it that does not begin with Rust's main.
fn sigpipe_kills() {
    // SAFETY: SIG_DFL is a valid disposition, and no handler of ours is involved.
    assert_ne!(unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) }, libc::SIG_ERR);
}

fn broken() -> PipeWriter {
    pipe::pair().unwrap().1
}

fn survives() {
    sigpipe_kills();
    let mut writer = broken();
    for _ in 0..3 {
        assert_eq!(writer.write(b"anybody?").unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(Outbox::new(broken(), 10).send(b"?").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
    let bit = 1 << (Signal::PIPE.as_raw() - 1);
    for field in ["SigPnd", "ShdPnd", "SigBlk"] {
        assert_eq!(mask("/proc/thread-self/status", field) & bit, 0, "{field}: all is as it was");
    }
    // Without the guard, the signal does end the process.
    let status = children::spawn(this_binary("pipes::dies").stdout(Stdio::null())).unwrap().wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::PIPE.as_raw()));
}

/// A role: a write that is not guarded.
fn dies() {
    sigpipe_kills();
    let _ = broken().write(b"anybody?");
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let _ = File::from(OwnedFd::from(writer)).write(b"anybody?");
}

fn watched() {
    let signals = Signals::new([Signal::PIPE]).unwrap();
    assert_eq!(broken().write(b"anybody?").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(signals.recv().unwrap().expect("left for us").signal(), Signal::PIPE);
    assert!(signals.recv().unwrap().is_none());
}

fn ends_of_children() {
    let mut command = Command::new("cat");
    let mut cat = Shell(children::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap());
    let mut output = PipeReader::new(cat.0.stdout.take().unwrap()).unwrap();
    let mut input = PipeWriter::new(cat.0.stdin.take().unwrap()).unwrap();
    assert_eq!(output.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    let full = loop {
        if let Err(error) = input.write(&[0; 65536]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
}

/// Four processes write records of PIPE_BUF bytes; the reader finds each of them in one piece.
fn records_in_c() {
    const PROGRAM: &str = r#"
        #include <fcntl.h>
        #include <string.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            char record[4096];
            memset(record, argv[2][0], sizeof record);
            int fd = open(argv[1], O_WRONLY);
            for (int i = 0; i < 200; i++)
                if (write(fd, record, sizeof record) != sizeof record) return 1;
            return fd < 0;
        }"#;
    let (folder, path) = place();
    let program = folder.path().join("writer");
    let mut cc = Command::new("cc")
        .args(["-Wall", "-Werror", "-x", "c", "-", "-o"])
        .arg(&program)
        .stdin(Stdio::piped())
        .spawn()
        .expect("a C compiler");
    cc.stdin.take().unwrap().write_all(PROGRAM.as_bytes()).unwrap();
    assert!(cc.wait().unwrap().success());
    let fifo = Fifo::create(&path, 0o600).unwrap();
    let (mut reactor, mut heard) = (Reactor::new().unwrap(), Heard::default());
    listen(&mut reactor, fifo.reader_kept_open().unwrap());
    let mut writers: Vec<Shell> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|letter| Shell(Command::new(&program).arg(&path).arg(letter).spawn().unwrap()))
        .collect();
    until(&mut reactor, &mut heard, |heard| heard.bytes.len() == 4 * 200 * 4096);
    assert!(writers.iter_mut().all(|writer| writer.0.wait().unwrap().success()));
    let mut counts = HashMap::new();
    for record in heard.bytes.chunks(4096) {
        assert!(record.iter().all(|&byte| byte == record[0]), "torn");
        *counts.entry(record[0]).or_insert(0) += 1;
    }
    assert!(counts.len() == 4 && counts.values().all(|&count| count == 200), "{counts:?}");
}

fn unread() {
    let (mut reader, mut writer) = pipe::pair().unwrap();
    assert_eq!(reader.unread().unwrap(), 0);
    writer.write_all(&[0; 5000]).unwrap();
    assert_eq!(reader.unread().unwrap(), 5000);
    reader.read_exact(&mut [0; 4999]).unwrap();
    assert_eq!(reader.unread().unwrap(), 1);
    writer.flush().unwrap();
}

fn not_inherited() {
    let (_folder, path) = place();
    let list = || {
        let mut command = Command::new("sh");
        let output = command.args(["-c", "ls -l /proc/self/fd"]).stdin(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    let before = list();
    let fifo = Fifo::create(&path, 0o600).unwrap();
    let _open = (pipe::pair().unwrap(), fifo.reader_kept_open().unwrap(), fifo.writer().unwrap());
    let _found = (PipeReader::open(&path).unwrap(), PipeWriter::open(&path).unwrap());
    assert_eq!(list(), before);
}
