//! Shared memory: the API's promises, what damaged or hostile memory can do, torture, foreign
//! peers.

#[path = "shm/faults.rs"]
mod faults;
#[path = "shm/foreign.rs"]
mod foreign;
#[path = "shm/mapping.rs"]
mod mapping;
#[path = "shm/publish.rs"]
mod publish;
#[path = "shm/support.rs"]
mod support;
#[path = "shm/torture.rs"]
mod torture;
