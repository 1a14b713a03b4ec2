//! Shared memory: what the API guarantees, what damaged or hostile memory can do, stress tests, foreign peers.

mod faults;
mod mapping;
mod publish;
mod torture;
