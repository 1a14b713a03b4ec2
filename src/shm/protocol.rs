//! The agreement of the publisher and the subscribers on who reads and writes which word when.
//!
//! The segment is a ring of slots and one word, `published`: the number of the newest whole value. (The first value has
//! 1; 0 means that there is none.) Value `n` is in slot `n & (slots - 1)`.
//!
//! - The publisher fills the slot of `published + 1`, and then stores that number. Nothing else tells a reader of the
//!   value, so a publisher that dies halfway has not published it.
//! - A reader copies value `n`, and *then* reads `published` again. The publisher may be writing the slot of
//!   `published + 1`, which is also the slot of `published + 1 - slots`. Every newer value than that was whole while it
//!   was copied.
//!
//! Each access is relaxed, and all order comes from fences, because of the reader's mapping: an atomic load from
//! read-only memory is guaranteed to work only if it is relaxed.
//!
//! This file uses neither memory maps nor processes, so the loom models in `tests/model` can include it
//! unchanged.

use std::sync::atomic::Ordering;

/// A word that another process may read or change at any time.
pub(crate) trait Word {
    fn load(&self) -> u64;
    fn store(&self, value: u64);
    /// Replaces the bits of `mask`, and keeps the others.
    fn merge(&self, mask: u64, bits: u64);
    fn fence(order: Ordering);
}

/// A segment's shared words, for either side, in lines of `N`. A loop copies a line at a time, because the compiler
/// does not unroll a loop of atomic accesses.
#[derive(Debug)]
pub(crate) struct Ring<'a, W, const N: usize> {
    published: &'a W,
    /// The slots, one after the other. A value is at the start of its slot. Its length in bytes is the slot's last
    /// word.
    slots: &'a [[W; N]],
    /// The number of a slot's lines - 1. It has 32 bits, as `mask` has, so that no product or sum of them overflows.
    /// One comparison is then enough to know that a slot is within `slots`.
    slot_last: u32,
    /// The number of slots - 1.
    mask: u32,
}

impl<'a, W: Word, const N: usize> Ring<'a, W, N> {
    /// `slots` contains `mask + 1` slots of `slot_last + 1` lines. Their number is a power of two, and at least two.
    #[inline]
    pub(crate) fn new(published: &'a W, slots: &'a [[W; N]], mask: u32, slot_last: u32) -> Self {
        debug_assert!((mask + 1).is_power_of_two() && mask > 0);
        debug_assert_eq!(slots.len() as u64, (u64::from(mask) + 1) * (u64::from(slot_last) + 1));
        Ring { published, slots, slot_last, mask }
    }

    /// The slot of value `number`, and the word with its length.
    #[inline]
    pub(crate) fn slot(&self, number: u64) -> (&'a [[W; N]], &'a W) {
        let last = self.slot_last as usize;
        #[allow(clippy::cast_possible_truncation, reason = "the mask removes the upper half anyway")]
        let start = (number as u32 & self.mask) as usize * (last + 1);
        let slot = &self.slots[start..=start + last];
        (slot, &slot[last][N - 1])
    }

    /// Starts to write value `number`, which must be the successor of the published one. Returns its lines, to be
    /// filled up to their last word, and that word, for its length.
    #[inline]
    pub(crate) fn begin(&self, number: u64) -> (&'a [[W; N]], &'a W) {
        // A reader that sees any of the words written from now on must also see the current `published`.
        W::fence(Ordering::Release);
        self.slot(number)
    }

    /// Publishes value `number`.
    #[inline]
    pub(crate) fn commit(&self, number: u64) {
        W::fence(Ordering::Release);
        self.published.store(number);
    }

    /// The number of the newest whole value.
    #[inline]
    pub(crate) fn newest(&self) -> u64 {
        let number = self.published.load();
        W::fence(Ordering::Acquire);
        number
    }

    /// The number of the oldest value that is readable while `newest` is the newest.
    pub(crate) fn oldest(&self, newest: u64) -> u64 {
        newest.saturating_sub(self.capacity() - 1).max(1)
    }

    /// Whether value `number` is readable while `newest` is the newest.
    #[inline]
    pub(crate) fn reaches(&self, newest: u64, number: u64) -> bool {
        newest.wrapping_sub(number) < self.capacity()
    }

    /// How many values are readable at any time: one less than the slots, because the publisher may be writing one.
    #[inline]
    pub(crate) fn capacity(&self) -> u64 {
        self.mask.into()
    }

    /// Copies value `number`, which [`newest`](Self::newest) must have reached, and returns its length in bytes. The
    /// length comes from the publisher and may be wrong: if it exceeds `into`, nothing was copied.
    ///
    /// If the publisher may have written to that slot in the meantime, the copy is invalid. The error is then the
    /// number of the newest value at that time.
    #[inline]
    pub(crate) fn read(&self, number: u64, into: &mut [[[u8; 8]; N]]) -> Result<u64, u64> {
        let (slot, len) = self.slot(number);
        let len = len.load();
        #[allow(clippy::cast_possible_truncation, reason = "the crate is for 64-bit systems")]
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

/// Copies a whole value to its lines. It zeroes the rest of the value's last word.
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

// Inlined, it would double the time for values of whole lines.
#[inline(never)]
fn copy_rest_in<W: Word>(to: &[W], from: &[u8]) {
    for (word, bytes) in to.iter().zip(from.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(padded));
    }
}

/// What the first word of a subscriber's page says: it sleeps. Its doorbell may be empty.
pub(crate) const SLEEPS: u64 = 1;
/// It sleeps, and there is an unread byte in its doorbell, which it does not read. (Any other number but 0 is
/// [`SLEEPS`].)
pub(crate) const SLEEPS_UNREAD: u64 = 2;

/// The subscriber's part of not losing a wake-up: after this the publisher notifies it. False: there is a newer value
/// than `seen` already, and the publisher does not notify.
#[inline]
pub(crate) fn arm<W: Word>(armed: &W, published: &W, seen: u64) -> bool {
    arm_as(SLEEPS, armed, published, seen)
}

/// [`arm`], which says how to be notified.
#[inline]
pub(crate) fn arm_as<W: Word>(sleeps: u64, armed: &W, published: &W, seen: u64) -> bool {
    armed.store(sleeps);
    // Pairs with the fence in `wake_fence`: either this side sees the new value, or the other side sees `armed`.
    W::fence(Ordering::SeqCst);
    let asleep = published.load() <= seen;
    if !asleep {
        armed.store(0);
    }
    asleep
}

/// The publisher's part: once, after an update and before it checks which subscribers sleep.
#[inline]
pub(crate) fn wake_fence<W: Word>() {
    W::fence(Ordering::SeqCst);
}

/// Whether this subscriber must be notified.
#[inline]
pub(crate) fn is_armed<W: Word>(armed: &W) -> bool {
    armed.load() != 0
}

/// Called before a subscriber is notified. It is not notified again before it arms again.
pub(crate) fn disarm<W: Word>(armed: &W) {
    armed.store(0);
}

/// Undoes [`disarm`] if the subscriber could not be notified.
pub(crate) fn rearm<W: Word>(armed: &W) {
    armed.store(SLEEPS);
}

/// Copies from byte `offset` on. `from` must have that many bytes.
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

/// Copies to byte `offset` and on, and keeps the bytes around.
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
