//! The loop, how it is made, and what it does when something is due or closed.

pub(crate) mod builder;
mod closed;
mod due;
pub(crate) mod event_loop;
#[cfg(test)]
mod tests;
