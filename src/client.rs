//! A client: one stream or seqpacket connection, from its admission to its deadlines.

pub(crate) mod accounts;
pub(crate) mod admit;
pub(crate) mod connect;
pub(crate) mod deadlines;
mod input;
mod output;
pub(crate) mod visit;
pub(crate) mod visit_state;
