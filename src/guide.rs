//! A guide to inter-process communication on Linux, with this crate. Read the pages in order.
//!
//! It is for readers who know Rust and have not used sockets. Each page says what the kernel keeps for a mechanism and
//! how long that lives, shows the system calls beside this crate's types, names the example to run and what it shows,
//! and corrects common errors. A correction begins with **The post says**: the post is the introduction to IPC that
//! this crate started from, and many courses make the same claims. Each correction of a fact names the test that checks
//! it; nearly all of these tests are in `tests/kernel/`, and `cargo test --test kernel` runs them.
//!
//! | page | what it is about |
//! |---|---|
//! | [`p01_what_ipc_is`] | processes, descriptors, and the techniques side by side |
//! | [`p02_sockets`] | the master socket, and the twelve steps of a server |
//! | [`p03_message_types`] | CIR and SRM: what can arrive |
//! | [`p04_state_machine`] | from listening to closed: a server's states, and a client handle's |
//! | [`p05_unix_sockets`] | stream, datagram, seqpacket; paths and abstract names |
//! | [`p06_multiplexing`] | waiting for many descriptors: `select`, `poll`, `epoll`, the reactor |
//! | [`p07_message_queues`] | from creation to destruction, and their use |
//! | [`p08_shared_memory`] | mappings, publisher and subscribers, the notification |
//! | [`p09_pipes`] | pipes and FIFOs |
//! | [`p10_signals`] | the well-known ones, and three ways of generating them |
//! | [`p11_descriptors_and_kernel`] | descriptors passed over sockets, and the kernel's own channels |
//!
//! The snippets are tests of this crate: they compile, and nearly all of them run.

#[doc = include_str!("guide/01_what_ipc_is.md")]
pub mod p01_what_ipc_is {}

#[doc = include_str!("guide/02_sockets.md")]
pub mod p02_sockets {}

#[doc = include_str!("guide/03_message_types.md")]
pub mod p03_message_types {}

#[doc = include_str!("guide/04_state_machine.md")]
pub mod p04_state_machine {}

#[doc = include_str!("guide/05_unix_sockets.md")]
pub mod p05_unix_sockets {}

#[doc = include_str!("guide/06_multiplexing.md")]
pub mod p06_multiplexing {}

#[doc = include_str!("guide/07_message_queues.md")]
pub mod p07_message_queues {}

#[doc = include_str!("guide/08_shared_memory.md")]
pub mod p08_shared_memory {}

#[doc = include_str!("guide/09_pipes.md")]
pub mod p09_pipes {}

#[doc = include_str!("guide/10_signals.md")]
pub mod p10_signals {}

#[doc = include_str!("guide/11_descriptors_and_kernel.md")]
pub mod p11_descriptors_and_kernel {}
