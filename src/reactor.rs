//! The loop.

pub(crate) mod builder;
pub(crate) mod event_loop;
