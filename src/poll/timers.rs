//! Timers: a heap of deadlines, and one timerfd for the earliest.
//!
//! `T` is what a timer does. This file returns the timers that are due, and the caller runs them. Each slot of the
//! registry can also have one deadline.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use slab::Slab;

use crate::{
    poll::{
        clock::{Clock, TurnClock},
        heap::{Heap, NO_POSITION, Owner, PositionStore},
    },
    sys::{self, time::nanos},
    types::key::TimerKey,
};

struct Timer<T> {
    /// None while it runs.
    task: Option<T>,
    serial: u32,
    position: u32,
}

/// The positions of the heap's entries, for timers and for slots.
struct Positions<T> {
    timers: Slab<Timer<T>>,
    /// Indexed by slot. Slots that never had a deadline may be missing.
    slots: Vec<u32>,
}

impl<T> PositionStore for Positions<T> {
    fn position(&self, owner: Owner) -> u32 {
        match owner {
            Owner::Timer(index) => {
                self.timers.get(index as usize).map_or(NO_POSITION, |timer| timer.position)
            }
            Owner::Slot(index) => self.slots.get(index as usize).copied().unwrap_or(NO_POSITION),
        }
    }

    fn set_position(&mut self, owner: Owner, position: u32) {
        match owner {
            Owner::Timer(index) => self.timers[index as usize].position = position,
            Owner::Slot(index) => self.slots[index as usize] = position,
        }
    }
}

pub(crate) struct Timers<T> {
    pub(crate) clock: TurnClock,
    heap: Heap,
    positions: Positions<T>,
    serial: u32,
    /// When the timerfd fires; 0 when it is not armed.
    armed_ns: u64,
    /// Never read: it is edge-triggered, and makes a new edge each time after it was armed.
    fd: OwnedFd,
}

/// A deadline that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Timer(TimerKey),
    /// The deadline of the slot with this index.
    Slot(u32),
}

impl<T> Timers<T> {
    pub(crate) fn new(clock: Clock) -> io::Result<Timers<T>> {
        Ok(Timers {
            clock: TurnClock::new(clock),
            heap: Heap::default(),
            positions: Positions { timers: Slab::new(), slots: Vec::new() },
            serial: 0,
            armed_ns: 0,
            fd: sys::time::timerfd()?,
        })
    }

    /// The time `after` from now. It is always later than the turn's time, so that a timer set in a turn is not due in
    /// that turn.
    pub(crate) fn due_ns(&mut self, after: Duration) -> u64 {
        self.clock.now_ns().saturating_add(nanos(after).max(1))
    }

    /// Sets a timer.
    pub(crate) fn add(&mut self, after: Duration, task: T) -> TimerKey {
        let due_ns = self.due_ns(after);
        let serial = self.serial;
        self.serial = self.serial.wrapping_add(1);
        let timer = Timer { task: Some(task), serial, position: NO_POSITION };
        let index =
            u32::try_from(self.positions.timers.insert(timer)).expect("fewer timers than bytes of memory");
        self.heap.set(Owner::Timer(index), due_ns, &mut self.positions);
        TimerKey { index, serial }
    }

    /// Removes a timer. False if the key names none. A timer can be removed while it runs; then it is not put back.
    pub(crate) fn remove(&mut self, key: TimerKey) -> bool {
        if self.timer(key).is_none() {
            return false;
        }
        self.heap.remove(Owner::Timer(key.index), &mut self.positions);
        self.positions.timers.remove(key.index as usize);
        true
    }

    /// Takes out what a timer does. Until [`put_back`](Timers::put_back) or [`remove`](Timers::remove), the timer
    /// exists and is not due.
    pub(crate) fn take(&mut self, key: TimerKey) -> Option<T> {
        self.timer(key)?.task.take()
    }

    /// Sets a timer again that was [taken](Timers::take), unless it has been removed since.
    pub(crate) fn put_back(&mut self, key: TimerKey, task: T, due_ns: u64) {
        if let Some(timer) = self.timer(key) {
            timer.task = Some(task);
            self.heap.set(Owner::Timer(key.index), due_ns, &mut self.positions);
        }
    }

    /// Makes a timer due at `due_ns` if that is earlier than before. False if the key names none.
    pub(crate) fn bring_forward(&mut self, key: TimerKey, due_ns: u64) -> bool {
        let exists = self.timer(key).is_some();
        if exists {
            self.set_earlier(Owner::Timer(key.index), due_ns);
        }
        exists
    }

    /// Sets a slot's deadline to `due_ns`, unless it has an earlier one.
    pub(crate) fn set_slot_deadline(&mut self, index: u32, due_ns: u64) {
        if self.positions.slots.len() <= index as usize {
            self.positions.slots.resize(index as usize + 1, NO_POSITION);
        }
        self.set_earlier(Owner::Slot(index), due_ns);
    }

    pub(crate) fn clear_slot_deadline(&mut self, index: u32) {
        self.heap.remove(Owner::Slot(index), &mut self.positions);
    }

    /// Frees memory, if much less is needed than there is: every slot's index is lower than `len`.
    #[inline]
    pub(crate) fn shrink_slots_to(&mut self, len: usize) {
        if self.positions.slots.len() / 8 > len {
            self.positions.slots.truncate(len);
            self.positions.slots.shrink_to_fit();
        }
    }

    /// Takes the earliest deadline out, if it is due. Also returns its time.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<(Due, u64)> {
        let (owner, due_ns) = self.heap.pop_due(now_ns, &mut self.positions)?;
        let due = match owner {
            Owner::Slot(index) => Due::Slot(index),
            Owner::Timer(index) => {
                Due::Timer(TimerKey { index, serial: self.positions.timers[index as usize].serial })
            }
        };
        Some((due, due_ns))
    }

    /// The timerfd has fired.
    pub(crate) fn fired(&mut self) {
        self.armed_ns = 0;
    }

    /// Arms the timerfd for the earliest deadline. True: it is due already, and no event will come for it.
    ///
    /// If the earliest deadline has moved to a later time, the timerfd keeps its earlier time. That costs a wake-up now
    /// and then, and saves a system call for each deadline that moves.
    #[inline]
    pub(crate) fn arm(&mut self) -> io::Result<bool> {
        match self.heap.first_ns() {
            Some(first_ns) if self.armed_ns == 0 || first_ns < self.armed_ns => self.arm_for(first_ns),
            _ => Ok(false),
        }
    }

    #[cold]
    fn arm_for(&mut self, first_ns: u64) -> io::Result<bool> {
        if self.clock.is_manual() {
            return Ok(first_ns <= self.clock.now_ns());
        }
        sys::time::timerfd_arm(self.fd.as_fd(), first_ns)?;
        self.armed_ns = first_ns;
        Ok(false)
    }

    /// The timerfd, for registration.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// How many timers there are for which `counts` returns true. A timer that runs is counted.
    pub(crate) fn count(&self, counts: impl Fn(&T) -> bool) -> usize {
        self.positions.timers.iter().filter(|(_, timer)| timer.task.as_ref().is_none_or(&counts)).count()
    }

    /// Deadlines that are set, of timers and of slots.
    #[cfg(test)]
    pub(crate) fn deadlines(&self) -> usize {
        self.heap.len()
    }

    fn timer(&mut self, key: TimerKey) -> Option<&mut Timer<T>> {
        self.positions.timers.get_mut(key.index as usize).filter(|timer| timer.serial == key.serial)
    }

    fn set_earlier(&mut self, owner: Owner, due_ns: u64) {
        if self.heap.due_ns(owner, &self.positions).is_none_or(|set_ns| due_ns < set_ns) {
            self.heap.set(owner, due_ns, &mut self.positions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timers() -> (Clock, Timers<&'static str>) {
        let clock = Clock::manual();
        (clock.clone(), Timers::new(clock).unwrap())
    }

    fn pop(timers: &mut Timers<&'static str>) -> Option<&'static str> {
        let now_ns = timers.clock.now_ns();
        match timers.pop_due(now_ns)?.0 {
            Due::Timer(key) => {
                let task = timers.take(key);
                timers.remove(key);
                task
            }
            Due::Slot(_) => Some("slot"),
        }
    }

    #[test]
    fn timers_are_due_in_their_order_and_never_in_the_turn_that_sets_them() {
        let (clock, mut timers) = timers();
        timers.clock.begin_turn();
        timers.add(Duration::from_secs(2), "second");
        timers.add(Duration::ZERO, "first");
        assert_eq!(pop(&mut timers), None);
        timers.clock.end_turn();
        clock.advance(Duration::from_secs(2));
        assert_eq!(
            [pop(&mut timers), pop(&mut timers), pop(&mut timers)],
            [Some("first"), Some("second"), None]
        );
    }

    #[test]
    fn a_removed_timer_is_not_due_and_its_key_names_no_later_one() {
        let (clock, mut timers) = timers();
        let key = timers.add(Duration::ZERO, "removed");
        assert!(timers.remove(key));
        assert!(!timers.remove(key));
        let next = timers.add(Duration::ZERO, "next");
        assert_eq!(key.index, next.index, "the place is used again");
        assert!(!timers.remove(key));
        clock.advance(Duration::from_secs(1));
        assert_eq!(pop(&mut timers), Some("next"));
    }

    #[test]
    fn a_repeating_timer_that_is_removed_while_it_runs_is_not_put_back() {
        let (clock, mut timers) = timers();
        let key = timers.add(Duration::from_secs(1), "again");
        clock.advance(Duration::from_secs(1));
        let now_ns = timers.clock.now_ns();
        assert_eq!(timers.pop_due(now_ns), Some((Due::Timer(key), now_ns)));
        let task = timers.take(key).unwrap();
        assert_eq!(timers.count(|_| false), 1, "it counts while it runs");
        assert!(timers.remove(key));
        timers.put_back(key, task, now_ns + 1);
        assert_eq!(timers.count(|_| true), 0);
        assert_eq!(timers.deadlines(), 0);
    }

    #[test]
    fn a_slot_has_one_deadline_the_earliest() {
        let (clock, mut timers) = timers();
        let now_ns = timers.clock.now_ns();
        timers.set_slot_deadline(7, now_ns + 20);
        timers.set_slot_deadline(7, now_ns + 30);
        timers.set_slot_deadline(7, now_ns + 10);
        timers.set_slot_deadline(3, now_ns + 5);
        timers.clear_slot_deadline(3);
        timers.clear_slot_deadline(4_000);
        clock.advance(Duration::from_nanos(10));
        assert_eq!(timers.pop_due(now_ns + 10), Some((Due::Slot(7), now_ns + 10)));
        assert_eq!(timers.pop_due(u64::MAX), None);
    }

    /// Durations that no clock reaches must not wrap to now.
    #[test]
    fn the_longest_duration_is_never_due() {
        let (clock, mut timers) = timers();
        timers.add(Duration::MAX, "never");
        timers.add(Duration::from_secs(1 << 55), "never");
        clock.advance(Duration::from_secs(1 << 33));
        assert_eq!(pop(&mut timers), None);
    }

    #[test]
    fn a_manual_clock_says_that_a_deadline_is_due_and_arms_nothing() {
        let (clock, mut timers) = timers();
        timers.add(Duration::from_secs(1), "due");
        assert!(!timers.arm().unwrap());
        clock.advance(Duration::from_secs(1));
        assert!(timers.arm().unwrap());
        assert_eq!(timers.armed_ns, 0);
    }
}
