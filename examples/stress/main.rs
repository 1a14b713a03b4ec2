//! Loads an adder with many clients, and checks every single answer.
//!
//! ```text
//! cargo run --release --example stress                                  # its own server, 1,000 clients, 10 s
//! cargo run --release --example stress -- --clients 10000 --requests 1000000 --json result.json
//! cargo run --release --example stress -- --connect tcp:127.0.0.1:4000  # a server that runs already
//! ```
//!
//! The loop is closed: a client sends its next request when it has its answer. A request is a series of random numbers and the 0
//! that ends it; the client knows the sum. All clients live in one thread, on this crate's own reactor.
//!
//! Exit codes: 0 all answers came and were right; 1 an answer was wrong or missing; 2 usage; 3 the run could not be
//! carried out.

use std::{
    fs::File,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand, value_parser};
use ipc_reactor::Address;

#[path = "../shared/adder.rs"]
mod adder;
#[path = "../shared/connect.rs"]
mod connect;
mod descriptors;
mod load;
mod report;
mod service;

use load::{End, Plan};
use report::Report;
use service::Service;

/// Loads an adder with many clients, and checks every answer.
///
/// Without --connect it starts a server of its own, on a Unix socket and a message queue that are gone when it ends. Ctrl-C ends the run
/// early, with a full report; a second one does not wait for answers.
///
/// Exit codes: 0 all answers right, 1 an answer wrong or missing, 2 usage, 3 the run could not be carried out.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// A server that runs already: unix:/path, unix-seq:/path, abstract:name, abstract-seq:name or tcp:host:port
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    connect: Option<Address>,
    /// Clients, all connected at once
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = value_parser!(u32).range(1..))]
    clients: u32,
    /// How long to send requests
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = value_parser!(u64).range(1..))]
    seconds: u64,
    /// How many requests to send, of all clients together, instead
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Numbers in each request
    #[arg(long, value_name = "NUMBERS", default_value_t = 8, value_parser = value_parser!(u32).range(1..=1_000_000))]
    size: u32,
    /// How long an answer may take, and a connection
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = value_parser!(u64).range(1..))]
    timeout: u64,
    /// Begins the random numbers: the same seed, the same series
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The report as JSON, to a file or (-, the default) to standard output, with the text on standard error then
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// The built-in server: what this program starts in a child.
    #[command(hide = true)]
    Serve(service::Arguments),
}

fn address(text: &str) -> Result<Address, String> {
    match text.parse() {
        Ok(Address::UnixDatagram(_) | Address::AbstractDatagram(_) | Address::Udp(_) | Address::Queue(_)) => {
            Err("clients want connections: unix:PATH, unix-seq:PATH, abstract:NAME, abstract-seq:NAME, \
                 tcp:HOST:PORT"
                .into())
        }
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Serve(arguments)) => service::serve(arguments).map(|()| true),
        None => stress(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("stress: {error}");
            ExitCode::from(3)
        }
    }
}

/// The whole run; whether all was as it should be.
fn stress(arguments: &Arguments) -> io::Result<bool> {
    // Opened first: a run whose report cannot be written is not worth its time.
    let mut json = json_output(arguments)?;
    if let Some(raised) = descriptors::raise_for(arguments.clients)? {
        eprintln!("stress: {raised}");
    }
    let service = match arguments.connect {
        Some(_) => None,
        None => Some(Service::start(arguments.clients)?),
    };
    let plan = Plan {
        address: match (&arguments.connect, &service) {
            (Some(address), _) => address.clone(),
            (None, Some(service)) => service.address(),
            (None, None) => unreachable!("one of the two is there"),
        },
        queue: service.as_ref().map(|service| service.queue().to_owned()),
        clients: arguments.clients,
        end: match arguments.requests {
            Some(requests) => End::Requests(requests),
            None => End::After(Duration::from_secs(arguments.seconds)),
        },
        size: arguments.size,
        timeout: Duration::from_secs(arguments.timeout),
        seed: arguments.seed,
    };
    let tally = load::run(&plan)?;
    let server = service.map(Service::finish);
    let report = Report::new(&plan, &tally, server);
    let text_to_stdout = arguments.json.as_ref().is_none_or(|file| file.as_os_str() != "-");
    let printed = match text_to_stdout {
        true => write!(io::stdout(), "{report}"),
        false => write!(io::stderr(), "{report}"),
    };
    if let Some(json) = &mut json {
        writeln!(json, "{:#}", report.json())?;
    }
    printed?;
    Ok(report.is_good())
}

fn json_output(arguments: &Arguments) -> io::Result<Option<Box<dyn Write>>> {
    let Some(file) = &arguments.json else { return Ok(None) };
    if file.as_os_str() == "-" {
        return Ok(Some(Box::new(io::stdout())));
    }
    let file = File::create(file).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write the report to {}: {error}", file.display()))
    })?;
    Ok(Some(Box::new(file)))
}
