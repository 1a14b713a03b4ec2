//! Observers: the events that they see, the list of them, the flight recorder; and the throttled log.

pub(crate) mod event;
pub(crate) mod observers;
pub(crate) mod probe;
pub(crate) mod recorder;
pub(crate) mod throttle;
