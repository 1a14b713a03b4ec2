//! The adder of every course on sockets, on any number of addresses at once, with a message queue and signals in the
//! same poll set.
//!
//! ```text
//! cargo run --release --example server                      # unix:/tmp/DemoSocket
//! cargo run --release --example server -- unix:/tmp/a unix-seq:/tmp/b abstract:adder tcp:127.0.0.1:4000 mq:/adder
//! ```
//!
//! Clients send `i32`s in the machine's byte order; a 0 ends the series and is answered with `Result = N`, the plain
//! text with no NUL and no line feed after it: a client in C that zeroes its buffer prints exactly that, and so do
//! socat and Python. Then the sum is 0 again, for the next series.
//!
//! Standard output has one JSON object a line, for programs: `{"event":"ready",…}` once it listens,
//! `{"event":"totals",…}` on SIGUSR1 and at the end. Text for users goes to standard error.
//!
//! It can show what the reactor does (`--explain`, `--trace`, `--timeline`), and has a flight recorder:
//! `docs/explain.md` describes the output.

use std::{fmt::Display, io, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use ipc_reactor::{Address, Key, Limits, Listener, Reactor, Signal, SignalInfo, SourceKind};
use log::LevelFilter;
use serde_json::json;

#[path = "../shared/adder.rs"]
mod adder;
mod explain;
#[path = "../shared/how_to.rs"]
mod how_to;
#[path = "../shared/limits_file.rs"]
mod limits_file;
mod names;
mod picture;
mod timeline;
mod trace;
mod watch;

use adder::{Adder, OwnQueue, Totals};

/// Adder service: sums the i32s that each client sends, and answers `Result = N` to a 0.
///
/// SIGUSR1 prints the totals, SIGUSR2 dumps the flight recorder and draws the timeline, SIGHUP reads the limits file
/// again, SIGTERM and Ctrl-C drain (a second one stops at once).
#[derive(Parser)]
struct Arguments {
    /// unix:/path, unix-seq:/path, abstract:name, abstract-seq:name, tcp:host:port (port 0: any), or mq:/name
    #[arg(value_parser = address, default_value = "unix:/tmp/DemoSocket", value_name = "ADDRESS")]
    addresses: Vec<Address>,
    /// Limits, as `name = value` lines; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    limits: Option<PathBuf>,
    /// How long a drain may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    drain: u64,
    /// More log: -v each CIR, -vv each SRM (RUST_LOG allows finer filters)
    #[arg(short, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(flatten)]
    watch: watch::Options,
}

fn address(text: &str) -> Result<Address, String> {
    match text.parse() {
        Ok(Address::UnixDatagram(_) | Address::AbstractDatagram(_) | Address::Udp(_)) => {
            Err("an adder has connections, or a queue: unix:PATH, unix-seq:PATH, abstract:NAME, abstract-seq:NAME, \
                 tcp:HOST:PORT, mq:/NAME"
                .into())
        }
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level =
        [LevelFilter::Warn, LevelFilter::Debug, LevelFilter::Trace][arguments.verbose.min(2) as usize];
    env_logger::Builder::new().filter_level(level).parse_default_env().init();
    let limits = match arguments.limits.as_deref().map(limits_file::read).transpose() {
        Ok(limits) => limits.unwrap_or_default(),
        Err(why) => {
            say(why);
            return ExitCode::from(2);
        }
    };
    match serve(&arguments, limits) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(error);
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments, limits: Limits) -> io::Result<()> {
    let mut reactor = Reactor::<Totals>::builder().limits(limits).build()?;
    // Before anything else: from here on a signal ends the process only after its paths and queues are removed.
    let mut sources = signals(&mut reactor, arguments)?;
    let mut queues = Vec::new();
    let mut served = Vec::new();
    for address in &arguments.addresses {
        let (address, source, queue) = open(&mut reactor, address)?;
        queues.extend(queue);
        sources.push(source);
        served.push(address);
    }
    arguments.watch.start(&mut reactor, &sources)?;
    for address in &served {
        say(format_args!("{address} is open; talk to it with\n  {}", how_to::lines(address).join("\n  ")));
    }
    let names: Vec<String> = served.iter().map(Address::to_string).collect();
    adder::tell(&json!({ "event": "ready", "addresses": names, "pid": std::process::id() }));

    let mut totals = Totals::default();
    reactor.run(&mut totals)?;
    say(format_args!("ended; {}", reactor.stats()));
    adder::tell(&adder::report(&totals, reactor.stats()));
    watch::end(&mut reactor)
}

/// Prints a message for users in one write, because standard error is unbuffered.
fn say(what: impl Display) {
    let line = format!("server: {what}\n");
    eprint!("{line}");
}

/// A source that exists from the start.
type Source = (Key, SourceKind);

/// Puts one address into the poll set. Returns the address that was bound, and the queue that was created for it.
fn open(reactor: &mut Reactor<Totals>, address: &Address) -> io::Result<(Address, Source, Option<OwnQueue>)> {
    if let Address::Queue(name) = address {
        let (queue, own) = adder::open_queue(name)?;
        let key = reactor.queue(queue, adder::on_message)?;
        return Ok((address.clone(), (key, SourceKind::Queue), own));
    }
    let listener = Listener::bind(address)?;
    let bound = listener.local_address()?;
    let key = reactor.listen(listener, adder::framing(), |_peer, _totals| Ok(Adder::default()))?;
    Ok((bound, (key, SourceKind::Listener), None))
}

fn signals(reactor: &mut Reactor<Totals>, arguments: &Arguments) -> io::Result<Vec<Source>> {
    let mut keys = Vec::new();
    keys.push(reactor.signals([Signal::USR1], |_, cx, totals| {
        say(cx.stats());
        adder::tell(&adder::report(totals, cx.stats()));
        Ok(())
    })?);
    keys.push(reactor.signals([Signal::USR2], |_, cx, _| watch::show(cx))?);

    let mut ends = vec![Signal::INT, Signal::TERM];
    match arguments.limits.clone() {
        Some(file) => {
            keys.push(reactor.signals([Signal::HUP], move |_, cx, _| {
                match limits_file::read(&file) {
                    Ok(limits) => {
                        cx.set_limits(limits);
                        say(format_args!("the limits in {} are in force", file.display()));
                    }
                    Err(why) => say(format_args!("{why}; the old limits stay")),
                }
                Ok(())
            })?);
        }
        // With no file to read, SIGHUP has its usual meaning: the terminal has hung up.
        None => ends.push(Signal::HUP),
    }

    let within = Duration::from_secs(arguments.drain);
    let mut draining = false;
    keys.push(reactor.signals(ends, move |info: SignalInfo, cx, _| {
        if std::mem::replace(&mut draining, true) {
            cx.stop();
            return Ok(());
        }
        say(format_args!(
            "{}: draining, {} s at most; once more to stop at once",
            info.signal(),
            within.as_secs()
        ));
        cx.drain(within)
    })?);
    Ok(keys.into_iter().map(|key| (key, SourceKind::Signals)).collect())
}
