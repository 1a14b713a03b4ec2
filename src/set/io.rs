//! The buffers of a visit. They belong to the reactor, and one client uses them at a time.

use std::io;

use crate::{
    bytes::{
        borrowed_reply::BorrowedReply,
        buffer::{Buffer, Pool},
    },
    set::client::Inbox,
    types::limits::Limits,
};

/// How replies to the visited client are appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyMode {
    /// No client is visited: there is nothing to reply to.
    None,
    /// Bytes.
    Stream,
    /// A record.
    Records,
}

pub(crate) struct Io {
    /// Output for the visited client, sent after `borrowed`.
    pub(crate) out: Buffer,
    /// Output that is a sub-slice of the read buffer, sent first.
    pub(crate) borrowed: BorrowedReply,
    pub(crate) mode: ReplyMode,
    /// Up to this many unsent bytes, a reply needs no check of the limits.
    reply_room: usize,
    /// Descriptors that the visited client has passed, and its session has not taken.
    pub(crate) inbox: Inbox,
    pub(crate) pool: Pool,
    /// The size that the read buffer must have. The loop owns that buffer, so that a handler can borrow its bytes
    /// together with the poll set.
    pub(crate) read_room: usize,
    /// A seqpacket socket is, or was, in the poll set.
    pub(crate) has_records: bool,
}

impl Io {
    pub(crate) fn new(limits: &Limits, read_room: usize) -> Io {
        let mut io = Io {
            out: Buffer::default(),
            borrowed: BorrowedReply::default(),
            mode: ReplyMode::None,
            reply_room: 0,
            inbox: Inbox::default(),
            pool: Pool::default(),
            read_room,
            has_records: false,
        };
        io.set_limits(limits);
        io
    }

    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.reply_room = limits.output_high_water.min(limits.output_max);
    }

    pub(crate) fn need_read_room(&mut self, bytes: usize) {
        self.read_room = self.read_room.max(bytes);
    }

    /// The session of a client on a stream is about to run, with the bytes of a read.
    #[inline]
    pub(crate) fn begin_replies(&mut self, read: &[u8]) {
        self.borrowed.begin(read);
        self.mode = ReplyMode::Stream;
    }

    /// The session has run. Returns the sub-slice of `read` that is to be sent.
    #[inline]
    pub(crate) fn end_replies<'a>(&mut self, read: &'a [u8]) -> &'a [u8] {
        self.mode = ReplyMode::None;
        self.borrowed.take(read)
    }

    /// Unsent bytes of the visited client.
    pub(crate) fn unsent(&self) -> usize {
        self.borrowed.len() + self.out.len()
    }

    /// Adds a reply that continues the borrowed sub-slice. False: it does not.
    #[inline]
    pub(crate) fn reply_borrowed(&mut self, bytes: &[u8]) -> bool {
        self.borrowed.extend(bytes, self.reply_room)
    }

    /// Appends a reply if it is bytes on a stream, and there is room for it without a check of the limits.
    #[inline]
    pub(crate) fn reply_copied(&mut self, bytes: &[u8]) -> bool {
        self.borrowed.end();
        self.mode == ReplyMode::Stream
            && self
                .reply_room
                .checked_sub(self.borrowed.len())
                .is_some_and(|room| self.out.extend_within(bytes, room))
    }

    /// Whether so many unsent bytes need a check of the limits.
    pub(crate) fn exceeds_reply_room(&self, unsent: usize) -> bool {
        unsent > self.reply_room
    }

    /// Appends one reply, in parts, to the output of the visited client.
    pub(crate) fn append(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        append(&mut self.out, self.mode == ReplyMode::Records, parts)
    }
}

/// Appends one reply to a client's buffer: all of it, or nothing if it fails. A record follows its length, so that the
/// flush finds the boundaries.
#[inline]
pub(crate) fn append(out: &mut Buffer, records: bool, parts: &[&[u8]]) -> io::Result<()> {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    if records {
        let length = u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        out.reserve(bytes + 4)?;
        out.extend(&length.to_ne_bytes())?;
    } else if parts.len() > 1 {
        out.reserve(bytes)?;
    }
    for part in parts {
        out.extend(part)?;
    }
    Ok(())
}

/// The bytes of these records, without the lengths before them.
pub(crate) fn record_bytes(mut records: &[u8]) -> usize {
    let mut bytes = 0;
    while let Some((length, rest)) = records.split_first_chunk() {
        let length = u32::from_ne_bytes(*length) as usize;
        bytes += length;
        records = &rest[length..];
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_is_a_piece_of_the_request_is_not_copied() {
        let mut io = Io::new(&Limits::default(), 4096);
        let read = *b"request";
        assert!(!io.reply_copied(b"x"), "no client is visited");
        io.begin_replies(&read);
        assert!(io.reply_borrowed(&read[..3]));
        assert!(io.out.is_empty());
        io.out.reserve(64).unwrap();
        assert!(io.reply_copied(b" and more"));
        assert_eq!(io.unsent(), 12);
        assert_eq!(io.end_replies(&read), b"req");
        assert_eq!(io.out.bytes(), b" and more");
    }

    #[test]
    fn records_keep_their_boundaries() {
        let mut io = Io::new(&Limits::default(), 4096);
        io.mode = ReplyMode::Records;
        assert!(!io.reply_copied(b"a record needs a second look"));
        io.append(&[b"two ", b"parts"]).unwrap();
        io.append(&[b""]).unwrap();
        assert_eq!(record_bytes(io.out.bytes()), 9);
        assert_eq!(io.out.len(), 17);
    }

    #[test]
    fn a_long_reply_calls_for_a_second_look() {
        let limits = Limits { output_high_water: 8, ..Limits::default() };
        let mut io = Io::new(&limits, 4096);
        io.out.reserve(64).unwrap();
        io.begin_replies(b"");
        assert!(io.reply_copied(b"12345678"));
        assert!(!io.reply_copied(b"9"));
        assert!(io.exceeds_reply_room(9) && !io.exceeds_reply_room(8));
    }
}
