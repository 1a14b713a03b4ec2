//! Who may read what, and when: the whole of the publisher's and the subscribers' agreement.
//!
//! The segment is a ring of slots and one word, `published`: the number of the newest whole
//! value (the first is 1, none is 0). Value `n` lives in slot `n & (slots - 1)`.
//!
//! - The publisher fills the slot of `published + 1` and then stores that number. Nothing else ever
//!   tells a reader of a value, so a publisher that dies half-way has said nothing.
//! - A reader copies value `n` and *then* looks at `published` again. The slot that may be in the
//!   publisher's hands is that of `published + 1`, which is also the slot of `published + 1 -
//!   slots`: whatever is newer than that was whole all the while it was copied.
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

/// A segment's shared words, seen by either side, in lines of `N`. A line is copied at a time,
/// because the compiler leaves a loop of atomic accesses as it is written.
#[derive(Debug)]
pub(crate) struct Ring<'a, W, const N: usize> {
    published: &'a W,
    /// One after the other. A value starts with its slot; its length in bytes is the slot's last
    /// word.
    slots: &'a [[W; N]],
    /// A slot's lines less one. Of 32 bits, as `mask` is, so that no product or sum of them overflows: then one
    /// comparison is all that it takes to know a slot within `slots`.
    slot_last: u32,
    mask: u32,
}

impl<'a, W: Word, const N: usize> Ring<'a, W, N> {
    /// `slots` holds `mask + 1` slots of `slot_last + 1` lines: a power of two of them, two at least.
    #[inline]
    pub(crate) fn new(published: &'a W, slots: &'a [[W; N]], mask: u32, slot_last: u32) -> Self {
        debug_assert!((mask + 1).is_power_of_two() && mask > 0);
        debug_assert_eq!(slots.len() as u64, (u64::from(mask) + 1) * (u64::from(slot_last) + 1));
        Ring { published, slots, slot_last, mask }
    }

    /// Where value `number` is, and its length.
    #[inline]
    pub(crate) fn slot(&self, number: u64) -> (&'a [[W; N]], &'a W) {
        let last = self.slot_last as usize;
        let start = (number as u32 & self.mask) as usize * (last + 1);
        let slot = &self.slots[start..=start + last];
        (slot, &slot[last][N - 1])
    }

    /// What is to be filled with value `number`, which must be the published one's successor: its
    /// lines, but for their last word, and its length.
    #[inline]
    pub(crate) fn begin(&self, number: u64) -> (&'a [[W; N]], &'a W) {
        // A reader that sees any of the words to come must also see `published` as it is now.
        W::fence(Ordering::Release);
        self.slot(number)
    }

    /// Makes value `number` the newest.
    #[inline]
    pub(crate) fn commit(&self, number: u64) {
        W::fence(Ordering::Release);
        self.published.store(number);
    }

    /// The newest whole value's number.
    #[inline]
    pub(crate) fn newest(&self) -> u64 {
        let number = self.published.load();
        W::fence(Ordering::Acquire);
        number
    }

    /// The oldest value that stays readable while `newest` is the newest.
    pub(crate) fn oldest(&self, newest: u64) -> u64 {
        newest.saturating_sub(self.capacity() - 1).max(1)
    }

    /// Whether value `number` stays readable while `newest` is the newest.
    #[inline]
    pub(crate) fn reaches(&self, newest: u64, number: u64) -> bool {
        newest.wrapping_sub(number) < self.capacity()
    }

    /// How many values can be read at any time: one slot is always the publisher's.
    #[inline]
    pub(crate) fn capacity(&self) -> u64 {
        self.mask.into()
    }

    /// Copies value `number`, which [`newest`](Self::newest) must have reached, and says how long
    /// it is in bytes. That is the publisher's word: if it exceeds `into`, nothing was copied.
    ///
    /// Where the publisher came round to that slot meanwhile, the copy is worthless and the
    /// error holds the number that was the newest by then.
    #[inline]
    pub(crate) fn read(&self, number: u64, into: &mut [[[u8; 8]; N]]) -> Result<u64, u64> {
        let (slot, len) = self.slot(number);
        let len = len.load();
        let lines = len.wrapping_add(8 * N as u64 - 1) as usize / (8 * N);
        let Some(into) = into.get_mut(..lines) else { return Ok(len) };
        for (bytes, words) in into.iter_mut().zip(slot) {
            for (bytes, word) in bytes.iter_mut().zip(words) {
                *bytes = word.load().to_ne_bytes();
            }
        }
        W::fence(Ordering::Acquire);
        let newest = self.published.load();
        if self.reaches(newest, number) { Ok(len) } else { Err(newest) }
    }
}

/// Copies a whole value to its lines; what it leaves of its last word becomes zero.
#[inline]
pub(crate) fn copy_value_in<W: Word, const N: usize>(to: &[[W; N]], from: &[u8]) {
    let lines = from.as_chunks::<8>().0.as_chunks::<N>().0;
    for (words, line) in to[..lines.len()].iter().zip(lines) {
        for (word, bytes) in words.iter().zip(line) {
            word.store(u64::from_ne_bytes(*bytes));
        }
    }
    if !from.len().is_multiple_of(8 * N) {
        copy_rest_in(&to[lines.len()], &from[lines.len() * 8 * N..]);
    }
}

// Inlined it would cost the values of whole lines as much as their copy does.
#[inline(never)]
fn copy_rest_in<W: Word>(to: &[W], from: &[u8]) {
    for (word, bytes) in to.iter().zip(from.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(padded));
    }
}

/// The subscriber's half of not losing a wake-up: from here on the publisher rings, unless there
/// is something newer than `seen` already, in which case the answer is false.
#[inline]
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
#[inline]
pub(crate) fn wake_fence<W: Word>() {
    W::fence(Ordering::SeqCst);
}

/// Whether this subscriber has to be told.
#[inline]
pub(crate) fn is_armed<W: Word>(armed: &W) -> bool {
    armed.load() != 0
}

/// Done before it is told: it will not be told again until it arms again.
pub(crate) fn disarm<W: Word>(armed: &W) {
    armed.store(0);
}

/// Takes [`disarm`] back where telling failed.
pub(crate) fn rearm<W: Word>(armed: &W) {
    armed.store(1);
}

/// Copies from any byte on; `from` must hold that many.
pub(crate) fn copy_out_at<W: Word>(from: &[W], offset: usize, to: &mut [u8]) {
    let (at, skip) = (offset / 8, offset % 8);
    let (head, rest) = to.split_at_mut(to.len().min((8 - skip) % 8));
    if !head.is_empty() {
        head.copy_from_slice(&from[at].load().to_ne_bytes()[skip..][..head.len()]);
    }
    let from = &from[at + usize::from(skip != 0)..];
    assert!(rest.len() <= from.len() * 8);
    for (bytes, word) in rest.chunks_mut(8).zip(from) {
        bytes.copy_from_slice(&word.load().to_ne_bytes()[..bytes.len()]);
    }
}

/// Copies to any byte on, and keeps the bytes around.
pub(crate) fn copy_in_at<W: Word>(to: &[W], offset: usize, from: &[u8]) {
    let (at, skip) = (offset / 8, offset % 8);
    let (head, rest) = from.split_at(from.len().min((8 - skip) % 8));
    if !head.is_empty() {
        merge_bytes(&to[at], skip, head);
    }
    let to = &to[at + usize::from(skip != 0)..];
    let (words, tail) = rest.as_chunks::<8>();
    let (whole, last) = to.split_at(words.len());
    for (word, bytes) in whole.iter().zip(words) {
        word.store(u64::from_ne_bytes(*bytes));
    }
    if !tail.is_empty() {
        merge_bytes(&last[0], 0, tail);
    }
}

fn merge_bytes<W: Word>(word: &W, skip: usize, from: &[u8]) {
    let (mut mask, mut bits) = ([0; 8], [0; 8]);
    mask[skip..][..from.len()].fill(0xff);
    bits[skip..][..from.len()].copy_from_slice(from);
    word.merge(u64::from_ne_bytes(mask), u64::from_ne_bytes(bits));
}
