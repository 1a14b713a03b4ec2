//! What works without a reactor: addresses, sockets, queues, shared memory.
//!
//! No test here starts a process. Between fork and exec a child holds every descriptor of this process, and a socket that
//! another test has just closed would still be open. Such tests are in `process`.

mod address;
mod allow;
mod datagram;
mod listener;
mod queue;
mod shm;
#[path = "../support/mod.rs"]
mod support;
