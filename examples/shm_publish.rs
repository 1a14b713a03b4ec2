//! Publishes lines of text in shared memory.
//!
//! ```text
//! cargo run --release --example shm_publish -- unix:/tmp/rates      # each line of standard input is a value
//! cargo run --release --example shm_publish -- --name /shm_1 'Hello World'      # for C programs, by name
//! ```
//!
//! The other end is `shm_subscribe`.

use std::{
    ffi::CString,
    io::{self, BufRead},
    process::ExitCode,
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use clap::Parser;
use ipc_reactor::{
    Address, Context, Limits, Listener, Peer, Queue, Reactor, Remote, Signal, SubscriberSession,
    shm::{NamedText, Publisher, QueueNotifier, SharedObject, SocketNotifier},
};

/// Publishes each line of standard input in shared memory, to any number of subscribers; or a text by name.
///
/// At ADDRESS, a master socket sends each subscriber a ticket: descriptors of the memory, and of a doorbell. Publishing
/// never waits for a subscriber. Ends in order with its input, and on Ctrl-C or SIGTERM.
///
/// Exit codes: 0 everything was published; 1 something failed; 2 wrong arguments.
#[derive(Parser)]
#[command(
    override_usage = "shm_publish ADDRESS [OPTIONS]\n       shm_publish --name NAME TEXT\n       shm_publish --name NAME --unlink"
)]
struct Arguments {
    /// unix:/path, unix-seq:/path, abstract:name or abstract-seq:name; with --name, the TEXT itself
    #[arg(value_name = "ADDRESS|TEXT", required_unless_present = "unlink")]
    what: Option<String>,
    /// Write TEXT and its NUL into the shared memory object NAME, as C programs do, and end; the object remains
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Remove the object NAME
    #[arg(long, requires = "name", conflicts_with = "what")]
    unlink: bool,
    /// How many values a subscriber may be behind before it loses one
    #[arg(long, value_name = "VALUES", default_value_t = 63, conflicts_with = "name")]
    capacity: usize,
    /// The longest line, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4096, conflicts_with = "name")]
    size: usize,
    /// How subscribers are notified of a new value: doorbell, socket, or mq:/NAME (for one subscriber, which created
    /// that queue)
    #[arg(long, value_name = "WAY", default_value = "doorbell", conflicts_with = "name")]
    notify: Notification,
    /// Do not end with standard input, so that the last value can still be read
    #[arg(long, conflicts_with = "name")]
    keep: bool,
}

#[derive(Clone)]
enum Notification {
    Doorbell,
    Socket,
    Queue(String),
}

impl std::str::FromStr for Notification {
    type Err = String;

    fn from_str(text: &str) -> Result<Notification, String> {
        match text {
            "doorbell" => Ok(Notification::Doorbell),
            "socket" => Ok(Notification::Socket),
            _ => match text.parse() {
                Ok(Address::Queue(name)) => Ok(Notification::Queue(name)),
                _ => Err("doorbell, socket or mq:/NAME is wanted".into()),
            },
        }
    }
}

struct Service {
    publisher: Publisher,
    /// Called by the thread that reads standard input.
    lines: Receiver<io::Result<Vec<u8>>>,
    refused: u64,
}

type Hand = fn(&mut Service) -> &mut Publisher;

/// Decides whether a peer may subscribe; this service accepts every peer that can connect to its socket.
fn subscriber(peer: &Peer<'_>, notify: &Notification) -> io::Result<SubscriberSession<Hand>> {
    let session = SubscriberSession::new((|service| &mut service.publisher) as Hand);
    eprintln!("shm_publish: a subscriber: {peer}");
    Ok(match notify {
        Notification::Doorbell => session,
        Notification::Socket => session.via(SocketNotifier::new(peer)?),
        Notification::Queue(name) => {
            let queue = Queue::options().read(false).write(true).trusted_owner(0).open(name)?;
            session.via(QueueNotifier::new(queue, 0)?)
        }
    })
}

fn serve(address: &Address, arguments: Arguments) -> io::Result<()> {
    let mut reactor = Reactor::<Service>::builder().limits(Limits::default()).build()?;
    // Before any thread starts, so that these signals are blocked in all threads.
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, _| cx.drain(Duration::from_secs(1)))?;
    let listener = Listener::bind(address)?;
    if listener.transport().is_tcp() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "memory is shared within a machine; use unix:PATH",
        ));
    }
    let at = listener.local_address()?;
    let notify = arguments.notify;
    reactor.listen(listener, SubscriberSession::framing(), move |peer, _| subscriber(peer, &notify))?;
    let (to, lines) = mpsc::sync_channel(1024);
    let publisher = Publisher::every(arguments.size, arguments.capacity)?;
    let mut service = Service { publisher, lines, refused: 0 };
    eprintln!("shm_publish: publishing at {at}");
    println!("ready");
    let (remote, keep) = (reactor.remote(), arguments.keep);
    thread::spawn(move || read_lines(&remote, &to, keep));
    reactor.run(&mut service)?;
    eprintln!("shm_publish: {} values published", service.publisher.published());
    if service.refused > 0 {
        return Err(io::Error::other(format!("{} lines could not be published", service.refused)));
    }
    Ok(())
}

/// Standard input may be a file, which epoll does not support, so a thread reads it, few lines ahead of the reactor.
fn read_lines(remote: &Remote<Service>, to: &mpsc::SyncSender<io::Result<Vec<u8>>>, keep: bool) {
    for line in io::stdin().lock().split(b'\n') {
        // Each job passes one line to the reactor; it fails if the reactor was dropped.
        if to.send(line).is_err() || remote.run(publish).is_err() {
            return;
        }
    }
    if !keep {
        let _ = remote.run(|cx, _| cx.drain(Duration::from_secs(1)).unwrap_or_default());
    }
}

fn publish(_: &mut Context<'_, Service>, service: &mut Service) {
    let Ok(line) = service.lines.try_recv() else { return };
    if let Err(error) = line.and_then(|line| service.publisher.publish(&line)) {
        service.refused += 1;
        eprintln!("shm_publish: {error}");
    }
}

/// What `shm_open`, `ftruncate`, `mmap` and `sprintf` do in C.
fn by_name(name: &str, arguments: &Arguments) -> io::Result<()> {
    if arguments.unlink {
        return SharedObject::unlink(name);
    }
    let text = CString::new(arguments.what.clone().unwrap_or_default())?;
    NamedText::new(name).write(&text)?;
    let len = text.as_bytes_with_nul().len();
    eprintln!("shm_publish: {len} bytes in {name}, to stay there; --unlink removes it");
    Ok(())
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = Arguments::parse();
    let done = match (&arguments.name, &arguments.what) {
        (Some(name), _) => by_name(name, &arguments),
        (None, what) => match what.as_deref().unwrap_or_default().parse() {
            Ok(address) => serve(&address, arguments),
            Err(error) => {
                eprintln!("shm_publish: {error}");
                return ExitCode::from(2);
            }
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shm_publish: {error}");
            ExitCode::FAILURE
        }
    }
}
