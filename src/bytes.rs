//! Framing and decoding, frames, buffers, and the borrowed reply.

pub(crate) mod borrowed_reply;
pub(crate) mod buffer;
pub(crate) mod frames;
pub(crate) mod framing;
