//! The kernel's contract: every fact about Linux that the crate relies on, each as a small test of the kernel alone.
//! No test here uses `ipc_reactor`. When one of these fails on another kernel, the design has to be looked at again,
//! whatever the other tests say.
//!
//! A test that changes what belongs to the whole process (signals, limits, mounts), that forks, or that depends on
//! a close being the last one runs again in a process of its own: see [`kit::alone`]. (The harness has many threads,
//! and a program that one of them starts holds every descriptor for the moment between fork and exec.)

mod ancillary;
mod kit;
mod memory;
mod older;
mod processes;
mod queues;
mod readiness;
mod signals;
mod sockets;
#[path = "../support/mod.rs"]
mod support;
mod told;
