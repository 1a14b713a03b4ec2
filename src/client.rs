//! One stream connection, the whole of it.

pub(crate) mod accounts;
pub(crate) mod connect;
pub(crate) mod deadlines;
pub(crate) mod descriptors;
pub(crate) mod input;
pub(crate) mod output;
pub(crate) mod requests;
pub(crate) mod serve;
pub(crate) mod visit;
