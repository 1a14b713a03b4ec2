//! A subscriber: keeps copies of both tables, the routes from the changes that the manager sends, the MAC addresses by
//! reading shared memory after each notification. When the manager ends, it keeps both and tries to connect again.

use std::{
    io::{self, Write},
    time::Duration,
};

use ipc_reactor::{
    Address, Cause, Context, Delivery, Framing, Key, Limits, PollSet, Reactor, Session, Signal, shm::Update,
};
use serde_json::{Map, Value, json};

use crate::{
    handover,
    macs::{LAYOUT, Macs},
    protocol::Line,
    table::{Route, Table},
};

/// How long to wait before connecting again; each failure doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Segment, page and doorbell.
const TICKET_DESCRIPTORS: u16 = 3;

struct Replica {
    address: Address,
    json: bool,
    table: Table,
    /// The whole table, while it is being received.
    incoming: Option<Incoming>,
    macs: Macs,
    /// The doorbell in the poll set.
    bell: Option<Key>,
    /// Changes that are missing, although later ones arrived. It stays 0.
    missed: u64,
    connections: u64,
    pause: Duration,
}

struct Incoming {
    sequence: u64,
    expected: usize,
    routes: Vec<Route>,
}

struct Feed;

/// Runs until SIGINT or SIGTERM, even if the manager ends.
pub(crate) fn run(address: &Address, json: bool) -> io::Result<()> {
    let limits = Limits { idle: None, ..Limits::default() };
    let mut reactor = Reactor::<Replica>::builder().limits(limits).build()?;
    reactor.signals([Signal::USR1], |_, _, replica| print(&replica.dump()))?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, _| cx.drain(Duration::from_secs(1)))?;
    let mut replica = Replica {
        address: address.clone(),
        json,
        table: Table::default(),
        incoming: None,
        macs: Macs::default(),
        bell: None,
        missed: 0,
        connections: 0,
        pause: PAUSE_MIN,
    };
    connect(&mut reactor, &replica)?;
    reactor.run(&mut replica)?;
    print(&replica.dump())
}

fn connect(set: &mut PollSet<Replica>, replica: &Replica) -> io::Result<()> {
    set.connect(&replica.address, Framing::lines().descriptors(TICKET_DESCRIPTORS), Feed).map(drop)
}

impl Session<Replica> for Feed {
    fn on_open(&mut self, cx: &mut Context<'_, Replica>, replica: &mut Replica) -> io::Result<()> {
        replica.connections += 1;
        replica.pause = PAUSE_MIN;
        cx.reply(b"SUBSCRIBE-MACS\n")
    }

    fn on_request(
        &mut self,
        request: &[u8],
        cx: &mut Context<'_, Replica>,
        replica: &mut Replica,
    ) -> io::Result<()> {
        let text = str::from_utf8(request).map_err(io::Error::other)?;
        match text.parse().map_err(io::Error::other)? {
            Line::Table { sequence, routes } => {
                replica.incoming = Some(Incoming { sequence, expected: routes, routes: Vec::new() });
                Ok(())
            }
            Line::Route(route) => {
                replica.incoming.as_mut().ok_or_else(out_of_place)?.routes.push(route);
                Ok(())
            }
            Line::End { sequence } => replica.take_whole_table(sequence),
            Line::Change { sequence, change } => {
                let expected = replica.table.sequence() + 1;
                if sequence != expected {
                    replica.missed += sequence.saturating_sub(expected);
                    return Err(io::Error::other(format!("change {sequence} came where {expected} was due")));
                }
                replica.table.apply(&change).map_err(io::Error::other)?;
                let event = json!({ "event": "change", "sequence": sequence, "change": change.to_string() });
                replica.say(&event, || format!("{sequence} {change}"))
            }
            Line::Ticket(hex) => {
                let macs = handover::receive(cx, &hex)?;
                if macs.tag() != LAYOUT {
                    return Err(io::Error::other("the MAC table is of another version"));
                }
                let bell =
                    cx.subscribe(macs, Delivery::Latest, |update, _, replica: &mut Replica| match update {
                        Update::Value(bytes) => replica.take_macs(bytes),
                        Update::Lost(_) => Ok(()),
                    })?;
                replica.bell = Some(bell);
                Ok(())
            }
            Line::Error(why) => {
                eprintln!("subscriber: the manager says: {why}");
                Ok(())
            }
            Line::Ok(_) | Line::Mac(..) => Ok(()),
        }
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Replica>, replica: &mut Replica) {
        replica.incoming = None;
        // This was the old manager's memory: a new manager sends a new ticket.
        if let Some(bell) = replica.bell.take() {
            cx.close(bell);
        }
        if matches!(cause, Cause::Drain | Cause::DrainDeadline | Cause::Stop) {
            return;
        }
        // Refused again: the failure is reported once.
        if replica.pause == PAUSE_MIN {
            eprintln!("subscriber: without a manager: {cause}");
        }
        cx.after(replica.pause, |cx, replica| connect(cx, replica));
        replica.pause = (replica.pause * 2).min(PAUSE_MAX);
    }
}

impl Replica {
    fn take_whole_table(&mut self, sequence: u64) -> io::Result<()> {
        let incoming = self.incoming.take().ok_or_else(out_of_place)?;
        let table = Table::restored(sequence, incoming.routes);
        if incoming.sequence != sequence || table.len() != incoming.expected {
            return Err(io::Error::other(format!("{} routes came of {}", table.len(), incoming.expected)));
        }
        self.table = table;
        let routes = self.table.len();
        self.say(&json!({ "event": "table", "sequence": sequence, "routes": routes }), || {
            format!("{sequence} the whole table, routes: {routes}")
        })
    }

    fn take_macs(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.macs = Macs::from_bytes(bytes).map_err(io::Error::other)?;
        let (revision, count) = (self.macs.revision(), self.macs.len());
        self.say(&json!({ "event": "macs", "revision": revision, "macs": count }), || {
            format!("MAC table of revision {revision}, addresses: {count}")
        })
    }

    fn say(&self, event: &Value, text: impl FnOnce() -> String) -> io::Result<()> {
        if self.json { print(event) } else { print(&text()) }
    }

    /// Both tables.
    fn dump(&self) -> Value {
        let routes: Vec<_> = self.table.routes().map(|route| route.to_string()).collect();
        let macs: Map<_, _> =
            self.macs.entries().map(|(ip, mac)| (ip.to_string(), mac.to_string().into())).collect();
        json!({
            "event": "tables",
            "sequence": self.table.sequence(),
            "routes": routes,
            "mac_revision": self.macs.revision(),
            "macs": macs,
            "missed": self.missed,
            "connections": self.connections,
        })
    }
}

fn out_of_place() -> io::Error {
    io::Error::other("a ROUTE or END that no TABLE came before")
}

/// One line on standard output. It may block: then the manager treats this subscriber as a slow consumer.
fn print(line: &dyn std::fmt::Display) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{line}") {
        // Standard output has no reader any more: stop.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        printed => printed,
    }
}
