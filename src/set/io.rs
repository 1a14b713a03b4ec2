//! The buffers that a visit works with: they belong to the reactor, and are lent to one client at a time.

use std::{collections::VecDeque, io, os::fd::OwnedFd};

use crate::{
    bytes::{
        borrowed_reply::BorrowedReply,
        buffer::{Buffer, Pool},
    },
    types::limits::Limits,
};

/// What a reply is for the client that is visited.
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
    /// What the visited client is to be sent, after `borrowed`.
    pub(crate) out: Buffer,
    /// What it is to be sent first, from where it was read.
    pub(crate) borrowed: BorrowedReply,
    pub(crate) mode: ReplyMode,
    /// Unsent bytes up to which a reply needs no second look.
    reply_room: usize,
    /// What the visited client has passed, and its session not taken yet.
    pub(crate) descriptors: VecDeque<OwnedFd>,
    pub(crate) pool: Pool,
    /// How large the buffer must be that everything is read into first. The loop keeps that buffer, so that a handler can be
    /// lent what is in it together with the set.
    pub(crate) read_room: usize,
    /// A seqpacket socket is, or was, in the set.
    pub(crate) has_records: bool,
}

impl Io {
    pub(crate) fn new(limits: &Limits, read_room: usize) -> Io {
        let mut io = Io {
            out: Buffer::default(),
            borrowed: BorrowedReply::default(),
            mode: ReplyMode::None,
            reply_room: 0,
            descriptors: VecDeque::new(),
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

    /// The session of a client on a stream is about to run, with what was just read.
    #[inline]
    pub(crate) fn begin_replies(&mut self, read: &[u8]) {
        self.borrowed.begin(read);
        self.mode = ReplyMode::Stream;
    }

    /// The session has run. Returns the piece of what was read that is to be sent.
    #[inline]
    pub(crate) fn end_replies<'a>(&mut self, read: &'a [u8]) -> &'a [u8] {
        self.mode = ReplyMode::None;
        self.borrowed.take(read)
    }

    /// How many bytes wait for the visited client.
    pub(crate) fn unsent(&self) -> usize {
        self.borrowed.len() + self.out.len()
    }

    /// Takes a reply that is a piece of what was read.
    #[inline]
    pub(crate) fn reply_borrowed(&mut self, bytes: &[u8]) -> bool {
        self.borrowed.extend(bytes, self.reply_room)
    }

    /// Appends a reply, if that needs no second look: bytes on a stream, for which there is room.
    #[inline]
    pub(crate) fn reply_copied(&mut self, bytes: &[u8]) -> bool {
        self.borrowed.end();
        self.mode == ReplyMode::Stream
            && self
                .reply_room
                .checked_sub(self.borrowed.len())
                .is_some_and(|room| self.out.extend_within(bytes, room))
    }

    /// Whether so many unsent bytes call for a second look.
    pub(crate) fn exceeds_reply_room(&self, unsent: usize) -> bool {
        unsent > self.reply_room
    }

    /// Appends one reply, given in parts, to the visited client's.
    pub(crate) fn append(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        append(&mut self.out, self.mode == ReplyMode::Records, parts)
    }
}

/// Appends one reply to a client's buffer, all of it or nothing. A record's length goes before it, so that flushing finds the
/// boundaries again.
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

/// How many bytes these records have, without the lengths that stand before them.
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
