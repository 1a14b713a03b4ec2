//! A reply that is a piece of the request: sent from where it was read, without a copy.

use std::mem;

/// The replies that together are one sub-slice of the read buffer. They are sent from there.
#[derive(Debug, Default)]
pub(crate) struct BorrowedReply {
    /// The address at which a continuation would begin; it is only compared. 0: nothing can continue it.
    next: usize,
    len: usize,
}

impl BorrowedReply {
    /// These bytes were read, and no reply to them was given yet.
    #[inline]
    pub(crate) fn begin(&mut self, read: &[u8]) {
        debug_assert_eq!(self.len, 0, "the last one has been taken");
        self.next = read.as_ptr().addr();
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes a reply that continues the sub-slice, if it comes to no more than `max` bytes.
    #[inline]
    pub(crate) fn extend(&mut self, reply: &[u8], max: usize) -> bool {
        // A slice that begins within what was read also ends there.
        let len = self.len + reply.len();
        let continues = reply.as_ptr().addr() == self.next && len <= max;
        if continues {
            self.next += reply.len();
            self.len = len;
        }
        continues
    }

    /// The next reply is not a piece of what was read, and what follows it cannot be sent before it.
    pub(crate) fn end(&mut self) {
        self.next = 0;
    }

    /// The sub-slice of what was read; nothing is borrowed any more.
    #[inline]
    pub(crate) fn take<'a>(&mut self, read: &'a [u8]) -> &'a [u8] {
        self.next = 0;
        &read[..mem::take(&mut self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pieces_in_order_are_borrowed() {
        let read = *b"one two three";
        let mut reply = BorrowedReply::default();
        reply.begin(&read);
        assert!(reply.extend(&read[..4], 100));
        assert!(reply.extend(&read[4..8], 100));
        assert!(!reply.extend(&read[4..8], 100), "not the next piece");
        assert!(!reply.extend(b"elsewhere", 100));
        assert!(!reply.extend(&read[8..], 10), "too long");
        assert_eq!(reply.len(), 8);
        assert_eq!(reply.take(&read), b"one two ");
        assert!(!reply.extend(&read[8..], 100), "nothing continues what was taken");
    }

    #[test]
    fn nothing_is_borrowed_after_a_reply_from_elsewhere() {
        let read = *b"12";
        let mut reply = BorrowedReply::default();
        reply.begin(&read);
        assert!(reply.extend(&read[..1], 100));
        reply.end();
        assert!(!reply.extend(&read[1..], 100));
        assert_eq!(reply.take(&read), b"1");
    }
}
