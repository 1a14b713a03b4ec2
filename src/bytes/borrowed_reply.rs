//! The borrowed reply: a sub-slice of the read buffer that is sent without a copy.

use std::mem;

/// Replies that together are one sub-slice of the read buffer. They are sent from there.
#[derive(Debug, Default)]
pub(crate) struct BorrowedReply {
    /// The address at which the next reply must begin to continue the sub-slice; it is only compared. 0: none can.
    next: usize,
    len: usize,
}

impl BorrowedReply {
    /// Begins with the bytes of a read, to which there is no reply yet.
    #[inline]
    pub(crate) fn begin(&mut self, read: &[u8]) {
        debug_assert_eq!(self.len, 0, "the last one has been taken");
        self.next = read.as_ptr().addr();
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a reply that continues the sub-slice, if all together is no more than `max` bytes. False: not added.
    #[inline]
    pub(crate) fn extend(&mut self, reply: &[u8], max: usize) -> bool {
        // A slice that begins within the read buffer also ends there.
        let len = self.len + reply.len();
        let continues = reply.as_ptr().addr() == self.next && len <= max;
        if continues {
            self.next += reply.len();
            self.len = len;
        }
        continues
    }

    /// A reply from elsewhere comes next. The replies after it must not be sent before it, so none is borrowed.
    pub(crate) fn end(&mut self) {
        self.next = 0;
    }

    /// Returns the sub-slice of `read`, and ends the borrowing.
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
