//! Timers: one clock reading a turn, one timerfd for a heap of deadlines.

use std::{
    fmt, io, mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use log::Level;
use slab::Slab;

use crate::{
    client::{deadlines, visit},
    observe::{
        event::{What, Who},
        throttle::Kind,
    },
    poll::heap::{Heap, NOWHERE, Owner, Places},
    set::{
        call::{guarded, report},
        context::Context,
        poll_set::PollSet,
        source::{Ready, Slot, Visited},
    },
    sources::queue,
    sys,
    types::key::Key,
};

/// Names one timer, to cancel it. It is void once a one-shot timer has fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimerKey {
    index: u32,
    serial: u32,
}

type Once<S> = Box<dyn FnOnce(&mut Context<'_, S>, &mut S) -> io::Result<()>>;
type Every<S> = Box<dyn FnMut(&mut Context<'_, S>, &mut S) -> io::Result<()>>;

/// What a timer does when it is due.
pub(crate) enum Task<S> {
    Once(Once<S>),
    Every(Duration, Every<S>),
    /// Calls the session's `on_timer`.
    Session(Key),
    /// Has a source visited again that waited for better times.
    Resume(Key),
    /// Looks whether a queue still has its name, and again after this time.
    CheckQueue(Key, Duration),
    /// Cuts a drain off.
    DrainDeadline,
    /// Its handler runs.
    Running,
}

impl<S> Task<S> {
    fn is_embedders(&self) -> bool {
        match self {
            Task::Once(_) | Task::Every(..) | Task::Session(_) | Task::Running => true,
            Task::Resume(_) | Task::CheckQueue(..) | Task::DrainDeadline => false,
        }
    }
}

struct Timer<S> {
    task: Task<S>,
    serial: u32,
    place: u32,
}

/// The turn's time.
pub(crate) struct Clock {
    epoch: Instant,
    epoch_ns: u64,
    /// 0: nobody has asked in this turn.
    now_ns: u64,
    /// A turn is under way. Between turns any amount of time may pass, so nothing is kept.
    in_turn: bool,
}

impl Clock {
    #[inline]
    pub(crate) fn now_ns(&mut self) -> u64 {
        if self.now_ns != 0 {
            return self.now_ns;
        }
        let now_ns = sys::time::monotonic_ns();
        if self.in_turn {
            self.now_ns = now_ns;
        }
        now_ns
    }

    pub(crate) fn instant(&mut self) -> Instant {
        self.epoch + Duration::from_nanos(self.now_ns() - self.epoch_ns)
    }

    #[inline]
    pub(crate) fn begin_turn(&mut self) {
        *self = Clock { now_ns: 0, in_turn: true, ..*self };
    }

    pub(crate) fn end_turn(&mut self) {
        *self = Clock { now_ns: 0, in_turn: false, ..*self };
    }
}

pub(crate) struct Timers<S> {
    pub(crate) clock: Clock,
    heap: Heap,
    timers: Slab<Timer<S>>,
    serial: u32,
    /// When the timerfd will fire; 0 when it is not armed.
    armed_ns: u64,
    /// Never read: edge-triggered, each time that it is armed anew it fires anew.
    fd: OwnedFd,
    due: Vec<(Owner, u32, u64)>,
    drain: Option<TimerKey>,
}

/// The two slabs in which the heap's owners keep their places.
struct Owners<'a, S> {
    slots: &'a mut Slab<Slot<S>>,
    timers: &'a mut Slab<Timer<S>>,
}

impl<S> Places for Owners<'_, S> {
    fn place(&self, owner: Owner) -> u32 {
        match owner {
            Owner::Timer(index) => self.timers.get(index as usize).map_or(NOWHERE, |timer| timer.place),
            Owner::Client(index) => self.slots.get(index as usize).map_or(NOWHERE, |slot| slot.deadline),
        }
    }

    fn set_place(&mut self, owner: Owner, place: u32) {
        match owner {
            Owner::Timer(index) => self.timers[index as usize].place = place,
            Owner::Client(index) => self.slots[index as usize].deadline = place,
        }
    }
}

impl<S> Timers<S> {
    pub(crate) fn new() -> io::Result<Timers<S>> {
        let clock =
            Clock { epoch: Instant::now(), epoch_ns: sys::time::monotonic_ns(), now_ns: 0, in_turn: false };
        Ok(Timers {
            clock,
            heap: Heap::default(),
            timers: Slab::new(),
            serial: 0,
            armed_ns: 0,
            fd: sys::time::timerfd()?,
            due: Vec::new(),
            drain: None,
        })
    }

    fn add(&mut self, slots: &mut Slab<Slot<S>>, due_ns: u64, task: Task<S>) -> TimerKey {
        let serial = self.serial;
        self.serial = self.serial.wrapping_add(1);
        let index = self.timers.insert(Timer { task, serial, place: NOWHERE }) as u32;
        self.heap.set(Owner::Timer(index), due_ns, &mut Owners { slots, timers: &mut self.timers });
        TimerKey { index, serial }
    }

    fn timer(&mut self, key: TimerKey) -> Option<&mut Timer<S>> {
        self.timers.get_mut(key.index as usize).filter(|timer| timer.serial == key.serial)
    }

    fn cancel(&mut self, slots: &mut Slab<Slot<S>>, key: TimerKey) -> Option<Task<S>> {
        self.timer(key)?;
        self.heap.remove(Owner::Timer(key.index), &mut Owners { slots, timers: &mut self.timers });
        Some(self.timers.remove(key.index as usize).task)
    }

    /// Deadlines that are set: of timers, of the reactor's own, of clients.
    #[cfg(test)]
    pub(crate) fn deadlines(&self) -> usize {
        self.heap.len()
    }

    /// Has a client looked at when `due_ns` has come, or earlier.
    pub(crate) fn client_deadline(&mut self, slots: &mut Slab<Slot<S>>, index: u32, due_ns: u64) {
        let mut owners = Owners { slots, timers: &mut self.timers };
        let owner = Owner::Client(index);
        if self.heap.due_ns(owner, &owners).is_none_or(|set_ns| due_ns < set_ns) {
            self.heap.set(owner, due_ns, &mut owners);
        }
    }

    pub(crate) fn forget_client(&mut self, slots: &mut Slab<Slot<S>>, index: u32) {
        self.heap.remove(Owner::Client(index), &mut Owners { slots, timers: &mut self.timers });
    }

    /// Arms the timerfd for the earliest deadline. One that has moved further away is let come: that is a wake-up
    /// too many now and then, and no system call for every deadline that is put off.
    #[inline]
    pub(crate) fn arm(&mut self) -> io::Result<()> {
        match self.heap.first_ns() {
            Some(first_ns) if self.armed_ns == 0 || first_ns < self.armed_ns => self.arm_for(first_ns),
            _ => Ok(()),
        }
    }

    #[cold]
    fn arm_for(&mut self, first_ns: u64) -> io::Result<()> {
        sys::time::timerfd_arm(self.fd.as_fd(), first_ns)?;
        self.armed_ns = first_ns;
        Ok(())
    }

    /// To be watched.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<S> PollSet<S> {
    /// Calls `task` once, `after` from the turn's time ([`now`](PollSet::now)), to the microsecond as far as the
    /// kernel wakes us in time. Timers that are due at the same time fire in the order in which they were set. A timer set in a round does not fire in that round, even with a zero duration.
    ///
    /// An error that `task` returns is counted and logged; it ends nothing.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let mut reactor = ipc_reactor::Reactor::<u32>::new()?;
    /// reactor.after(Duration::from_micros(250), |cx, fired| {
    ///     *fired += 1;
    ///     cx.stop();
    ///     Ok(())
    /// });
    /// let mut fired = 0;
    /// reactor.run(&mut fired)?;
    /// assert_eq!(fired, 1);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn after(
        &mut self,
        after: Duration,
        task: impl FnOnce(&mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
    ) -> TimerKey {
        let due_ns = self.due_ns(after);
        self.timers.add(&mut self.slots, due_ns, Task::Once(Box::new(task)))
    }

    /// Calls `task` every `period`, first one period from now, until it is cancelled. Where the loop was held up for
    /// longer than a period, the calls that were missed are left out, and the rhythm is kept.
    ///
    /// # Panics
    /// If `period` is zero.
    pub fn every(
        &mut self,
        period: Duration,
        task: impl FnMut(&mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
    ) -> TimerKey {
        assert!(!period.is_zero(), "a period of zero would leave time for nothing else");
        let due_ns = self.due_ns(period);
        self.timers.add(&mut self.slots, due_ns, Task::Every(period, Box::new(task)))
    }

    /// Cancels a timer. False if it has fired already, or been cancelled. A repeating timer can cancel itself.
    pub fn cancel(&mut self, timer: TimerKey) -> bool {
        self.timers.cancel(&mut self.slots, timer).is_some()
    }

    /// How many timers are set, the reactor's own not counted.
    pub fn timers(&self) -> usize {
        self.timers.timers.iter().filter(|(_, timer)| timer.task.is_embedders()).count()
    }

    pub(crate) fn wake_session(&mut self, key: Key, after: Duration) -> TimerKey {
        let due_ns = self.due_ns(after);
        self.timers.add(&mut self.slots, due_ns, Task::Session(key))
    }

    pub(crate) fn resume_after(&mut self, key: Key, after: Duration) -> TimerKey {
        let due_ns = self.due_ns(after);
        self.timers.add(&mut self.slots, due_ns, Task::Resume(key))
    }

    pub(crate) fn check_queue_after(&mut self, key: Key, period: Duration) {
        let due_ns = self.due_ns(period);
        self.timers.add(&mut self.slots, due_ns, Task::CheckQueue(key, period));
    }

    pub(crate) fn drain_deadline(&mut self, within: Duration) {
        let due_ns = self.due_ns(within);
        let timers = &mut self.timers;
        let under_way = timers.drain.filter(|&drain| timers.timer(drain).is_some());
        match under_way {
            Some(set) => {
                let owner = Owner::Timer(set.index);
                let mut owners = Owners { slots: &mut self.slots, timers: &mut timers.timers };
                if timers.heap.due_ns(owner, &owners).is_some_and(|set_ns| due_ns < set_ns) {
                    timers.heap.set(owner, due_ns, &mut owners);
                }
            }
            None => timers.drain = Some(timers.add(&mut self.slots, due_ns, Task::DrainDeadline)),
        }
    }

    fn due_ns(&mut self, after: Duration) -> u64 {
        // Later than the turn's own time, or the timers' visit might still be to come in this round.
        self.now_ns().saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX).max(1))
    }
}

/// One visit: everything that is due by the turn's time, and was due when the visit began.
pub(crate) fn visit<S>(set: &mut PollSet<S>, key: Key, state: &mut S) -> Visited {
    set.timers.armed_ns = 0;
    let now_ns = set.now_ns();
    let mut due = mem::take(&mut set.timers.due);
    let budget = set.limits.messages_per_visit.max(1);
    let Timers { heap, timers, .. } = &mut set.timers;
    let mut owners = Owners { slots: &mut set.slots, timers };
    while due.len() < budget
        && let Some((owner, due_ns)) = heap.pop_due(now_ns, &mut owners)
    {
        let serial = match owner {
            Owner::Timer(index) => owners.timers[index as usize].serial,
            Owner::Client(index) => owners.slots[index as usize].serial,
        };
        due.push((owner, serial, due_ns));
    }
    let more = due.len() == budget;
    for (owner, serial, due_ns) in due.drain(..) {
        match owner {
            Owner::Client(index) => deadlines::deadline_due(set, Key { index, serial }, now_ns),
            Owner::Timer(index) => fire(set, key, TimerKey { index, serial }, due_ns, state),
        }
    }
    set.timers.due = due;
    if more { Visited::Again(Ready::READABLE) } else { Visited::Drained }
}

fn fire<S>(set: &mut PollSet<S>, key: Key, timer: TimerKey, due_ns: u64, state: &mut S) {
    // A handler earlier in this visit may have cancelled it.
    let Some(task) = set.timers.timer(timer).map(|timer| mem::replace(&mut timer.task, Task::Running)) else {
        return;
    };
    if !matches!(task, Task::Every(..)) {
        set.timers.timers.remove(timer.index as usize);
    }
    let embedders = task.is_embedders();
    if embedders {
        set.stats.timers += 1;
    }
    let who = if set.watch.is_some() { whose(set, &task) } else { None };
    if who.is_some() {
        set.lap();
    }
    let outcome = match task {
        Task::Once(call) => guarded(set, key, |cx| call(cx, state)),
        Task::Every(period, mut call) => {
            let outcome = guarded(set, key, |cx| call(cx, state));
            again(set, timer, due_ns, period, call);
            outcome
        }
        Task::Session(client) => {
            visit::wake(set, client, timer, state);
            Ok(())
        }
        Task::Resume(source) => {
            set.paused.retain(|&(_, retry)| retry != timer);
            set.mark_ready(source, Ready::READABLE | Ready::WRITABLE);
            Ok(())
        }
        Task::CheckQueue(queue, period) => {
            if queue::check(set, queue, state) {
                set.check_queue_after(queue, period);
            }
            Ok(())
        }
        Task::DrainDeadline => {
            set.complain(Kind::Limit, Level::Warn, format_args!("the drain's deadline has passed"));
            set.cut_off();
            Ok(())
        }
        Task::Running => Ok(()),
    };
    if let Err(cause) = outcome {
        report(set, key, "timer", &cause);
    }
    if let Some(who) = who {
        let late_ns = set.now_ns().saturating_sub(due_ns);
        set.tell_lap(|handler_ns, _| What::Timer { who, timer, late_ns, handler_ns });
    }
}

/// Whose handler a timer of the embedder's runs, to be told.
#[cold]
fn whose<S>(set: &PollSet<S>, task: &Task<S>) -> Option<Who> {
    match task {
        Task::Session(client) => set.source(*client).map(|source| source.who(*client)),
        task => set.watched().filter(|_| task.is_embedders()),
    }
}

/// Sets a repeating timer for its next time, unless it has cancelled itself.
fn again<S>(set: &mut PollSet<S>, timer: TimerKey, due_ns: u64, period: Duration, call: Every<S>) {
    let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
    let missed = (set.now_ns() - due_ns) / period_ns;
    let next_ns = due_ns.saturating_add(period_ns.saturating_mul(missed + 1));
    if let Some(slot) = set.timers.timer(timer) {
        slot.task = Task::Every(period, call);
        let mut owners = Owners { slots: &mut set.slots, timers: &mut set.timers.timers };
        set.timers.heap.set(Owner::Timer(timer.index), next_ns, &mut owners);
    }
}

impl<S> fmt::Debug for Timers<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers")
            .field("timers", &self.timers.len())
            .field("deadlines", &self.heap.len())
            .finish()
    }
}
