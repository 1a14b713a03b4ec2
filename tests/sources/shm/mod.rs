//! Shared memory in the poll set: subscriptions over a master socket, their notifications, their ends.

mod allocations;
mod ends;
mod transports;
mod updates;
mod wakeups;
