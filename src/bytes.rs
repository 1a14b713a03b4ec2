//! Bytes on their way in and out: framing, and the buffers that the reactor lends.

pub(crate) mod borrowed_reply;
pub(crate) mod buffer;
pub(crate) mod frames;
pub(crate) mod framing;
