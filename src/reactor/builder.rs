//! The builder of a reactor.

use std::{io, marker::PhantomData, time::Duration};

use crate::{
    poll::{clock::Clock, wait::Spin},
    reactor::event_loop::Reactor,
    types::limits::Limits,
};

/// Builds a [`Reactor`] with other than the default settings: [`Reactor::builder`].
#[derive(Debug, Clone)]
pub struct Builder<S> {
    limits: Limits,
    events: usize,
    read_buffer: usize,
    spin: Duration,
    clock: Clock,
    state: PhantomData<fn(&mut S)>,
}

impl<S> Reactor<S> {
    /// A reactor with the default settings.
    ///
    /// # Errors
    /// As for [`Builder::build`].
    pub fn new() -> io::Result<Reactor<S>> {
        Reactor::<S>::builder().build()
    }

    /// A builder with the default settings.
    pub fn builder() -> Builder<S> {
        Builder::default()
    }
}

impl<S> Builder<S> {
    /// Sets the limits. Default: [`Limits::default`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Builder<S> {
        self.limits = limits;
        self
    }

    /// Sets how many events one `epoll_wait(2)` returns at most. Default 1,024.
    #[must_use]
    pub fn events(mut self, events: usize) -> Builder<S> {
        self.events = events.max(1);
        self
    }

    /// Sets the size of the read buffer in bytes. Default 128 KiB; there is one for all clients. Reading is cheapest if
    /// it is larger than what a client sends at once.
    #[must_use]
    pub fn read_buffer(mut self, bytes: usize) -> Builder<S> {
        self.read_buffer = bytes.max(64);
        self
    }

    /// Lets the loop poll for up to `limit` before it sleeps (spin), if the latest waits suggest that an event may come
    /// within that time. Default zero: it never spins.
    ///
    /// Waking up from sleep takes longer than handling most requests: some 25 µs on a virtual machine. Spinning saves
    /// that time, and uses the processor for it. A good limit is a little more than the usual time between an answer
    /// and the next request, including the wake-up of the peer: 50 to 200 µs. The loop spins while at least half of the
    /// last eight waits were no longer than the limit, so an idle service sleeps. [`Stats::spins`],
    /// [`Stats::spin_hits`] and [`Stats::spin_time`] show what it costs and how often it helps.
    ///
    /// On a single processor it never spins: that would keep the processor from the process that it waits for.
    ///
    /// [`Stats::spins`]: crate::Stats::spins
    /// [`Stats::spin_hits`]: crate::Stats::spin_hits
    /// [`Stats::spin_time`]: crate::Stats::spin_time
    #[must_use]
    pub fn spin(mut self, limit: Duration) -> Builder<S> {
        self.spin = limit;
        self
    }

    /// Sets the clock of deadlines and timers. Default: [`Clock::monotonic`]. A test uses [`Clock::manual`].
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Builder<S> {
        self.clock = clock;
        self
    }

    /// Makes the reactor.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`, `timerfd_create(2)`, `eventfd(2)`, `epoll_ctl(2)` and `pthread_atfork(3)`: no
    /// descriptors, or no memory.
    pub fn build(self) -> io::Result<Reactor<S>> {
        let Builder { limits, events, read_buffer, spin, clock, state: PhantomData } = self;
        Reactor::make(limits, events, read_buffer, Spin::new(spin), clock)
    }
}

impl<S> Default for Builder<S> {
    fn default() -> Builder<S> {
        Builder {
            limits: Limits::default(),
            events: 1024,
            read_buffer: 128 << 10,
            spin: Duration::ZERO,
            clock: Clock::monotonic(),
            state: PhantomData,
        }
    }
}
