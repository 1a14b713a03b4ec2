//! The routing-table manager: the one process that changes the tables. It publishes routes over its Unix socket and MAC
//! addresses through shared memory, and logs through a message queue.

use std::{collections::BTreeSet, fmt, fmt::Write, io, mem, time::Duration};

use ipc_reactor::{
    Address, Cause, Context, Framing, Key, Limit, Limits, Listener, PollSet, Reactor, Session, Signal,
    SignalInfo, SlowConsumer,
    shm::{Publisher, PublisherOptions, SubscriberId},
};

use crate::{
    console::{self, Output},
    handover,
    journal::{Journal, Level},
    macs::{LAYOUT, Macs},
    protocol::{Command, LINE_MAX, Line},
    table::{Change, Refused, Table},
};

/// How long the manager waits at its end for clients and the logger to receive what is buffered for them.
const DRAIN: Duration = Duration::from_secs(2);

pub(crate) struct Manager {
    table: Table,
    macs: Macs,
    publisher: Publisher,
    /// Clients that have the whole table, and so receive its changes.
    clients: BTreeSet<Key>,
    pub(crate) journal: Journal,
    pub(crate) output: Output,
}

/// One client: a subscriber, a client with commands, or both.
#[derive(Default)]
struct Client {
    macs: Option<SubscriberId>,
}

/// Runs until SIGINT or SIGTERM.
pub(crate) fn run(address: &Address, queue: Option<&str>) -> io::Result<()> {
    let mut reactor = Reactor::<Manager>::builder().limits(limits()).build()?;
    // Before anything else: from here on a signal ends the process only after its paths and queues are removed.
    signals(&mut reactor)?;
    let (journal, _own_queue) = match queue {
        Some(name) => Journal::open(&mut reactor, name).map(|(journal, own)| (journal, Some(own)))?,
        None => (Journal::default(), None),
    };
    let macs = Macs::default();
    let mut publisher = PublisherOptions::latest(Macs::BYTES).tag(LAYOUT).create()?;
    publisher.publish(&macs.to_bytes())?;
    let output = Output::open()?;
    output.watch(&mut reactor)?;
    console::watch_input(&mut reactor)?;
    let listener = Listener::bind(address)?;
    reactor.listen(listener, Framing::lines().max(LINE_MAX), |_, _| Ok(Client::default()))?;

    let table = Table::default();
    let mut manager = Manager { table, macs, publisher, clients: BTreeSet::new(), journal, output };
    manager.output.say(&format!("ready {address}\n"));
    reactor.run(&mut manager)?;
    let (written, _, dropped) = manager.journal.counts(&reactor);
    let untold = manager.journal.untold();
    eprintln!("manager: ended after change {}", manager.table.sequence());
    eprintln!(
        "manager: {written} lines for the log, {dropped} dropped, {untold} of them without a word in the log"
    );
    Ok(())
}

fn limits() -> Limits {
    Limits {
        // A subscriber need not send, but must read: one that does not is closed, and gets the whole table when it
        // connects again.
        idle: None,
        slow_consumer: SlowConsumer::Disconnect,
        output_max: 1 << 20,
        // Each command may add a line to every subscriber's output, which must be sent before many more are added.
        messages_per_visit: 64,
        outbox: 64,
        ..Limits::default()
    }
}

fn signals(reactor: &mut Reactor<Manager>) -> io::Result<()> {
    reactor.signals([Signal::USR1], |_, cx, manager| {
        // A flush cannot fail.
        let _ = manager.change(&Change::Flush, &"SIGUSR1", cx);
        Ok(())
    })?;
    let mut draining = false;
    reactor.signals([Signal::INT, Signal::TERM], move |info: SignalInfo, cx, manager| {
        if mem::replace(&mut draining, true) {
            cx.stop();
            return Ok(());
        }
        manager.journal.write(cx, Level::Warning, format_args!("the manager ends, on {}", info.signal()));
        cx.drain(DRAIN)
    })?;
    Ok(())
}

impl Session<Manager> for Client {
    fn on_open(&mut self, cx: &mut Context<'_, Manager>, manager: &mut Manager) -> io::Result<()> {
        let key = cx.key();
        manager.clients.insert(key);
        manager.journal.write(cx, Level::Info, format_args!("client {key} has come"));
        cx.reply(manager.whole_table().as_bytes())
    }

    fn on_request(
        &mut self,
        request: &[u8],
        cx: &mut Context<'_, Manager>,
        manager: &mut Manager,
    ) -> io::Result<()> {
        let answer = match Command::parse(request) {
            Ok(Some(Command::SubscribeMacs)) => match self.subscribe(cx, manager) {
                Ok(()) => format!("{}\n", Line::Ok(String::new())),
                Err(error) => format!("{}\n", Line::Error(error.to_string())),
            },
            _ => manager.answer(request, &format_args!("client {}", cx.key()), cx),
        };
        cx.reply(answer.as_bytes())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Manager>, manager: &mut Manager) {
        let key = cx.key();
        manager.clients.remove(&key);
        if let Some(id) = self.macs.take() {
            manager.publisher.unsubscribe(id);
        }
        let level = match cause {
            // The manager is ending, which the log says already; the queue may have been removed from the poll set.
            Cause::Drain | Cause::DrainDeadline | Cause::Stop => return,
            Cause::Limit(_) => Level::Warning,
            _ => Level::Info,
        };
        manager.journal.write(cx, level, format_args!("client {key} has left: {cause}"));
    }
}

impl Client {
    fn subscribe(&mut self, cx: &mut Context<'_, Manager>, manager: &mut Manager) -> io::Result<()> {
        if self.macs.is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "this client has a ticket already"));
        }
        let (id, ticket) = manager.publisher.subscribe()?;
        self.macs = Some(id);
        handover::send(cx, ticket)
    }
}

impl Manager {
    /// Executes a line from any source; returns the lines of the answer.
    pub(crate) fn answer(
        &mut self,
        line: &[u8],
        whose: &dyn fmt::Display,
        set: &mut PollSet<Manager>,
    ) -> String {
        let command = Command::parse(line);
        let done =
            command.and_then(|command| command.map_or(Ok(String::new()), |c| self.execute(c, whose, set)));
        done.unwrap_or_else(|why| {
            self.journal.write(set, Level::Warning, format_args!("refused to {whose}: {why}"));
            format!("{}\n", Line::Error(why.to_string()))
        })
    }

    fn execute(
        &mut self,
        command: Command,
        whose: &dyn fmt::Display,
        set: &mut PollSet<Manager>,
    ) -> Result<String, Refused> {
        let mut lines = String::new();
        let ok = match command {
            Command::Change(change) => self.change(&change, whose, set)?.to_string(),
            Command::Lookup(address) => match self.table.lookup(address) {
                Some(route) => route.to_string(),
                None => return Err(Refused(format!("no route to {address}"))),
            },
            Command::Show => {
                lines = self.whole_table();
                String::new()
            }
            Command::MacAdd(ip, mac) => {
                let revision = self.macs.add(ip, mac)?;
                self.publish_macs();
                self.journal.write(set, Level::Info, format_args!("MAC-ADD {ip} {mac} from {whose}"));
                revision.to_string()
            }
            Command::MacDelete(ip) => {
                let revision = self.macs.delete(ip)?;
                self.publish_macs();
                self.journal.write(set, Level::Info, format_args!("MAC-DELETE {ip} from {whose}"));
                revision.to_string()
            }
            Command::MacShow => {
                for (ip, mac) in self.macs.entries() {
                    push(&mut lines, &Line::Mac(ip, mac));
                }
                self.macs.revision().to_string()
            }
            Command::SubscribeMacs => {
                return Err(Refused("descriptors travel over the Unix socket only; ask there".into()));
            }
            Command::Status => self.status(set),
            Command::Help => Command::all().into(),
        };
        push(&mut lines, &Line::Ok(ok));
        Ok(lines)
    }

    fn status(&self, set: &PollSet<Manager>) -> String {
        let (logged, waiting, dropped) = self.journal.counts(set);
        format!(
            "sequence={} routes={} macs={} clients={} subscribers={} slow={} logged={logged} waiting={waiting} dropped={dropped}",
            self.table.sequence(),
            self.table.len(),
            self.macs.len(),
            self.clients.len(),
            self.publisher.subscribers(),
            set.stats().limit_count(Limit::SlowConsumer),
        )
    }

    /// Changes the table, and sends the change to all subscribers.
    fn change(
        &mut self,
        change: &Change,
        whose: &dyn fmt::Display,
        set: &mut PollSet<Manager>,
    ) -> Result<u64, Refused> {
        let sequence = self.table.apply(change)?;
        if *change == Change::Flush {
            self.macs.flush();
            self.publish_macs();
        }
        let line = Line::Change { sequence, change: change.clone() };
        self.journal.write(set, Level::Info, format_args!("{line} from {whose}"));
        let line = format!("{line}\n");
        for &key in &self.clients {
            // A client that misses a change is closed: it connects again, and gets the whole table.
            if set.client(key).is_some_and(|mut client| client.send(line.as_bytes()).is_err()) {
                set.abort(key);
            }
        }
        Ok(sequence)
    }

    fn publish_macs(&mut self) {
        self.publisher.publish(&self.macs.to_bytes()).expect("a table is of the size the segment is for");
    }

    fn whole_table(&self) -> String {
        let sequence = self.table.sequence();
        let mut lines = String::new();
        push(&mut lines, &Line::Table { sequence, routes: self.table.len() });
        for route in self.table.routes() {
            push(&mut lines, &Line::Route(route));
        }
        push(&mut lines, &Line::End { sequence });
        lines
    }
}

fn push(lines: &mut String, line: &Line) {
    writeln!(lines, "{line}").expect("a string takes everything");
}
