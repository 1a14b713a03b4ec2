//! What observers are told, and the log.

pub(crate) mod event;
pub(crate) mod observers;
pub(crate) mod recorder;
pub(crate) mod throttle;
