//! Those who watch a poll set: how they are told, in order, with the time, and at little cost.
//!
//! The beginning of a visit is remembered, and told only if something else is told before the visit's end: what most visits
//! amount to is then told at once, by [`What::Visited`].

use std::{
    any::Any,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

use log::Level;

use crate::{
    net::{listener::ListenerKind, peer::Peer},
    observe::{
        event::{Detail, Observer, Seen, SourceKind, VisitEnd, What, Who},
        throttle::Kind,
    },
    set::{
        poll_set::{PollSet, Serves},
        source::{Ready, Source},
    },
    sys,
    types::key::Key,
};

struct Watcher {
    observer: Box<dyn Observer>,
    /// What it wants; nothing more once it has panicked.
    wants: Option<Detail>,
}

/// A visit under way.
#[derive(Clone, Copy)]
struct Visit {
    who: Who,
    ready: Ready,
    /// Since when it has waited.
    since_ns: u64,
    begun_ns: u64,
    told: bool,
}

/// The observers, and what must be remembered for them.
pub(crate) struct Watch {
    watchers: Vec<Watcher>,
    /// What the most curious of them wants.
    detail: Detail,
    /// The last clock reading.
    now_ns: u64,
    turn_ns: u64,
    visit: Option<Visit>,
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
            visit: None,
            queued_ns: Vec::new(),
            buried: false,
        }
    }

    /// Reads the clock: the time since it was read last.
    #[inline]
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

    /// A client is served past the ready list: it has waited since the turn's events came.
    #[inline]
    pub(crate) fn service(&mut self, who: Who) {
        self.begin(who, Ready::READABLE, self.turn_ns);
    }

    #[inline]
    fn begin(&mut self, who: Who, ready: Ready, since_ns: u64) {
        // What an on_close has taken is not this source's doing.
        if mem::take(&mut self.buried) {
            self.lap();
        }
        self.visit = Some(Visit { who, ready, since_ns, begun_ns: self.now_ns, told: false });
    }

    /// Tells what has just happened, and before it of the visit under way. False as below.
    #[inline(always)]
    fn tell(&mut self, turn: u64, what: What<'_>) -> bool {
        self.tell_visit(turn) & self.show(self.now_ns, turn, what)
    }

    /// Tells the beginning of the visit under way, if that was not done.
    #[inline]
    fn tell_visit(&mut self, turn: u64) -> bool {
        match &mut self.visit {
            Some(visit) if !visit.told => {
                visit.told = true;
                let Visit { who, ready, since_ns, begun_ns, .. } = *visit;
                let queued_ns = begun_ns.saturating_sub(since_ns);
                self.show(begun_ns, turn, What::Visit { who, ready, queued_ns })
            }
            _ => true,
        }
    }

    /// Tells everybody who wants to know. False if one of them panicked; it is to be dropped.
    #[inline(always)]
    fn show(&mut self, at_ns: u64, turn: u64, what: What<'_>) -> bool {
        let detail = what.detail();
        let seen = Seen { at_ns, turn, what };
        let mut well = true;
        for Watcher { observer, wants } in &mut self.watchers {
            if *wants >= Some(detail) && catch_unwind(AssertUnwindSafe(|| observer.observe(&seen))).is_err() {
                (*wants, well) = (None, false);
            }
        }
        well
    }

    fn settle(&mut self) {
        self.detail =
            self.watchers.iter().filter_map(|watcher| watcher.wants).max().unwrap_or(Detail::Visits);
    }
}

impl<S> PollSet<S> {
    /// Has `observer` told of everything from now on. There can be several; each costs what it does.
    pub fn observe(&mut self, observer: impl Observer) {
        let wants = Some(observer.detail());
        let watch = self.watch.get_or_insert_with(|| Box::new(Watch::new()));
        watch.watchers.push(Watcher { observer: Box::new(observer), wants });
        watch.settle();
        // Whose events have come in this turn already goes through the ready list, and is told from there.
        self.serves = Serves::Nobody;
    }

    /// The first observer of this type. `None` if there is none: it was never put in, was taken out, or has panicked.
    /// It has been told of the visit under way.
    pub fn observer_mut<T: Observer>(&mut self) -> Option<&mut T> {
        self.tell_visit();
        self.watch.as_mut()?.watchers.iter_mut().find_map(|watcher| {
            let observer: &mut dyn Any = &mut *watcher.observer;
            observer.downcast_mut()
        })
    }

    /// Takes the first observer of this type out; it is told nothing more.
    pub fn take_observer<T: Observer>(&mut self) -> Option<T> {
        self.tell_visit();
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
        if let Some(watch) = &mut self.watch {
            watch.buried |= matches!(what, What::Closed { .. });
            let turn = self.stats.turns;
            if !watch.tell(turn, what) {
                self.drop_panicked();
            }
        }
    }

    /// Tells something that has taken the time since the clock was read last.
    #[cold]
    pub(crate) fn tell_lap<'a>(&mut self, what: impl FnOnce(u64, Who) -> What<'a>) {
        if let Some(watch) = &mut self.watch {
            let took_ns = watch.lap();
            let who = watch.visit.map_or(NOBODY, |visit| visit.who);
            if !watch.tell(self.stats.turns, what(took_ns, who)) {
                self.drop_panicked();
            }
        }
    }

    #[cold]
    fn tell_visit(&mut self) {
        if let Some(watch) = &mut self.watch
            && !watch.tell_visit(self.stats.turns)
        {
            self.drop_panicked();
        }
    }

    #[cold]
    fn drop_panicked(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let before = watch.watchers.len();
        watch.watchers.retain(|watcher| watcher.wants.is_some());
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
    #[inline(never)]
    pub(crate) fn observe_woke(&mut self, events: usize) {
        if let Some(watch) = &mut self.watch {
            let waited_ns = watch.lap();
            watch.turn_ns = watch.now_ns;
            if !watch.show(watch.now_ns, self.stats.turns, What::Woke { events, waited_ns }) {
                self.drop_panicked();
            }
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

    /// A client is served past the ready list, and its messages are told.
    #[cold]
    pub(crate) fn observe_service(&mut self, who: Who) {
        self.tell(What::Edge { who, ready: Ready::READABLE });
        if let Some(watch) = &mut self.watch {
            watch.service(who);
            self.tell_visit();
        }
    }

    /// A source's turn has come; nothing is done if it is gone.
    #[cold]
    pub(crate) fn observe_visit(&mut self, key: Key) {
        let Some(slot) = self.slots.get(key.index as usize).filter(|slot| slot.serial == key.serial) else {
            return;
        };
        let Some(watch) = &mut self.watch else { return };
        let since_ns = watch.queued_ns.get(key.index as usize).copied().unwrap_or(watch.now_ns);
        watch.begin(slot.source.who(key), slot.ready, since_ns);
        if watch.detail == Detail::Messages {
            self.tell_visit();
        }
    }

    #[cold]
    pub(crate) fn observe_visited(&mut self, end: VisitEnd) {
        self.end_visit(end);
    }

    /// The visit under way, if there is one, is over.
    #[inline(always)]
    pub(crate) fn end_visit(&mut self, end: VisitEnd) {
        if let Some(watch) = &mut self.watch
            && let Some(Visit { who, ready, since_ns, begun_ns, .. }) = watch.visit.take()
        {
            watch.lap();
            let (queued_ns, took_ns) = (begun_ns.saturating_sub(since_ns), watch.now_ns - begun_ns);
            let what = What::Visited { who, ready, queued_ns, took_ns, end };
            if !watch.show(watch.now_ns, self.stats.turns, what) {
                self.drop_panicked();
            }
        }
    }

    /// Whose visit it is, if anybody watches.
    #[inline]
    pub(crate) fn watched(&self) -> Option<Who> {
        self.watch.as_ref()?.visit.map(|visit| visit.who)
    }

    #[inline(never)]
    pub(crate) fn observe_turned(&mut self) {
        let ready = self.ready.len();
        if let Some(watch) = &mut self.watch {
            // Its last visit has just read the clock, unless an on_close has run since.
            if mem::take(&mut watch.buried) {
                watch.lap();
            }
            let took_ns = watch.now_ns - watch.turn_ns;
            if !watch.show(watch.now_ns, self.stats.turns, What::Turned { took_ns, ready }) {
                self.drop_panicked();
            }
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
                master: watch.visit.map_or(NOBODY, |visit| visit.who),
                client: source.who(client),
                peer: &peer,
                handler_ns,
                clients: self.stats.clients,
            };
            let turn = self.stats.turns;
            well = watch.tell(turn, what);
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

/// Whose doing is what happens outside of any visit.
const NOBODY: Who = Who { key: Key::NONE, fd: None, kind: SourceKind::Open };

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
