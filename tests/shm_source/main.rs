//! Shared memory in the poll set: subscriptions over a master socket, their notifications, their ends.

mod ends;
mod foreign;
mod kit;
mod processes;
#[path = "../shm/support.rs"]
#[allow(dead_code, reason = "shared with the tests of the memory itself")]
mod support;
mod transports;
#[path = "../turning/mod.rs"]
mod turning;
mod updates;
mod wakeups;
