//! POSIX message queues from the shell.
//!
//! ```text
//! cargo run --release --example queue -- receive /jobs --create --follow          # in one terminal
//! cargo run --release --example queue -- send /jobs hello --priority 5            # in another
//! seq 3 | cargo run --release --example queue -- send /jobs
//! cargo run --release --example queue -- stat /jobs
//! cargo run --release --example queue -- unlink /jobs
//! ```
//!
//! The receiver prints `5 hello`: the priority, and the message. It ends with 0 for success, 1 for a failure, 2 for a
//! wrong command line, and 3 when there was no message, or no room for one. With `--follow` it runs on the reactor
//! until Ctrl-C, or until the queue is unlinked.

use std::{
    io::{self, BufRead},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use ipc_reactor::{
    Context, Limits, Message, Queue, QueueHandler, QueueOptions, Reactor, Signal, TrySendError,
};

#[path = "shared/say.rs"]
mod say;

use say::say;

/// Sends to, receives from, shows and removes POSIX message queues.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Send messages: those given, or each line of standard input
    Send {
        #[command(flatten)]
        queue: Name,
        /// One message each
        messages: Vec<String>,
        /// 0 to 32767; the highest is received first
        #[arg(short, long, default_value_t = 0)]
        priority: u32,
        /// How long to wait for room, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u64,
    },
    /// Print the messages in the queue, highest priority first
    Receive {
        #[command(flatten)]
        queue: Name,
        /// Continue until Ctrl-C, or until the queue is unlinked
        #[arg(short, long)]
        follow: bool,
        /// End after this many messages
        #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Show a queue's sizes, its number of messages, its owner and its permissions
    Stat {
        /// /jobs or mq:/jobs
        #[arg(value_parser = name)]
        name: String,
    },
    /// Remove a queue's name; processes that have it open keep it
    Unlink {
        /// /jobs or mq:/jobs
        #[arg(value_parser = name)]
        name: String,
    },
}

#[derive(Args)]
struct Name {
    /// /jobs or mq:/jobs
    #[arg(value_parser = name)]
    name: String,
    /// Create the queue if it does not exist, for this user only
    #[arg(long)]
    create: bool,
    /// How many messages a queue made here holds; more than /proc/sys/fs/mqueue/msg_max takes a privilege
    #[arg(long, value_name = "MESSAGES", default_value_t = 10)]
    capacity: usize,
    /// The longest message of a queue made here
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    message_size: usize,
}

impl Name {
    fn open(&self, options: &mut QueueOptions) -> io::Result<Queue> {
        if self.create {
            options.create(true).capacity(self.capacity).message_size(self.message_size);
        }
        options.open(&self.name)
    }
}

fn name(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("mq:").unwrap_or(text);
    if name.starts_with('/') { Ok(name.into()) } else { Err("a queue's name begins with a slash".into()) }
}

/// There was no message, or no room for one.
const NOTHING: u8 = 3;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("queue: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Action) -> io::Result<ExitCode> {
    match command {
        Action::Send { queue, messages, priority, wait } => {
            let queue = queue.open(Queue::options().write(true))?;
            let mut given = messages.into_iter().map(Ok);
            let mut lines = io::stdin().lock().lines();
            let messages: &mut dyn Iterator<Item = io::Result<String>> =
                if given.len() > 0 { &mut given } else { &mut lines };
            send(&queue, messages, priority, Duration::from_secs(wait))
        }
        Action::Receive { queue, follow: true, count } => {
            follow(queue.open(Queue::options().read(true))?, count)
        }
        Action::Receive { queue, follow: false, count } => {
            receive(&queue.open(Queue::options().read(true))?, count)
        }
        Action::Stat { name } => {
            let queue = Queue::options().read(true).open(&name)?;
            let (sizes, owner) = (queue.attributes()?, queue.owner()?);
            println!(
                "{name}: {} of {} messages, {} bytes each at most, uid {} gid {} mode {:03o}",
                sizes.queued, sizes.capacity, sizes.message_size, owner.uid, owner.gid, owner.mode
            );
            Ok(ExitCode::SUCCESS)
        }
        Action::Unlink { name } => Queue::unlink(&name).map(|()| ExitCode::SUCCESS),
    }
}

fn send(
    queue: &Queue,
    messages: &mut dyn Iterator<Item = io::Result<String>>,
    priority: u32,
    wait: Duration,
) -> io::Result<ExitCode> {
    for message in messages {
        let message = message?;
        match queue.try_send(message.as_bytes(), priority) {
            Ok(()) => {}
            Err(TrySendError::Failed(error)) => return Err(error),
            Err(TrySendError::Full) => match queue.send_timeout(message.as_bytes(), priority, wait) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    eprintln!("queue: full; {message:?} was not sent");
                    return Ok(ExitCode::from(NOTHING));
                }
                Err(error) => return Err(error),
            },
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn receive(queue: &Queue, count: Option<u64>) -> io::Result<ExitCode> {
    let mut buffer = vec![0; queue.message_size()];
    for received in 0..count.unwrap_or(u64::MAX) {
        match queue.try_recv(&mut buffer)? {
            Some(message) => {
                println!("{} {}", message.priority, String::from_utf8_lossy(&buffer[..message.len]));
            }
            None if received == 0 => return Ok(ExitCode::from(NOTHING)),
            None => break,
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct Follow {
    left: Option<u64>,
}

impl QueueHandler<()> for Follow {
    fn on_message(&mut self, message: Message<'_>, cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        say(cx, format_args!("{} {}", message.priority, String::from_utf8_lossy(message.bytes)));
        if let Some(left) = &mut self.left {
            *left -= 1;
            if *left == 0 {
                cx.finish();
                cx.stop();
            }
        }
        Ok(())
    }

    fn on_unlinked(&mut self, cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        eprintln!("queue: it was unlinked; a process that opens the name no longer reaches this queue");
        cx.stop();
        Ok(())
    }
}

fn follow(queue: Queue, count: Option<u64>) -> io::Result<ExitCode> {
    let limits = Limits { queue_check: Some(Duration::from_secs(1)), ..Limits::default() };
    let mut reactor = Reactor::<()>::builder().limits(limits).build()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, ()| {
        cx.stop();
        Ok(())
    })?;
    reactor.queue_handler(queue, Follow { left: count })?;
    eprintln!("queue: following");
    reactor.run(&mut ())?;
    Ok(ExitCode::SUCCESS)
}
