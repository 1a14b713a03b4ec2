//! Buffers: partial frames of input, unsent replies.
//!
//! The buffers belong to the reactor's pool. A client has one only while it has bytes in it.

use std::{collections::VecDeque, io, os::fd::OwnedFd};

/// Descriptors that are sent with the byte at this position of the stream, or with the record that begins there.
#[derive(Debug)]
struct Attached {
    at: u64,
    descriptors: Vec<OwnedFd>,
}

/// A first-in, first-out run of bytes in one piece of memory.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// Initialised to its whole length, so that a read can write after `end`.
    data: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes consumed since the buffer was last empty and without attachments.
    consumed: u64,
    /// Descriptors to be sent, in the order of their positions.
    attached: VecDeque<Attached>,
    /// When the first byte arrived, or the last whole frame was taken out, in nanoseconds of the turn's clock.
    pub(crate) since_ns: u64,
    /// How many of the bytes are known to contain no end of a frame.
    pub(crate) scanned: usize,
}

/// The smallest capacity of a buffer that holds anything.
const CAPACITY_MIN: usize = 512;

impl Buffer {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    #[inline]
    pub(crate) fn clear(&mut self) {
        (self.start, self.end, self.scanned) = (0, 0, 0);
        if !self.attached.is_empty() {
            self.attached.clear();
        }
    }

    /// Inserts `bytes` before all others.
    ///
    /// # Errors
    /// `OutOfMemory`; then nothing has changed.
    pub(crate) fn prepend(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = self.len();
        self.extend(bytes)?;
        self.data[self.start..self.end].rotate_right(bytes.len());
        debug_assert_eq!(self.len(), len + bytes.len());
        for attached in &mut self.attached {
            attached.at += bytes.len() as u64;
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.start += count;
        self.consumed += count as u64;
        if self.start == self.end {
            self.clear();
        }
    }

    /// The bytes, if no descriptor is attached to any of them.
    #[inline]
    pub(crate) fn plain_bytes(&self) -> Option<&[u8]> {
        self.attached.is_empty().then(|| self.bytes())
    }

    /// Attaches descriptors to the byte that is appended next.
    pub(crate) fn attach(&mut self, descriptors: Vec<OwnedFd>) {
        self.attached.push_back(Attached { at: self.consumed + self.len() as u64, descriptors });
    }

    /// What is sent next: the bytes up to the next attached descriptors, and the descriptors attached to the first
    /// byte.
    #[inline]
    pub(crate) fn next_piece(&self) -> (&[u8], &[OwnedFd]) {
        if self.attached.is_empty() { (self.bytes(), &[]) } else { self.next_attached_piece() }
    }

    #[cold]
    fn next_attached_piece(&self) -> (&[u8], &[OwnedFd]) {
        let upto = |at: u64| {
            let count = usize::try_from(at - self.consumed).unwrap_or(usize::MAX);
            &self.bytes()[..count.min(self.len())]
        };
        match (self.attached.front(), self.attached.get(1)) {
            (Some(here), next) if here.at == self.consumed => {
                (next.map_or(self.bytes(), |next| upto(next.at)), &here.descriptors)
            }
            (Some(later), _) => (upto(later.at), &[]),
            (None, _) => (self.bytes(), &[]),
        }
    }

    /// Closes the descriptors that were just sent with the first byte.
    pub(crate) fn detach(&mut self) {
        self.attached.pop_front();
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// `OutOfMemory`; then nothing was appended.
    #[inline]
    pub(crate) fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reserve(bytes.len())?;
        self.data[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
        Ok(())
    }

    /// Appends `bytes` if the buffer has room for them without growing, and ends at `most` bytes or before.
    #[inline]
    pub(crate) fn extend_within(&mut self, bytes: &[u8], most: usize) -> bool {
        let end = self.end + bytes.len();
        if end > most {
            return false;
        }
        let Some(room) = self.data.get_mut(self.end..end) else { return false };
        room.copy_from_slice(bytes);
        self.end = end;
        true
    }

    /// Makes room for `room` more bytes, so that appending them cannot fail.
    #[inline]
    pub(crate) fn reserve(&mut self, room: usize) -> io::Result<()> {
        if self.data.len() - self.end < room { self.make_room(room) } else { Ok(()) }
    }

    /// The room after the bytes, at least `room` bytes, to read into. [`commit`](Buffer::commit) follows.
    pub(crate) fn tail(&mut self, room: usize) -> io::Result<&mut [u8]> {
        self.reserve(room)?;
        Ok(&mut self.data[self.end..])
    }

    pub(crate) fn commit(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.data.len());
    }

    #[cold]
    fn make_room(&mut self, room: usize) -> io::Result<()> {
        let len = self.len();
        let wanted = len.checked_add(room).ok_or(io::ErrorKind::OutOfMemory)?;
        // Moving the bytes to the front pays only if it frees at least as much as it moves.
        if self.data.len() >= wanted && self.start >= len {
            self.data.copy_within(self.start..self.end, 0);
        } else {
            let capacity = wanted.max(len.saturating_mul(2)).max(CAPACITY_MIN);
            let mut grown = Vec::new();
            grown.try_reserve_exact(capacity).map_err(|_| io::ErrorKind::OutOfMemory)?;
            grown.extend_from_slice(self.bytes());
            grown.resize(capacity, 0);
            self.data = grown;
        }
        (self.start, self.end) = (0, len);
        Ok(())
    }
}

/// Buffers that are not in use, kept for the next client that needs one.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    // A client keeps its buffer boxed, so that an idle client is small. Boxed here too, so that `take` allocates
    // nothing.
    #[allow(clippy::vec_box)]
    free: Vec<Box<Buffer>>,
    bytes: usize,
}

impl Pool {
    /// Larger buffers are freed at once.
    const BUFFER_MAX: usize = 128 << 10;
    /// The most bytes that are kept in all.
    const BYTES_MAX: usize = 4 << 20;
    /// The most buffers that are kept.
    const COUNT_MAX: usize = 4096;

    pub(crate) fn take(&mut self) -> Box<Buffer> {
        match self.free.pop() {
            Some(buffer) => {
                self.bytes -= buffer.data.len();
                buffer
            }
            None => Box::default(),
        }
    }

    pub(crate) fn give_back(&mut self, mut buffer: Box<Buffer>) {
        let bytes = buffer.data.len();
        if bytes > Pool::BUFFER_MAX
            || self.bytes + bytes > Pool::BYTES_MAX
            || self.free.len() == Pool::COUNT_MAX
        {
            return;
        }
        buffer.clear();
        self.bytes += bytes;
        self.free.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_in_which_they_came(steps in proptest::collection::vec((any::<bool>(), 0usize..2000), 1..200)) {
            let (mut buffer, mut model) = (Buffer::default(), VecDeque::new());
            let mut next = 0u8;
            for (put, count) in steps {
                if put {
                    let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                    if count % 2 == 0 {
                        buffer.extend(&bytes).unwrap();
                    } else {
                        buffer.tail(count).unwrap()[..count].copy_from_slice(&bytes);
                        buffer.commit(count);
                    }
                    model.extend(bytes);
                } else {
                    let count = count.min(buffer.len());
                    buffer.consume(count);
                    model.drain(..count);
                }
                prop_assert_eq!(buffer.bytes(), &model.iter().copied().collect::<Vec<_>>()[..]);
            }
        }
    }

    proptest! {
        #[test]
        fn descriptors_leave_with_the_byte_that_they_are_attached_to(
            steps in proptest::collection::vec((any::<bool>(), 1usize..700, 0usize..4), 1..150),
        ) {
            let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
            let mut buffer = Buffer::default();
            // Each byte, and how many descriptors are attached to it.
            let mut model: VecDeque<(u8, usize)> = VecDeque::new();
            for (put, count, descriptors) in steps {
                if put {
                    let bytes: Vec<u8> = (0..count).map(|index| index as u8).collect();
                    model.extend(bytes.iter().map(|&byte| (byte, 0)));
                    if descriptors > 0 {
                        buffer.attach((0..descriptors).map(|_| file.try_clone().unwrap()).collect());
                        let first = model.len() - count;
                        model[first].1 = descriptors;
                    }
                    buffer.extend(&bytes).unwrap();
                    continue;
                }
                let (piece, attached) = buffer.next_piece();
                let attached = attached.len();
                prop_assert_eq!(piece.is_empty(), model.is_empty());
                let Some(&(_, expected)) = model.front() else { continue };
                prop_assert_eq!(attached, expected);
                prop_assert!(model.range(1..piece.len()).all(|&(_, descriptors)| descriptors == 0));
                prop_assert!(piece.iter().eq(model.range(..piece.len()).map(|(byte, _)| byte)));
                let sent = count.min(piece.len());
                if attached > 0 {
                    buffer.detach();
                }
                buffer.consume(sent);
                model.drain(..sent);
            }
            prop_assert_eq!(buffer.len(), model.len());
            buffer.clear();
            prop_assert!(buffer.attached.is_empty());
        }
    }

    #[test]
    fn descriptors_stay_with_their_byte_when_bytes_are_put_in_front() {
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut buffer = Buffer::default();
        buffer.extend(b"gone").unwrap();
        buffer.consume(2);
        buffer.extend(b"ab").unwrap();
        buffer.attach(vec![file]);
        buffer.extend(b"cd").unwrap();
        buffer.prepend(b"first").unwrap();
        let (piece, attached) = buffer.next_piece();
        assert_eq!((piece, attached.len()), (&b"firstneab"[..], 0));
        buffer.consume(9);
        let (piece, attached) = buffer.next_piece();
        assert_eq!((piece, attached.len()), (&b"cd"[..], 1));
    }

    #[test]
    fn the_pool_is_bounded() {
        let mut pool = Pool::default();
        let buffers: Vec<_> = (0..1000)
            .map(|_| {
                let mut buffer = pool.take();
                buffer.extend(&[0; 32 << 10]).unwrap();
                buffer
            })
            .collect();
        for buffer in buffers {
            pool.give_back(buffer);
        }
        assert!(pool.bytes <= Pool::BYTES_MAX && pool.free.len() < 1000);
        let mut large = pool.take();
        large.extend(&vec![0; 1 << 20]).unwrap();
        let before = pool.free.len();
        pool.give_back(large);
        assert_eq!(pool.free.len(), before);
    }
}
