//! One stream connection, the whole of it: admitted or connected, visited, and bounded.

pub(crate) mod accounts;
pub(crate) mod admit;
pub(crate) mod connect;
pub(crate) mod deadlines;
mod input;
mod output;
pub(crate) mod visit;
pub(crate) mod visit_state;
