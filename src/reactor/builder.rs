//! How a reactor is made.

use std::{io, marker::PhantomData, time::Duration};

use crate::{
    poll::{clock::Clock, wait::Spin},
    reactor::event_loop::Reactor,
    types::limits::Limits,
};

/// How a [`Reactor`] is made: [`Reactor::builder`].
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
}

impl<S> Builder<S> {
    /// The bounds of everything.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Builder<S> {
        self.limits = limits;
        self
    }

    /// Events fetched from the kernel at once. Default 1,024.
    #[must_use]
    pub fn events(mut self, events: usize) -> Builder<S> {
        self.events = events.max(1);
        self
    }

    /// Bytes read from a socket at once. Default 128 KiB; there is one such buffer for all clients. Reading is
    /// cheapest when it is larger than a client's messages.
    #[must_use]
    pub fn read_buffer(mut self, bytes: usize) -> Builder<S> {
        self.read_buffer = bytes.max(64);
        self
    }

    /// Polls for up to `limit` before sleeping, where the latest waits say that something may come within that time.
    /// Default zero: never; then it costs nothing.
    ///
    /// Waking a processor from sleep takes longer than most requests do: some 25 µs on a virtual machine. A loop that is awake when the
    /// request comes saves that, and spends the processor that it runs on. A good limit is a little more than the usual
    /// time between an answer and the next request, the waking of the other side included: 50 to 200 µs. Spinning begins when
    /// half of the last eight waits were no longer than the limit, and ends when they are not: an idle service
    /// sleeps. [`Stats::spins`], [`Stats::spin_hits`] and [`Stats::spin_time`] tell what it costs and whether it pays.
    ///
    /// On a single processor it never polls: that would keep the processor from the process it waits for.
    ///
    /// [`Stats::spins`]: crate::Stats::spins
    /// [`Stats::spin_hits`]: crate::Stats::spin_hits
    /// [`Stats::spin_time`]: crate::Stats::spin_time
    #[must_use]
    pub fn spin(mut self, limit: Duration) -> Builder<S> {
        self.spin = limit;
        self
    }

    /// The time that deadlines and timers go by. Default: [`Clock::monotonic`]; a test sets [`Clock::manual`].
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Builder<S> {
        self.clock = clock;
        self
    }

    /// Makes the reactor.
    ///
    /// # Errors
    /// No descriptors for an epoll set, a timerfd and an eventfd.
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
