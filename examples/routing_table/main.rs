//! A routing-table manager, which uses all mechanisms together: the classic project of the courses on them.
//!
//! ```text
//! cargo run --example routing_table -- demo                                          # all of it, in one terminal
//!
//! cargo run --example routing_table -- manager unix:/tmp/routes --queue mq:/routes   # and type: help
//! cargo run --example routing_table -- subscriber unix:/tmp/routes                   # any number of them
//! cargo run --example routing_table -- logger mq:/routes
//! cargo run --example routing_table -- command unix:/tmp/routes "CREATE 10.0.0.0/8 10.1.1.1 eth0"
//! ```
//!
//! | what | travels by |
//! |---|---|
//! | routes, first the table and then its changes; commands and their answers | Unix socket ([`protocol`]) |
//! | MAC addresses | shared memory ([`macs`]), with a doorbell; passed as descriptors ([`handover`]) |
//! | the log, with priorities | POSIX message queue ([`journal`]) |
//! | "flush both tables" | SIGUSR1 |
//! | "end in order" | SIGINT, SIGTERM |

use std::{io, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use ipc_reactor::Address;

mod command;
#[path = "../shared/connect.rs"]
mod connect;
mod console;
mod demo;
mod handover;
mod journal;
mod logger;
mod macs;
mod manager;
mod protocol;
mod subscriber;
mod table;

/// A routing-table manager, its subscribers and its logger.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Keeps the tables: takes commands on standard input and over the socket. SIGUSR1 flushes both tables; SIGTERM and Ctrl-C
    /// end it in order
    Manager {
        /// Where to listen: unix:/path or abstract:name
        #[arg(value_parser = stream)]
        address: Address,
        /// Where the log goes: mq:/name
        #[arg(long, value_parser = queue)]
        queue: Option<String>,
    },
    /// Keeps copies of the tables, and prints each change. Prints both tables as JSON on SIGUSR1 and at its end
    Subscriber {
        /// Where the manager listens
        #[arg(value_parser = stream)]
        address: Address,
        /// Print changes as JSON, too
        #[arg(long)]
        json: bool,
    },
    /// Prints the manager's log
    Logger {
        /// The manager's queue: mq:/name
        #[arg(value_parser = queue)]
        queue: String,
    },
    /// Sends one command, and prints the answer; fails if that is an ERROR
    Command {
        /// Where the manager listens
        #[arg(value_parser = stream)]
        address: Address,
        /// Such as "CREATE 10.0.0.0/8 10.1.1.1 eth0"; HELP lists the commands
        command: String,
    },
    /// Starts all of them, and shows a short session
    Demo {
        /// Milliseconds between steps
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
        pace: u64,
    },
}

fn stream(text: &str) -> Result<Address, String> {
    match text.parse() {
        Ok(address @ (Address::UnixStream(_) | Address::AbstractStream(_))) => Ok(address),
        Ok(_) => Err("shared memory is handed over as descriptors, and lines need a stream: unix:PATH or abstract:NAME".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn queue(text: &str) -> Result<String, String> {
    match text.parse() {
        Ok(Address::Queue(name)) => Ok(name),
        Ok(_) => Err("the log goes through a message queue: mq:/NAME".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn run(role: Role) -> io::Result<ExitCode> {
    match role {
        Role::Manager { address, queue } => manager::run(&address, queue.as_deref()),
        Role::Subscriber { address, json } => subscriber::run(&address, json),
        Role::Logger { queue } => logger::run(&queue),
        Role::Command { address, command } => return command::run(&address, &command),
        Role::Demo { pace } => demo::run(Duration::from_millis(pace)),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match run(Arguments::parse().role) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("routing_table: {error}");
            ExitCode::FAILURE
        }
    }
}
