//! `--explain`: the state machine at work, one line for each transition, with its system call.
//!
//! ```text
//! M fd 9 readable        → CIR     accept4 = 11           C#1 uid 0 pid 4242   database of clients: 1
//! C#1 fd 11 readable     → SRM     recv = 12 "1"          handler 1.2 µs   reply in this batch: none
//! ```

use std::{collections::HashSet, fmt::Display, io::Write};

use ipc_reactor::{Key, Observer, Ready, Seen, SourceInfo, SourceKind, VisitEnd, What};

use crate::names::{Names, Payload, Text, Time};

/// Output options.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    pub(crate) colour: bool,
    /// Without times, the output of two runs can be compared.
    pub(crate) times: bool,
}

pub(crate) struct Explain<W> {
    out: W,
    style: Style,
    names: Names,
    /// The source that is visited, and its readiness.
    visit: String,
    /// How long it has waited in the ready list; printed once, on the visit's first line.
    queued_ns: Option<u64>,
    /// The visit was caused by an event, not by a drain or a timer.
    by_event: bool,
    /// The call and the size of the last read, while no message of it has been shown.
    read: Option<(&'static str, usize)>,
    /// Bytes of replies that wait for the end of the visit.
    replies: usize,
    /// Lines of this visit.
    lines: u32,
    clients: usize,
    /// Sources that had an event since they were last visited.
    edges: HashSet<Key>,
    /// Clients that have not been visited yet.
    new: HashSet<Key>,
    /// Sources that used up their budget.
    again: HashSet<Key>,
    /// Sources in the ready list when the wait began.
    ready: usize,
}

/// ANSI colours.
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const BLUE: u8 = 34;
const MAGENTA: u8 = 35;
const CYAN: u8 = 36;
const RED: u8 = 31;
const DIM: u8 = 2;

impl<W: Write> Explain<W> {
    pub(crate) fn new(out: W, style: Style, names: Names) -> Explain<W> {
        Explain {
            out,
            style,
            names,
            visit: String::new(),
            queued_ns: None,
            by_event: false,
            read: None,
            replies: 0,
            lines: 0,
            clients: 0,
            edges: HashSet::new(),
            new: HashSet::new(),
            again: HashSet::new(),
            ready: 0,
        }
    }

    /// One transition. Each line is one write, so that the output of other processes cannot split it.
    fn line(&mut self, from: &str, to: &str, colour: u8, call: impl Display, rest: impl Display) {
        let (call, mut rest) = (call.to_string(), rest.to_string());
        if let Some(queued_ns) = self.queued_ns.take().filter(|&ns| ns > 0 && self.style.times) {
            rest.push_str(&format!("   waited {}", Time(queued_ns)));
        }
        let (on, off) = match self.style.colour {
            true => (format!("\x1b[{colour}m"), "\x1b[0m"),
            false => (String::new(), ""),
        };
        let line = format!("{on}{from:<26}{off} → {on}{to:<7}{off} {call:<28} {}", rest.trim());
        // If the output has no reader any more, the service continues.
        let _ = self.out.write_all(format!("{}\n", line.trim_end()).as_bytes());
        self.lines += 1;
    }

    /// A transition of the source that is visited.
    fn step(&mut self, to: &str, colour: u8, call: impl Display, rest: impl Display) {
        let visit = self.visit.clone();
        self.line(&visit, to, colour, call, rest);
    }

    fn time(&self, ns: u64) -> String {
        if self.style.times { Time(ns).to_string() } else { "-".into() }
    }

    fn visit(&mut self, source: SourceInfo, ready: Ready, queued_ns: u64) {
        self.by_event = self.edges.remove(&source.key);
        let again = self.again.remove(&source.key);
        let what = match self.by_event {
            true => ready.to_string(),
            false if self.new.contains(&source.key) => "new".into(),
            false if again => "still ready".into(),
            false => "no event".into(),
        };
        self.visit = format!("{} {what}", self.name(source));
        self.queued_ns = Some(queued_ns);
        (self.lines, self.replies, self.read) = (0, 0, None);
    }

    fn name(&mut self, source: SourceInfo) -> String {
        match source.fd {
            Some(fd) => format!("{} fd {fd}", self.names.of(source)),
            None => self.names.of(source).into(),
        }
    }

    fn srm(&mut self, request: &[u8], reply_bytes: usize, handler_ns: u64) {
        let call = match self.read.take() {
            Some((call, bytes)) => format!("{call} = {bytes} {}", Payload(request)),
            None => format!("      └ {}", Payload(request)),
        };
        self.replies += reply_bytes;
        let reply = match (reply_bytes, self.replies) {
            (0, 0) => "none".into(),
            (0, all) => format!("{all} bytes"),
            (new, all) if new == all => format!("{all} bytes, kept"),
            (new, all) => format!("{all} bytes, {new} of them new"),
        };
        let handler = self.time(handler_ns);
        self.step("SRM", CYAN, call, format_args!("handler {handler}   reply in this batch: {reply}"));
    }

    /// A read without a whole message.
    fn partial_frame(&mut self) {
        if let Some((call, bytes)) = self.read.take() {
            self.step("half", DIM, format_args!("{call} = {bytes}"), "not a whole message yet: kept");
        }
    }

    fn visited(&mut self, source: SourceInfo, end: VisitEnd) {
        let is_new = self.new.remove(&source.key);
        match (end, source.kind) {
            (VisitEnd::Again, _) => {
                self.again.insert(source.key);
                self.step(
                    "again",
                    YELLOW,
                    "",
                    "its budget is spent: visited again in the next round, with no event",
                );
            }
            (VisitEnd::Blocked, _) => self.step("blocked", YELLOW, "", "waits for room, or for a deadline"),
            (VisitEnd::Closed, _) => {
                if let Some((call, bytes)) = self.read.take() {
                    self.step(
                        "SRM",
                        RED,
                        format_args!("{call} = {bytes}"),
                        "what has come ends the connection",
                    );
                }
            }
            (VisitEnd::Drained, SourceKind::Listener) => {
                self.step("asleep", DIM, "accept4 = EAGAIN", "no other CIR waits: until the next event");
            }
            (VisitEnd::Drained, SourceKind::Queue) if self.by_event => {
                self.step("asleep", DIM, "mq_receive = EAGAIN", "the queue is empty: until the next event");
            }
            (VisitEnd::Drained, SourceKind::Client) if is_new && self.lines == 0 => {
                self.step("open", GREEN, "", "on_open; no SRM yet: until its first event");
            }
            (VisitEnd::Drained, SourceKind::Timers) if self.lines == 0 => {
                self.step("looked", DIM, "", "a deadline of the reactor's own");
            }
            (VisitEnd::Drained, _) if self.lines == 0 => self.step("looked", DIM, "", "nothing to do"),
            (VisitEnd::Drained, _) => {}
        }
        self.visit.clear();
    }
}

impl<W: Write + 'static> Observer for Explain<W> {
    fn observe(&mut self, seen: &Seen<'_>) {
        if !matches!(
            seen.what,
            What::Request { .. } | What::Limit { .. } | What::Visited { end: VisitEnd::Closed, .. }
        ) {
            self.partial_frame();
        }
        match seen.what {
            What::Woke { events, waited_ns } => {
                self.names.forget_those_gone();
                self.queued_ns = None;
                let slept = match self.ready {
                    0 => format!("slept {}", self.time(waited_ns)),
                    ready => format!("did not sleep: {ready} in the ready list"),
                };
                let from = format!("turn {}", seen.turn);
                self.line(&from, "woke", DIM, format_args!("epoll_wait = {events}"), slept);
            }
            What::Edge { source, .. } => {
                self.edges.insert(source.key);
            }
            What::Stale { key } => {
                let from = self.names.get(key).map_or_else(|| key.to_string(), str::to_owned);
                self.line(&from, "stale", YELLOW, "", "its event came too late: it is gone; skipped");
            }
            What::Visit { source, ready, queued_ns } => self.visit(source, ready, queued_ns),
            What::Accepted { client, peer, clients, handler_ns, .. } => {
                self.clients = clients;
                self.new.insert(client.key);
                let fd = client.fd.unwrap_or(-1);
                let (name, handler) = (self.names.of(client).to_owned(), self.time(handler_ns));
                self.step(
                    "CIR",
                    GREEN,
                    format_args!("accept4 = {fd}"),
                    format_args!("{name} {peer}   factory {handler}   database of clients: {clients}"),
                );
            }
            What::Refused { .. } => self.step("refused", RED, "close", "the CIR is turned away"),
            What::Read { call, bytes: 0, .. } => {
                self.step(
                    "EOF",
                    YELLOW,
                    format_args!("{call} = 0"),
                    "the peer sends no more: what it is owed goes out first",
                );
            }
            What::Read { call, bytes, .. } => self.read = Some((call, bytes)),
            What::Empty { call, .. } => {
                let call = format_args!("{call} = EAGAIN");
                self.step("asleep", DIM, call, "nothing more has come: until the next event");
            }
            What::Request { request, reply_bytes, handler_ns, .. } => {
                self.srm(request, reply_bytes, handler_ns)
            }
            What::Sent { bytes, left, .. } => {
                let rest = match left {
                    0 => "the replies of this batch, in one call".into(),
                    left => format!("{left} bytes left: wait for room (EPOLLOUT)"),
                };
                self.replies = left;
                self.step("reply", BLUE, format_args!("send = {bytes}"), rest);
            }
            What::Message { source, bytes, priority, handler_ns } => {
                let handler = self.time(handler_ns);
                let call = match source.kind {
                    SourceKind::Queue => "mq_receive",
                    SourceKind::Datagram => "recvmmsg",
                    _ => "read",
                };
                let priority = priority.map(|priority| format!("priority {priority}   ")).unwrap_or_default();
                let call = format!("{call} = {} {}", bytes.len(), Text(bytes));
                self.step("MSG", CYAN, call, format_args!("{priority}handler {handler}"));
            }
            What::Signal { info, handler_ns, .. } => {
                let handler = self.time(handler_ns);
                let (signal, uid, pid) = (info.signal(), info.uid(), info.pid());
                let rest = format!("from uid {uid} pid {pid}   handler {handler}");
                self.step("signal", MAGENTA, format_args!("read: {signal}"), rest);
            }
            What::Timer { late_ns, handler_ns, .. } => {
                let (late, handler) = (self.time(late_ns), self.time(handler_ns));
                self.step("fires", MAGENTA, "", format_args!("late {late}   handler {handler}"));
            }
            What::Fault { key, cause } => {
                let from = self.names.get(key).map_or_else(|| key.to_string(), str::to_owned);
                self.line(&from, "fault", RED, "", cause);
            }
            What::Limit { limit } => {
                let from = if self.visit.is_empty() { "loop".into() } else { self.visit.clone() };
                self.line(&from, "limit", YELLOW, "", limit);
            }
            What::Closed { source, cause } => {
                let from = self.name(source);
                let database = if source.kind == SourceKind::Client {
                    self.clients = self.clients.saturating_sub(1);
                    format!("   database of clients: {}", self.clients)
                } else {
                    String::new()
                };
                let call = source.fd.map(|fd| format!("epoll_ctl DEL, close {fd}")).unwrap_or_default();
                self.line(&from, "closed", YELLOW, call, format_args!("{cause}{database}"));
                self.edges.remove(&source.key);
                self.new.remove(&source.key);
                self.again.remove(&source.key);
                self.names.left(source.key);
            }
            What::Visited { source, end, .. } => self.visited(source, end),
            What::Turned { ready, .. } => self.ready = ready,
            _ => {}
        }
    }
}
