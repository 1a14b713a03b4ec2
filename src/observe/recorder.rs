//! The flight recorder: an observer that keeps the latest events in a ring.

use std::{
    fmt,
    io::{self, Write},
    mem,
    time::Duration,
};

use event::{Event, Record, Why};
use text::Shown;

use crate::{
    observe::event::{Detail, Observer, Seen, SourceInfo, What},
    sys::time::nanos,
    types::{cause::Cause, key::Key},
};

mod event;
mod text;

/// An [`Observer`] that keeps the latest few thousand events in a ring, and writes them (a dump) on demand, when a
/// handler panics, and when a handler holds up the loop.
///
/// The ring is allocated once. Recording formats nothing, allocates nothing and makes no system call, so it can stay on
/// in service; `docs/explain.md` has its costs. A visit and its end are one record, and so are a turn and its end. An
/// event has no record: the visit that follows has the same data. A timer has one, which names the client whose session
/// set it.
///
/// # When it dumps by itself
/// Only if [`dump_to`](FlightRecorder::dump_to) was called: when a handler has panicked, and when a visit took at least
/// the time of [`slow`](FlightRecorder::slow). The loop waits while it writes. So that many slow handlers do not keep
/// it writing, no other dump follows for ten seconds, or for the time of [`apart`](FlightRecorder::apart). The next
/// dump says how many were left out.
///
/// A handler that never returns causes no dump, and no signal is read while it runs: only a watchdog outside of the
/// process detects it.
///
/// ```
/// use std::{io, time::Duration};
/// use ipc_reactor::{FlightRecorder, Reactor, Signal};
///
/// let mut reactor = Reactor::<()>::new()?;
/// reactor.observe(FlightRecorder::new().slow(Duration::from_millis(10)).dump_to(io::stderr()));
/// reactor.signals([Signal::USR2], |_, cx, ()| match cx.observer_mut::<FlightRecorder>() {
///     Some(recorder) => recorder.dump(&mut io::stderr()),
///     None => Ok(()),
/// })?;
/// # reactor.after(Duration::ZERO, |cx, ()| { cx.stop(); Ok(()) });
/// reactor.run(&mut ())?;
/// # let recorder = reactor.take_observer::<FlightRecorder>().unwrap();
/// # assert!(recorder.to_string().contains("timers 0:0"), "{recorder}");
/// # io::Result::Ok(())
/// ```
pub struct FlightRecorder {
    ring: Box<[Record]>,
    /// How many records were ever written. The ring's length is a power of two, so this, masked, is the next position.
    written: usize,
    /// The positions of the last turn and of the visit under way, which are completed when they end.
    turn: usize,
    visit: Option<usize>,
    /// A dump has named a timer's handler, so the slow visit that contains it causes no other.
    blamed: bool,
    /// When the last visit or sleep ended: time after it belongs to no visit.
    accounted_ns: u64,
    detail: Detail,
    slow_ns: u64,
    apart_ns: u64,
    sink: Option<Box<dyn Write>>,
    dumped_ns: Option<u64>,
    /// Dumps that were left out since the last one.
    left_out: u64,
}

impl FlightRecorder {
    /// A recorder of 4,096 events (some 200 KiB) of [`Detail::Visits`], which dumps only on demand.
    pub fn new() -> FlightRecorder {
        FlightRecorder {
            ring: blank(4096),
            written: 0,
            turn: 0,
            visit: None,
            blamed: false,
            accounted_ns: u64::MAX,
            detail: Detail::Visits,
            slow_ns: u64::MAX,
            apart_ns: 10_000_000_000,
            sink: None,
            dumped_ns: None,
            left_out: 0,
        }
    }

    /// Sets how many events it keeps, rounded up to a power of two. Earlier records are dropped.
    #[must_use]
    pub fn capacity(self, events: usize) -> FlightRecorder {
        let ring = blank(events.clamp(2, 1 << 30).next_power_of_two());
        FlightRecorder { ring, written: 0, turn: 0, visit: None, ..self }
    }

    /// Records each message too, so that a dump shows which request took long. It costs several times as much.
    #[must_use]
    pub fn messages(self) -> FlightRecorder {
        FlightRecorder { detail: Detail::Messages, ..self }
    }

    /// Dumps when a visit, or the handler of a timer, took at least this time, and when this time passed between two
    /// visits, where `on_close` is called.
    #[must_use]
    pub fn slow(self, threshold: Duration) -> FlightRecorder {
        FlightRecorder { slow_ns: nanos(threshold).max(1), ..self }
    }

    /// Sets the time after a dump in which there is no other, except on demand. Default ten seconds.
    #[must_use]
    pub fn apart(self, time: Duration) -> FlightRecorder {
        FlightRecorder { apart_ns: nanos(time), ..self }
    }

    /// Lets it dump by itself, to `sink`: standard error, a file, a pipe. Writing should not block.
    #[must_use]
    pub fn dump_to(self, sink: impl Write + 'static) -> FlightRecorder {
        FlightRecorder { sink: Some(Box::new(sink)), ..self }
    }

    /// Writes the records, the oldest first: the text of its [`Display`](fmt::Display).
    ///
    /// # Errors
    /// Those of `out`.
    pub fn dump(&self, out: &mut impl Write) -> io::Result<()> {
        // In one write: standard error is unbuffered, and the loop waits.
        out.write_all(self.to_string().as_bytes())?;
        out.flush()
    }

    #[inline(always)]
    fn write(&mut self, at_ns: u64, event: Event) -> usize {
        let at = self.written & (self.ring.len() - 1);
        self.ring[at] = Record { at_ns, event };
        self.written += 1;
        at
    }

    /// Completes the record of a visit that has ended.
    #[cold]
    fn complete(&mut self, begun: usize, visit: Event) {
        // If the ring has wrapped since, another record is there; no other visit was recorded meanwhile.
        if let event @ Event::Visit { .. } = &mut self.ring[begun].event {
            *event = visit;
        }
        self.visit = None;
    }

    /// The records, the oldest first.
    fn records(&self) -> impl DoubleEndedIterator<Item = &Record> + Clone {
        let (newer, older) = self.ring.split_at(self.written & (self.ring.len() - 1));
        let older = if self.written < self.ring.len() { &[] } else { older };
        older.iter().chain(newer)
    }

    /// A visit or a sleep has ended. Returns the time before it that belongs to no visit.
    #[inline]
    fn account(&mut self, from_ns: u64, to_ns: u64) -> u64 {
        from_ns.saturating_sub(mem::replace(&mut self.accounted_ns, to_ns))
    }

    #[cold]
    fn slow_visit(&mut self, at_ns: u64, source: SourceInfo, took_ns: u64) {
        // A dump has named the slow timer of this visit already.
        if took_ns >= self.slow_ns && !mem::take(&mut self.blamed) {
            let (took, limit) = (Duration::from_nanos(took_ns), Duration::from_nanos(self.slow_ns));
            let source = Shown(source);
            self.dump_by_itself(
                at_ns,
                format_args!("{source} held up the loop for {took:.1?}; slow is {limit:.1?}"),
            );
        }
    }

    #[inline]
    fn between_visits(&mut self, at_ns: u64, took_ns: u64) {
        if took_ns >= self.slow_ns {
            let took = Duration::from_nanos(took_ns);
            self.dump_by_itself(
                at_ns,
                format_args!("{took:.1?} between two visits, where on_close is called"),
            );
        }
    }

    #[cold]
    fn dump_by_itself(&mut self, at_ns: u64, why: fmt::Arguments<'_>) {
        let Some(mut sink) = self.sink.take() else { return };
        if self.dumped_ns.is_some_and(|dumped_ns| at_ns - dumped_ns < self.apart_ns) {
            self.left_out += 1;
        } else {
            let before = match self.left_out {
                0 => String::new(),
                left_out => format!(" ({left_out} dumps were left out before this one)"),
            };
            let written =
                writeln!(sink, "flight recorder: {why}{before}").and_then(|()| self.dump(&mut sink));
            if let Err(error) = written {
                log::warn!(target: "ipc_reactor", "the flight recorder cannot dump: {error}");
            }
            self.dumped_ns = Some(at_ns);
            self.left_out = 0;
        }
        self.sink = Some(sink);
    }

    #[cold]
    fn fault(&mut self, at_ns: u64, key: Key, cause: &Cause) {
        let panic = matches!(cause, Cause::Panic(_));
        self.write(at_ns, Event::Fault { key, panic });
        if panic {
            let source = self.records().rev().find_map(|record| match record.event {
                Event::Visit { source, .. } | Event::Closed { source, .. } if source.key == key => {
                    Some(Shown(source).to_string())
                }
                _ => None,
            });
            let source = source.unwrap_or_else(|| format!("source {key}"));
            self.dump_by_itself(at_ns, format_args!("{source}: {cause}"));
        }
    }
}

impl Default for FlightRecorder {
    fn default() -> FlightRecorder {
        FlightRecorder::new()
    }
}

impl Observer for FlightRecorder {
    #[inline]
    fn observe(&mut self, seen: &Seen<'_>) {
        // By far the most frequent event.
        let What::Visited { source, ready, queued_ns, took_ns, end } = seen.what else {
            return self.note(seen);
        };
        let visit = Event::Visit { source, ready, end: Some(end), queued_ns, took_ns };
        let begun_ns = seen.at_ns - took_ns;
        match self.visit {
            None => _ = self.write(begun_ns, visit),
            Some(written) => self.complete(written, visit),
        }
        let before_ns = self.account(begun_ns, seen.at_ns);
        if took_ns.max(before_ns) >= self.slow_ns {
            self.between_visits(begun_ns, before_ns);
            self.slow_visit(seen.at_ns, source, took_ns);
        }
    }

    fn detail(&self) -> Detail {
        self.detail
    }
}

/// A count as an event keeps it.
fn saturated(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl FlightRecorder {
    /// Anything but the end of a visit.
    fn note(&mut self, seen: &Seen<'_>) {
        let at_ns = seen.at_ns;
        let event = match seen.what {
            // The visit that follows has the same data.
            What::Edge { .. } | What::Visited { .. } => return,
            What::Woke { events, waited_ns } => {
                self.accounted_ns = at_ns;
                let events = saturated(events);
                self.turn = self.write(
                    at_ns,
                    Event::Turn { turn: seen.turn, events, ready: None, waited_ns, took_ns: 0 },
                );
                return;
            }
            What::Visit { source, ready, queued_ns } => {
                let visit = Event::Visit { source, ready, end: None, queued_ns, took_ns: 0 };
                self.visit = Some(self.write(at_ns, visit));
                let before_ns = self.account(at_ns, at_ns);
                self.between_visits(at_ns, before_ns);
                return;
            }
            What::Turned { took_ns: time_ns, ready: left } => {
                let before_ns = self.account(at_ns, at_ns);
                self.between_visits(at_ns, before_ns);
                if let Event::Turn { took_ns, ready, .. } = &mut self.ring[self.turn].event {
                    (*took_ns, *ready) = (time_ns, Some(saturated(left)));
                }
                return;
            }
            What::Fault { key, cause } => return self.fault(at_ns, key, cause),
            What::Stale { key } => Event::Stale { key },
            What::Accepted { client, clients, handler_ns, .. } => {
                Event::Accepted { client, clients: saturated(clients), handler_ns }
            }
            What::Refused { .. } => Event::Refused,
            What::Read { bytes, .. } => Event::Read { bytes },
            What::Empty { .. } => return,
            What::Request { request, reply_bytes, handler_ns, .. } => {
                let (bytes, reply_bytes) = (saturated(request.len()), saturated(reply_bytes));
                Event::Request { bytes, reply_bytes, handler_ns }
            }
            What::Sent { bytes, left, .. } => Event::Sent { bytes, left },
            What::Message { bytes, handler_ns, .. } => Event::Message { bytes: bytes.len(), handler_ns },
            What::Signal { info, handler_ns, .. } => {
                Event::Signal { signal: info.signal(), pid: info.pid(), handler_ns }
            }
            What::Timer { source, timer, late_ns, handler_ns } => {
                self.write(at_ns, Event::Timer { timer, of: source.key, late_ns, handler_ns });
                if handler_ns >= self.slow_ns {
                    self.slow_visit(at_ns, source, handler_ns);
                    self.blamed = true;
                }
                return;
            }
            What::Limit { limit } => Event::Limit { limit },
            What::Closed { source, cause } => Event::Closed { source, cause: Why::of(cause) },
        };
        self.write(at_ns, event);
    }
}

impl fmt::Debug for FlightRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlightRecorder")
            .field("capacity", &self.ring.len())
            .field("written", &self.written)
            .field("detail", &self.detail)
            .finish_non_exhaustive()
    }
}

fn blank(events: usize) -> Box<[Record]> {
    let nothing = Event::Read { bytes: 0 };
    vec![Record { at_ns: 0, event: nothing }; events].into_boxed_slice()
}
