//! One poll set for a process's whole inter-process communication.
#![warn(missing_docs)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("ipc-reactor is for 64-bit Linux: its keys fill a 64-bit epoll token");

pub mod shm;
mod sys;
