//! Telling observers what the poll set does.

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
    /// Has `observer` told of everything from now on. There can be several; each costs what it does.
    pub fn observe(&mut self, observer: impl Observer) {
        self.observers.get_or_insert_with(|| Box::new(Observers::new())).add(Box::new(observer));
        // The rest of this turn's events go through the ready list, and are told from there.
        self.lifecycle.visits_at_once = false;
        self.call.ask(Asked::Pause);
    }

    /// The first observer of this type. `None` if there is none: it was never put in, was taken out, or has panicked.
    /// It has been told of the visit under way.
    pub fn observer_mut<T: Observer>(&mut self) -> Option<&mut T> {
        self.tell(|observers, turn| observers.emit_visit(turn));
        self.observers.as_mut()?.get_mut()
    }

    /// Takes the first observer of this type out; it is told nothing more.
    pub fn take_observer<T: Observer>(&mut self) -> Option<T> {
        self.tell(|observers, turn| observers.emit_visit(turn));
        let observers = self.observers.as_mut()?;
        let taken = observers.take();
        if observers.is_empty() {
            self.observers = None;
        }
        taken
    }

    /// Whether observers or the log are told of each request.
    pub(crate) fn observes(&self) -> bool {
        self.observers.is_some() || log_enabled!(target: "ipc_reactor", Level::Trace)
    }

    /// Whether an observer wants to be told of each message.
    #[inline]
    pub(crate) fn observes_messages(&self) -> bool {
        self.observers.as_ref().is_some_and(|observers| observers.want_messages())
    }

    /// The source of the visit under way, if there are observers.
    #[inline]
    pub(crate) fn visiting(&self) -> Option<SourceInfo> {
        self.observers.as_ref()?.visiting()
    }

    /// Tells the observers, if there are any, and drops those that panic.
    #[cold]
    fn tell(&mut self, tell: impl FnOnce(&mut Observers, u64) -> bool) {
        let turn = self.stats.turns;
        let Some(observers) = &mut self.observers else { return };
        if tell(observers, turn) {
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
        self.tell(|observers, turn| observers.emit(turn, what));
    }

    /// Tells something that has taken the time since the clock was read last.
    #[cold]
    pub(crate) fn emit_timed<'a>(&mut self, what: impl FnOnce(u64, SourceInfo) -> What<'a>) {
        self.tell(|observers, turn| {
            let took_ns = observers.lap();
            let source = observers.visiting_or_none();
            observers.emit(turn, what(took_ns, source))
        });
    }

    /// The time since the clock was read last, where messages are told.
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
        self.tell(|observers, turn| observers.woke(turn, events));
    }

    #[cold]
    pub(crate) fn emit_turned(&mut self) {
        let ready = self.registry.ready.len();
        self.tell(|observers, turn| observers.turned(turn, ready));
    }

    #[cold]
    pub(crate) fn emit_edge(&mut self, key: Key, ready: Ready) {
        match self.registry.get(key) {
            None => self.emit(What::Stale { key }),
            // Those who are told of visits only learn of it from its visit.
            Some(_) if !self.observes_messages() => {}
            Some(source) => {
                let source = source.info(key);
                self.emit(What::Edge { source, ready });
            }
        }
    }

    /// A client is visited as its event comes.
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

    /// A source's turn has come; nothing is done if it is gone.
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
            self.tell(|observers, turn| observers.emit_visit(turn));
        }
    }

    #[cold]
    pub(crate) fn end_visit(&mut self, end: VisitEnd) {
        self.tell(|observers, turn| observers.end_visit(turn, end));
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
            self.tell(|_, _| false);
        }
    }

    /// A request was handled; `replied`: the bytes that waited before.
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
