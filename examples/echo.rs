//! Sends back whatever arrives: the smallest complete program.
//!
//! ```text
//! cargo run --release --example echo -- unix:/tmp/echo tcp:127.0.0.1:7000
//! echo hello | nc -U /tmp/echo
//! ```

use std::{io, num::NonZeroUsize, process::ExitCode, time::Duration};

use clap::Parser;
use ipc_reactor::{Address, Context, Framing, Limits, Listener, Reactor, Session, Signal};

/// Echo server: sends back whatever arrives, on any number of addresses. Ctrl-C ends it in order.
#[derive(Parser)]
struct Arguments {
    /// Where to listen: unix:/path, unix-seq:/path, abstract:name, tcp:host:port
    #[arg(required = true)]
    addresses: Vec<Address>,
    /// Answer whole frames of so many bytes, instead of whatever comes
    #[arg(long, value_name = "BYTES")]
    frame: Option<NonZeroUsize>,
    /// Poll for up to this long before each sleep: lower latency, at the cost of processor time
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    spin: u64,
}

struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(request)
    }
}

fn serve(arguments: Arguments) -> io::Result<()> {
    let mut reactor = Reactor::<()>::builder()
        .limits(Limits { idle: None, ..Limits::default() })
        .spin(Duration::from_micros(arguments.spin))
        .build()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, ()| cx.drain(Duration::from_secs(5)))?;
    let framing = arguments.frame.map_or_else(Framing::raw, |bytes| Framing::fixed(bytes.get()));
    for address in &arguments.addresses {
        let listener = Listener::bind(address)?;
        let line = format!("echo: listening on {}\n", listener.local_address()?);
        // In one write: standard error is unbuffered.
        eprint!("{line}");
        reactor.listen(listener, framing.clone(), |_peer, ()| Ok(Echo))?;
    }
    println!("ready");
    reactor.run(&mut ())
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match serve(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}
