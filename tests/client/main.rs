//! Stream connections: how they begin, what they carry, what bounds them, how they end. No test here starts a process: see
//! `devices`.

mod accounts;
mod admit;
mod allocations;
mod connect;
mod deadlines;
mod descriptors;
mod echo;
mod endings;
mod framing;
mod obedient;
mod out_of_memory;
mod output;
mod shares;
#[path = "../support/mod.rs"]
mod support;
mod visit;
