//! Emits events to the observers.

use std::net::SocketAddr;

use log::{Level, log_enabled};

use crate::{
    net::{peer::Peer, transport::Transport},
    observe::{
        event::{Observer, SourceInfo, VisitEnd, What},
        observers::Observers,
        throttle::Kind,
    },
    set::{
        asked::Asked,
        io::{ReplyMode, record_bytes},
        poll_set::PollSet,
        source::Source,
    },
    types::{key::Key, ready::Ready},
};

impl<S> PollSet<S> {
    /// Adds an observer. It sees all events from now on. There can be several.
    pub fn observe(&mut self, observer: impl Observer) {
        self.observers.get_or_insert_with(|| Box::new(Observers::new())).add(Box::new(observer));
        // The rest of this turn's events go through the ready list, which emits them.
        self.lifecycle.visits_at_once = false;
        self.call.ask(Asked::Pause);
    }

    /// The first observer of this type. `None` if there is none: it was never added, was taken out, or has panicked.
    /// It has seen the beginning of the visit under way.
    pub fn observer_mut<T: Observer>(&mut self) -> Option<&mut T> {
        self.with_observers(|observers, turn| observers.emit_visit(turn));
        self.observers.as_mut()?.get_mut()
    }

    /// Removes the first observer of this type, and returns it.
    pub fn take_observer<T: Observer>(&mut self) -> Option<T> {
        self.with_observers(|observers, turn| observers.emit_visit(turn));
        let observers = self.observers.as_mut()?;
        let taken = observers.take();
        if observers.is_empty() {
            self.observers = None;
        }
        taken
    }

    /// Whether observers or the log want each request.
    pub(crate) fn observes(&self) -> bool {
        self.observers.is_some() || log_enabled!(target: "ipc_reactor", Level::Trace)
    }

    /// Whether an observer wants each message.
    #[inline]
    pub(crate) fn observes_messages(&self) -> bool {
        self.observers.as_ref().is_some_and(|observers| observers.want_messages())
    }

    /// The source of the visit under way, if there are observers.
    #[inline]
    pub(crate) fn visiting(&self) -> Option<SourceInfo> {
        self.observers.as_ref()?.visiting()
    }

    /// Calls `emit` with the observers, if there are any, and drops those that have panicked.
    #[cold]
    fn with_observers(&mut self, emit: impl FnOnce(&mut Observers, u64) -> bool) {
        let turn = self.stats.turns;
        let Some(observers) = &mut self.observers else { return };
        if emit(observers, turn) {
            return;
        }
        self.stats.panics += observers.drop_panicked() as u64;
        if observers.is_empty() {
            self.observers = None;
        }
        self.log(Kind::Panic, Level::Error, format_args!("an observer panicked, and is dropped"));
    }

    #[cold]
    pub(crate) fn emit(&mut self, what: What<'_>) {
        self.with_observers(|observers, turn| observers.emit(turn, what));
    }

    /// Emits an event that has taken the time since the last clock reading.
    #[cold]
    pub(crate) fn emit_timed<'a>(&mut self, what: impl FnOnce(u64, SourceInfo) -> What<'a>) {
        self.with_observers(|observers, turn| {
            let took_ns = observers.lap();
            let source = observers.visiting_or_none();
            observers.emit(turn, what(took_ns, source))
        });
    }

    /// Reads the observers' clock; returns the time since the last reading, or 0 without observers.
    #[cold]
    pub(crate) fn lap(&mut self) -> u64 {
        self.observers.as_mut().map_or(0, |observers| observers.lap())
    }

    // ---- Turns and visits ----

    #[cold]
    pub(crate) fn emit_wait(&mut self) {
        self.lap();
    }

    #[cold]
    pub(crate) fn emit_woke(&mut self, events: usize) {
        self.with_observers(|observers, turn| observers.woke(turn, events));
    }

    #[cold]
    pub(crate) fn emit_turned(&mut self) {
        let ready = self.registry.ready.len();
        self.with_observers(|observers, turn| observers.turned(turn, ready));
    }

    #[cold]
    pub(crate) fn emit_edge(&mut self, key: Key, ready: Ready) {
        match self.registry.get(key) {
            None => self.emit(What::Stale { key }),
            // Observers that want visits only see it in the visit that follows.
            Some(_) if !self.observes_messages() => {}
            Some(source) => {
                let source = source.info(key);
                self.emit(What::Edge { source, ready });
            }
        }
    }

    /// A client is visited as soon as its event is read.
    #[cold]
    pub(crate) fn begin_visit_at_once(&mut self, source: SourceInfo) {
        if self.observes_messages() {
            self.emit(What::Edge { source, ready: Ready::READABLE });
        }
        if let Some(observers) = &mut self.observers {
            observers.begin_visit_at_once(source);
        }
        self.emit_visit_if_messages();
    }

    /// The visit to a source begins; nothing happens if the source is closed.
    #[cold]
    pub(crate) fn begin_visit(&mut self, key: Key) {
        let Some(slot) = self.registry.slot(key) else { return };
        let (source, ready) = (slot.value.info(key), slot.ready);
        if let Some(observers) = &mut self.observers {
            observers.begin_visit(source, ready);
        }
        self.emit_visit_if_messages();
    }

    fn emit_visit_if_messages(&mut self) {
        if self.observes_messages() {
            self.with_observers(|observers, turn| observers.emit_visit(turn));
        }
    }

    #[cold]
    pub(crate) fn end_visit(&mut self, end: VisitEnd) {
        self.with_observers(|observers, turn| observers.end_visit(turn, end));
    }

    // ---- What happens in a visit ----

    /// A client was accepted.
    #[cold]
    pub(crate) fn emit_accepted(
        &mut self,
        client: Key,
        transport: Transport,
        inet: Option<SocketAddr>,
        handler_ns: u64,
    ) {
        let Some(source @ Source::Client { io, .. }) = self.registry.get(client) else { return };
        let peer = Peer::new(io.fd(), transport, inet);
        let (client, clients, turn) = (source.info(client), self.stats.clients, self.stats.turns);
        let Some(observers) = &mut self.observers else { return };
        let listener = observers.visiting_or_none();
        let all_well =
            observers.emit(turn, What::Accepted { listener, client, peer: &peer, handler_ns, clients });
        if !all_well {
            self.with_observers(|_, _| false);
        }
    }

    /// A request was handled. `replied`: the unsent bytes before it.
    #[cold]
    pub(crate) fn emit_request(&mut self, key: Key, request: &[u8], replied: usize) {
        log::trace!(target: "ipc_reactor", "request of client {key}: {} bytes", request.len());
        if self.observes_messages() {
            let reply_bytes = match self.io.mode {
                ReplyMode::Records => record_bytes(&self.io.out.bytes()[replied..]),
                _ => self.io.unsent() - replied,
            };
            self.emit_timed(|handler_ns, source| What::Request { source, request, reply_bytes, handler_ns });
        }
    }
}
