//! Timers, as handlers set them.

use std::{io, time::Duration};

use crate::{
    set::{context::Context, poll_set::PollSet, task::Task},
    types::key::{Key, TimerKey},
};

impl<S> PollSet<S> {
    /// Calls `task` once, `after` from the turn's time ([`now`](PollSet::now)), to the microsecond as far as the
    /// kernel wakes us in time. Timers that are due at the same time fire in the order in which they were set. A timer set in
    /// a round does not fire in that round, even with a zero duration. What is later than 584 years from now never fires.
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
        self.timers.add(after, Task::Once(Box::new(task)))
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
        self.timers.add(period, Task::Every(period, Box::new(task)))
    }

    /// Cancels a timer. False if it has fired already, or been cancelled. A repeating timer can cancel itself.
    pub fn cancel(&mut self, timer: TimerKey) -> bool {
        self.timers.remove(timer)
    }

    /// How many timers are set, the reactor's own not counted.
    pub fn timers(&self) -> usize {
        self.timers.count(Task::is_embedders)
    }

    pub(crate) fn wake_session(&mut self, key: Key, after: Duration) -> TimerKey {
        self.timers.add(after, Task::Session(key))
    }

    pub(crate) fn resume_after(&mut self, key: Key, after: Duration) -> TimerKey {
        self.timers.add(after, Task::Resume(key))
    }
}
