//! One echo service, written once for each way a process can wait for many sockets.
//!
//! ```text
//! cargo run --example multiplexing -- list
//! cargo run --example multiplexing -- serve epoll-level unix:/tmp/echo
//! cargo run --release --example multiplexing -- compare --svg /tmp/plots
//! ```
//!
//! Read the styles in this order; each is one file and shows one idea:
//!
//! 1. [`blocking`]: no multiplexing. One client at a time; all others wait.
//! 2. [`select`]: the oldest set of descriptors, limited to 1,024.
//! 3. [`poll`]: the same idea with an array, so no such limit, but every wait still scans all clients.
//! 4. [`epoll_level`]: the kernel keeps the set, and returns only the ready ones.
//! 5. [`epoll_edge`]: the kernel reports each change once, so the process must remember it.
//! 6. [`reactor`]: this crate remembers it, and you write only the service.
//!
//! They share these terms. The **master socket** M only listens. A client that connects puts
//! a **CIR**, a connection initiation request, on M; `accept` turns it into a **client handle**, a
//! descriptor of its own. What the client then sends on its handle is an **SRM**, a service request
//! message. The **monitored set** is what the process waits on: M, every client handle, and one
//! descriptor on which Ctrl-C arrives.
//!
//! # For readers who know C and no Rust
//!
//! | here                                       | in C                                                      |
//! |--------------------------------------------|-----------------------------------------------------------|
//! | `fn f() -> io::Result<T>`                  | it returns a `T`, or -1 with the reason in `errno`        |
//! | `f()?`                                     | `if (f() == -1) return -1;`                               |
//! | `Ok(x)`, `Err(error)`                      | the two things that such an `f` can return                |
//! | `let _ = f();`                             | `(void)f();`                                              |
//! | `enum Cir { Accepted(handle), Refused, … }`| a tag, and a `union` of what comes with each tag          |
//! | `match x { A(y) => …, B => … }`            | `switch` on the tag; `y` is what came with it             |
//! | `Option<T>`: `Some(x)` or `None`           | a pointer that is NULL for `None`                         |
//! | `let Some(y) = x else { continue };`       | `if (x == NULL) continue; y = *x;`                        |
//! | `&x`, `&mut x`                             | `const T *` and `T *`, never NULL                         |
//! | `Vec<T>`, `HashMap<K, V>`                  | an array that grows; a table from `K` to `V`              |
//! | `OwnedFd`                                  | an `int` that is **closed when it goes out of scope**     |
//! | `drop(x)`                                  | end the scope of `x` here                                 |
//! | `impl Drop for X { … }`                    | what is done when an `X` goes out of scope                |
//! | `fd as usize`                              | `(size_t)fd`                                              |
//! | `unsafe { libc::poll(…) }`                 | `poll(…)`: each such block is one C call, and no more     |
//!
//! Because of `OwnedFd` the styles call no `close`: to close a client handle, they remove it from its table.
//!
//! What they share in code is in [`net`] (the socket calls), [`client`] (one step of the echo, with
//! partial writes and half-close) and [`signals`] (how SIGINT and SIGTERM reach each style).

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};

mod address;
mod blocking;
mod client;
mod compare;
mod epoll;
mod epoll_edge;
mod epoll_level;
mod limits;
mod net;
mod poll;
mod reactor;
mod select;
mod signals;

use address::Address;

/// One way of waiting, as the command line and `compare` know it.
struct Style {
    name: &'static str,
    about: &'static str,
    /// Serves until SIGINT or SIGTERM. Says `listening on ADDRESS` on standard output once it does.
    serve: fn(&Address) -> io::Result<()>,
    /// How many clients it can serve at once *by its design*; `None` where only descriptors limit it.
    clients_max: Option<usize>,
    /// What to write in a plot where its line ends before the others'.
    ceiling: &'static str,
}

/// Every style, in the order in which a reader should meet them.
///
/// To add one, write a module with `serve` and add a row here. `list`, `serve` and `compare` read this
/// table.
const STYLES: &[Style] = &[
    Style {
        name: "blocking",
        about: "no multiplexing: accept, serve that one client to its end, accept the next",
        serve: blocking::serve,
        clients_max: Some(1),
        ceiling: "one client at a time",
    },
    Style {
        name: "select",
        about: "select(2): three bit sets, copied and walked each time; descriptors below 1,024 only",
        serve: select::serve,
        clients_max: None,
        ceiling: "1,024 descriptors at most",
    },
    Style {
        name: "poll",
        about: "poll(2): an array without a ceiling, still handed over and walked each time",
        serve: poll::serve,
        clients_max: None,
        ceiling: "out of descriptors",
    },
    Style {
        name: "epoll-level",
        about: "epoll(7), level-triggered: the kernel keeps the set and repeats itself until one has read",
        serve: epoll_level::serve,
        clients_max: None,
        ceiling: "out of descriptors",
    },
    Style {
        name: "epoll-edge",
        about: "epoll(7), edge-triggered: told once of each change, so read until it would block",
        serve: epoll_edge::serve,
        clients_max: None,
        ceiling: "out of descriptors",
    },
    Style {
        name: "reactor",
        about: "this crate: edge-triggered epoll, and the reactor remembers",
        serve: reactor::serve,
        clients_max: None,
        ceiling: "out of descriptors",
    },
];

fn style(name: &str) -> &'static Style {
    STYLES.iter().find(|style| style.name == name).expect("clap lets only names of the table through")
}

fn style_names() -> PossibleValuesParser {
    PossibleValuesParser::new(STYLES.iter().map(|style| style.name))
}

/// The echo service in every style of multiplexing, and what each style costs.
#[derive(Parser)]
#[command(name = "multiplexing", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the styles.
    List,
    /// Echo on ADDRESS in one style, until SIGINT or SIGTERM.
    Serve {
        #[arg(value_parser = style_names())]
        style: String,
        /// unix:/path, abstract:name or tcp:host:port (port 0 takes a free one).
        address: Address,
    },
    /// Run the styles in turn against idle and active clients, and show what each message costs.
    ///
    /// With the defaults this takes three to four minutes, and needs an otherwise idle machine. --seconds 0.2 gives
    /// a first result in one minute.
    ///
    /// Ctrl-C ends it with a report of what was measured so far, and status 130.
    Compare(CompareArgs),
}

#[derive(clap::Args)]
struct CompareArgs {
    /// Clients that are connected and send nothing; one server and one round for each number.
    // 900 and 100 active ones are the round numbers just below the limit of select.
    #[arg(long, value_delimiter = ',', default_value = "0,10,100,900,3000,15000")]
    idle: Vec<usize>,
    /// Clients that send again as soon as they have their answer.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100", value_parser = at_least_one)]
    active: Vec<usize>,
    /// How long to measure each combination, in seconds (taken in five slices, to show the noise).
    #[arg(long, default_value = "2", value_parser = positive_seconds)]
    seconds: f64,
    /// Let the scheduler place server and clients; without this they share one processor.
    #[arg(long)]
    unpinned: bool,
    /// Write everything measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw the plots into this directory.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Only these styles.
    #[arg(long, value_delimiter = ',', value_parser = style_names(),
          default_values = STYLES.iter().map(|style| style.name))]
    styles: Vec<String>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least one client must be active, or there is nothing to measure".into()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

fn positive_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if seconds.is_finite() && (0.001..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("give between 0.001 and 3600 seconds".into())
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::List => {
            for style in STYLES {
                println!("{:<12} {}", style.name, style.about);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Serve { style: name, address } => limits::raise_descriptors()
            .and_then(|raised| {
                raised.say();
                (style(&name).serve)(&address)
            })
            .map(|()| ExitCode::SUCCESS),
        Command::Compare(args) => compare::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("multiplexing: {error}");
        ExitCode::FAILURE
    })
}
