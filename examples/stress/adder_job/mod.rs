//! The main job: an adder, in a child process or elsewhere, loaded by many clients that check every answer.
//!
//! The loop is closed: a client sends its next request when it has its answer. A request is a series of random numbers
//! and the 0 that ends it; the client knows the sum. All clients are in one thread, on this crate's own reactor.

use std::time::Duration;

use clap::value_parser;
use ipc_reactor::Address;

mod load;
mod report;
pub(crate) mod service;

use load::{End, Plan};
use report::Report;
use service::Service;

use crate::options::{JsonOption, Refusal, make_room};

#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Arguments {
    /// A running server: unix:/path, unix-seq:/path, abstract:name, abstract-seq:name or tcp:host:port
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    connect: Option<Address>,
    /// Number of clients, all connected at once
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = value_parser!(u32).range(1..))]
    clients: u32,
    /// How long to send requests
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = value_parser!(u64).range(1..))]
    seconds: u64,
    /// How many requests to send, over all clients, instead of --duration
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Numbers in each request
    #[arg(long, value_name = "NUMBERS", default_value_t = 8, value_parser = value_parser!(u32).range(1..=1_000_000))]
    size: u32,
    /// Timeout for an answer, and for a connection
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = value_parser!(u64).range(1..))]
    timeout: u64,
    /// Seed of the random numbers: the same seed gives the same series
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    json: JsonOption,
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

/// Runs the whole job; returns 0 if every check passed.
pub(crate) fn run(arguments: &Arguments) -> Result<u8, Refusal> {
    let mut json = arguments.json.open()?;
    make_room(arguments.clients)?;
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
    json.say(&report.to_string())?;
    json.write(&report.json())?;
    Ok(if report.is_good() { 0 } else { 1 })
}
