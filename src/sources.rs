//! The other sources, one file each: how a source is put into the poll set, and what a visit to it does.

pub(crate) mod accept;
pub(crate) mod child;
pub(crate) mod datagram;
pub(crate) mod fd;
pub(crate) mod outbox;
pub(crate) mod queue;
pub(crate) mod remote;
pub(crate) mod shm;
pub(crate) mod shm_link;
pub(crate) mod signals;
