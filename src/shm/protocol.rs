//! Who may read what, and when: the whole of the publisher's and the subscribers' agreement.
//!
//! The segment is a ring of slots and one word, `published`: the number of the newest whole
//! value (the first is 1, none is 0). Value `n` lives in slot `n & (slots - 1)`.
//!
//! - The publisher fills the slot of `published + 1` and then stores that number. Nothing else
//!   ever tells a reader of a value, so a publisher that dies half-way has said nothing.
//! - A reader copies value `n` and *then* looks at `published` again. The slot that may be in
//!   the publisher's hands is that of `published + 1`, which is also the slot of
//!   `published + 1 - slots`: whatever is newer than that was whole all the while it was copied.
//!
//! Each access is relaxed and all order comes from fences. The reason is the reader's mapping: an
//! atomic load from read-only memory is promised to work only when it is relaxed.
//!
//! This file knows neither memory maps nor processes, so that the loom models in
//! `tests/shm_loom.rs` can include it as it stands.

use std::sync::atomic::Ordering;

/// A word that another process may read or change at any time.
pub(crate) trait Word {
    fn load(&self) -> u64;
    fn store(&self, value: u64);
    /// Replaces the bits under `mask` and leaves its other bits as they are.
    fn merge(&self, mask: u64, bits: u64);
    fn fence(order: Ordering);
}

/// A segment's shared words, seen by either side.
#[derive(Debug)]
pub(crate) struct Ring<'a, W> {
    published: &'a W,
    /// One after the other: the value's length in bytes, then its bytes.
    slots: &'a [W],
    slot_words: usize,
    mask: u64,
}

impl<'a, W: Word> Ring<'a, W> {
    /// `slots` must hold a power of two of slots, two at least, of `slot_words` each.
    pub(crate) fn new(published: &'a W, slots: &'a [W], slot_words: usize) -> Self {
        let count = slots.len() / slot_words;
        debug_assert!(count.is_power_of_two() && count >= 2);
        Ring { published, slots, slot_words, mask: count as u64 - 1 }
    }

    fn slot(&self, number: u64) -> &'a [W] {
        let start = (number & self.mask) as usize * self.slot_words;
        &self.slots[start..][..self.slot_words]
    }

    /// The words to fill with value `number`, which must be the published one's successor.
    pub(crate) fn begin(&self, number: u64) -> &'a [W] {
        // A reader that sees any of the words to come must also see `published` as it is now.
        W::fence(Ordering::Release);
        self.place(number)
    }

    /// The same words again, once begun.
    pub(crate) fn place(&self, number: u64) -> &'a [W] {
        &self.slot(number)[1..]
    }

    /// Makes value `number` the newest.
    pub(crate) fn commit(&self, number: u64, len: usize) {
        self.slot(number)[0].store(len as u64);
        W::fence(Ordering::Release);
        self.published.store(number);
    }

    /// The newest whole value's number.
    pub(crate) fn newest(&self) -> u64 {
        let number = self.published.load();
        W::fence(Ordering::Acquire);
        number
    }

    /// The oldest value that stays readable while `newest` is the newest.
    pub(crate) fn oldest(&self, newest: u64) -> u64 {
        newest.saturating_sub(self.mask - 1).max(1)
    }

    /// How many values can be read at any time: one slot is always the publisher's.
    pub(crate) fn capacity(&self) -> u64 {
        self.mask
    }

    /// Copies value `number`, which [`newest`](Self::newest) must have reached, and says how long
    /// it is. That length is the publisher's word: it may exceed `into`, never what was copied.
    ///
    /// Where the publisher came round to that slot meanwhile, the copy is worthless and the
    /// error holds the number that was the newest by then.
    pub(crate) fn read(&self, number: u64, into: &mut [u8]) -> Result<u64, u64> {
        let (len, payload) = self.slot(number).split_first().expect("a slot has a length word");
        let len = len.load();
        let bytes = into.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        copy_out(payload, &mut into[..bytes]);
        W::fence(Ordering::Acquire);
        let newest = self.published.load();
        if newest.wrapping_sub(number) < self.mask { Ok(len) } else { Err(newest) }
    }
}

/// The subscriber's half of not losing a wake-up: from here on the publisher rings, unless there
/// is something newer than `seen` already, in which case the answer is false.
pub(crate) fn arm<W: Word>(armed: &W, published: &W, seen: u64) -> bool {
    armed.store(1);
    // Pairs with the one in `wake_fence`: of "I sleep" here and "there is news" there, at least one
    // side sees the other's.
    W::fence(Ordering::SeqCst);
    let asleep = published.load() <= seen;
    if !asleep {
        armed.store(0);
    }
    asleep
}

/// The publisher's half, once between an update and the looks at who sleeps.
pub(crate) fn wake_fence<W: Word>() {
    W::fence(Ordering::SeqCst);
}

/// Whether this subscriber has to be told; it will not be told again until it arms again.
pub(crate) fn take_armed<W: Word>(armed: &W) -> bool {
    let asleep = armed.load() != 0;
    if asleep {
        armed.store(0);
    }
    asleep
}

/// Copies from the first word on; `from` must hold as many bytes as `to`.
pub(crate) fn copy_out<W: Word>(from: &[W], to: &mut [u8]) {
    // A cache line at a time: the compiler leaves loops of atomic accesses as they are written.
    let (from_lines, from_rest) = from.as_chunks::<8>();
    let (to_lines, to_rest) = to.as_chunks_mut::<64>();
    for (line, words) in to_lines.iter_mut().zip(from_lines) {
        for (bytes, word) in line.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.load().to_ne_bytes();
        }
    }
    let from_rest = from_lines.get(to_lines.len()).map_or(from_rest, |line| line.as_slice());
    for (bytes, word) in to_rest.chunks_mut(8).zip(from_rest) {
        bytes.copy_from_slice(&word.load().to_ne_bytes()[..bytes.len()]);
    }
}

/// Copies to the first word on; what `from` leaves of the last word becomes zero.
pub(crate) fn copy_in<W: Word>(to: &[W], from: &[u8]) {
    let (to_lines, to_rest) = to.as_chunks::<8>();
    let (from_lines, from_rest) = from.as_chunks::<64>();
    for (words, line) in to_lines.iter().zip(from_lines) {
        for (word, bytes) in words.iter().zip(line.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes));
        }
    }
    let to_rest = to_lines.get(from_lines.len()).map_or(to_rest, |line| line.as_slice());
    for (word, bytes) in to_rest.iter().zip(from_rest.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(padded));
    }
}

/// [`copy_out`] from any byte on.
pub(crate) fn copy_out_at<W: Word>(from: &[W], offset: usize, to: &mut [u8]) {
    let (at, skip) = (offset / 8, offset % 8);
    if skip == 0 {
        return copy_out(&from[at..], to);
    }
    let (head, rest) = to.split_at_mut(to.len().min(8 - skip));
    head.copy_from_slice(&from[at].load().to_ne_bytes()[skip..][..head.len()]);
    copy_out(&from[at + 1..], rest);
}

/// Copies to any byte on and keeps the bytes around.
pub(crate) fn copy_in_at<W: Word>(to: &[W], offset: usize, from: &[u8]) {
    let (mut at, skip) = (offset / 8, offset % 8);
    let mut rest = from;
    if skip != 0 {
        let (head, after) = from.split_at(from.len().min(8 - skip));
        merge_bytes(&to[at], skip, head);
        (at, rest) = (at + 1, after);
    }
    let (whole, tail) = rest.split_at(rest.len() / 8 * 8);
    copy_in(&to[at..], whole);
    if !tail.is_empty() {
        merge_bytes(&to[at + whole.len() / 8], 0, tail);
    }
}

fn merge_bytes<W: Word>(word: &W, skip: usize, from: &[u8]) {
    let (mut mask, mut bits) = ([0; 8], [0; 8]);
    mask[skip..][..from.len()].fill(0xff);
    bits[skip..][..from.len()].copy_from_slice(from);
    word.merge(u64::from_ne_bytes(mask), u64::from_ne_bytes(bits));
}
