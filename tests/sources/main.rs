//! Every source but clients and children: queues, datagram sockets, shared memory, descriptors of the embedder. No test here
//! starts a process: see `devices`.

mod datagram;
mod fd;
mod queue;
mod shm;
#[path = "../support/mod.rs"]
mod support;
mod takeover;
