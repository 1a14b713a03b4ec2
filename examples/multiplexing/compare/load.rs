//! The clients: idle ones, which are only connected, and active ones, which send again after each answer.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::signals::asked_to_end;

const MESSAGE: [u8; 64] = [0x5a; 64];
/// How many connections may wait to be accepted at once: well below a listening socket's usual backlog.
const CONNECTS_AT_ONCE: usize = 256;
/// If no client gets an answer for this long, the measurement fails.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest wait between two checks for Ctrl-C.
const NAP: Duration = Duration::from_millis(100);

/// Why a measurement was not made.
pub(super) enum Halt {
    Interrupted,
    /// This style cannot serve these clients, and why.
    Impossible(String),
    Failed(io::Error),
}

impl Halt {
    /// Adds the server's own message about a client that it refused.
    pub(super) fn because(self, reason: Option<String>) -> Self {
        match (self, reason) {
            (Self::Impossible(what), Some(reason)) => Self::Impossible(format!("{what}: {reason}")),
            (halt, _) => halt,
        }
    }
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Connected clients that send nothing more.
pub(super) struct Idle {
    _clients: Vec<UnixStream>,
}

impl Idle {
    pub(super) fn connect(name: &str, count: usize) -> Result<Self, Halt> {
        Ok(Self { _clients: connect(name, count)? })
    }
}

/// Connects, and has one message answered on each connection: only that shows that the server accepted it.
fn connect(name: &str, count: usize) -> Result<Vec<UnixStream>, Halt> {
    let address = SocketAddr::from_abstract_name(name)?;
    let mut clients: Vec<UnixStream> = Vec::with_capacity(count);
    while clients.len() < count {
        if asked_to_end() {
            return Err(Halt::Interrupted);
        }
        let first = clients.len();
        for _ in first..count.min(first + CONNECTS_AT_ONCE) {
            let mut client = UnixStream::connect_addr(&address)?;
            client.set_read_timeout(Some(PATIENCE))?;
            // A refused client's error shows when its answer is read.
            let _ = client.write(&MESSAGE);
            clients.push(client);
        }
        for (i, client) in clients.iter_mut().enumerate().skip(first) {
            match client.read_exact(&mut [0; MESSAGE.len()]) {
                Ok(()) => {}
                Err(error) if is_refusal(&error) => {
                    return Err(Halt::Impossible(format!("it refused client {} of {count}", i + 1)));
                }
                Err(_) if asked_to_end() => return Err(Halt::Interrupted),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(clients)
}

fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Clients that each have one message under way, always.
pub(super) struct Load {
    poll: Poll,
    events: Events,
    clients: Vec<Pinger>,
}

struct Pinger {
    stream: UnixStream,
    asked_at: Instant,
    received: usize,
}

/// The result of one run.
pub(super) struct Run {
    pub(super) messages: u64,
    pub(super) elapsed: Duration,
    pub(super) latency_ns: Histogram<u64>,
}

impl Load {
    pub(super) fn connect(name: &str, count: usize) -> Result<Self, Halt> {
        let poll = Poll::new()?;
        let mut clients = Vec::new();
        for (i, stream) in connect(name, count)?.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), Token(i), Interest::READABLE)?;
            clients.push(Pinger { stream, asked_at: Instant::now(), received: 0 });
        }
        Ok(Self { poll, events: Events::with_capacity(256), clients })
    }

    /// Has every client send requests for `duration`, then waits for the last answers.
    pub(super) fn run(&mut self, duration: Duration) -> Result<Run, Halt> {
        let mut latency_ns = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        let start = Instant::now();
        let end = self.ask_and_wait(|latency, now| {
            latency_ns.saturating_record(latency.as_nanos() as u64);
            now - start < duration
        })?;
        Ok(Run { messages: latency_ns.len(), elapsed: end - start, latency_ns })
    }

    /// Has every client send once, waits for all answers, pauses, and repeats. Returns the number of messages.
    pub(super) fn run_in_bursts(&mut self, bursts: u32, pause: Duration) -> Result<u64, Halt> {
        let mut messages = 0;
        for _ in 0..bursts {
            self.ask_and_wait(|_, _| {
                messages += 1;
                false
            })?;
            std::thread::sleep(pause);
        }
        Ok(messages)
    }

    /// `answered` gets each answer's latency and the time now, and returns whether that client sends again.
    /// Returns the time of the last answer.
    fn ask_and_wait(&mut self, mut answered: impl FnMut(Duration, Instant) -> bool) -> Result<Instant, Halt> {
        let mut last_answer = Instant::now();
        for client in &mut self.clients {
            client.ask()?;
        }
        let mut under_way = self.clients.len();
        while under_way > 0 {
            if asked_to_end() {
                return Err(Halt::Interrupted);
            }
            if last_answer.elapsed() > PATIENCE {
                return Err(
                    io::Error::new(io::ErrorKind::TimedOut, "the server has stopped answering").into()
                );
            }
            match self.poll.poll(&mut self.events, Some(NAP)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &self.events {
                let client = &mut self.clients[event.token().0];
                if !client.receive()? {
                    continue;
                }
                last_answer = Instant::now();
                if answered(last_answer - client.asked_at, last_answer) {
                    client.ask()?;
                } else {
                    under_way -= 1;
                }
            }
        }
        Ok(last_answer)
    }
}

impl Pinger {
    fn ask(&mut self) -> io::Result<()> {
        self.asked_at = Instant::now();
        self.received = 0;
        // The socket's send buffer is empty, so 64 bytes always fit.
        self.stream.write_all(&MESSAGE)
    }

    /// Whether the answer is complete.
    fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; MESSAGE.len()];
        loop {
            match self.stream.read(&mut buffer[self.received..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.received += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // One message is outstanding, so no byte follows its last one.
            if self.received == MESSAGE.len() {
                return Ok(true);
            }
        }
    }
}
