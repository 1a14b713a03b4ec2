//! A queue's receiver on this crate: the same as `../c/queue.c recv`.

use std::{io, process::ExitCode, time::Instant};

use clap::Parser;
use ipc_reactor::{Limits, Queue, Reactor, Signal};

/// Creates a queue, receives messages, reports on standard output as JSON, and removes the queue. Ctrl-C ends it early.
#[derive(Parser)]
struct Arguments {
    /// Begins with a slash
    name: String,
    /// How many messages to receive
    #[arg(short = 'n', long, default_value_t = 100_000)]
    messages: u64,
}

/// Removes the queue when dropped.
struct Unlinked<'a>(&'a str);

impl Drop for Unlinked<'_> {
    fn drop(&mut self) {
        if let Err(error) = Queue::unlink(self.0) {
            eprintln!("queue: {error}");
        }
    }
}

#[derive(Default)]
struct Count {
    received: u64,
    start: Option<Instant>,
}

fn receive(arguments: &Arguments) -> io::Result<Count> {
    let mut reactor = Reactor::<Count>::builder().limits(Limits::default()).build()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, _| {
        cx.stop();
        Ok(())
    })?;
    let queue =
        Queue::options().read(true).create_new(true).capacity(10).message_size(8192).open(&arguments.name)?;
    let _unlinked = Unlinked(&arguments.name);
    let wanted = arguments.messages;
    reactor.queue(queue, move |_message, cx, count: &mut Count| {
        count.received += 1;
        if count.received == 1 {
            count.start = Some(Instant::now());
        }
        if count.received == wanted {
            cx.stop();
        }
        Ok(())
    })?;
    println!("ready");
    let mut count = Count::default();
    reactor.run(&mut count)?;
    Ok(count)
}

fn main() -> ExitCode {
    env_logger::init();
    match receive(&Arguments::parse()) {
        Ok(Count { received, start: Some(start) }) => {
            println!("{{\"elapsed_ns\": {}, \"messages\": {received}}}", start.elapsed().as_nanos());
            ExitCode::SUCCESS
        }
        Ok(_) => {
            eprintln!("queue: ended before a message came");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("queue: {error}");
            ExitCode::FAILURE
        }
    }
}
