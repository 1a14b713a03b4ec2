//! Every other source, one file each.

pub(crate) mod accept;
pub(crate) mod child;
pub(crate) mod datagram;
pub(crate) mod fd;
pub(crate) mod queue;
pub(crate) mod shm;
pub(crate) mod shm_link;
pub(crate) mod signals;
