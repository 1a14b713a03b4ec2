//! Datagrams from the command line: prints those that arrive, or sends some.
//!
//! ```text
//! cargo run --release --example datagram -- listen unix-dgram:/tmp/notes --reply seen
//! cargo run --release --example datagram -- send unix-dgram:/tmp/notes hello --wait-reply
//! echo hello | socat - UNIX-SENDTO:/tmp/notes
//! ```

use std::{io, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use ipc_reactor::{Address, Datagram, Reactor, Signal};

/// Receives or sends datagrams over Unix sockets and UDP.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints each datagram with its sender and its length, until Ctrl-C.
    Listen {
        /// Where: unix-dgram:/path, abstract-dgram:name, udp:host:port
        address: Address,
        /// Answers each datagram with this text
        #[arg(long, value_name = "TEXT")]
        reply: Option<String>,
        /// Bytes of the largest datagram that is received whole
        #[arg(long, value_name = "BYTES", default_value_t = Datagram::MESSAGE_SIZE)]
        message_size: usize,
    },
    /// Sends each text as a datagram.
    Send {
        /// Where to: unix-dgram:/path, abstract-dgram:name, udp:host:port
        address: Address,
        /// What to send; "" is an empty datagram
        #[arg(required = true)]
        texts: Vec<String>,
        /// Sends each text after the reply to the previous one, and prints the replies
        #[arg(long)]
        wait_reply: bool,
        /// How long to wait for all replies, in milliseconds
        #[arg(long, value_name = "MS", default_value_t = 5_000)]
        timeout_ms: u64,
    },
}

fn listen(address: &Address, reply: Option<String>, message_size: usize) -> io::Result<()> {
    let mut reactor = Reactor::<u64>::new()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, _| cx.drain(Duration::from_secs(5)))?;
    let socket = Datagram::options().message_size(message_size).bind(address)?;
    println!("ready: {}", socket.local_address()?);
    reactor.datagram(socket, move |datagram, _cx, count| {
        *count += 1;
        print!("{}: {} bytes", datagram.from, datagram.bytes.len());
        if let Some(len) = datagram.truncated {
            print!(", truncated from {len}");
        }
        println!(": {}", datagram.bytes.escape_ascii());
        match &reply {
            Some(text) if !datagram.from.is_unnamed() => datagram.reply(text.as_bytes()),
            _ => Ok(()),
        }
    })?;
    let mut count = 0;
    reactor.run(&mut count)?;
    println!("{count} datagrams; {}", reactor.stats());
    Ok(())
}

/// The texts that are still to be sent, and whether time ran out before.
struct Talk {
    texts: std::vec::IntoIter<String>,
    timed_out: bool,
}

fn send(address: &Address, texts: Vec<String>, wait: Option<Duration>) -> io::Result<()> {
    let socket = Datagram::connected(address)?;
    let Some(wait) = wait else {
        return texts.iter().try_for_each(|text| socket.send(text.as_bytes()));
    };
    let mut talk = Talk { texts: texts.into_iter(), timed_out: false };
    if let Some(first) = talk.texts.next() {
        socket.send(first.as_bytes())?;
    }
    let mut reactor = Reactor::<Talk>::new()?;
    reactor.datagram(socket, |datagram, cx, talk| {
        println!("{}: {}", datagram.from, datagram.bytes.escape_ascii());
        match talk.texts.next() {
            Some(next) => datagram.reply(next.as_bytes()),
            None => {
                cx.stop();
                Ok(())
            }
        }
    })?;
    reactor.after(wait, |cx, talk| {
        talk.timed_out = true;
        cx.stop();
        Ok(())
    });
    reactor.run(&mut talk)?;
    if talk.timed_out {
        let told: String =
            reactor.stats().errors().map(|(kind, _)| format!("; the kernel says: {kind}")).collect();
        let text = format!("not all replies came within {wait:?}{told}");
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    }
    Ok(())
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let done = match Arguments::parse().command {
        Command::Listen { address, reply, message_size } => listen(&address, reply, message_size),
        Command::Send { address, texts, wait_reply, timeout_ms } => {
            send(&address, texts, wait_reply.then(|| Duration::from_millis(timeout_ms)))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("datagram: {error}");
            ExitCode::FAILURE
        }
    }
}
