//! The logger: prints what the manager puts into the message queue, the most urgent first.

use std::{
    io::{self, Write},
    time::Duration,
};

use ipc_reactor::{Context, Limits, Message, PollSet, Queue, QueueHandler, Reactor, Signal};

use crate::journal::Level;

/// How often to check whether a manager has created the queue, and whether it has ended and unlinked it.
const LOOK: Duration = Duration::from_millis(200);

/// How long a drain may take for the lines in the queue.
const DRAIN: Duration = Duration::from_secs(2);

/// The error with which opening the queue failed, if it did.
type Failure = Option<io::Error>;

struct Log;

/// Runs until the manager ends, or SIGINT or SIGTERM comes.
pub(crate) fn run(name: &str) -> io::Result<()> {
    let limits = Limits { queue_check: Some(LOOK), ..Limits::default() };
    let mut reactor = Reactor::<Failure>::builder().limits(limits).build()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, _| cx.drain(DRAIN))?;
    if !open(&mut reactor, name)? {
        eprintln!("logger: waiting for a manager with --queue mq:{name}");
        look_later(&mut reactor, name.to_owned());
    }
    let mut failure = None;
    reactor.run(&mut failure)?;
    failure.map_or(Ok(()), Err)
}

/// False while there is no such queue.
fn open(set: &mut PollSet<Failure>, name: &str) -> io::Result<bool> {
    match Queue::options().read(true).open(name) {
        Ok(queue) => {
            set.queue_handler(queue, Log)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn look_later(set: &mut PollSet<Failure>, name: String) {
    set.after(LOOK, move |cx, failure| {
        match open(cx, &name) {
            Ok(true) => {}
            Ok(false) => look_later(cx, name),
            Err(error) => {
                *failure = Some(error);
                cx.stop();
            }
        }
        Ok(())
    });
}

impl QueueHandler<Failure> for Log {
    fn on_message(
        &mut self,
        message: Message<'_>,
        cx: &mut Context<'_, Failure>,
        _: &mut Failure,
    ) -> io::Result<()> {
        let text = String::from_utf8_lossy(message.bytes);
        let printed = writeln!(io::stdout().lock(), "{:<7} {text}", Level::of_priority(message.priority));
        // Standard output has no reader any more.
        if printed.is_err() {
            cx.stop();
        }
        printed
    }

    fn on_unlinked(&mut self, cx: &mut Context<'_, Failure>, _: &mut Failure) -> io::Result<()> {
        eprintln!("logger: the manager has ended");
        // The queue is unlinked, but still contains its messages.
        cx.drain(DRAIN)
    }
}
