//! The poll set: its sources, the traits of their handlers, and the one function that calls them.

pub(crate) mod call;
pub(crate) mod client;
pub(crate) mod context;
pub(crate) mod lifecycle;
pub(crate) mod poll_set;
pub(crate) mod remote;
pub(crate) mod session;
pub(crate) mod source;
