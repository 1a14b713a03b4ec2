//! The embedder's timers.

use std::{io, time::Duration};

use crate::{
    set::{context::Context, poll_set::PollSet, task::Task},
    types::key::{Key, TimerKey},
};

impl<S> PollSet<S> {
    /// Calls `task` once, `after` from the turn's time ([`now`](PollSet::now)). The resolution is that of the kernel's
    /// timerfd (`timerfd_create(2)`), nanoseconds. Timers that are due at the same time fire in the order in which they
    /// were set. A timer set in a turn does not fire in that turn, even with a zero duration. A timer more than 584
    /// years away never fires.
    ///
    /// An error that `task` returns is counted and logged.
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

    /// Calls `task` every `period`, first one period from now, until it is cancelled. If the loop was held up for more
    /// than a period, the missed calls are left out, and later ones keep the original rhythm. An error that `task`
    /// returns is counted and logged.
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

    /// Cancels a timer. False if it has fired or was cancelled. A repeating timer can cancel itself.
    pub fn cancel(&mut self, timer: TimerKey) -> bool {
        self.timers.remove(timer)
    }

    /// How many timers are set, without the reactor's own.
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
