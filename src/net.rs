//! Sockets as typed descriptors, each usable without a reactor.

pub(crate) mod address;
pub(crate) mod allow;
pub(crate) mod datagram;
mod failure;
pub(crate) mod listener;
pub(crate) mod path;
pub(crate) mod peer;
pub(crate) mod transport;
