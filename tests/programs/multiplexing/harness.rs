//! Starts the example as a child process, and connects to it.
#![allow(unsafe_code)]

pub(crate) use crate::support::PATIENCE;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub(crate) fn executable() -> PathBuf {
    crate::running::executable("multiplexing")
}

/// A child process, killed when this goes out of scope.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, signal: libc::c_int) {
        // SAFETY: no pointers; the child is not reaped, so the pid is its own.
        assert_eq!(unsafe { libc::kill(self.0.id() as libc::pid_t, signal) }, 0);
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "process {} does not end", self.0.id());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server under test.
pub(crate) struct Server {
    process: Process,
    /// As it announced it: with the port that it got.
    pub(crate) address: String,
    errors: File,
    pub(crate) directory: tempfile::TempDir,
}

impl Server {
    /// On a path of its own.
    pub(crate) fn start(style: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix:{}", directory.path().join("echo").display());
        Self::start_in(directory, &address, Command::new(executable()).args(["serve", style, &address]))
    }

    pub(crate) fn start_on(style: &str, address: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_in(directory, address, Command::new(executable()).args(["serve", style, address]))
    }

    /// With the calls named in `faults` failing as strace's `--inject` says.
    pub(crate) fn start_with_faults(style: &str, faults: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix:{}", directory.path().join("echo").display());
        let mut command = Command::new("strace");
        // strace ends with its child, and hands on the signals that it gets; `-D` makes the server our child.
        command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={faults}")]);
        command.arg(executable()).args(["serve", style, &address]);
        Self::start_in(directory, &address, &mut command)
    }

    fn start_in(directory: tempfile::TempDir, address: &str, command: &mut Command) -> Self {
        let errors = tempfile::tempfile().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone().unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut process = Process(child);
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut server = Self { process, address: address.to_owned(), errors, directory };
        match line.strip_prefix("listening on ") {
            Some(address) => server.address = address.trim_end().to_owned(),
            None => panic!("it does not listen on {address}: {}", server.errors()),
        }
        server
    }

    pub(crate) fn path(&self) -> &Path {
        Path::new(self.address.strip_prefix("unix:").expect("listens on a path"))
    }

    pub(crate) fn connect(&self) -> UnixStream {
        connect_unix(&self.address)
    }

    /// What it has written to standard error.
    pub(crate) fn errors(&self) -> String {
        let mut text = vec![0; 1 << 20];
        let len = self.errors.read_at(&mut text, 0).unwrap();
        String::from_utf8_lossy(&text[..len]).into_owned()
    }

    /// Awaits that it sleeps, and goes on sleeping: a loop that spins is always running.
    pub(crate) fn await_sleep(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut asleep = 0;
        while asleep < 30 {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.0.id())).unwrap();
            // The state follows the name, which is in brackets.
            asleep = if stat.contains(") S ") { asleep + 1 } else { 0 };
            assert!(Instant::now() < deadline, "the server spins");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it with `signal`, and asserts an orderly end.
    pub(crate) fn end(mut self, signal: libc::c_int) {
        self.process.signal(signal);
        let status = self.process.wait();
        assert_eq!(status.code(), Some(0), "after signal {signal}: {status}; {}", self.errors());
        let left: Vec<_> = std::fs::read_dir(self.directory.path()).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    pub(crate) fn kill(mut self) -> tempfile::TempDir {
        self.process.signal(libc::SIGKILL);
        self.process.wait();
        self.directory
    }
}

pub(crate) fn connect_unix(address: &str) -> UnixStream {
    let stream = match address.split_once(':').unwrap() {
        ("unix", path) => UnixStream::connect(path).unwrap(),
        ("abstract", name) => {
            UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap()
        }
        _ => panic!("{address} is not a Unix address"),
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A stream of either family.
pub(crate) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

pub(crate) fn connect_any(address: &str) -> Box<dyn Stream> {
    match address.strip_prefix("tcp:") {
        Some(host) => {
            let stream = TcpStream::connect(host).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            Box::new(stream)
        }
        None => Box::new(connect_unix(address)),
    }
}

/// Sends `message` and asserts that the answer is the same.
pub(crate) fn ask(stream: &mut (impl Stream + ?Sized), message: &[u8]) {
    stream.write_all(message).unwrap();
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer == message, "a wrong answer to {} bytes", message.len());
}

/// Bytes that depend on their position, so that a lost or repeated part shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 4).to_le_bytes()[i % 4]).collect()
}

pub(crate) fn unique_abstract() -> String {
    format!("abstract:{}", crate::support::names::unique())
}

pub(crate) fn set_receive_buffer(stream: &impl AsRawFd, bytes: libc::c_int) {
    let (value, len) = ((&raw const bytes).cast(), size_of_val(&bytes) as libc::socklen_t);
    // SAFETY: `value` and `len` describe `bytes`, which outlives the call.
    let result =
        unsafe { libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, value, len) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

pub(crate) use crate::support::have;
