//! A reactor that explains itself: what an observer is told, and how it is told.

use std::{
    any::Any,
    mem,
    os::fd::RawFd,
    panic::{AssertUnwindSafe, catch_unwind},
};

use log::Level;

use crate::{
    Cause, Key, Limit, ListenerKind, Peer, PollSet, Ready, SignalInfo, TimerKey, source::Source, sys,
    throttle::Kind,
};

/// Sees what the reactor does, in the order in which it does it; put in with
/// [`PollSet::observe`](crate::PollSet::observe).
///
/// It is shown things, and can change none: it gets neither the poll set nor a session. It runs within the loop, so what it
/// takes, everybody waits for. One that panics is dropped, counted and logged, and the loop goes on. Without an
/// observer none of this costs anything.
///
/// ```
/// use ipc_reactor::{Observer, Reactor, Seen, What};
///
/// /// Whose handler held everybody up?
/// struct Longest(u64);
///
/// impl Observer for Longest {
///     fn observe(&mut self, seen: &Seen<'_>) {
///         if let What::Visited { took_ns, .. } = seen.what {
///             self.0 = self.0.max(took_ns);
///         }
///     }
/// }
///
/// let mut reactor = Reactor::<()>::new()?;
/// reactor.observe(Longest(0));
/// reactor.after(std::time::Duration::ZERO, |cx, ()| { cx.stop(); Ok(()) });
/// reactor.run(&mut ())?;
/// let longest = reactor.observer_mut::<Longest>().unwrap();
/// println!("the longest visit took {} ns", longest.0);
/// # std::io::Result::Ok(())
/// ```
pub trait Observer: Any {
    /// Something has happened. Must not block.
    fn observe(&mut self, seen: &Seen<'_>);

    /// How much it wants to see; asked once, when it is put in. Everything, unless said otherwise.
    fn detail(&self) -> Detail {
        Detail::Messages
    }
}

/// How much an [`Observer`] is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Turns, visits, CIRs, closes, limits and faults. One clock reading a visit, and two a turn.
    Visits,
    /// Each event, read, message and send too, with the time that its handler took. One clock reading each.
    Messages,
}

/// Something that has happened, and when.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`. Things that happen between two clock readings have the same time.
    pub at_ns: u64,
    /// The turn's number: [`Stats::turns`](crate::Stats::turns).
    pub turn: u64,
    /// What.
    pub what: What<'a>,
}

/// A source in the poll set, as an observer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who {
    /// Its key.
    pub key: Key,
    /// Its descriptor's number, to be shown; none where the source has none of its own.
    pub fd: Option<RawFd>,
    /// What it is.
    pub kind: SourceKind,
}

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceKind {
    /// A master socket: its events are CIRs.
    Master,
    /// A client handle: its events are SRMs.
    Client,
    /// A datagram socket.
    Datagram,
    /// A POSIX message queue.
    Queue,
    /// A signalfd.
    Signals,
    /// A subscription to shared memory.
    SharedMemory,
    /// The timerfd behind all timers.
    Timers,
    /// The eventfd behind all [`Remote`](crate::Remote)s.
    Remote,
    /// Any other descriptor.
    Open,
}

/// How a visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisitEnd {
    /// All that was ready is used up: nothing to do until the kernel's next edge.
    Drained,
    /// Its budget is spent: it is visited again in the next round.
    Again,
    /// Its edges stand, but something else must happen first: room, a deadline, a resumption.
    Parked,
    /// It was closed.
    Closed,
}

/// What an observer is told.
///
/// A turn is told as [`Woke`](What::Woke), an [`Edge`](What::Edge) (or [`Stale`](What::Stale)) for each event, for each
/// source that is ready a [`Visit`](What::Visit), what happened in it, and [`Visited`](What::Visited); then
/// [`Turned`](What::Turned). [`Closed`](What::Closed) comes in a visit or between two.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum What<'a> {
    /// `epoll_wait` has returned.
    Woke {
        /// How many events it brought.
        events: usize,
        /// How long it took: how long the loop slept.
        waited_ns: u64,
    },
    /// An event, now kept as an edge in its source's slot. ([`Detail::Messages`]; a visit follows, with the same edges.)
    Edge {
        /// Whose.
        who: Who,
        /// What for.
        ready: Ready,
    },
    /// An event for a source that is gone; it was skipped.
    Stale {
        /// The key that the event carried.
        key: Key,
    },
    /// A source's turn has come.
    Visit {
        /// Whose.
        who: Who,
        /// The edges that it has not used up.
        ready: Ready,
        /// How long it waited in the ready list.
        queued_ns: u64,
    },
    /// A connection initiation request was accepted, and has become a client handle.
    Cir {
        /// The master socket.
        master: Who,
        /// The new client handle.
        client: Who,
        /// Who has connected.
        peer: &'a Peer<'a>,
        /// How long the factory took; 0 if no observer wants [`Detail::Messages`].
        handler_ns: u64,
        /// How many clients are connected now.
        clients: usize,
    },
    /// A connection initiation request was refused, by the factory, by a limit, or by the kernel.
    CirRefused {
        /// The master socket.
        master: Who,
    },
    /// Bytes were read from a client. ([`Detail::Messages`])
    Read {
        /// The client.
        who: Who,
        /// How many; 0 at its end of file.
        bytes: usize,
    },
    /// A service request message was handled. ([`Detail::Messages`])
    Srm {
        /// The client.
        who: Who,
        /// The message, without what frames it.
        request: &'a [u8],
        /// Bytes that the handler has replied; they leave with all other replies of this visit.
        reply_bytes: usize,
        /// How long the handler took.
        handler_ns: u64,
    },
    /// Bytes were sent to a client. ([`Detail::Messages`])
    Sent {
        /// The client.
        who: Who,
        /// How many its socket took.
        bytes: usize,
        /// How many wait until it takes more.
        left: usize,
    },
    /// A message of a queue, a datagram, or a value from shared memory was handled. ([`Detail::Messages`])
    Message {
        /// Where it came from.
        who: Who,
        /// The message.
        bytes: &'a [u8],
        /// A queue's message has one.
        priority: Option<u32>,
        /// How long the handler took.
        handler_ns: u64,
    },
    /// A signal was handled. ([`Detail::Messages`])
    Signal {
        /// The signalfd.
        who: Who,
        /// Which, and who sent it.
        info: &'a SignalInfo,
        /// How long the handler took.
        handler_ns: u64,
    },
    /// A timer has fired. ([`Detail::Messages`])
    Timer {
        /// Which.
        timer: TimerKey,
        /// How much later than it was due.
        late_ns: u64,
        /// How long the handler took.
        handler_ns: u64,
    },
    /// A handler has failed or panicked.
    Fault {
        /// Whose.
        key: Key,
        /// How: [`Cause::Handler`] or [`Cause::Panic`].
        cause: &'a Cause,
    },
    /// A limit was reached.
    Limit {
        /// Which.
        limit: Limit,
    },
    /// A source has left the poll set. Its `on_close` comes next.
    Closed {
        /// Which. Its descriptor is closed, or about to be.
        who: Who,
        /// Why.
        cause: &'a Cause,
    },
    /// A visit is over.
    Visited {
        /// Whose.
        who: Who,
        /// How long it took, system calls and handlers together.
        took_ns: u64,
        /// How it ended.
        end: VisitEnd,
    },
    /// A turn is over.
    Turned {
        /// How long it took, without the waiting.
        took_ns: u64,
        /// How many sources are in the ready list for the next.
        ready: usize,
    },
}

impl What<'_> {
    fn detail(&self) -> Detail {
        match self {
            What::Edge { .. }
            | What::Read { .. }
            | What::Srm { .. }
            | What::Sent { .. }
            | What::Message { .. }
            | What::Signal { .. }
            | What::Timer { .. } => Detail::Messages,
            _ => Detail::Visits,
        }
    }
}

struct Watcher {
    observer: Box<dyn Observer>,
    detail: Detail,
    panicked: bool,
}

/// The observers, and what must be remembered for them.
pub(crate) struct Watch {
    watchers: Vec<Watcher>,
    /// What the most curious of them wants.
    detail: Detail,
    /// The last clock reading.
    now_ns: u64,
    turn_ns: u64,
    visit_ns: u64,
    /// Whose visit it is.
    who: Who,
    /// When each slot's source came into the ready list.
    queued_ns: Vec<u64>,
    /// A source was closed since the clock was read last: its `on_close` runs before the next visit.
    buried: bool,
}

impl Watch {
    fn new() -> Watch {
        Watch {
            watchers: Vec::new(),
            detail: Detail::Visits,
            now_ns: sys::time::monotonic_ns(),
            turn_ns: 0,
            visit_ns: 0,
            who: Who { key: Key::NONE, fd: None, kind: SourceKind::Open },
            queued_ns: Vec::new(),
            buried: false,
        }
    }

    /// Reads the clock: the time since it was read last.
    fn lap(&mut self) -> u64 {
        let before_ns = mem::replace(&mut self.now_ns, sys::time::monotonic_ns());
        self.now_ns - before_ns
    }

    /// A source comes into the ready list.
    #[cold]
    pub(crate) fn queued(&mut self, key: Key) {
        let index = key.index as usize;
        if self.queued_ns.len() <= index {
            self.queued_ns.resize(index + 1, 0);
        }
        self.queued_ns[index] = self.now_ns;
    }

    /// Tells everybody who wants to know. False if one of them panicked; it is to be dropped.
    #[inline(always)]
    fn tell(&mut self, turn: u64, what: What<'_>) -> bool {
        self.buried |= matches!(what, What::Closed { .. });
        let detail = what.detail();
        let seen = Seen { at_ns: self.now_ns, turn, what };
        let mut well = true;
        for Watcher { observer, detail: wanted, panicked } in &mut self.watchers {
            if *wanted >= detail {
                *panicked = catch_unwind(AssertUnwindSafe(|| observer.observe(&seen))).is_err();
                well &= !*panicked;
            }
        }
        well
    }

    fn settle(&mut self) {
        self.detail = self.watchers.iter().map(|watcher| watcher.detail).max().unwrap_or(Detail::Visits);
    }
}

impl<S> PollSet<S> {
    /// Has `observer` told of everything from now on. There can be several; each costs what it does.
    pub fn observe(&mut self, observer: impl Observer) {
        let detail = observer.detail();
        let watch = self.watch.get_or_insert_with(|| Box::new(Watch::new()));
        watch.watchers.push(Watcher { observer: Box::new(observer), detail, panicked: false });
        watch.settle();
        // A handler may have put it in: it is told of what is still to come in this turn.
        self.serves = self.serves_now();
    }

    /// The first observer of this type. `None` if there is none: it was never put in, was taken out, or has panicked.
    pub fn observer_mut<T: Observer>(&mut self) -> Option<&mut T> {
        self.watch.as_mut()?.watchers.iter_mut().find_map(|watcher| {
            let observer: &mut dyn Any = &mut *watcher.observer;
            observer.downcast_mut()
        })
    }

    /// Takes the first observer of this type out; it is told nothing more.
    pub fn take_observer<T: Observer>(&mut self) -> Option<T> {
        let watch = self.watch.as_mut()?;
        let is_wanted = |watcher: &Watcher| {
            let observer: &dyn Any = &*watcher.observer;
            observer.is::<T>()
        };
        let place = watch.watchers.iter().position(is_wanted)?;
        let observer: Box<dyn Any> = watch.watchers.remove(place).observer;
        watch.settle();
        if watch.watchers.is_empty() {
            self.watch = None;
        }
        observer.downcast().ok().map(|observer| *observer)
    }

    /// Whether anybody wants to know of each message.
    #[inline]
    pub(crate) fn tells_messages(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.detail == Detail::Messages)
    }

    #[cold]
    pub(crate) fn tell(&mut self, what: What<'_>) {
        if let Some(watch) = &mut self.watch
            && !watch.tell(self.stats.turns, what)
        {
            self.drop_panicked();
        }
    }

    /// Tells something that has taken the time since the clock was read last.
    #[cold]
    pub(crate) fn tell_lap<'a>(&mut self, what: impl FnOnce(u64, Who) -> What<'a>) {
        if let Some(watch) = &mut self.watch {
            let (took_ns, who) = (watch.lap(), watch.who);
            self.tell(what(took_ns, who));
        }
    }

    #[cold]
    fn drop_panicked(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let before = watch.watchers.len();
        watch.watchers.retain(|watcher| !watcher.panicked);
        let panics = before - watch.watchers.len();
        watch.settle();
        if watch.watchers.is_empty() {
            self.watch = None;
        }
        self.stats.panics += panics as u64;
        self.complain(Kind::Panic, Level::Error, format_args!("an observer panicked, and is dropped"));
    }

    /// The loop is about to wait.
    #[cold]
    pub(crate) fn observe_wait(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.lap();
        }
    }

    /// `epoll_wait` has returned.
    #[cold]
    pub(crate) fn observe_woke(&mut self, events: usize) {
        self.tell_lap(|waited_ns, _| What::Woke { events, waited_ns });
        if let Some(watch) = &mut self.watch {
            watch.turn_ns = watch.now_ns;
        }
    }

    #[cold]
    pub(crate) fn observe_edge(&mut self, key: Key, ready: Ready) {
        match self.source(key) {
            None => self.tell(What::Stale { key }),
            // Those who see visits only learn of it from its visit.
            Some(_) if !self.tells_messages() => {}
            Some(source) => self.tell(What::Edge { who: source.who(key), ready }),
        }
    }

    /// A client is served past the ready list: it has waited since the turn's events came.
    #[cold]
    pub(crate) fn observe_service(&mut self, key: Key) -> Option<Who> {
        let who = self.source(key)?.who(key);
        let since_ns = self.watch.as_ref()?.turn_ns;
        self.observe_beginning(who, Ready::READABLE, since_ns)
    }

    /// A source's turn has come. `None` if it is gone, or nobody watches.
    #[cold]
    pub(crate) fn observe_visit(&mut self, key: Key) -> Option<Who> {
        let slot = self.slots.get(key.index as usize).filter(|slot| slot.serial == key.serial)?;
        let (who, ready) = (slot.source.who(key), slot.ready);
        let watch = self.watch.as_ref()?;
        let since_ns = watch.queued_ns.get(key.index as usize).copied().unwrap_or(watch.now_ns);
        self.observe_beginning(who, ready, since_ns)
    }

    fn observe_beginning(&mut self, who: Who, ready: Ready, since_ns: u64) -> Option<Who> {
        let watch = self.watch.as_mut()?;
        // What an on_close has taken is not this source's doing.
        if mem::take(&mut watch.buried) {
            watch.lap();
        }
        (watch.who, watch.visit_ns) = (who, watch.now_ns);
        let queued_ns = watch.now_ns.saturating_sub(since_ns);
        self.tell(What::Visit { who, ready, queued_ns });
        Some(who)
    }

    #[cold]
    pub(crate) fn observe_visited(&mut self, who: Who, end: VisitEnd) {
        if let Some(watch) = &mut self.watch {
            watch.lap();
            let took_ns = watch.now_ns - watch.visit_ns;
            self.tell(What::Visited { who, took_ns, end });
        }
    }

    /// Whose visit it is, if anybody watches.
    #[inline]
    pub(crate) fn watched(&self) -> Option<Who> {
        self.watch.as_ref().map(|watch| watch.who)
    }

    #[cold]
    pub(crate) fn observe_turned(&mut self) {
        let ready = self.ready.len();
        if let Some(watch) = &mut self.watch {
            // Its last visit has just read the clock, unless an on_close has run since.
            if mem::take(&mut watch.buried) {
                watch.lap();
            }
            let took_ns = watch.now_ns - watch.turn_ns;
            self.tell(What::Turned { took_ns, ready });
        }
    }

    /// A CIR has become a client handle.
    #[cold]
    pub(crate) fn observe_cir(
        &mut self,
        client: Key,
        kind: ListenerKind,
        inet: Option<std::net::SocketAddr>,
        handler_ns: u64,
    ) {
        let Some(mut watch) = self.watch.take() else { return };
        let mut well = true;
        if let Some(source @ Source::Client(handle)) = self.source(client) {
            let peer = Peer::new(handle.fd(), kind, inet);
            let what = What::Cir {
                master: watch.who,
                client: source.who(client),
                peer: &peer,
                handler_ns,
                clients: self.stats.clients,
            };
            well = watch.tell(self.stats.turns, what);
        }
        self.watch = Some(watch);
        if !well {
            self.drop_panicked();
        }
    }

    /// The time since the clock was read last, where messages are told.
    #[cold]
    pub(crate) fn lap(&mut self) -> u64 {
        self.watch.as_mut().map_or(0, |watch| watch.lap())
    }
}

impl<S> Source<S> {
    pub(crate) fn who(&self, key: Key) -> Who {
        let kind = match self {
            Source::Master(_) => SourceKind::Master,
            Source::Client(_) => SourceKind::Client,
            Source::Datagram(_) => SourceKind::Datagram,
            Source::Queue(_) => SourceKind::Queue,
            Source::Signals(_) => SourceKind::Signals,
            Source::Shm(_) => SourceKind::SharedMemory,
            Source::Timers => SourceKind::Timers,
            Source::Remote(_) => SourceKind::Remote,
            Source::Open(_) | Source::Running => SourceKind::Open,
        };
        Who { key, fd: self.raw_fd(), kind }
    }
}
