//! What is registered with epoll, timers, and the wait. None of it knows what a source is.

pub(crate) mod clock;
pub(crate) mod heap;
pub(crate) mod registry;
pub(crate) mod timers;
pub(crate) mod wait;
