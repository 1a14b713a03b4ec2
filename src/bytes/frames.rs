//! The frames in the bytes of one read.

use crate::bytes::framing::{Decoded, Framing, Refusal};

/// Why a pass over a connection's input ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Nothing is left to read.
    Drained,
    /// A budget is spent.
    Budget,
    /// The handler has asked for something, which is done before the next frame.
    Asked,
    /// The peer has shut down its writing side.
    EndOfFile,
}

/// The bytes of one read, while the session handles their frames.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    framing: &'a Framing,
    /// The bytes after the last whole frame.
    pub(crate) rest: &'a [u8],
    /// How many of them are known to contain no end of a frame.
    pub(crate) scanned: usize,
    /// How many messages the budget still allows.
    pub(crate) messages: usize,
    /// Why the handling stopped; `None` if no whole frame is left.
    pub(crate) pass: Option<Pass>,
}

/// The payload of a frame, and the bytes after the frame.
type Split<'a> = (&'a [u8], &'a [u8]);

impl<'a> Frames<'a> {
    #[inline]
    pub(crate) fn new(framing: &'a Framing, bytes: &'a [u8], messages: usize) -> Frames<'a> {
        Frames { framing, rest: bytes, scanned: 0, messages: messages.max(1), pass: None }
    }

    /// Every byte was part of a whole frame, and nothing has stopped the handling.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.pass.is_none() && self.rest.is_empty()
    }

    /// The size of each frame, if it does not depend on the bytes.
    #[inline]
    pub(crate) fn known_size(&self) -> Option<usize> {
        self.framing.known_size(self.rest.len())
    }

    /// The first frame of `rest`, if its size depends on the bytes.
    pub(crate) fn decode(&mut self, rest: &'a [u8], frame_max: usize) -> Result<Option<Split<'a>>, Refusal> {
        let max = self.framing.frame_max(frame_max);
        Ok(match self.framing.decode(rest, &mut self.scanned, max)? {
            Decoded::Frame { payload, consumed } => Some((&rest[payload], &rest[consumed..])),
            Decoded::Partial { .. } => None,
        })
    }
}
