//! The loop: waits for events, notes the edges, and visits the ready sources.

use std::{
    cell::Cell,
    fmt, io, mem,
    ops::{Deref, DerefMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use mio::{Events, Interest, Waker, event::Event};

use crate::{
    client::{
        admit::register,
        visit::{AtOnce, first_visit, is_plain, visit as visit_client, visit_at_once},
        visit_state::VisitArgs,
    },
    observe::{
        event::VisitEnd,
        probe::{Off, On, Probe},
    },
    poll::{
        clock::Clock,
        registry::Noted,
        wait::{self, Spin},
    },
    reactor::{closed::deliver_closed, due},
    set::{
        lifecycle::Phase,
        poll_set::PollSet,
        remote::{Inbox, Remote},
        source::Source,
    },
    sources::{accept, child, datagram, fd, queue, remote, shm, signals},
    sys,
    types::{cause::Cause, key::Key, limits::Limits, ready::Ready},
};

/// A poll set and the loop over it. `S` is the service's shared state: handlers get it as an argument, so the reactor
/// neither owns it nor borrows it between turns.
///
/// A reactor dereferences to its [`PollSet`], which has the operations on sources. It belongs to the thread that made
/// it; other threads use a [`Remote`].
pub struct Reactor<S> {
    set: PollSet<S>,
    events: Events,
    /// The sources of this round: empty between turns.
    round: Vec<Key>,
    /// The read buffer.
    scratch: Vec<u8>,
    /// `None` unless [`Builder::spin`](crate::Builder::spin) was called.
    spin: Option<Spin>,
    timers: Key,
    inbox: Key,
    /// The embedder has asked for the epoll descriptor: there may be an outer loop that waits for it.
    nested: Cell<bool>,
}

/// The state after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a stopped reactor does nothing more"]
pub enum Turn {
    /// No source is ready.
    Idle,
    /// Some sources are still ready, because a budget was spent. The next turn does not wait.
    Pending,
    /// The reactor was stopped, or has drained. Every source is closed.
    Stopped,
}

impl<S> Reactor<S> {
    pub(crate) fn make(
        limits: Limits,
        events: usize,
        read_buffer: usize,
        spin: Option<Spin>,
        clock: Clock,
    ) -> io::Result<Reactor<S>> {
        sys::fork::start_counting()?;
        let mut set = PollSet::new(limits, read_buffer, clock)?;
        let fd = set.timers.fd().as_raw_fd();
        let timers = set.registry.next_key();
        set.registry.register_as(timers, fd, Interest::READABLE)?;
        set.place(Source::Timers);
        let waker = Waker::new(set.registry.poll.registry(), set.registry.next_key().token())?;
        let inbox = set.place(Source::Remote(Inbox::new(waker)));
        Ok(Reactor {
            set,
            events: Events::with_capacity(events),
            round: Vec::new(),
            scratch: Vec::new(),
            spin,
            timers,
            inbox,
            nested: Cell::new(false),
        })
    }

    /// A handle to this reactor for other threads.
    pub fn remote(&self) -> Remote<S> {
        match self.set.registry.get(self.inbox) {
            Some(Source::Remote(inbox)) => inbox.remote(),
            _ => unreachable!("the inbox is never closed"),
        }
    }

    /// Runs turns until a handler or a [`Remote`] stops the reactor, or a drain has ended. Then every source is closed,
    /// and its `on_close` called.
    ///
    /// # Errors
    /// Those of `epoll_wait(2)` and `timerfd_settime(2)`, and, inside another loop, of the `eventfd(2)` that wakes it.
    /// `Unsupported`: this is a forked child of the process that
    /// made the reactor. Errors of clients and of handlers do not end the loop.
    pub fn run(&mut self, state: &mut S) -> io::Result<()> {
        while self.turn(None, state)? != Turn::Stopped {}
        Ok(())
    }

    /// Runs one turn: waits for at most `timeout` (without limit if `None`, not at all while a source is ready), then
    /// visits every ready source once. The timeout is rounded up to a millisecond; [`after`](PollSet::after) is more
    /// precise.
    ///
    /// # Errors
    /// As for [`run`](Reactor::run).
    pub fn turn(&mut self, timeout: Option<Duration>, state: &mut S) -> io::Result<Turn> {
        self.set.registry.check_not_forked()?;
        // on_close of sources that were closed between turns, before the loop may sleep.
        if !self.set.lifecycle.pending.is_empty() {
            deliver_closed(&mut self.set, state);
        }
        if self.ended(state) {
            return self.turned(Turn::Stopped);
        }
        if self.set.observes() {
            self.wait_and_take::<On>(timeout, state)?;
        } else {
            self.wait_and_take::<Off>(timeout, state)?;
        }
        if !self.round.is_empty() {
            self.round(state);
        }
        let ended = self.ended(state);
        self.set.timers.clock.end_turn();
        if self.set.observers.is_some() {
            self.set.emit_turned();
        }
        let turn = match self.set.registry.ready.is_empty() {
            _ if ended => Turn::Stopped,
            true => Turn::Idle,
            false => Turn::Pending,
        };
        self.turned(turn)
    }

    #[inline]
    fn turned(&mut self, turn: Turn) -> io::Result<Turn> {
        if self.nested.get() {
            self.wake_outer_loop(turn)?;
        }
        Ok(turn)
    }

    /// Waits for events, and begins the round.
    #[inline(always)]
    fn wait_and_take<P: Probe>(&mut self, timeout: Option<Duration>, state: &mut S) -> io::Result<()> {
        self.wait::<P>(timeout)?;
        self.make_room();
        let Reactor { set, events, round, scratch, .. } = self;
        // The round: the sources of the ready list, and those of the kernel's events.
        if !set.registry.ready.is_empty() {
            mem::swap(round, &mut set.registry.ready);
        }
        set.lifecycle.begin_turn();
        take_events::<S, P>(set, events, round, &mut VisitArgs { scratch, state });
        Ok(())
    }

    /// Waits for the kernel's events. The reactor sleeps nowhere else.
    #[inline(always)]
    fn wait<P: Probe>(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.set.timers.arm()? {
            self.set.mark_ready(self.timers, Ready::READABLE);
        }
        if P::ON {
            self.set.emit_wait();
        }
        let timeout = if self.set.registry.ready.is_empty() { timeout } else { Some(Duration::ZERO) };
        match &mut self.spin {
            Some(spin) if timeout != Some(Duration::ZERO) => {
                spin.wait(&mut self.set.registry.poll, &mut self.events, timeout, &mut self.set.stats)?;
            }
            _ => wait::block(&mut self.set.registry.poll, &mut self.events, timeout)?,
        }
        self.set.timers.clock.begin_turn();
        self.set.stats.turns += 1;
        if P::ON {
            self.set.emit_woke(self.events.iter().count());
        }
        Ok(())
    }

    /// Visits the sources of the round. Sources that are still ready are put after those that have become ready since.
    fn round(&mut self, state: &mut S) {
        for at in 0..self.round.len() {
            // A handler may have stopped the loop, in this round or in a visit before it.
            if self.set.lifecycle.phase() == Phase::Stopped {
                break;
            }
            // The last visit may have inserted a source that needs a larger read buffer.
            self.make_room();
            let Reactor { set, scratch, .. } = self;
            let mut args = VisitArgs { scratch, state };
            let key = self.round[at];
            let observed = set.observers.is_some();
            if observed {
                set.begin_visit(key);
            }
            let end = visit(set, key, &mut args);
            if observed {
                set.end_visit(end);
            }
            if !set.acceptors.unregistered.is_empty() {
                visit_unregistered(set, &mut args);
            }
            if !set.lifecycle.pending.is_empty() {
                deliver_closed(set, args.state);
            }
        }
        self.round.clear();
    }

    fn make_room(&mut self) {
        if self.scratch.len() < self.set.io.read_room {
            self.scratch = vec![0; self.set.io.read_room];
        }
    }

    /// Whether the loop has ended; if so, closes what is left.
    #[inline]
    fn ended(&mut self, state: &mut S) -> bool {
        self.set.lifecycle.phase() != Phase::Running && self.ends(state)
    }

    #[cold]
    fn ends(&mut self, state: &mut S) -> bool {
        let set = &mut self.set;
        match set.lifecycle.phase() {
            Phase::Running => return false,
            Phase::Draining if set.lifecycle.drainable > 0 || set.has_waiting_posts() => return false,
            Phase::Draining => {
                set.remove_all(|| Cause::Drain, |source| matches!(source, Source::Queue { .. }));
            }
            Phase::Stopped => {}
        }
        set.lifecycle.enter(Phase::Stopped);
        // An on_close may insert sources; they are closed, too.
        while set.registry.iter().any(|(_, source)| !source.is_own()) || !set.lifecycle.pending.is_empty() {
            set.remove_all(|| Cause::Stop, |source| !source.is_own());
            deliver_closed(set, state);
        }
        true
    }

    /// Makes the epoll descriptor readable if the next turn has something to do: an outer loop that waits for the
    /// descriptor does not see the ready list.
    #[cold]
    fn wake_outer_loop(&mut self, turn: Turn) -> io::Result<()> {
        let due = self.set.timers.arm()?;
        match self.set.registry.get(self.inbox) {
            Some(Source::Remote(inbox)) if due || turn == Turn::Pending => inbox.wake(),
            _ => Ok(()),
        }
    }
}

/// Visits plain clients as soon as their event is read, and notes the edges of all other sources. With [`On`], emits
/// the events for observers.
#[inline(always)]
fn take_events<S, P: Probe>(
    set: &mut PollSet<S>,
    events: &Events,
    round: &mut Vec<Key>,
    args: &mut VisitArgs<'_, S>,
) {
    let mut events = events.iter();
    // A drain, a stop or a new observer ends this. After a straight line none of them need be checked.
    while set.lifecycle.visits_at_once {
        loop {
            let Some(event) = events.next() else { return };
            set.stats.events += 1;
            let key = Key::from_token(event.token());
            if !(Ready::is_just_readable(event) && is_plain::<S, false>(set, key)) {
                if !take_unusual::<S, P>(set, round, event, args) {
                    break;
                }
            } else if visit_at_once::<S, P, false>(set, key, args) == AtOnce::Other {
                break;
            }
        }
        if !set.lifecycle.pending.is_empty() {
            deliver_closed(set, args.state);
        }
    }
    for event in events {
        set.stats.events += 1;
        note_edge(set, round, event);
    }
}

/// The other events: visits clients whose reads must take descriptors at once as well, and notes all other edges. True:
/// the loop has nothing to check.
#[inline(never)]
fn take_unusual<S, P: Probe>(
    set: &mut PollSet<S>,
    round: &mut Vec<Key>,
    event: &Event,
    args: &mut VisitArgs<'_, S>,
) -> bool {
    let key = Key::from_token(event.token());
    if Ready::is_just_readable(event) && is_plain::<S, true>(set, key) {
        return visit_at_once::<S, P, true>(set, key, args) == AtOnce::Straight;
    }
    note_edge(set, round, event);
    false
}

#[cold]
fn note_edge<S>(set: &mut PollSet<S>, round: &mut Vec<Key>, event: &Event) {
    let (key, ready) = (Key::from_token(event.token()), Ready::of(event));
    match set.note(key, ready) {
        Noted::New => round.push(key),
        Noted::Queued => {}
        Noted::Gone => set.stats.stale_events += 1,
    }
    if set.observers.is_some() {
        set.emit_edge(key, ready);
    }
}

/// Visits clients that were just accepted, before they are registered. The budget of the listener's visit limits their
/// number.
#[cold]
fn visit_unregistered<S>(set: &mut PollSet<S>, args: &mut VisitArgs<'_, S>) {
    let mut unregistered = mem::take(&mut set.acceptors.unregistered);
    for key in unregistered.drain(..) {
        // If another client has put it into the ready list, it is visited from there.
        if set.lifecycle.phase() != Phase::Stopped && !set.registry.is_queued(key) {
            first_visit(set, key, args);
        }
        register(set, key);
    }
    set.acceptors.unregistered = unregistered;
}

/// **Everything that can happen.** The result of a visit decides whether the source is visited again, or removed.
fn visit<S>(set: &mut PollSet<S>, key: Key, args: &mut VisitArgs<'_, S>) -> VisitEnd {
    // The source may have been closed since it became ready.
    let Some(ready) = set.registry.begin_visit(key) else { return VisitEnd::Closed };
    let Some(source) = set.registry.get(key) else { return VisitEnd::Closed };
    let VisitArgs { scratch, state } = args;
    let visited = match source {
        Source::Client { .. } => return visit_client(set, key, ready, args),
        Source::Listener { .. } => accept::visit(set, key, state),
        Source::Datagram { .. } => datagram::visit(set, key, ready, state),
        Source::Queue { .. } => queue::visit(set, key, ready, scratch, state),
        Source::Signals { .. } => signals::visit(set, key, ready, state),
        Source::Shm { .. } => shm::visit(set, key, ready, state),
        Source::Child { .. } => child::visit(set, key, ready, scratch, state),
        Source::Fd { .. } => fd::visit(set, key, ready, state),
        Source::Remote(_) => remote::visit(set, key, state),
        Source::Timers => due::visit(set, key, args),
    };
    set.finish_visit(key, visited)
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

/// The epoll descriptor. It is readable when a [`turn`](Reactor::turn) has something to do, so a reactor can be a
/// source in another loop. After a change between turns, such as a new timer, run a turn with a zero timeout.
impl<S> AsFd for Reactor<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.nested.set(true);
        sys::poll_fd(&self.set.registry.poll)
    }
}

impl<S> Drop for Reactor<S> {
    fn drop(&mut self) {
        // In a forked child the epoll set is the parent's: deregistering would change it there. Closing the descriptors
        // does not, while the parent has them open.
        if self.set.registry.check_not_forked().is_ok() {
            self.set.lifecycle.enter(Phase::Stopped);
            self.set.remove_all(|| Cause::Stop, |_| true);
        }
    }
}

impl<S> fmt::Debug for Reactor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("fd", &self.set.registry.poll.as_raw_fd())
            .field("set", &self.set)
            .finish()
    }
}
