//! One poll set for a process's whole inter-process communication.
#![warn(missing_docs)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("ipc-reactor is for 64-bit Linux: its keys fill a 64-bit epoll token");

mod sys;

mod address;
mod listener;
mod path;
mod peer;

pub use address::Address;
pub use listener::{Listener, ListenerKind, ListenerOptions};
pub use peer::{Credentials, Peer, PeerAddress};
