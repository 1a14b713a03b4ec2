//! Shared memory: the API's promises, what damaged or hostile memory can do, torture, foreign
//! peers.

mod faults;
mod mapping;
mod publish;
mod torture;
