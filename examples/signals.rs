//! Prints the signals that it receives, and which process sent them.
//!
//! ```text
//! cargo run --release --example signals                 # prints `ready 4711`
//! kill -USR1 4711                                       # SIGUSR1 from pid 300 uid 1000
//! /bin/kill -USR2 -q 42 4711                            # SIGUSR2 from pid 301 uid 1000 value 42
//! cargo run --release --example signals -- RTMIN+1 WINCH --count 3
//! ```
//!
//! A standard signal does not queue: while one is pending, further ones with the same number are lost. Real-time
//! signals queue. Ctrl-C and SIGTERM end the program, unless they are among those to print.

use std::{io, process::ExitCode};

use clap::Parser;
use ipc_reactor::{PollSet, Reactor, Signal, SignalInfo};

#[path = "shared/say.rs"]
mod say;

use say::say;

/// Prints each signal with its sender's pid and uid, and the value that came with it.
#[derive(Parser)]
struct Arguments {
    /// Which to print, by name or number: USR1, SIGUSR1, 10, RTMIN+3
    #[arg(default_values = ["HUP", "USR1", "USR2", "RTMIN", "RTMIN+1"])]
    signals: Vec<Signal>,
    /// End after this many signals
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signals: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> io::Result<()> {
    let Arguments { signals, count } = arguments;
    let mut reactor = Reactor::<u64>::new()?;
    let ends: Vec<Signal> =
        [Signal::INT, Signal::TERM].into_iter().filter(|end| !signals.contains(end)).collect();
    reactor.signals(signals, move |info, cx, shown| {
        // One read can return more signals than --count allows.
        if Some(*shown) == count {
            return Ok(());
        }
        *shown += 1;
        show(cx, info);
        if Some(*shown) == count {
            cx.stop();
        }
        Ok(())
    })?;
    if !ends.is_empty() {
        reactor.signals(ends, |info, cx, shown| {
            eprintln!("signals: {}: the end, after {shown}", info.signal());
            cx.stop();
            Ok(())
        })?;
    }
    say(&mut reactor, format_args!("ready {}", std::process::id()));
    reactor.run(&mut 0)
}

fn show<S>(set: &mut PollSet<S>, info: SignalInfo) {
    let value = info.value().map_or_else(String::new, |value| format!(" value {value}"));
    say(set, format_args!("{} from pid {} uid {}{value}", info.signal(), info.pid(), info.uid()));
}
