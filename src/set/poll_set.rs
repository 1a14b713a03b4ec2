//! The poll set: a slab of sources, the list of those that are ready, and what a handler may do with them.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io, mem,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::Instant,
};

use log::{Level, log_enabled};
use mio::{Interest, Poll, unix::SourceFd};
use slab::Slab;

use crate::{
    bytes::{
        buffer::{Buffer, Echo, Pool},
        framing::Framing,
    },
    children::{Exit, Reaper},
    client::deadlines,
    net::datagram::Datagram,
    observe::{
        event::{VisitEnd, What},
        observers::Watch,
        throttle::{Kind, Throttle},
    },
    poll::timers::{TimerKey, Timers},
    set::{
        client::{self, Plan},
        context::ClientHandle,
        lifecycle::is_drainable,
        session::Session,
        source::{Ready, Slot, Source, Visited},
    },
    sys,
    types::{
        cause::{Cause, Limit},
        key::Key,
        limits::Limits,
        stats::Stats,
    },
};

/// The timerfd and the `Remote`s' eventfd have the first slots, for good: handlers see their keys, and cannot close
/// them.
pub(crate) const OWN_SOURCES: u32 = 2;

/// How handlers are told to end the current visit early, and what happens to the source they run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    No,
    /// So many replies wait that they should be sent before more requests are handled.
    Flush,
    /// The handler closed its own source: once flushed, or at once.
    Close,
    Abort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    Draining,
    Stopped,
}

/// Whether plain clients are served past the ready list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// A drain is going on, of which the general visit knows.
    Nobody,
    Plain,
    /// And observers, or the log, are told of each message.
    Told,
}

/// Whose session runs, and so what a reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answering {
    /// Nobody's: there is nobody to reply to.
    Nobody,
    /// That of a client on a stream.
    Stream,
    /// That of one whose socket keeps records.
    Records,
}

/// A handler whose source is gone already; `on_close` is still owed to it.
pub(crate) struct Dead<S> {
    pub(crate) key: Key,
    pub(crate) cause: Cause,
    pub(crate) handler: DeadHandler<S>,
}

pub(crate) enum DeadHandler<S> {
    Session(Box<dyn Session<S>>),
    Source(Source<S>),
}

/// What one user has open here.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) clients: usize,
    pub(crate) held: usize,
}

/// The poll set, and all that can be done with it between turns and from handlers: a [`Reactor`](crate::Reactor)
/// and a [`Context`](crate::Context) both dereference to it.
///
/// It has no way to run the loop, so a handler cannot re-enter it.
pub struct PollSet<S> {
    pub(crate) poll: Poll,
    pub(crate) slots: Slab<Slot<S>>,
    serial: u32,
    pub(crate) ready: Vec<Key>,
    pub(crate) timers: Timers<S>,
    /// How large the buffer must be that everything is read into first: the loop keeps it, so that a handler can be
    /// lent what is in it beside this set.
    pub(crate) read_room: usize,
    /// A seqpacket socket is, or was, in the set.
    pub(crate) has_records: bool,
    /// What the client being visited is to be sent.
    pub(crate) out: Buffer,
    /// What that client is to be sent before `out`.
    pub(crate) echo: Echo,
    /// Whether plain clients are served past the ready list in this turn.
    pub(crate) serves: Serves,
    /// Where replies go.
    pub(crate) answering: Answering,
    /// Unsent bytes up to which a reply needs no second look.
    pub(crate) reply_room: usize,
    /// What the client being visited has passed, and its session not taken yet.
    pub(crate) descriptors: VecDeque<OwnedFd>,
    pub(crate) pool: Pool,
    /// Whose handler runs. (For a client that stays in its slot it counts only while it is being answered.)
    pub(crate) current: Key,
    pub(crate) halt: Halt,
    /// What is known of the client whose session runs, if it was taken out of its slot.
    pub(crate) running: Option<Rc<Plan>>,
    /// The datagram socket whose handler runs, so that it can send, too.
    pub(crate) receiving: Option<(Key, Rc<Datagram>)>,
    pub(crate) dead: VecDeque<Dead<S>>,
    /// Accepted in this visit, and to be visited before the kernel watches them.
    pub(crate) newcomers: Vec<Key>,
    /// Master sockets that wait for a descriptor or a place, each with the timer that has it look again.
    pub(crate) paused: Vec<(Key, TimerKey)>,
    /// Masters, clients, queues and datagram sockets: when a drain has closed the last of them, the loop ends.
    pub(crate) drainable: usize,
    pub(crate) phase: Phase,
    pub(crate) reaper: Reaper,
    /// The source that hears of children's exits.
    pub(crate) children: Option<Key>,
    pub(crate) exits: Vec<Exit>,
    pub(crate) held: usize,
    pub(crate) users: Option<HashMap<u32, Usage>>,
    pub(crate) limits: Limits,
    /// Since when there has been an idle deadline, if not from the beginning.
    pub(crate) idle_since_ns: u64,
    pub(crate) stats: Stats,
    pub(crate) throttle: Throttle,
    /// Those who watch; none costs nothing.
    pub(crate) watch: Option<Box<Watch>>,
    /// How many forks away from the first process it was made.
    made_in: u32,
}

impl<S> PollSet<S> {
    pub(crate) fn new(limits: Limits, read_room: usize) -> io::Result<PollSet<S>> {
        Ok(PollSet {
            poll: Poll::new()?,
            slots: Slab::new(),
            serial: 0,
            ready: Vec::new(),
            timers: Timers::new()?,
            read_room,
            has_records: false,
            out: Buffer::default(),
            echo: Echo::default(),
            serves: Serves::Nobody,
            answering: Answering::Nobody,
            reply_room: limits.output_high_water.min(limits.output_max),
            descriptors: VecDeque::new(),
            pool: Pool::default(),
            current: Key::NONE,
            halt: Halt::No,
            running: None,
            receiving: None,
            dead: VecDeque::new(),
            newcomers: Vec::new(),
            paused: Vec::new(),
            drainable: 0,
            phase: Phase::Running,
            reaper: Reaper::new(),
            children: None,
            exits: Vec::new(),
            held: 0,
            users: None,
            limits,
            idle_since_ns: 0,
            stats: Stats::default(),
            throttle: Throttle::new(),
            watch: None,
            made_in: sys::fork::generation(),
        })
    }

    // ---- The slab ----

    /// Puts a descriptor into the poll set, under the key that the next source [`place`](PollSet::place)d will have.
    /// Two steps, so that whoever fails at the first still has the source in hand.
    pub(crate) fn register(&mut self, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<Key> {
        self.check_not_forked()?;
        let key = self.next_key();
        self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), key.token(), interest).map_err(
            |error| {
                self.stats.failed(error.kind());
                explain_registration(error)
            },
        )?;
        Ok(key)
    }

    /// In a forked child the kernel's poll set is still the parent's, and what is changed there is changed for the parent.
    #[inline]
    pub(crate) fn check_not_forked(&self) -> io::Result<()> {
        if self.made_in == sys::fork::generation() { Ok(()) } else { Err(forked()) }
    }

    pub(crate) fn next_key(&self) -> Key {
        Key { index: self.slots.vacant_key() as u32, serial: self.serial }
    }

    /// Puts a source into the slab.
    pub(crate) fn place(&mut self, key: Key, source: Source<S>) -> Key {
        debug_assert_eq!(key, self.next_key());
        self.serial = self.serial.wrapping_add(1);
        let drainable = is_drainable(&source);
        self.drainable += usize::from(drainable);
        self.slots.insert(Slot::new(source, key.serial));
        if drainable && self.phase == Phase::Draining {
            // It has missed the drain's beginning, and its first visit makes up for that.
            self.mark_ready(key, Ready::READABLE);
        }
        key
    }

    pub(crate) fn slot(&mut self, key: Key) -> Option<&mut Slot<S>> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.serial == key.serial)
    }

    pub(crate) fn source(&self, key: Key) -> Option<&Source<S>> {
        self.slots.get(key.index as usize).filter(|slot| slot.serial == key.serial).map(|slot| &slot.source)
    }

    /// Notes edges, and puts their source into the ready list.
    pub(crate) fn mark_ready(&mut self, key: Key, ready: Ready) -> bool {
        match self.note(key, ready) {
            Some(true) => self.ready.push(key),
            Some(false) => {}
            None => return false,
        }
        true
    }

    /// Notes edges. `None`: the source is gone; true: it is not in a list yet, and the caller puts it into one.
    pub(crate) fn note(&mut self, key: Key, ready: Ready) -> Option<bool> {
        let slot = self.slots.get_mut(key.index as usize).filter(|slot| slot.serial == key.serial)?;
        slot.ready |= ready;
        let queued = mem::replace(&mut slot.queued, true);
        if !queued && let Some(watch) = &mut self.watch {
            watch.queued(key);
        }
        Some(!queued)
    }

    /// Whether a source is in the ready list.
    pub(crate) fn is_queued(&self, key: Key) -> bool {
        self.slots.get(key.index as usize).is_some_and(|slot| slot.serial == key.serial && slot.queued)
    }

    /// Takes a source out of its slot, to be visited, with the edges that it has not used up.
    pub(crate) fn take_out(&mut self, key: Key) -> Option<(Source<S>, Ready)> {
        let slot = self.slot(key)?;
        slot.queued = false;
        let ready = mem::take(&mut slot.ready);
        let source = mem::replace(&mut slot.source, Source::Running);
        self.current = key;
        Some((source, ready))
    }

    /// Puts a source back after its visit, or buries it.
    pub(crate) fn put_back(&mut self, key: Key, source: Source<S>, visited: Visited) -> VisitEnd {
        self.current = Key::NONE;
        let slot = &mut self.slots[key.index as usize];
        debug_assert_eq!(slot.serial, key.serial, "a slot is not freed while its source runs");
        let (end, left) = match visited {
            Visited::Drained => (VisitEnd::Drained, Ready::NONE),
            Visited::Again(left) => (VisitEnd::Again, left),
            Visited::Parked(left) => (VisitEnd::Parked, left),
            Visited::Closed(cause) => {
                self.retire(key, source, *cause);
                return VisitEnd::Closed;
            }
        };
        // What is replaced is `Running`, which needs no drop.
        mem::forget(mem::replace(&mut slot.source, source));
        slot.ready |= left;
        if end == VisitEnd::Again {
            self.mark_ready(key, left);
        }
        end
    }

    pub(crate) fn serves_now(&self) -> Serves {
        if self.phase != Phase::Running {
            Serves::Nobody
        } else if self.tells_messages() || log_enabled!(target: "ipc_reactor", Level::Trace) {
            Serves::Told
        } else {
            Serves::Plain
        }
    }

    // ---- Clients ----

    /// The connected client of this key, to send to it or to close it. `None` once it is closed.
    ///
    /// ```
    /// # use ipc_reactor::{Context, Key};
    /// fn tell<S>(cx: &mut Context<'_, S>, other: Key) -> std::io::Result<()> {
    ///     if let Some(mut client) = cx.client(other) {
    ///         client.send(b"news\n")?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn client(&mut self, key: Key) -> Option<ClientHandle<'_, S>> {
        match self.source(key)? {
            Source::Client(client) if client.is_open() => {}
            Source::Running if self.is_current(key) => {}
            _ => return None,
        }
        Some(ClientHandle { set: self, key })
    }

    /// The keys of all connected clients, in no particular order.
    pub fn clients(&self) -> impl Iterator<Item = Key> + '_ {
        self.slots.iter().filter_map(|(index, slot)| {
            let key = Key { index: index as u32, serial: slot.serial };
            let is_client = match &slot.source {
                Source::Client(client) => client.is_open(),
                Source::Running => self.is_current(key),
                _ => false,
            };
            is_client.then_some(key)
        })
    }

    /// Calls `each` for every connected client, the one whose session runs included.
    pub fn each_client(&mut self, mut each: impl FnMut(ClientHandle<'_, S>)) {
        // The slab may shrink under `each`, never grow: nothing is inserted by a handle.
        for index in 0..self.slots.capacity() {
            let Some(slot) = self.slots.get(index) else { continue };
            let key = Key { index: index as u32, serial: slot.serial };
            if let Some(client) = self.client(key) {
                each(client);
            }
        }
    }

    /// Sends `bytes` to every connected client; returns how many took it. A client whose unsent bytes are at
    /// [`Limits::output_max`] misses it, and is counted in [`Stats::trips`].
    pub fn broadcast(&mut self, bytes: &[u8]) -> usize {
        let mut reached = 0;
        self.each_client(|mut client| reached += usize::from(client.send(bytes).is_ok()));
        reached
    }

    /// Takes a connected stream or seqpacket socket into the poll set, as though a master socket had accepted it.
    ///
    /// # Errors
    /// It is no such socket, or the kernel refuses to watch it. The socket is closed.
    pub fn adopt(
        &mut self,
        socket: impl Into<OwnedFd>,
        framing: Framing,
        session: impl Session<S> + 'static,
    ) -> io::Result<Key> {
        client::adopt(self, socket.into(), framing, Box::new(session))
    }

    /// The poll set's clock: when this turn began to handle events. All handlers of a turn see the same time; between
    /// turns it is the time of the call.
    pub fn now(&mut self) -> Instant {
        self.timers.clock.instant()
    }

    #[inline]
    pub(crate) fn now_ns(&mut self) -> u64 {
        self.timers.clock.now_ns()
    }

    // ---- Limits and faults ----

    /// Counts a limit that was reached, and says so in the log.
    #[cold]
    pub(crate) fn trip(&mut self, limit: Limit, what: fmt::Arguments<'_>) {
        self.tripped(limit);
        let now_ns = self.now_ns();
        self.throttle.log(Kind::Limit, Level::Warn, now_ns, format_args!("limit reached: {limit}: {what}"));
    }

    #[cold]
    pub(crate) fn tripped(&mut self, limit: Limit) {
        self.stats.tripped(limit);
        self.tell(What::Limit { limit });
    }

    #[cold]
    pub(crate) fn complain(&mut self, kind: Kind, level: Level, what: fmt::Arguments<'_>) {
        let now_ns = self.now_ns();
        self.throttle.log(kind, level, now_ns, what);
    }

    /// What all that has happened so far amounts to.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Puts other limits in force, from now on: what exceeds them already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        if let (None, Some(idle)) = (self.limits.idle, limits.idle) {
            deadlines::begin_idling(self, idle);
        }
        self.reply_room = limits.output_high_water.min(limits.output_max);
        self.limits = limits;
        if self.has_records {
            client::make_room_for_records(self, &Framing::raw());
        }
        self.resume_masters();
    }

    /// Has the master sockets that wait look again, now instead of later.
    pub(crate) fn resume_masters(&mut self) {
        while let Some((master, timer)) = self.paused.pop() {
            self.cancel(timer);
            self.mark_ready(master, Ready::READABLE);
        }
    }
}

#[cold]
fn forked() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "this reactor was made before a fork, by the parent: its poll set is shared, and its signals are not. \
         Make a new reactor in the child",
    )
}

fn explain_registration(error: io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "epoll does not watch files of this kind: a regular file or a directory is always ready"
        }
        Some(libc::EEXIST) => "this descriptor is in the poll set already",
        Some(libc::ENOSPC) => "too many watches; raise /proc/sys/fs/epoll/max_user_watches",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{why} ({error})"))
}

impl<S> fmt::Debug for PollSet<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollSet")
            .field("sources", &self.slots.len())
            .field("ready", &self.ready.len())
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
