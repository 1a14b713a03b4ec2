//! Peers that know nothing of this crate: C, Python, redis, socat, netcat.

mod clients;
mod datagram;
mod descriptors;
mod shm;
mod subscribers;
#[path = "../support/mod.rs"]
mod support;
