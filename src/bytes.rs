//! Bytes on their way in and out: framing and buffers.

pub(crate) mod buffer;
pub(crate) mod framing;
