//! The server, its clients, and the tracer that makes the server's system calls fail.

use crate::support::PATIENCE;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipc_reactor::{
    Context, Framing, HalfClose, Limit, Limits, Listener, Reactor, Session, WhenFull, children,
};

use crate::support::isolated;

pub(crate) const RETRY: Duration = Duration::from_millis(20);
/// Longer than any test: only a client that leaves ends a pause.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);

/// Sends back each line; `large N` gets N bytes.
struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, line: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        match line.strip_prefix(b"large ") {
            Some(bytes) => cx.reply(&vec![b'x'; std::str::from_utf8(bytes).unwrap().parse().unwrap()]),
            None => cx.reply_frame(line),
        }
    }
}

/// Answers each line with the reactor's numbers; its end is the server's.
struct Control;

impl Session<()> for Control {
    fn on_open(&mut self, cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(b"ready\n")
    }

    fn on_request(&mut self, _: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        let stats = cx.stats();
        let numbers = [stats.turns, stats.accepted, stats.refused, stats.limit_count(Limit::Descriptors)];
        cx.reply_frame(numbers.map(|number| number.to_string()).join(" ").as_bytes())
    }

    fn on_half_close(&mut self, cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<HalfClose> {
        cx.stop();
        Ok(HalfClose::Close)
    }
}

struct StandardError;

impl log::Log for StandardError {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("{}", record.args());
    }

    fn flush(&self) {}
}

pub(crate) fn serve() {
    // Where ptrace(2) is restricted to descendants: strace is a sibling.
    // SAFETY: passes numbers only; a kernel without the restriction refuses the call, which is as good.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
    log::set_logger(&StandardError).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let variable = |name| std::env::var(name).unwrap();
    let limits = Limits {
        accept_retry: Duration::from_millis(variable("SERVER_RETRY_MS").parse().unwrap()),
        when_full: if variable("SERVER_SHEDS") == "true" { WhenFull::Shed } else { WhenFull::Wait },
        ..Limits::default()
    };
    let mut reactor = Reactor::<()>::builder().limits(limits).build().unwrap();
    let control: OwnedFd = io::stdin().as_fd().try_clone_to_owned().unwrap();
    reactor.adopt(control, Framing::lines(), Control).unwrap();
    let listener = Listener::unix(variable("SERVER_PATH")).unwrap();
    reactor
        .listen(listener, Framing::lines(), |peer, ()| {
            peer.credentials()?;
            Ok(Echo)
        })
        .unwrap();
    reactor.run(&mut ()).unwrap();
}

pub(crate) struct Server {
    child: Child,
    control: BufReader<UnixStream>,
    folder: tempfile::TempDir,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) turns: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) descriptors: u64,
}

impl Server {
    pub(crate) fn start(retry: Duration, when_full: WhenFull) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let (control, theirs) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = children::spawn(
            isolated::this_binary("accept_faults::server")
                .env("SERVER_PATH", folder.path().join("socket"))
                .env("SERVER_RETRY_MS", retry.as_millis().to_string())
                .env("SERVER_SHEDS", (when_full == WhenFull::Shed).to_string())
                .stdin(OwnedFd::from(theirs))
                .stderr(File::create(folder.path().join("log")).unwrap()),
        )
        .unwrap();
        let mut server = Server { child, control: BufReader::new(control), folder };
        assert_eq!(server.control_line(), "ready");
        server
    }

    fn control_line(&mut self) -> String {
        let mut line = String::new();
        if let Err(error) = self.control.read_line(&mut line) {
            panic!("the server does not answer: {error}\n{}", self.log());
        }
        line.trim_end().to_owned()
    }

    pub(crate) fn numbers(&mut self) -> Numbers {
        self.control.get_mut().write_all(b"\n").unwrap();
        let line = self.control_line();
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let &[turns, accepted, refused, descriptors] = &numbers[..] else { panic!("numbers: {line:?}") };
        Numbers { turns, accepted, refused, descriptors }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(file)
    }

    /// Leaves the server `room` descriptors, or a few more if there are gaps among those it has; returns how many.
    pub(crate) fn leave_descriptors(&self, room: usize) -> usize {
        let open: Vec<usize> = fs::read_dir(self.proc("fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        let limit = open.iter().max().unwrap() + 1 + room;
        self.limit_descriptors(limit);
        limit - open.len()
    }

    pub(crate) fn limit_descriptors(&self, soft: usize) {
        let arguments = ["--pid", &self.child.id().to_string(), &format!("--nofile={soft}:")];
        let status = Command::new("prlimit").args(arguments).status().unwrap();
        assert!(status.success());
    }

    /// Processor time used so far (`proc(5)`, `stat`).
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // SAFETY: takes and returns a number.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        Duration::from_millis(ticks * 1_000 / per_second as u64)
    }

    /// Measures for a second in which the server has no work.
    pub(crate) fn assert_idle(&mut self, retry: Duration) {
        let (before, cpu, start) = (self.numbers(), self.cpu(), Instant::now());
        sleep(Duration::from_secs(1));
        let (cpu, elapsed) = (self.cpu() - cpu, start.elapsed());
        let turns = self.numbers().turns - before.turns;
        assert!(cpu * 5 < elapsed, "{cpu:?} of processor time in {elapsed:?}");
        let retries = (start.elapsed().as_millis() / retry.as_millis()) as u64;
        assert!(turns <= 3 * retries + 10, "{turns} turns for {retries} retries");
    }

    pub(crate) fn until(&mut self, reached: impl Fn(Numbers) -> bool) -> Numbers {
        let start = Instant::now();
        loop {
            let numbers = self.numbers();
            if reached(numbers) {
                return numbers;
            }
            assert!(start.elapsed() < PATIENCE, "{numbers:?}\n{}", self.log());
            sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Client(pub(crate) UnixStream);

impl Client {
    /// The server may have dropped this client by now: who waits for the answer sees that.
    pub(crate) fn ask(&mut self) {
        match self.0.write_all(b"hello\n") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent.unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn is_answered(&mut self) {
        let mut reply = [0; 6];
        self.0.read_exact(&mut reply).expect("a stranded client");
        assert_eq!(&reply, b"hello\n");
    }

    #[track_caller]
    pub(crate) fn is_served(&mut self) {
        self.ask();
        self.is_answered();
    }

    pub(crate) fn is_dropped(&mut self) -> bool {
        match self.0.read(&mut [0; 16]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// A number of clients that have connected and asked.
pub(crate) fn askers(server: &Server, count: usize) -> Vec<Client> {
    let ask = |_| {
        let mut client = server.connect();
        client.ask();
        client
    };
    (0..count).map(ask).collect()
}

/// `strace`, attached to a server; detached at the latest when dropped.
pub(crate) struct Tracer {
    child: Child,
    _stderr: BufReader<ChildStderr>,
    trace: PathBuf,
}

impl Tracer {
    /// `calls` and `fault` are as in strace's `inject=CALLS:FAULT`, calls counted from here on.
    pub(crate) fn attach(server: &Server, calls: &str, fault: &str) -> Tracer {
        let trace = server.folder.path().join("trace");
        let mut child = children::spawn(
            Command::new("strace")
                .args(["-f", "-p", &server.child.id().to_string(), "-o"])
                .arg(&trace)
                .args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{fault}")])
                .stdin(Stdio::null())
                .stderr(Stdio::piped()),
        )
        .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let tracer = Tracer { child, _stderr: stderr, trace };
        assert!(line.contains("attached"), "strace: {line}");
        tracer
    }

    /// Ends the faults; returns how many calls they made fail.
    pub(crate) fn detach(mut self) -> usize {
        self.end();
        let trace = fs::read_to_string(&self.trace).unwrap();
        trace.lines().filter(|line| line.contains("(INJECTED)")).count()
    }

    fn end(&mut self) {
        // Not SIGKILL: strace detaches from the server in order.
        // SAFETY: the child has not been waited for, so the number is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.end();
        }
    }
}
