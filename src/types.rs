//! The types that everything else uses: keys, readiness, causes, limits, counters.

pub(crate) mod cause;
pub(crate) mod key;
pub(crate) mod limits;
pub(crate) mod posted;
pub(crate) mod ready;
pub(crate) mod rejected;
pub(crate) mod stats;
