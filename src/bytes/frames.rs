//! Bytes of one read, cut into frames.

use crate::bytes::framing::{Decoded, Framing, Refusal};

/// Why a pass over a connection's input ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Nothing is left to read.
    Drained,
    /// A budget is spent.
    Budget,
    /// The handler has asked for something that comes first.
    Asked,
    /// The peer has shut down its writing side.
    EndOfFile,
}

/// What was read, on its way to the session.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    framing: &'a Framing,
    /// The bytes that no whole frame has taken yet.
    pub(crate) rest: &'a [u8],
    /// How many of them are known to hold no whole frame.
    pub(crate) scanned: usize,
    /// How many messages the budget still allows.
    pub(crate) messages: usize,
    /// Why it stopped, if not for want of a whole frame.
    pub(crate) pass: Option<Pass>,
}

/// A frame's payload, and what follows the frame.
type Split<'a> = (&'a [u8], &'a [u8]);

impl<'a> Frames<'a> {
    #[inline]
    pub(crate) fn new(framing: &'a Framing, bytes: &'a [u8], messages: usize) -> Frames<'a> {
        Frames { framing, rest: bytes, scanned: 0, messages: messages.max(1), pass: None }
    }

    /// Every byte was a part of a whole frame, and nothing has stopped the handling.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.pass.is_none() && self.rest.is_empty()
    }

    /// The size of every frame in `bytes` bytes, where it takes no look at them.
    #[inline]
    pub(crate) fn known_size(&self) -> Option<usize> {
        self.framing.known_size(self.rest.len())
    }

    /// The first frame of `rest`, where only a look at the bytes tells how long it is.
    pub(crate) fn decode(&mut self, rest: &'a [u8], frame_max: usize) -> Result<Option<Split<'a>>, Refusal> {
        let max = self.framing.frame_max(frame_max);
        Ok(match self.framing.decode(rest, &mut self.scanned, max)? {
            Decoded::Frame { payload, consumed } => Some((&rest[payload], &rest[consumed..])),
            Decoded::Partial { .. } => None,
        })
    }
}
