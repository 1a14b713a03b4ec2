//! `--trace`: what the reactor does as a Chrome trace, for Perfetto or `chrome://tracing`.
//!
//! One track for the loop, one for each source. The format is the JSON array of the "Trace Event Format". Each event is
//! written when it happens, so memory is bounded. After a kill the closing bracket is missing, which the format allows.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use ipc_reactor::{Key, Observer, Ready, Seen, SourceInfo, SourceKind, What};
use serde_json::{Value, json};

use crate::names::{Names, Payload, Text};

/// The loop's own track.
const LOOP: u32 = 1;

pub(crate) struct Trace {
    path: PathBuf,
    out: BufWriter<File>,
    /// The first write that failed; nothing is written after it.
    failed: Option<io::Error>,
    is_empty: bool,
    ended: bool,
    names: Names,
    tracks: HashMap<Key, Track>,
    last_track: u32,
    visit: Option<Visit>,
    clients: usize,
    /// The origin of all times.
    start_ns: Option<u64>,
}

#[derive(Clone, Copy)]
struct Track {
    number: u32,
    /// When its last visit ended: slices of one track must not overlap.
    free_ns: u64,
    /// A client that was not visited yet: the arrow from its CIR ends at its first visit.
    new: bool,
}

struct Visit {
    track: u32,
    start_ns: u64,
    ready: Ready,
}

impl Trace {
    pub(crate) fn create(path: &Path, names: Names, sources: &[(Key, SourceKind)]) -> io::Result<Trace> {
        let mut trace = Trace {
            path: path.into(),
            out: BufWriter::new(File::create(path).map_err(|error| named(path, &error))?),
            failed: None,
            is_empty: true,
            ended: false,
            names,
            tracks: HashMap::new(),
            last_track: LOOP,
            visit: None,
            clients: 0,
            start_ns: None,
        };
        trace.meta("process_name", LOOP, json!({ "name": "server" }));
        trace.meta("thread_name", LOOP, json!({ "name": "loop" }));
        trace.meta("thread_sort_index", LOOP, json!({ "sort_index": 0 }));
        for &(key, kind) in sources {
            trace.track(SourceInfo { key, fd: None, kind });
        }
        Ok(trace)
    }

    /// Ends the array. Returns the first error of writing.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.ended, true) && self.failed.is_none() {
            self.failed = write!(self.out, "\n]\n").and_then(|()| self.out.flush()).err();
        }
        self.failed.take().map_or(Ok(()), |error| Err(named(&self.path, &error)))
    }

    fn event(&mut self, mut event: Value) {
        event["pid"] = std::process::id().into();
        if self.failed.is_some() || self.ended {
            return;
        }
        let before = if std::mem::replace(&mut self.is_empty, false) { "[" } else { "," };
        // In one write, so that the buffer is flushed between two events, never within one.
        self.failed = self.out.write_all(format!("{before}\n{event}").as_bytes()).err();
    }

    fn meta(&mut self, name: &str, track: u32, args: Value) {
        self.event(
            json!({ "ph": "M", "name": name, "cat": "__metadata", "tid": track, "ts": 0, "args": args }),
        );
    }

    fn micros(&self, at_ns: u64) -> f64 {
        at_ns.saturating_sub(self.start_ns.unwrap_or(at_ns)) as f64 / 1e3
    }

    /// An event that lasted until `end_ns`.
    fn slice(&mut self, track: u32, name: &str, end_ns: u64, took_ns: u64, args: Value) {
        // A nanosecond shorter: viewers add and round these numbers, and if a slice seems to overlap the next one, they
        // nest the next one in it, or drop it.
        let (ts, dur) = (self.micros(end_ns - took_ns), took_ns.saturating_sub(1) as f64 / 1e3);
        self.event(json!({
            "ph": "X", "name": name, "cat": "reactor", "tid": track, "ts": ts, "dur": dur, "args": args,
        }));
    }

    /// An event without a duration.
    fn instant(&mut self, track: u32, name: &str, at_ns: u64, args: Value) {
        let ts = self.micros(at_ns);
        self.event(json!({ "ph": "i", "s": "t", "name": name, "cat": "reactor", "tid": track, "ts": ts, "args": args }));
    }

    /// An arrow from the CIR (`s`) to the client's first visit (`f`).
    fn arrow(&mut self, phase: &str, track: u32, id: u32, at_ns: u64) {
        let ts = self.micros(at_ns);
        self.event(
            json!({ "ph": phase, "bp": "e", "name": "CIR", "cat": "CIR", "id": id, "tid": track, "ts": ts }),
        );
    }

    fn counter(&mut self, name: &str, at_ns: u64, value: usize) {
        let ts = self.micros(at_ns);
        self.event(json!({ "ph": "C", "name": name, "cat": "reactor", "tid": LOOP, "ts": ts, "args": { name: value } }));
    }

    /// The track of a source; it is created at the source's first event.
    fn track(&mut self, source: SourceInfo) -> Track {
        if let Some(&track) = self.tracks.get(&source.key) {
            return track;
        }
        self.last_track += 1;
        let track = Track { number: self.last_track, free_ns: 0, new: false };
        self.tracks.insert(source.key, track);
        let name = self.names.of(source).to_owned();
        let name = source.fd.map_or(name.clone(), |fd| format!("{name} fd {fd}"));
        self.meta("thread_name", track.number, json!({ "name": name }));
        // The few sources of the server's own above all clients.
        let above = if source.kind == SourceKind::Client { 1_000_000 } else { 0 };
        self.meta("thread_sort_index", track.number, json!({ "sort_index": above + track.number }));
        track
    }

    /// The track for the current event.
    fn here(&self) -> u32 {
        self.visit.as_ref().map_or(LOOP, |visit| visit.track)
    }

    fn visit(&mut self, at_ns: u64, source: SourceInfo, ready: Ready, queued_ns: u64) {
        let track = self.track(source);
        let waited_ns = queued_ns.min(at_ns.saturating_sub(track.free_ns));
        if waited_ns > 0 {
            let edges = Some(ready.to_string()).filter(|edges| !edges.is_empty());
            self.slice(track.number, "waiting", at_ns, waited_ns, json!({ "ready": edges }));
        }
        if track.new {
            self.arrow("f", track.number, track.number, at_ns);
        }
        if let Some(track) = self.tracks.get_mut(&source.key) {
            track.new = false;
        }
        self.visit = Some(Visit { track: track.number, start_ns: at_ns, ready });
    }
}

impl Observer for Trace {
    fn observe(&mut self, seen: &Seen<'_>) {
        let (at_ns, here) = (seen.at_ns, self.here());
        match seen.what {
            What::Woke { events, waited_ns } => {
                self.names.forget_those_gone();
                self.start_ns.get_or_insert(at_ns - waited_ns);
                self.slice(LOOP, "asleep", at_ns, waited_ns, json!({ "epoll_wait": events }));
            }
            What::Stale { key } => {
                self.instant(LOOP, "stale event", at_ns, json!({ "key": key.to_string() }))
            }
            What::Visit { source, ready, queued_ns } => self.visit(at_ns, source, ready, queued_ns),
            What::Accepted { client, peer, clients, handler_ns, .. } => {
                let track = self.track(client);
                self.tracks.insert(client.key, Track { new: true, ..track });
                let name = self.names.of(client).to_owned();
                let args = json!({ "client": name, "fd": client.fd, "peer": peer.to_string() });
                self.slice(here, "CIR", at_ns, handler_ns, args);
                self.arrow("s", here, track.number, at_ns);
                self.clients = clients;
                self.counter("clients", at_ns, clients);
            }
            What::Refused { .. } => self.instant(here, "CIR refused", at_ns, json!({})),
            What::Read { call, bytes, .. } => self.instant(here, call, at_ns, json!({ "bytes": bytes })),
            What::Request { request, reply_bytes, handler_ns, .. } => {
                let args = json!({ "request": Payload(request).to_string(), "reply_bytes": reply_bytes });
                self.slice(here, "SRM", at_ns, handler_ns, args);
            }
            What::Sent { bytes, left, .. } => {
                self.instant(here, "send", at_ns, json!({ "bytes": bytes, "left": left }));
            }
            What::Message { bytes, priority, handler_ns, .. } => {
                let args = json!({ "message": Text(bytes).to_string(), "priority": priority });
                self.slice(here, "message", at_ns, handler_ns, args);
            }
            What::Signal { info, handler_ns, .. } => {
                self.slice(here, &info.signal().to_string(), at_ns, handler_ns, json!({ "pid": info.pid() }));
            }
            What::Timer { late_ns, handler_ns, .. } => {
                self.slice(here, "timer", at_ns, handler_ns, json!({ "late_us": late_ns as f64 / 1e3 }));
            }
            What::Fault { key, cause } => {
                let args = json!({ "source": self.names.get(key), "cause": cause.to_string() });
                self.instant(here, "fault", at_ns, args);
            }
            What::Limit { limit } => self.instant(here, &format!("limit: {limit}"), at_ns, json!({})),
            What::Closed { source, cause } => {
                let track = self.track(source);
                self.instant(track.number, "closed", at_ns, json!({ "cause": cause.to_string() }));
                if source.kind == SourceKind::Client {
                    self.clients = self.clients.saturating_sub(1);
                    self.counter("clients", at_ns, self.clients);
                }
                self.tracks.remove(&source.key);
                self.names.left(source.key);
            }
            What::Visited { source, took_ns, end, .. } => {
                if let Some(Visit { track, start_ns, ready }) = self.visit.take() {
                    let args = json!({ "ready": ready.to_string(), "end": format!("{end:?}") });
                    self.slice(track, "visit", at_ns, at_ns.saturating_sub(start_ns).min(took_ns), args);
                }
                if let Some(track) = self.tracks.get_mut(&source.key) {
                    track.free_ns = at_ns;
                }
            }
            What::Turned { took_ns, ready } => {
                self.slice(LOOP, &format!("turn {}", seen.turn), at_ns, took_ns, json!({ "ready": ready }));
                self.counter("ready list", at_ns, ready);
            }
            _ => {}
        }
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Also runs if the loop ends by an error or a panic.
impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
