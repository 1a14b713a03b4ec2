//! The wait for events, and polling before it (spinning), which trades processor time for latency.

use std::{
    io,
    time::{Duration, Instant},
};

use mio::{Events, Poll};

use crate::{
    sys::{
        self,
        time::{monotonic_ns, nanos},
    },
    types::stats::Stats,
};

/// The longest wait that `epoll_wait(2)` accepts in milliseconds: 24 days.
const TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// Sleeps until an event comes, or the timeout is over.
#[inline(always)]
pub(crate) fn block(poll: &mut Poll, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
    match timeout {
        Some(time) if !time.is_zero() => block_for(poll, events, time),
        _ => match poll.poll(events, timeout) {
            Ok(()) => Ok(()),
            Err(error) => go_on(error, poll, events, || timeout),
        },
    }
}

#[inline(never)]
fn block_for(poll: &mut Poll, events: &mut Events, time: Duration) -> io::Result<()> {
    // Some versions of mio wrap a longer one. Returning early is allowed.
    let time = time.min(TIMEOUT_MAX);
    let deadline = Instant::now().checked_add(time);
    match poll.poll(events, Some(time)) {
        Ok(()) => Ok(()),
        Err(error) => {
            go_on(error, poll, events, || deadline.map(|at| at.saturating_duration_since(Instant::now())))
        }
    }
}

/// `EINTR` is not an event: waits again, for the rest of the time.
#[cold]
fn go_on(
    mut error: io::Error,
    poll: &mut Poll,
    events: &mut Events,
    left: impl Fn() -> Option<Duration>,
) -> io::Result<()> {
    while error.kind() == io::ErrorKind::Interrupted {
        match poll.poll(events, left()) {
            Ok(()) => return Ok(()),
            Err(again) => error = again,
        }
    }
    Err(error)
}

/// Decides from the latest waits whether to poll before sleeping.
#[derive(Debug)]
pub(crate) struct Spin {
    limit_ns: u64,
    /// One bit for each of the latest waits: 1 if an event came within the limit. At first all are 0.
    recent: u8,
}

impl Spin {
    /// `None` where spinning cannot help: on a single processor, a loop that spins keeps the processor from the process
    /// that it waits for. (A process that is bound to one of several processors may spin.)
    pub(crate) fn new(limit: Duration) -> Option<Spin> {
        let limit_ns = nanos(limit);
        (limit_ns > 0 && sys::processors() > 1).then_some(Spin { limit_ns, recent: 0 })
    }

    /// At least half of the latest waits were short, so the next may be.
    fn pays(&self) -> bool {
        self.recent.count_ones() >= u8::BITS / 2
    }

    fn note(&mut self, waited_ns: u64) {
        self.recent = self.recent << 1 | u8::from(waited_ns <= self.limit_ns);
    }

    /// Polls while that pays, then sleeps.
    pub(crate) fn wait(
        &mut self,
        poll: &mut Poll,
        events: &mut Events,
        timeout: Option<Duration>,
        stats: &mut Stats,
    ) -> io::Result<()> {
        let start_ns = monotonic_ns();
        let mut waited_ns = 0;
        if self.pays() {
            let most_ns = timeout.map_or(self.limit_ns, |timeout| self.limit_ns.min(nanos(timeout)));
            stats.spins += 1;
            loop {
                block(poll, events, Some(Duration::ZERO))?;
                waited_ns = monotonic_ns() - start_ns;
                if !events.is_empty() || waited_ns >= most_ns {
                    break;
                }
                std::hint::spin_loop();
            }
            stats.spin_hits += u64::from(!events.is_empty());
            stats.spin_time += Duration::from_nanos(waited_ns);
            if !events.is_empty() {
                self.note(waited_ns);
                return Ok(());
            }
        }
        let spun = Duration::from_nanos(waited_ns);
        block(poll, events, timeout.map(|timeout| timeout.saturating_sub(spun)))?;
        // The time that waking up takes counts: it is what polling would have saved.
        self.note(monotonic_ns() - start_ns);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_spins_when_half_of_the_latest_waits_were_short_and_stops_when_they_are_not() {
        let mut spin = Spin { limit_ns: 100, recent: 0 };
        assert!(!spin.pays(), "nothing is known yet");
        (0..3).for_each(|_| spin.note(100));
        assert!(!spin.pays());
        spin.note(1);
        assert!(spin.pays());
        (0..4).for_each(|_| spin.note(101));
        assert!(spin.pays(), "four of eight");
        spin.note(u64::MAX);
        assert!(!spin.pays());
    }

    #[test]
    fn no_time_is_no_spinning() {
        assert!(Spin::new(Duration::ZERO).is_none());
    }
}
