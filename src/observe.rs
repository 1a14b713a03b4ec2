//! What observers are told, the list of them, and the throttled log.

pub(crate) mod event;
pub(crate) mod observers;
pub(crate) mod probe;
pub(crate) mod recorder;
pub(crate) mod throttle;
