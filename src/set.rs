//! The poll set: the sources, the traits of their handlers, and the one function that calls handlers.

pub(crate) mod accounts;
pub(crate) mod asked;
pub(crate) mod call;
pub(crate) mod children;
pub(crate) mod client;
pub(crate) mod context;
pub(crate) mod driver;
pub(crate) mod emit;
pub(crate) mod endpoints;
pub(crate) mod handlers;
pub(crate) mod io;
pub(crate) mod lifecycle;
pub(crate) mod output;
pub(crate) mod poll_set;
pub(crate) mod remote;
pub(crate) mod removal;
pub(crate) mod session;
pub(crate) mod source;
pub(crate) mod task;
pub(crate) mod timers;
