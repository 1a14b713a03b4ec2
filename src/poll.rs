//! What epoll and a timerfd need around them: timers, the clock, the wait.

pub(crate) mod heap;
pub(crate) mod timers;
pub(crate) mod wait;
