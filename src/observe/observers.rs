//! The list of observers: passes each event, with its time, to those that want it.
//!
//! The list keeps the beginning of a visit, and emits it only if another event comes before the visit's end. For most
//! visits one event is enough: [`What::Visited`].

use std::{
    any::Any,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    observe::event::{Detail, Observer, Seen, SourceInfo, SourceKind, VisitEnd, What},
    sys,
    types::{key::Key, ready::Ready},
};

struct Registered {
    observer: Box<dyn Observer>,
    /// What it wants to see; `None` once it has panicked.
    wants: Option<Detail>,
}

/// A visit under way.
#[derive(Clone, Copy)]
struct Visit {
    source: SourceInfo,
    ready: Ready,
    /// When the source became ready.
    since_ns: u64,
    begun_ns: u64,
    /// Its beginning has been emitted.
    emitted: bool,
}

/// Events outside of any visit have no source.
const NO_SOURCE: SourceInfo = SourceInfo { key: Key::NONE, fd: None, kind: SourceKind::Fd };

/// The observers, and the state that is kept for them. Methods that emit events return false if an observer has
/// panicked; then the caller calls [`drop_panicked`](Observers::drop_panicked).
pub(crate) struct Observers {
    registered: Vec<Registered>,
    /// The most detail that one of them wants.
    detail: Detail,
    /// The last clock reading.
    now_ns: u64,
    turn_ns: u64,
    visit: Option<Visit>,
    /// When the source in each slot was put into the ready list.
    queued_ns: Vec<u64>,
    /// A source was closed since the clock was read last: its `on_close` runs before the next visit.
    closed: bool,
}

impl Observers {
    pub(crate) fn new() -> Observers {
        Observers {
            registered: Vec::new(),
            detail: Detail::Visits,
            now_ns: sys::time::monotonic_ns(),
            turn_ns: 0,
            visit: None,
            queued_ns: Vec::new(),
            closed: false,
        }
    }

    // ---- The list ----

    pub(crate) fn add(&mut self, observer: Box<dyn Observer>) {
        let wants = Some(observer.detail());
        self.registered.push(Registered { observer, wants });
        self.settle();
    }

    pub(crate) fn get_mut<T: Observer>(&mut self) -> Option<&mut T> {
        self.registered.iter_mut().find_map(|registered| {
            let observer: &mut dyn Any = &mut *registered.observer;
            observer.downcast_mut()
        })
    }

    pub(crate) fn take<T: Observer>(&mut self) -> Option<T> {
        let is_wanted = |registered: &Registered| {
            let observer: &dyn Any = &*registered.observer;
            observer.is::<T>()
        };
        let position = self.registered.iter().position(is_wanted)?;
        let observer: Box<dyn Any> = self.registered.remove(position).observer;
        self.settle();
        observer.downcast().ok().map(|observer| *observer)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.registered.is_empty()
    }

    /// Drops the observers that have panicked; returns how many.
    pub(crate) fn drop_panicked(&mut self) -> usize {
        let before = self.registered.len();
        self.registered.retain(|registered| registered.wants.is_some());
        self.settle();
        before - self.registered.len()
    }

    fn settle(&mut self) {
        self.detail =
            self.registered.iter().filter_map(|registered| registered.wants).max().unwrap_or(Detail::Visits);
    }

    /// Whether one of them wants [`Detail::Messages`].
    #[inline]
    pub(crate) fn want_messages(&self) -> bool {
        self.detail == Detail::Messages
    }

    // ---- Time ----

    /// Reads the clock; returns the time since the last reading.
    #[inline]
    pub(crate) fn lap(&mut self) -> u64 {
        let before_ns = mem::replace(&mut self.now_ns, sys::time::monotonic_ns());
        self.now_ns - before_ns
    }

    /// A source is put into the ready list.
    #[cold]
    pub(crate) fn queued(&mut self, key: Key) {
        let index = key.index as usize;
        if self.queued_ns.len() <= index {
            self.queued_ns.resize(index + 1, 0);
        }
        self.queued_ns[index] = self.now_ns;
    }

    // ---- Visits ----

    /// The source of the visit under way.
    #[inline]
    pub(crate) fn visiting(&self) -> Option<SourceInfo> {
        self.visit.map(|visit| visit.source)
    }

    /// The source of the visit under way, or [`NO_SOURCE`].
    pub(crate) fn visiting_or_none(&self) -> SourceInfo {
        self.visiting().unwrap_or(NO_SOURCE)
    }

    /// A client is visited as soon as its event is read: it has waited since `epoll_wait` returned.
    #[inline]
    pub(crate) fn begin_visit_at_once(&mut self, source: SourceInfo) {
        self.begin(source, Ready::READABLE, self.turn_ns);
    }

    /// A source from the ready list is visited.
    pub(crate) fn begin_visit(&mut self, source: SourceInfo, ready: Ready) {
        let since_ns = self.queued_ns.get(source.key.index as usize).copied().unwrap_or(self.now_ns);
        self.begin(source, ready, since_ns);
    }

    #[inline]
    fn begin(&mut self, source: SourceInfo, ready: Ready, since_ns: u64) {
        // The time that an on_close took before this visit does not belong to it.
        if mem::take(&mut self.closed) {
            self.lap();
        }
        self.visit = Some(Visit { source, ready, since_ns, begun_ns: self.now_ns, emitted: false });
    }

    /// Ends the visit under way, if there is one.
    #[inline]
    pub(crate) fn end_visit(&mut self, turn: u64, end: VisitEnd) -> bool {
        let Some(Visit { source, ready, since_ns, begun_ns, .. }) = self.visit.take() else { return true };
        self.lap();
        let (queued_ns, took_ns) = (begun_ns.saturating_sub(since_ns), self.now_ns - begun_ns);
        self.show(self.now_ns, turn, What::Visited { source, ready, queued_ns, took_ns, end })
    }

    // ---- Turns ----

    pub(crate) fn woke(&mut self, turn: u64, events: usize) -> bool {
        let waited_ns = self.lap();
        self.turn_ns = self.now_ns;
        self.show(self.now_ns, turn, What::Woke { events, waited_ns })
    }

    pub(crate) fn turned(&mut self, turn: u64, ready: usize) -> bool {
        // The last visit has just read the clock, unless an on_close has run since.
        if mem::take(&mut self.closed) {
            self.lap();
        }
        let took_ns = self.now_ns - self.turn_ns;
        self.show(self.now_ns, turn, What::Turned { took_ns, ready })
    }

    // ---- Events ----

    /// Emits an event, and before it the beginning of the visit under way.
    #[inline]
    pub(crate) fn emit(&mut self, turn: u64, what: What<'_>) -> bool {
        self.closed |= matches!(what, What::Closed { .. });
        self.emit_visit(turn) & self.show(self.now_ns, turn, what)
    }

    /// Emits the beginning of the visit under way, if that was not done.
    #[inline]
    pub(crate) fn emit_visit(&mut self, turn: u64) -> bool {
        match &mut self.visit {
            Some(visit) if !visit.emitted => {
                visit.emitted = true;
                let Visit { source, ready, since_ns, begun_ns, .. } = *visit;
                let queued_ns = begun_ns.saturating_sub(since_ns);
                self.show(begun_ns, turn, What::Visit { source, ready, queued_ns })
            }
            _ => true,
        }
    }

    #[inline]
    fn show(&mut self, at_ns: u64, turn: u64, what: What<'_>) -> bool {
        let detail = what.detail();
        let seen = Seen { at_ns, turn, what };
        let mut all_well = true;
        for Registered { observer, wants } in &mut self.registered {
            if *wants >= Some(detail) && catch_unwind(AssertUnwindSafe(|| observer.observe(&seen))).is_err() {
                (*wants, all_well) = (None, false);
            }
        }
        all_well
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes the events that it sees, and panics at the `panics_at`th.
    struct Counts {
        wants: Detail,
        events: Vec<&'static str>,
        panics_at: usize,
    }

    impl Counts {
        fn new(wants: Detail) -> Box<Counts> {
            Box::new(Counts { wants, events: Vec::new(), panics_at: usize::MAX })
        }
    }

    impl Observer for Counts {
        fn observe(&mut self, seen: &Seen<'_>) {
            self.events.push(match seen.what {
                What::Visit { .. } => "visit",
                What::Visited { .. } => "visited",
                What::Read { .. } => "read",
                What::Woke { .. } => "woke",
                _ => "other",
            });
            assert_ne!(self.events.len(), self.panics_at, "as asked for");
        }

        fn detail(&self) -> Detail {
            self.wants
        }
    }

    const SOURCE: SourceInfo =
        SourceInfo { key: Key { index: 3, serial: 4 }, fd: Some(5), kind: SourceKind::Client };

    #[test]
    fn a_visits_beginning_is_told_only_before_something_else() {
        let mut observers = Observers::new();
        observers.add(Counts::new(Detail::Messages));
        observers.woke(1, 1);
        observers.begin_visit_at_once(SOURCE);
        observers.end_visit(1, VisitEnd::Drained);
        observers.begin_visit_at_once(SOURCE);
        assert_eq!(observers.visiting(), Some(SOURCE));
        observers.emit(1, What::Read { source: SOURCE, call: "recv", bytes: 1 });
        observers.end_visit(1, VisitEnd::Drained);
        observers.end_visit(1, VisitEnd::Drained);
        let events = &observers.get_mut::<Counts>().unwrap().events;
        assert_eq!(events, &["woke", "visited", "visit", "read", "visited"]);
    }

    #[test]
    fn one_that_wants_less_is_told_less() {
        let mut observers = Observers::new();
        assert!(!observers.want_messages());
        observers.add(Counts::new(Detail::Visits));
        assert!(!observers.want_messages());
        observers.emit(1, What::Read { source: SOURCE, call: "recv", bytes: 1 });
        assert!(observers.take::<Counts>().unwrap().events.is_empty());
        assert!(observers.is_empty());
    }

    #[test]
    fn one_that_panics_is_dropped_and_the_others_are_told() {
        let mut observers = Observers::new();
        let mut panics = Counts::new(Detail::Messages);
        panics.panics_at = 1;
        observers.add(panics);
        observers.add(Counts::new(Detail::Visits));
        assert!(!observers.woke(1, 0));
        assert_eq!(observers.drop_panicked(), 1);
        assert!(!observers.want_messages());
        assert_eq!(observers.take::<Counts>().unwrap().events, ["woke"]);
    }
}
