//! Prints values that a publisher writes to shared memory.
//!
//! ```text
//! cargo run --release --example shm_subscribe -- unix:/tmp/rates --every
//! cargo run --release --example shm_subscribe -- --name /shm_1 --once      # what a C program wrote, by name
//! ```
//!
//! The other end is `shm_publish`.

use std::{
    ffi::CString,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use ipc_reactor::{
    Address, Cause, Context, Delivery, Key, Queue, Reactor, Signal, SubscriptionHandler,
    shm::{NamedText, Subscriber, Update},
};

/// Prints each new value of a publisher in shared memory, a line each; or a text by name.
///
/// Without --every it prints the newest value, and skips the values before it that it has not read yet.
/// On standard error it prints how many values it lost, and that the publisher has ended. Ctrl-C or SIGTERM end it.
///
/// Exit codes: 0 ended by --once or a signal; 1 something failed; 2 wrong arguments; 3 the publisher has ended.
#[derive(Parser)]
#[command(
    override_usage = "shm_subscribe ADDRESS [--every] [--once] [--queue NAME]\n       shm_subscribe --name NAME [--once]"
)]
struct Arguments {
    /// Address of the publisher's master socket: unix:/path, unix-seq:/path, abstract:name or abstract-seq:name
    #[arg(required_unless_present = "name", conflicts_with = "name")]
    address: Option<Address>,
    /// Print each value, not only the newest
    #[arg(long, conflicts_with = "name")]
    every: bool,
    /// Be notified through this message queue, which is created and removed (the publisher's --notify mq:NAME)
    #[arg(long, value_name = "NAME", conflicts_with = "name")]
    queue: Option<String>,
    /// Print the text in the shared memory object NAME, which a C program may have written; it is read ten times a
    /// second, because a plain object sends no notifications
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// End after the first value
    #[arg(long)]
    once: bool,
}

/// The state of the program.
struct Outcome {
    code: ExitCode,
    /// The subscription's own key, once it has begun.
    subscription: Option<Key>,
}

struct Printer {
    address: Address,
    once: bool,
}

impl SubscriptionHandler<Outcome> for Printer {
    fn on_open(
        &mut self,
        subscriber: &Subscriber,
        cx: &mut Context<'_, Outcome>,
        outcome: &mut Outcome,
    ) -> io::Result<()> {
        outcome.subscription = Some(cx.key());
        let (size, behind) = (subscriber.payload_max(), subscriber.capacity());
        let at = &self.address;
        eprintln!("shm_subscribe: subscribed at {at}: values of up to {size} bytes, up to {behind} behind");
        Ok(())
    }

    fn on_update(
        &mut self,
        update: Update<&[u8]>,
        cx: &mut Context<'_, Outcome>,
        _: &mut Outcome,
    ) -> io::Result<()> {
        match update {
            Update::Value(value) => {
                print_line(value)?;
                if self.once {
                    cx.finish();
                }
            }
            Update::Lost(count) => eprintln!("shm_subscribe: {count} values lost"),
        }
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Outcome>, outcome: &mut Outcome) {
        let at = &self.address;
        let (code, why) = match cause {
            Cause::Closed | Cause::Drain | Cause::Stop => (0, None),
            Cause::Peer | Cause::Reset | Cause::PartialFrame if outcome.subscription.is_some() => {
                (3, Some(format!("the publisher at {at} is gone: {cause}")))
            }
            Cause::Peer | Cause::Reset => {
                (1, Some(format!("{at} gave no ticket: {cause}; it may be full, or not for this user")))
            }
            Cause::Connect(error) => {
                (1, Some(format!("cannot connect to {at}: {error}; is the publisher running?")))
            }
            Cause::Handler(error) => (1, Some(error.to_string())),
            _ => (1, Some(format!("{at}: {cause}"))),
        };
        if let Some(why) = why {
            eprintln!("shm_subscribe: {why}");
            outcome.code = ExitCode::from(code);
        }
        cx.stop();
    }
}

fn print_line(value: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// A queue of this process's own, removed when it ends.
struct OwnQueue(String);

impl Drop for OwnQueue {
    fn drop(&mut self) {
        if let Err(error) = Queue::unlink(&self.0) {
            eprintln!("shm_subscribe: {error}");
        }
    }
}

fn run(arguments: Arguments) -> io::Result<ExitCode> {
    let mut reactor = Reactor::<Outcome>::new()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, _| {
        cx.stop();
        Ok(())
    })?;
    let mut outcome = Outcome { code: ExitCode::SUCCESS, subscription: None };
    let mut own_queue = None;
    if let Some(name) = arguments.queue {
        // One notification is outstanding at most.
        let queue = Queue::options().create_new(true).capacity(1).message_size(64).open(&name)?;
        own_queue = Some(OwnQueue(name));
        reactor.queue(queue, |_, cx, outcome: &mut Outcome| {
            outcome.subscription.map(|subscription| cx.updated(subscription));
            Ok(())
        })?;
    }
    if let Some(address) = arguments.address {
        let delivery = if arguments.every { Delivery::Every } else { Delivery::Latest };
        let printer = Printer { address: address.clone(), once: arguments.once };
        reactor.connect_subscriber(&address, delivery, printer)?;
    } else if let Some(name) = &arguments.name {
        let text = NamedText::new(name);
        let mut shown = text.read()?;
        print_line(shown.to_bytes())?;
        if arguments.once {
            return Ok(outcome.code);
        }
        reactor.every(Duration::from_millis(100), move |cx, outcome| {
            if let Err(error) = print_new(&text, &mut shown) {
                eprintln!("shm_subscribe: {error}");
                outcome.code = ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 3 } else { 1 });
                cx.stop();
            }
            Ok(())
        });
    }
    reactor.run(&mut outcome)?;
    drop(own_queue);
    Ok(outcome.code)
}

fn print_new(text: &NamedText, shown: &mut CString) -> io::Result<()> {
    let now = text.read()?;
    if now != *shown {
        print_line(now.to_bytes())?;
        *shown = now;
    }
    Ok(())
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    run(Arguments::parse()).unwrap_or_else(|error| {
        eprintln!("shm_subscribe: {error}");
        ExitCode::FAILURE
    })
}
