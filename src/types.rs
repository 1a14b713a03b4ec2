//! The vocabulary: keys, causes, limits, counters.

pub(crate) mod cause;
pub(crate) mod key;
pub(crate) mod limits;
pub(crate) mod rejected;
pub(crate) mod stats;
