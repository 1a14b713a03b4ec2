//! FIFOs: pipes with a path.
//!
//! ```text
//! cargo run --release --example pipes -- read /tmp/lines        # in one terminal: makes the FIFO, and removes it
//! echo hello > /tmp/lines                                       # in another
//! seq 5 | cargo run --release --example pipes -- write /tmp/lines --wait
//! ```
//!
//! The reader prints `hello`, and a line on standard error when its last writer closes; then it waits for the next one.
//! Both end with 0 for success, 1 for a failure (the FIFO has no reader, for instance), 2 for a wrong command line;
//! Ctrl-C ends them in order.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use ipc_reactor::{
    Cause, Context, FdSource, Interest, Key, Posted, Progress, Reactor, Ready, Signal,
    pipe::{Fifo, Outbox, PipeReader, PipeWriter},
};

#[path = "shared/announced.rs"]
mod announced;

use announced::read_announced;

/// Reads a FIFO to standard output, or writes standard input to one.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make the FIFO and print what is written to it, until Ctrl-C
    Read {
        path: PathBuf,
        /// Print nothing when the last writer closes
        #[arg(long)]
        keep_open: bool,
        /// End when the last writer closes
        #[arg(long, conflicts_with = "keep_open")]
        once: bool,
        /// Who may read and write it
        #[arg(long, default_value = "600", value_parser = octal)]
        mode: u32,
    },
    /// Write standard input to a FIFO that has a reader
    Write {
        path: PathBuf,
        /// Wait for a reader if there is none yet
        #[arg(long)]
        wait: bool,
    },
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).map_err(|error| format!("permissions in octal, such as 660: {error}"))
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let ended = match Arguments::parse().command {
        Action::Read { path, keep_open, once, mode } => read(&path, keep_open, once, mode),
        Action::Write { path, wait } => write(&path, wait),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pipes: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How it ended.
type Ended = io::Result<()>;

fn reactor() -> io::Result<Reactor<Ended>> {
    let mut reactor = Reactor::new()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, _| {
        cx.stop();
        Ok(())
    })?;
    Ok(reactor)
}

fn read(path: &Path, keep_open: bool, once: bool, mode: u32) -> Ended {
    let mut reactor = reactor()?;
    let fifo = Fifo::create(path, mode)?;
    let reader = if keep_open { fifo.reader_kept_open()? } else { fifo.reader()? };
    reactor.fd(reader, Interest::READABLE, move |reader: &mut PipeReader, _, cx, ended: &mut Ended| {
        let mut buffer = [0; 16 << 10];
        let count = reader.read(&mut buffer)?;
        let mut stdout = io::stdout();
        if let Err(error) = stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush()) {
            *ended = Err(error);
            cx.stop();
        }
        if count > 0 {
            return Ok(Progress::More);
        }
        eprintln!("pipes: the last writer has left");
        if once {
            cx.stop();
        }
        // The next writer's bytes arrive on the same descriptor.
        Ok(Progress::Drained)
    })?;
    eprintln!("pipes: reading {}", fifo.path().display());
    let mut ended = Ok(());
    reactor.run(&mut ended)?;
    ended
}

/// The FIFO, and the standard input that fills it. It reads input only while none is buffered, so that it needs memory
/// for one piece only.
struct Feed {
    outbox: Outbox,
    stdin: Option<Key>,
    input_ended: bool,
}

impl AsFd for Feed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.outbox.as_fd()
    }
}

impl FdSource<Ended> for Feed {
    fn on_ready(&mut self, ready: Ready, cx: &mut Context<'_, Ended>, _: &mut Ended) -> io::Result<Progress> {
        if ready.is_write_closed() {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "the last reader has left"));
        }
        self.outbox.flush()?;
        if self.input_ended {
            cx.stop();
        } else if let Some(stdin) = self.stdin {
            // If it is ready already, the kernel reports a new event.
            cx.set_interest(stdin, Interest::READABLE)?;
        }
        Ok(Progress::Drained)
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Ended>, ended: &mut Ended) {
        if let Cause::Handler(error) = cause {
            *ended = Err(io::Error::new(error.kind(), error.to_string()));
        }
        cx.stop();
    }
}

/// The most that is read, and buffered, at once.
const PIECE: usize = 64 << 10;

fn write(path: &Path, wait: bool) -> Ended {
    let mut reactor = reactor()?;
    let mut ended = Ok(());
    match PipeWriter::open(path) {
        Ok(writer) => feed(&mut reactor, writer)?,
        Err(error) if wait && is_early(&error) => {
            eprintln!("pipes: waiting for a reader of {}", path.display());
            let path = path.to_owned();
            let mut fed = false;
            reactor.every(Duration::from_millis(100), move |cx, ended: &mut Ended| {
                match PipeWriter::open(&path) {
                    _ if fed => {}
                    Err(error) if is_early(&error) => {}
                    opened => {
                        fed = true;
                        if let Err(error) = opened.and_then(|writer| feed(cx, writer)) {
                            *ended = Err(error);
                            cx.stop();
                        }
                    }
                }
                Ok(())
            });
        }
        Err(error) => return Err(error),
    }
    reactor.run(&mut ended)?;
    ended
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotConnected | ErrorKind::NotFound)
}

fn feed(set: &mut ipc_reactor::PollSet<Ended>, writer: PipeWriter) -> io::Result<()> {
    let outbox = Outbox::new(writer, PIECE);
    let feed = set.fd_source(Feed { outbox, stdin: None, input_ended: false }, Interest::WRITABLE)?;
    let stdin = set.fd(io::stdin(), Interest::READABLE, move |stdin, _, cx, ended: &mut Ended| {
        let Some(feed) = cx.fd_source_mut::<Feed>(feed) else { return Ok(Progress::Drained) };
        if feed.outbox.unsent() > 0 {
            return Ok(Progress::Drained);
        }
        let mut buffer = [0; PIECE];
        let count = read_announced(stdin, &mut buffer)?;
        feed.input_ended = count == 0;
        match feed.outbox.send(&buffer[..count]) {
            Ok(Posted::Sent) if count == 0 => cx.stop(),
            Ok(Posted::Sent) => return Ok(Progress::More),
            Ok(Posted::Buffered) => {}
            Err(error) => {
                *ended = Err(error);
                cx.stop();
            }
        }
        Ok(Progress::Drained)
    });
    match stdin {
        Ok(stdin) => {
            set.fd_source_mut::<Feed>(feed).expect("it has just been put in").stdin = Some(stdin);
            Ok(())
        }
        Err(rejected) if rejected.error.kind() == ErrorKind::PermissionDenied => Err(io::Error::new(
            ErrorKind::Unsupported,
            "standard input is a file, which is always ready; write `cat FILE | …`",
        )),
        Err(rejected) => Err(rejected.error),
    }
}
