//! The registry of sources, timers, the clock and the wait. None of these files depends on what a source is.

pub(crate) mod clock;
pub(crate) mod heap;
pub(crate) mod registry;
pub(crate) mod timers;
pub(crate) mod wait;
