//! The reactor's clock: read at most once a turn, and set by hand in tests.

use std::{
    cell::Cell,
    fmt,
    rc::Rc,
    time::{Duration, Instant},
};

use crate::sys::time::{monotonic_ns, nanos};

/// The clock of a reactor: `CLOCK_MONOTONIC`, or a time that a test sets.
///
/// With [`Clock::manual`] all deadlines and timers of a reactor wait for [`advance`](Clock::advance), so a test of a
/// deadline needs neither a sleep nor a fast machine:
///
/// ```
/// use ipc_reactor::{Clock, Reactor, Turn};
/// use std::time::Duration;
///
/// let clock = Clock::manual();
/// let mut reactor = Reactor::<bool>::builder().clock(clock.clone()).build()?;
/// reactor.after(Duration::from_secs(3_600), |_, fired| { *fired = true; Ok(()) });
/// let mut fired = false;
/// assert_eq!(reactor.turn(Some(Duration::ZERO), &mut fired)?, Turn::Idle);
/// assert!(!fired);
/// clock.advance(Duration::from_secs(3_600));
/// assert_eq!(reactor.turn(None, &mut fired)?, Turn::Idle);
/// assert!(fired);
/// # std::io::Result::Ok(())
/// ```
///
/// The timeout of a [`turn`](crate::Reactor::turn) is real time with either clock.
#[derive(Clone, Default)]
pub struct Clock(Option<Rc<Cell<u64>>>);

/// The last time of a manual clock: before `u64::MAX`, which as a deadline means never.
const END_NS: u64 = u64::MAX - 1;

impl Clock {
    /// The kernel's `CLOCK_MONOTONIC` (`clock_gettime(2)`). It does not count the time in which the machine is
    /// suspended.
    pub fn monotonic() -> Clock {
        Clock(None)
    }

    /// A clock that only [`advance`](Clock::advance) moves. Its clones are the same clock.
    pub fn manual() -> Clock {
        Clock(Some(Rc::new(Cell::new(monotonic_ns()))))
    }

    /// Moves a manual clock forward. The next turn fires the timers that are due. The clock stops at 584 years: later
    /// deadlines are never due.
    ///
    /// # Panics
    /// If the clock is [`monotonic`](Clock::monotonic).
    pub fn advance(&self, by: Duration) {
        let now_ns = self.0.as_ref().expect("only a clock made by Clock::manual can be advanced");
        now_ns.set(now_ns.get().saturating_add(nanos(by)).min(END_NS));
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.0.is_some()
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        match &self.0 {
            None => monotonic_ns(),
            Some(now_ns) => now_ns.get(),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_manual() { "Clock::manual" } else { "Clock::monotonic" })
    }
}

/// A [`Clock`] that is read at most once a turn.
pub(crate) struct TurnClock {
    clock: Clock,
    epoch: Instant,
    epoch_ns: u64,
    /// 0: not read in this turn.
    now_ns: u64,
    /// Between turns any time may pass, so each call reads the clock.
    in_turn: bool,
}

impl TurnClock {
    pub(crate) fn new(clock: Clock) -> TurnClock {
        TurnClock { epoch: Instant::now(), epoch_ns: clock.now_ns(), clock, now_ns: 0, in_turn: false }
    }

    #[inline]
    pub(crate) fn now_ns(&mut self) -> u64 {
        if self.now_ns != 0 { self.now_ns } else { self.read() }
    }

    fn read(&mut self) -> u64 {
        let now_ns = self.clock.now_ns();
        if self.in_turn {
            self.now_ns = now_ns;
        }
        now_ns
    }

    pub(crate) fn instant(&mut self) -> Instant {
        let since = Duration::from_nanos(self.now_ns().saturating_sub(self.epoch_ns));
        // An Instant cannot hold a time so late: the epoch instead of a panic.
        self.epoch.checked_add(since).unwrap_or(self.epoch)
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.clock.is_manual()
    }

    #[inline]
    pub(crate) fn begin_turn(&mut self) {
        debug_assert_eq!(self.now_ns, 0, "the last turn has ended");
        self.in_turn = true;
    }

    #[inline]
    pub(crate) fn end_turn(&mut self) {
        (self.now_ns, self.in_turn) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_has_one_time_and_between_turns_time_passes() {
        let clock = Clock::manual();
        let mut turn = TurnClock::new(clock.clone());
        let start = turn.now_ns();
        clock.advance(Duration::from_secs(1));
        assert_eq!(turn.now_ns(), start + 1_000_000_000);
        turn.begin_turn();
        let now = turn.now_ns();
        clock.advance(Duration::from_secs(1));
        assert_eq!(turn.now_ns(), now, "read once a turn");
        turn.end_turn();
        assert_eq!(turn.now_ns(), now + 1_000_000_000);
    }

    #[test]
    fn a_clock_that_is_moved_too_far_stays_at_its_end() {
        let clock = Clock::manual();
        clock.advance(Duration::MAX);
        clock.advance(Duration::MAX);
        let mut turn = TurnClock::new(clock);
        assert_eq!(turn.now_ns(), END_NS);
        turn.instant();
    }
}
