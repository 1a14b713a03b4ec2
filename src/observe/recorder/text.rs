//! The text of a dump.

use std::{fmt, time::Duration};

use super::{
    FlightRecorder,
    event::{Event, Record, Why},
};
use crate::{
    observe::event::{SourceInfo, SourceKind},
    types::ready::Ready,
};

impl fmt::Display for FlightRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = self.records();
        let Some(newest_ns) = records.clone().next_back().map(|record| record.at_ns) else {
            return writeln!(f, "flight recorder: nothing yet");
        };
        let secs = Duration::from_nanos(newest_ns).as_secs_f64();
        writeln!(
            f,
            "flight recorder: the latest {} of {} records; times are before the newest, at {secs:.6} s of CLOCK_MONOTONIC",
            records.clone().count(),
            self.written,
        )?;
        for Record { at_ns, event } in records {
            let before = match newest_ns - at_ns {
                0 => "now".into(),
                ns => format!("-{:.1?}", Duration::from_nanos(ns)),
            };
            writeln!(f, "{before:>10}  {event}")?;
        }
        Ok(())
    }
}

/// One line. What happened in a visit is indented below it.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = Duration::from_nanos;
        match *self {
            Event::Turn { turn, events, ready, waited_ns, took_ns } => {
                write!(f, "turn {turn}: slept {:.1?}, events {events}, ", time(waited_ns))?;
                match ready {
                    Some(0) => write!(f, "took {:.1?}", time(took_ns)),
                    Some(ready) => write!(f, "took {:.1?}, {ready} ready for the next", time(took_ns)),
                    None => f.write_str("not over yet"),
                }
            }
            Event::Visit { source, ready, end, queued_ns, took_ns } => {
                match ready == Ready::NONE {
                    true => write!(f, "  {}: ", Shown(source))?,
                    false => write!(f, "  {} {ready}: ", Shown(source))?,
                }
                if queued_ns > 0 {
                    write!(f, "waited {:.1?}, ", time(queued_ns))?;
                }
                match end {
                    Some(end) => write!(f, "took {:.1?}, {end:?}", time(took_ns)),
                    None => f.write_str("not over yet"),
                }
            }
            Event::Stale { key } => write!(f, "  an event for {key}, which is closed"),
            Event::Accepted { client, clients, handler_ns } => {
                write!(f, "    CIR: {}, {clients} clients", Shown(client))?;
                if handler_ns > 0 { write!(f, ", factory {:.1?}", time(handler_ns)) } else { Ok(()) }
            }
            Event::Refused => f.write_str("    CIR refused"),
            Event::Read { bytes } => write!(f, "    read {bytes} bytes"),
            Event::Request { bytes, reply_bytes, handler_ns } => {
                write!(f, "    SRM of {bytes} bytes, replies {reply_bytes}, handler {:.1?}", time(handler_ns))
            }
            Event::Sent { bytes, left } => write!(f, "    sent {bytes} bytes, {left} left"),
            Event::Message { bytes, handler_ns } => {
                write!(f, "    message of {bytes} bytes, handler {:.1?}", time(handler_ns))
            }
            Event::Signal { signal, pid, handler_ns } => {
                write!(f, "    {signal} from pid {pid}, handler {:.1?}", time(handler_ns))
            }
            Event::Timer { timer, of, late_ns, handler_ns } => {
                let (late, handler) = (time(late_ns), time(handler_ns));
                write!(f, "    {timer:?} of {of}, late {late:.1?}, handler {handler:.1?}")
            }
            Event::Fault { key, panic: true } => write!(f, "    the handler of {key} panicked"),
            Event::Fault { key, panic: false } => write!(f, "    the handler of {key} failed"),
            Event::Limit { limit } => write!(f, "    limit reached: {limit}"),
            Event::Closed { source, cause: Why(why) } => write!(f, "    {} closed: {why}", Shown(source)),
        }
    }
}

/// A source: `client 5:7 fd 9`.
pub(super) struct Shown(pub(super) SourceInfo);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0.kind {
            SourceKind::Listener => "master socket",
            SourceKind::Client => "client",
            SourceKind::Datagram => "datagram socket",
            SourceKind::Queue => "queue",
            SourceKind::Signals => "signals",
            SourceKind::SharedMemory => "shared memory",
            SourceKind::Timers => "timers",
            SourceKind::Remote => "remotes",
            SourceKind::Child => "child",
            SourceKind::Fd => "descriptor",
        };
        write!(f, "{kind} {}", self.0.key)?;
        self.0.fd.map_or(Ok(()), |fd| write!(f, " fd {fd}"))
    }
}
