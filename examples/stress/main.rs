//! The load generator. Without a command it runs the main job: 1,000 clients load an adder of its own and check every
//! answer. With a command it loads any server.
//!
//! ```text
//! cargo run --release --example stress                                  # its own server, 1,000 clients, 10 s
//! cargo run --release --example stress -- --clients 10000 --requests 1000000 --json result.json
//! cargo run --release --example stress -- run unix:/run/x.sock -c 2000 --rate 50k --size 64..4096 --plot out.svg
//! ```
//!
//! [docs/stress.md](../../docs/stress.md) describes what each command measures, and how. The head of `engine.rs`
//! describes the design, that of `record.rs` the latencies, that of `dispatch.rs` open and closed loops.
//!
//! Exit codes: 0 good; 1 wrong or missing answers, or a failed objective; 2 usage; 3 an invalid run, or no figures.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[path = "../shared/adder.rs"]
mod adder;
mod adder_job;
mod churn;
mod clock;
mod compare;
#[path = "../shared/connect.rs"]
mod connect;
mod descriptors;
mod dispatch;
mod engine;
mod find;
mod hdr_log;
mod lane;
mod matrix;
mod opening;
mod options;
mod plan;
mod plot;
mod progress;
mod protocol;
mod random;
mod record;
mod report;
mod run;
mod schedule;
mod server;
mod stamp;
mod syscalls;
mod target;
mod traffic;
mod usage;
mod values;
mod verdict;

use options::Refusal;

/// Loads servers, and checks every answer.
///
/// Without a command it starts an adder of its own, on a Unix socket and a message queue that it removes at its end,
/// and loads it with many clients in a closed loop. Ctrl-C ends any run early, with a full report; a second one does
/// not wait for answers.
///
/// Exit codes: 0 good; 1 an answer wrong or missing, or an objective failed; 2 usage; 3 the run is invalid, or was not
/// possible.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    job: adder_job::Arguments,
}

#[derive(Subcommand)]
enum Command {
    /// Loads a server, at a rate or as fast as it answers, and measures
    Run(Box<run::Arguments>),
    /// Finds the highest rate at which the objectives hold
    Find(Box<find::Arguments>),
    /// Compares transports: the same load, 5k/s by default, on an echo server of its own over each
    Matrix(matrix::Arguments),
    /// Connects and closes, at a rate: connection initiation requests only
    Churn(churn::Arguments),
    /// Holds many connections, and loads a few of them, by default with 1k/s
    Idle(Box<run::IdleArguments>),
    /// Compares two reports of `run`
    Compare(compare::Arguments),
    /// An echo server or a publisher to try the other commands on; ends with its standard input
    Server(server::Arguments),
    /// The main job's server, in a child process
    #[command(hide = true)]
    ServeAdder(adder_job::service::Arguments),
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        None => adder_job::run(&arguments.job),
        Some(Command::Run(arguments)) => run::run(arguments),
        Some(Command::Find(arguments)) => find::run(arguments),
        Some(Command::Matrix(arguments)) => matrix::run(arguments),
        Some(Command::Churn(arguments)) => churn::run(arguments),
        Some(Command::Idle(arguments)) => run::idle(arguments),
        Some(Command::Compare(arguments)) => compare::run(arguments),
        Some(Command::Server(arguments)) => server::run(arguments).map(|()| 0).map_err(Refusal::from),
        Some(Command::ServeAdder(arguments)) => {
            adder_job::service::serve(arguments).map(|()| 0).map_err(Refusal::from)
        }
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(Refusal::Usage(why)) => {
            eprintln!("stress: {why}; --help tells more");
            ExitCode::from(2)
        }
        Err(Refusal::Failed(error)) => {
            eprintln!("stress: {error}");
            ExitCode::from(3)
        }
    }
}
