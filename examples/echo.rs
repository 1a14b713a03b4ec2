//! Sends back whatever arrives: the smallest complete program.
//!
//! ```text
//! cargo run --release --example echo -- unix:/tmp/echo tcp:127.0.0.1:7000
//! echo hello | nc -U /tmp/echo
//! ```

use std::{io, process::ExitCode, time::Duration};

use clap::Parser;
use ipc_reactor::{Address, Context, Framing, Limits, Listener, Reactor, Session, Signal};

/// Echo server: sends back whatever arrives, on any number of addresses. Ctrl-C ends it in order.
#[derive(Parser)]
struct Arguments {
    /// Where to listen: unix:/path, unix-seq:/path, abstract:name, tcp:host:port
    #[arg(required = true)]
    addresses: Vec<Address>,
}

struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(request)
    }
}

fn serve(arguments: Arguments) -> io::Result<()> {
    let mut reactor = Reactor::<()>::builder().limits(Limits { idle: None, ..Limits::default() }).build()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, ()| cx.drain(Duration::from_secs(5)))?;
    for address in &arguments.addresses {
        let listener = Listener::bind(address)?;
        let line = format!("echo: listening on {}\n", listener.local_address()?);
        // In one piece: standard error has no buffer.
        eprint!("{line}");
        reactor.listen(listener, Framing::raw(), |_peer, ()| Ok(Echo))?;
    }
    println!("ready");
    reactor.run(&mut ())
}

fn main() -> ExitCode {
    env_logger::init();
    match serve(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}
