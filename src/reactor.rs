//! The loop, its builder, and what it does for timers that are due and sources that were removed.

pub(crate) mod builder;
mod closed;
mod due;
pub(crate) mod event_loop;
#[cfg(test)]
mod tests;
