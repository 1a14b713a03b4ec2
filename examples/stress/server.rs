//! Servers to try the generator on: an echo on every kind of socket and queue, and a publisher in shared memory.
//! `matrix` starts them in children.

use std::{
    env,
    io::{self, BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use ipc_reactor::{
    Address, Context, Datagram, Framing, Interest, Limits, Listener, PollSet, Progress, Queue, Reactor,
    Session, Signal, SubscriberSession, children,
    shm::{Publisher, PublisherOptions},
};

use crate::{
    clock, descriptors,
    schedule::{Arrival, Schedule},
    stamp,
    target::Target,
    values::{self, Sizes},
};

const DRAIN: Duration = Duration::from_secs(1);
/// How many values a subscriber may lag.
const BEHIND: usize = 4095;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where: as for `run`, with port 0 for any; mq:/NAME makes that queue, and --reply the one of its answers
    target: Target,
    /// The queue to answer into
    #[arg(long, value_name = "mq:/NAME")]
    reply: Option<Target>,
    /// Values a second, in shared memory
    #[arg(short, long, value_name = "RATE", default_value = "1k", value_parser = values::rate)]
    rate: f64,
    /// Bytes of the longest message of a queue, and of each value in shared memory
    #[arg(short, long, value_name = "BYTES", default_value = "8k", value_parser = values::sizes)]
    size: Sizes,
}

/// The reactor's shared state.
struct Serving {
    publishing: Option<Publishing>,
}

struct Publishing {
    publisher: Publisher,
    schedule: Schedule,
    value: Vec<u8>,
}

struct Echo;

impl Session<Serving> for Echo {
    fn on_request(&mut self, bytes: &[u8], cx: &mut Context<'_, Serving>, _: &mut Serving) -> io::Result<()> {
        cx.reply(bytes)
    }
}

/// A queue that this process made, and removes.
struct OwnQueue(String);

impl Drop for OwnQueue {
    fn drop(&mut self) {
        let _ = Queue::unlink(&self.0);
    }
}

/// Serves until its standard input ends, or a signal comes.
///
/// # Errors
/// The address cannot be had.
pub(crate) fn run(arguments: &Arguments) -> io::Result<()> {
    descriptors::raise()?;
    let defaults = Limits::default();
    let limits = Limits { clients_per_uid: defaults.clients, outbox: 65_536, ..defaults };
    let mut reactor = Reactor::<Serving>::builder().limits(limits).build()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, _| cx.drain(DRAIN))?;
    // A file or /dev/null is never waited for: then only signals end it.
    let _ = reactor.fd(io::stdin(), Interest::READABLE, |stdin, _, cx, _| {
        if stdin.read(&mut [0; 64])? == 0 {
            cx.drain(DRAIN)?;
            cx.finish();
        }
        Ok(Progress::Drained)
    });
    let mut serving = Serving { publishing: None };
    let mut queues = Vec::new();
    let at = match &arguments.target {
        Target::Connections(address) => {
            let listener = Listener::bind(address)?;
            let at = listener.local_address()?;
            reactor.listen(listener, Framing::raw(), |_, _| Ok(Echo))?;
            at.to_string()
        }
        Target::Datagrams(address) => {
            let socket = Datagram::bind(address)?;
            let at = socket.local_address()?;
            reactor.datagram(socket, |datagram, _, _| datagram.reply(datagram.bytes))?;
            at.to_string()
        }
        Target::Queue { requests, .. } => {
            let answers = match &arguments.reply {
                Some(Target::Queue { requests: name, .. }) => Some(name),
                Some(_) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "--reply is a queue: mq:/NAME"));
                }
                None => None,
            };
            let mut options = Queue::options();
            options.create_new(true).message_size(arguments.size.most);
            let mut make = |name: &String, read: bool| {
                let queue = options.clone().read(read).write(!read).open(name)?;
                queues.push(OwnQueue(name.clone()));
                io::Result::Ok(queue)
            };
            let asked = make(requests, true)?;
            let answers = match answers {
                Some(name) => Some(reactor.outbox(make(name, false)?)?),
                None => None,
            };
            reactor.queue(asked, move |message, cx, _| match answers {
                Some(answers) => cx.post(answers, message.bytes, message.priority).map(drop),
                None => Ok(()),
            })?;
            arguments.target.to_string()
        }
        Target::Memory(address) => {
            let size = arguments.size.most;
            stamp::check_size(size)?;
            serving.publishing = Some(Publishing {
                publisher: PublisherOptions::every(size, BEHIND).tag(stamp::TAG).create()?,
                schedule: Schedule::new(Arrival::Constant, arguments.rate, clock::now_ns(), 0),
                value: vec![b'.'; size],
            });
            let listener = Listener::bind(address)?;
            let at = listener.local_address()?;
            let publisher: fn(&mut Serving) -> &mut Publisher =
                |serving| &mut serving.publishing.as_mut().expect("it publishes").publisher;
            reactor.listen(listener, SubscriberSession::framing(), move |_, _| {
                Ok(SubscriberSession::new(publisher))
            })?;
            publish(&mut reactor, &mut serving);
            format!("shm:{at}")
        }
    };
    println!("ready {at}");
    reactor.run(&mut serving)
}

/// Publishes what is due, and comes again for the next.
fn publish(set: &mut PollSet<Serving>, serving: &mut Serving) {
    let Some(Publishing { publisher, schedule, value }) = &mut serving.publishing else { return };
    let mut now_ns = clock::now_ns();
    while schedule.next_ns() <= now_ns {
        stamp::write(value, schedule.next_ns(), now_ns);
        if let Err(error) = publisher.publish(value) {
            log::warn!("{error}");
        }
        schedule.advance();
        now_ns = clock::now_ns();
    }
    set.after(Duration::from_nanos(schedule.next_ns() - now_ns), |cx, serving| {
        publish(cx, serving);
        Ok(())
    });
}

/// Such a server in a child, which is killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) target: Target,
}

impl Server {
    /// Starts it, and returns when it serves.
    pub(crate) fn start(at: &str, options: &[&str]) -> io::Result<Server> {
        let mut command = Command::new(env::current_exe()?);
        command
            .args(["server", at])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C at the terminal is for the parent alone, which still wants answers.
            .process_group(0);
        let mut child = children::spawn(&mut command)?;
        let stdout = child.stdout.take().expect("it was piped");
        let mut server = Server { child, target: Target::Memory(Address::UnixStream(String::new().into())) };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        server.target = line
            .trim_end()
            .strip_prefix("ready ")
            .and_then(|at| at.parse().ok())
            .ok_or_else(|| io::Error::other(format!("the server for {at} did not start")))?;
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends with its input, and removes what it made.
        let _ = self.child.wait();
    }
}
