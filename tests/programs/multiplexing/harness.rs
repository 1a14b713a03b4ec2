//! Starts the example as a child process, and talks to it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A peer that is silent for this long has failed; far beyond what any answer takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The example's executable, which lies beside this one: `target/PROFILE/examples`. `cargo test` has built it;
/// `cargo test --test programs` has not, so what is missing or old is built here.
pub(crate) fn executable() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let this = std::env::current_exe().unwrap();
        let profile = this.ancestors().nth(2).unwrap();
        let path = profile.join("examples/multiplexing");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/multiplexing");
        let built = path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        if built < newest(&sources) {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--example", "multiplexing", "--target-dir"]).arg(profile.parent().unwrap());
            if profile.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success(), "{build:?}");
        }
        assert!(path.exists(), "{} is missing; run cargo build --example multiplexing", path.display());
        path
    })
}

fn newest(directory: &Path) -> SystemTime {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                newest(&entry.path())
            } else {
                entry.metadata().unwrap().modified().unwrap()
            }
        })
        .max()
        .unwrap()
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

    /// What it has said on standard error.
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

    /// Ends it with `signal`, and insists on an end as it should be.
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

/// Sends `message` and insists on the same in answer.
pub(crate) fn ask(stream: &mut (impl Stream + ?Sized), message: &[u8]) {
    stream.write_all(message).unwrap();
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer == message, "a wrong answer to {} bytes", message.len());
}

/// Bytes that tell where they are, so that a lost or doubled part shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 4).to_le_bytes()[i % 4]).collect()
}

pub(crate) fn unique_abstract() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("abstract:multiplexing-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn set_receive_buffer(stream: &impl AsRawFd, bytes: libc::c_int) {
    let (value, len) = ((&raw const bytes).cast(), size_of_val(&bytes) as libc::socklen_t);
    // SAFETY: `value` and `len` describe `bytes`, which outlives the call.
    let result =
        unsafe { libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, value, len) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Raises the soft limit of descriptors to the hard one, and says whether that is enough. Says loudly when not, and
/// fails where CI should have allowed it.
pub(crate) fn raise_descriptors(wanted: u64) -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid and outlives the call.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    if limit.rlim_max >= wanted {
        return true;
    }
    let lack = format!("{wanted} descriptors are needed, and the hard limit is {}", limit.rlim_max);
    assert!(std::env::var_os("CI").is_none(), "{lack}, and CI is set");
    eprintln!("SKIPPED: {lack}");
    false
}

/// Whether `tool` can be run. Says loudly when not, and fails where CI should have had it.
pub(crate) fn have(tool: &str, version: &str) -> bool {
    let found = Command::new(tool).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{tool} is not installed, and CI is set");
    eprintln!("SKIPPED: {tool} is not installed");
    false
}
