//! `PollSet`: its parts, and the operations that belong to no single kind of source.

use std::{fmt, io, time::Instant};

use log::Level;
use mio::Interest;

use crate::{
    children::process::ChildProcess,
    observe::{
        event::What,
        observers::Observers,
        throttle::{Kind, Throttle},
    },
    poll::{
        clock::Clock,
        registry::{Noted, Registry},
        timers::Timers,
    },
    set::{
        accounts::Accounts,
        asked::CurrentCall,
        children::Children,
        context::ClientHandle,
        endpoints::Acceptors,
        io::Io,
        lifecycle::{Lifecycle, Phase},
        source::{PendingClose, Source},
        task::Task,
    },
    types::{cause::Limit, key::Key, limits::Limits, ready::Ready, stats::Stats},
};

/// The poll set: the sources, and all operations on them. A [`Reactor`](crate::Reactor) and a
/// [`Context`](crate::Context) dereference to it, so the operations work between turns and in handlers.
///
/// It cannot run the loop, so a handler cannot re-enter the loop.
pub struct PollSet<S> {
    /// The sources, and which of them are ready.
    pub(crate) registry: Registry<Source<S>>,
    pub(crate) timers: Timers<Task<S>>,
    /// The buffers of a visit.
    pub(crate) io: Io,
    /// The call under way, and what its handler has asked for.
    pub(crate) call: CurrentCall,
    /// The clients' places and buffered bytes, by user.
    pub(crate) accounts: Accounts,
    pub(crate) acceptors: Acceptors,
    pub(crate) children: Children,
    /// Running, draining or stopped, and the sources whose `on_close` is still to be called.
    pub(crate) lifecycle: Lifecycle<PendingClose<S>>,
    pub(crate) limits: Limits,
    pub(crate) stats: Stats,
    pub(crate) throttle: Throttle,
    /// `None` without observers, so that they cost nothing.
    pub(crate) observers: Option<Box<Observers>>,
}

impl<S> PollSet<S> {
    pub(crate) fn new(limits: Limits, read_room: usize, clock: Clock) -> io::Result<PollSet<S>> {
        Ok(PollSet {
            registry: Registry::new()?,
            timers: Timers::new(clock)?,
            io: Io::new(&limits, read_room),
            call: CurrentCall::default(),
            accounts: Accounts::default(),
            acceptors: Acceptors::default(),
            children: Children::default(),
            lifecycle: Lifecycle::new(),
            limits,
            stats: Stats::default(),
            throttle: Throttle::new(),
            observers: None,
        })
    }

    // ---- Sources ----

    /// Registers a descriptor under the key that the next [`place`](PollSet::place) returns.
    pub(crate) fn register(
        &mut self,
        fd: std::os::fd::BorrowedFd<'_>,
        interest: Interest,
    ) -> io::Result<Key> {
        self.registry.register(fd, interest).inspect_err(|error| self.stats.failed(error.kind()))
    }

    /// Puts a source into its slot.
    pub(crate) fn place(&mut self, source: Source<S>) -> Key {
        let drainable = source.is_drainable();
        self.lifecycle.drainable += usize::from(drainable);
        let key = self.registry.insert(source);
        if drainable && self.lifecycle.phase() == Phase::Draining {
            // It was not there when the drain began, so its first visit begins its drain.
            self.mark_ready(key, Ready::READABLE);
        }
        key
    }

    /// Adds edges to a source, and puts it into the ready list. False: the source is closed.
    pub(crate) fn mark_ready(&mut self, key: Key, ready: Ready) -> bool {
        match self.note(key, ready) {
            Noted::New => self.registry.ready.push(key),
            Noted::Queued => {}
            Noted::Gone => return false,
        }
        true
    }

    /// Adds edges to a source. If it is not in the ready list, the caller puts it there.
    #[inline]
    pub(crate) fn note(&mut self, key: Key, ready: Ready) -> Noted {
        let noted = self.registry.note(key, ready);
        if noted == Noted::New
            && let Some(observers) = &mut self.observers
        {
            observers.queued(key);
        }
        noted
    }

    /// The connected client of this key, to send to it or to close it. `None` once it is closed.
    ///
    /// ```
    /// # use ipc_reactor::{Context, Key};
    /// fn inform<S>(cx: &mut Context<'_, S>, other: Key) -> std::io::Result<()> {
    ///     if let Some(mut client) = cx.client(other) {
    ///         client.send(b"news\n")?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn client(&mut self, key: Key) -> Option<ClientHandle<'_, S>> {
        match self.registry.get(key)? {
            Source::Client { io, .. } if io.is_open() => Some(ClientHandle { set: self, key }),
            _ => None,
        }
    }

    /// The keys of all connected clients, in no particular order.
    pub fn clients(&self) -> impl Iterator<Item = Key> + '_ {
        self.registry
            .iter()
            .filter(|(_, source)| matches!(source, Source::Client { io, .. } if io.is_open()))
            .map(|(key, _)| key)
    }

    /// Calls `each` for every connected client, the one whose session runs included.
    pub fn each_client(&mut self, mut each: impl FnMut(ClientHandle<'_, S>)) {
        // `each` can close clients, and insert none.
        for index in 0..u32::try_from(self.registry.capacity()).unwrap_or(u32::MAX) {
            let Some(key) = self.registry.key_at(index) else { continue };
            if let Some(client) = self.client(key) {
                each(client);
            }
        }
    }

    /// Sends `bytes` to every connected client; returns how many of them get it. A client whose unsent bytes would
    /// exceed [`Limits::output_max`] does not; [`Stats::limit_count`] counts it.
    pub fn broadcast(&mut self, bytes: &[u8]) -> usize {
        let mut reached = 0;
        self.each_client(|mut client| reached += usize::from(client.send(bytes).is_ok()));
        reached
    }

    /// The child of this key, that of the running handler included.
    pub(crate) fn child_of(&mut self, key: Key) -> Option<&mut ChildProcess> {
        match self.registry.get_mut(key)? {
            Source::Child { port, .. } => Some(&mut port.process),
            _ => None,
        }
    }

    // ---- Time ----

    /// The time by the reactor's clock. All handlers of a turn see the same time: it is read once a turn. Between turns
    /// it is the time of the call.
    pub fn now(&mut self) -> Instant {
        self.timers.clock.instant()
    }

    #[inline]
    pub(crate) fn now_ns(&mut self) -> u64 {
        self.timers.clock.now_ns()
    }

    // ---- Limits and faults ----

    /// Counts a limit that was reached, and logs it.
    #[cold]
    pub(crate) fn report_limit(&mut self, limit: Limit, what: fmt::Arguments<'_>) {
        self.count_limit(limit);
        self.warn(Kind::Limit, format_args!("limit reached: {limit}: {what}"));
    }

    #[cold]
    pub(crate) fn count_limit(&mut self, limit: Limit) {
        self.stats.count_limit(limit);
        self.emit(What::Limit { limit });
    }

    #[cold]
    pub(crate) fn warn(&mut self, kind: Kind, what: fmt::Arguments<'_>) {
        self.log(kind, Level::Warn, what);
    }

    #[cold]
    pub(crate) fn log(&mut self, kind: Kind, level: Level, what: fmt::Arguments<'_>) {
        let now_ns = self.now_ns();
        self.throttle.log(kind, level, now_ns, what);
    }

    /// The counters since the reactor was made.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl<S> fmt::Debug for PollSet<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollSet")
            .field("sources", &self.registry.len())
            .field("ready", &self.registry.ready.len())
            .field("phase", &self.lifecycle.phase())
            .finish_non_exhaustive()
    }
}
