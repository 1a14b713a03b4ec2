//! The loop: wait, note the edges, visit what is ready. It can be read in one sitting, and should be.

use std::{
    cell::Cell,
    fmt, io, mem,
    ops::{Deref, DerefMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use mio::{Events, Interest, Waker, unix::SourceFd};

use crate::{
    client::{
        serve::{self, Served},
        visit::visit as visit_client,
    },
    observe::event::VisitEnd,
    poll::{
        timers,
        wait::{self, Spin},
    },
    reactor::builder::Builder,
    set::{
        call::{guarded, report},
        client,
        poll_set::{Dead, DeadHandler, Phase, PollSet, Serves},
        remote::{self, Inbox, Remote},
        source::{Ready, Source},
    },
    sources::{accept, datagram, fd, queue, shm, signals},
    sys,
    types::{cause::Cause, key::Key, limits::Limits},
};

/// A process's communication in one poll set, and the loop over it. `S` is the service's shared state: handlers get it
/// as an argument, so the reactor neither owns it nor borrows it between turns.
///
/// It dereferences to the [`PollSet`], with which sources are put in. It belongs to the thread that made it; other
/// threads reach it through a [`Remote`].
pub struct Reactor<S> {
    set: PollSet<S>,
    events: Events,
    /// What this round is made of: empty between turns.
    round: Vec<Key>,
    /// What arrives is read in here first.
    scratch: Vec<u8>,
    /// Off unless asked for.
    spin: Option<Spin>,
    inbox: Key,
    /// Its descriptor was given out, to be watched by a loop around this one.
    nested: Cell<bool>,
}

/// What a turn left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a stopped reactor does nothing more"]
pub enum Turn {
    /// All that was ready has been handled.
    Idle,
    /// Budgets were spent: take another turn soon. It will not wait.
    Pending,
    /// The reactor was stopped, or has drained: every source is closed.
    Stopped,
}

impl<S> Reactor<S> {
    /// A reactor with the default [`Limits`].
    ///
    /// # Errors
    /// No descriptors for an epoll set, a timerfd and an eventfd.
    pub fn new() -> io::Result<Reactor<S>> {
        Reactor::<S>::builder().build()
    }

    /// A reactor with other limits or buffers.
    pub fn builder() -> Builder<S> {
        Builder::default()
    }

    pub(crate) fn make(
        limits: Limits,
        events: usize,
        read_buffer: usize,
        spin: Option<Spin>,
    ) -> io::Result<Reactor<S>> {
        sys::fork::watch();
        let mut set = PollSet::new(limits, read_buffer)?;
        let timers = set.next_key();
        set.poll.registry().register(
            &mut SourceFd(&set.timers.fd().as_raw_fd()),
            timers.token(),
            Interest::READABLE,
        )?;
        set.place(timers, Source::Timers);
        let inbox = set.next_key();
        let waker = Waker::new(set.poll.registry(), inbox.token())?;
        set.place(inbox, Source::Remote(Inbox::new(waker)));
        Ok(Reactor {
            set,
            events: Events::with_capacity(events),
            round: Vec::new(),
            scratch: Vec::new(),
            spin,
            inbox,
            nested: Cell::new(false),
        })
    }

    /// A handle with which other threads can reach this reactor.
    pub fn remote(&self) -> Remote<S> {
        match self.set.source(self.inbox) {
            Some(Source::Remote(inbox)) => inbox.remote(),
            _ => unreachable!("the inbox is neither closed nor taken out between turns"),
        }
    }

    /// Turns until a handler or a [`Remote`] stops the reactor, or a drain has ended; then every source is closed, and
    /// its `on_close` called.
    ///
    /// # Errors
    /// The poller itself fails, or this is a forked child of the process that made the reactor. No client's and no
    /// handler's fault ends the loop.
    pub fn run(&mut self, state: &mut S) -> io::Result<()> {
        while self.turn(None, state)? != Turn::Stopped {}
        Ok(())
    }

    /// One turn: waits for at most `timeout` (for ever if `None`, not at all while something is ready), then visits every
    /// source that is ready once. The timeout is rounded up to a millisecond; [`after`](PollSet::after) is finer.
    ///
    /// # Errors
    /// As for [`run`](Reactor::run).
    pub fn turn(&mut self, timeout: Option<Duration>, state: &mut S) -> io::Result<Turn> {
        self.set.check_not_forked()?;
        // What was closed between turns is told before this one may sleep.
        if !self.set.dead.is_empty() {
            bury(&mut self.set, state);
        }
        if !self.ended(state) {
            self.wait(timeout)?;
            self.note_edges(state);
            if !self.round.is_empty() {
                self.round(state);
            }
            self.ended(state);
            self.set.timers.clock.end_turn();
            if self.set.watch.is_some() {
                self.set.observe_turned();
            }
        }
        let turn = match self.set.phase {
            Phase::Stopped => Turn::Stopped,
            _ if self.set.ready.is_empty() => Turn::Idle,
            _ => Turn::Pending,
        };
        if self.nested.get() {
            self.tell_outer_loop(turn)?;
        }
        Ok(turn)
    }

    /// Waits for the kernel's events: the one place where the reactor sleeps.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.set.timers.arm()?;
        if self.set.watch.is_some() {
            self.set.observe_wait();
        }
        let timeout = if self.set.ready.is_empty() { timeout } else { Some(Duration::ZERO) };
        match &mut self.spin {
            Some(spin) if timeout != Some(Duration::ZERO) => {
                spin.wait(&mut self.set.poll, &mut self.events, timeout, &mut self.set.stats)?;
            }
            _ => wait::block(&mut self.set.poll, &mut self.events, timeout)?,
        }
        self.set.timers.clock.begin_turn();
        self.set.stats.turns += 1;
        if self.set.watch.is_some() {
            self.set.observe_woke(self.events.iter().count());
        }
        Ok(())
    }

    /// Begins a round: what is in the ready list is part of it, and so are the kernel's edges. A client that would leave the
    /// list at once is served on the spot instead.
    fn note_edges(&mut self, state: &mut S) {
        self.make_room();
        let Reactor { set, events, round, scratch, .. } = self;
        if !set.ready.is_empty() {
            mem::swap(round, &mut set.ready);
        }
        if set.watch.is_some() {
            take_watched(set, events, round, scratch, state);
        } else {
            take_events::<S, false>(set, events, round, scratch, state);
        }
    }

    /// Visits what the round is made of; what is not done with then comes after what has become ready since.
    fn round(&mut self, state: &mut S) {
        for at in 0..self.round.len() {
            // Also one that was served before the round may have stopped the loop.
            if self.set.phase == Phase::Stopped {
                break;
            }
            // Somebody may have asked for more since the last visit.
            self.make_room();
            let Reactor { set, scratch, .. } = self;
            let key = self.round[at];
            if set.watch.is_some() {
                visit_watched(set, scratch, key, state);
            } else {
                visit(set, scratch, key, state);
            }
            if !set.newcomers.is_empty() {
                visit_newcomers(set, scratch, state);
            }
            if !set.dead.is_empty() {
                bury(set, state);
            }
        }
        self.round.clear();
    }

    fn make_room(&mut self) {
        if self.scratch.len() < self.set.read_room {
            self.scratch = vec![0; self.set.read_room];
        }
    }

    /// Whether the loop has ended; if so, closes what is left.
    #[inline]
    fn ended(&mut self, state: &mut S) -> bool {
        self.set.phase != Phase::Running && self.ends(state)
    }

    #[cold]
    fn ends(&mut self, state: &mut S) -> bool {
        match self.set.phase {
            Phase::Running => return false,
            Phase::Draining if self.set.drainable > 0 || self.set.has_waiting_posts() => return false,
            Phase::Draining => {
                self.set.close_all(|| Cause::Drain, |source| matches!(source, Source::Queue(_)))
            }
            Phase::Stopped => {}
        }
        self.set.phase = Phase::Stopped;
        let own = |source: &Source<S>| matches!(source, Source::Timers | Source::Remote(_));
        // An on_close may insert anew; it is closed in its turn.
        while self.set.slots.iter().any(|(_, slot)| !own(&slot.source)) || !self.set.dead.is_empty() {
            self.set.close_all(|| Cause::Stop, |source| !own(source));
            bury(&mut self.set, state);
        }
        true
    }

    /// The loop around this one sleeps on our epoll descriptor, which knows nothing of what is in the ready list.
    #[cold]
    fn tell_outer_loop(&mut self, turn: Turn) -> io::Result<()> {
        self.set.timers.arm()?;
        match self.set.source(self.inbox) {
            Some(Source::Remote(inbox)) if turn == Turn::Pending => inbox.nudge(),
            _ => Ok(()),
        }
    }
}

/// Serves clients on the spot, and notes all other edges. `WATCHED`: observers are told of each visit. It is a loop of its own,
/// so that the other has nothing to ask.
#[inline(always)]
fn take_events<S, const WATCHED: bool>(
    set: &mut PollSet<S>,
    events: &Events,
    round: &mut Vec<Key>,
    scratch: &mut [u8],
    state: &mut S,
) {
    set.serves = set.serves_now();
    for event in events {
        set.stats.events += 1;
        let key = Key::from_token(event.token());
        let served = Ready::is_just_readable(event)
            && match set.serves {
                Serves::Plain => serve::serve::<S, WATCHED>(set, key, scratch, state),
                Serves::Told => serve::serve_told(set, key, scratch, state),
                Serves::Nobody => false,
            };
        if !served {
            note_edge(set, round, key, Ready::of(event));
        } else if WATCHED {
            // If it went otherwise, that was told.
            set.end_visit(VisitEnd::Drained);
        }
        if !set.dead.is_empty() {
            bury(set, state);
        }
    }
}

#[inline(never)]
fn take_watched<S>(
    set: &mut PollSet<S>,
    events: &Events,
    round: &mut Vec<Key>,
    scratch: &mut [u8],
    state: &mut S,
) {
    take_events::<S, true>(set, events, round, scratch, state);
}

#[cold]
fn note_edge<S>(set: &mut PollSet<S>, round: &mut Vec<Key>, key: Key, ready: Ready) {
    match set.note(key, ready) {
        Some(true) => round.push(key),
        Some(false) => {}
        None => set.stats.stale_events += 1,
    }
    if set.watch.is_some() {
        set.observe_edge(key, ready);
    }
}

/// A visit that observers are told of.
#[cold]
fn visit_watched<S>(set: &mut PollSet<S>, scratch: &mut [u8], key: Key, state: &mut S) {
    set.observe_visit(key);
    let end = visit(set, scratch, key, state);
    set.observe_visited(end);
}

/// Visits those who were just accepted before they come into the kernel's poll set. Where clients have something to say when they
/// connect, that saves the `epoll_wait` that would tell of it. They belong to the visit of their master socket, whose
/// budget bounds them.
#[cold]
fn visit_newcomers<S>(set: &mut PollSet<S>, scratch: &mut [u8], state: &mut S) {
    let mut newcomers = mem::take(&mut set.newcomers);
    for key in newcomers.drain(..) {
        // One whom another has put into the ready list has its share of a round when its turn comes.
        if set.phase != Phase::Stopped && !set.is_queued(key) {
            visit(set, scratch, key, state);
        }
        client::watch(set, key);
    }
    set.newcomers = newcomers;
}

/// **Everything that can happen.** The source is taken out of its slot, and what became of it decides whether it is put
/// back.
fn visit<S>(set: &mut PollSet<S>, scratch: &mut [u8], key: Key, state: &mut S) -> VisitEnd {
    // Closed since it became ready, whether or not its slot has a new tenant.
    let Some((mut source, ready)) = set.take_out(key) else { return VisitEnd::Closed };
    let visited = match &mut source {
        Source::Client(client) => visit_client(set, key, client, ready, Served::Not, scratch, state),
        Source::Master(master) => accept::visit(set, key, master, state),
        Source::Datagram(socket) => datagram::visit(set, key, socket, ready, state),
        Source::Queue(queue) => queue::visit(set, key, queue, ready, state),
        Source::Signals(signals) => signals::visit(set, key, signals, ready, state),
        Source::Shm(shm) => shm::visit(set, key, shm, ready, state),
        Source::Open(open) => fd::visit(set, key, open, ready, state),
        Source::Remote(inbox) => remote::visit(set, key, inbox, state),
        Source::Timers => timers::visit(set, key, state),
        Source::Running => unreachable!("only one handler runs at a time"),
    };
    set.put_back(key, source, visited)
}

/// Calls the `on_close` that is owed to those that were closed.
fn bury<S>(set: &mut PollSet<S>, state: &mut S) {
    while let Some(Dead { key, cause, handler }) = set.dead.pop_front() {
        if matches!(handler, DeadHandler::Session(_)) {
            report(set, key, "client", &cause);
        }
        set.current = key;
        let buried = guarded(set, key, |cx| {
            match handler {
                DeadHandler::Session(mut session) => session.on_close(&cause, cx, state),
                DeadHandler::Source(Source::Open(mut open)) => open.source.on_close(&cause, cx, state),
                DeadHandler::Source(Source::Datagram(mut socket)) => {
                    socket.handler.on_close(&cause, cx, state);
                }
                DeadHandler::Source(Source::Queue(mut queue)) => {
                    if let Some(handler) = &mut queue.handler {
                        handler.on_close(&cause, cx, state);
                    }
                }
                DeadHandler::Source(Source::Shm(shm)) => shm::bury(*shm, &cause, cx, state),
                DeadHandler::Source(_) => {}
            }
            Ok(())
        });
        set.current = Key::NONE;
        set.take_halt();
        if let Err(cause) = buried {
            report(set, key, "on_close of", &cause);
        }
    }
}

impl<S> Deref for Reactor<S> {
    type Target = PollSet<S>;

    fn deref(&self) -> &PollSet<S> {
        &self.set
    }
}

impl<S> DerefMut for Reactor<S> {
    fn deref_mut(&mut self) -> &mut PollSet<S> {
        &mut self.set
    }
}

/// The poll set's own descriptor: it is readable when a [`turn`](Reactor::turn) would find something to do, so a reactor can be
/// a source in another loop. After changing a reactor from outside a turn (a new timer, say), take a turn with a zero
/// timeout.
impl<S> AsFd for Reactor<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.nested.set(true);
        sys::poll_fd(&self.set.poll)
    }
}

impl<S> Drop for Reactor<S> {
    fn drop(&mut self) {
        // In a forked child the poll set is the parent's: nothing may be taken out of it there, and merely closing
        // takes nothing out while the parent has its descriptors.
        if self.set.check_not_forked().is_ok() {
            self.set.phase = Phase::Stopped;
            self.set.close_all(|| Cause::Stop, |_| true);
        }
    }
}

impl<S> fmt::Debug for Reactor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("fd", &self.set.poll.as_raw_fd()).field("set", &self.set).finish()
    }
}
