//! A segment's header: its layout, as the publisher states it.
//!
//! A subscriber reads the header once, checks it against the real size of the segment, and computes every position from
//! its own copy afterwards.

use std::{io, sync::atomic::Ordering};

use super::protocol::{Ring, Word};

/// Bytes of the longest value that a segment can be made for.
pub const PAYLOAD_MAX: usize = 64 << 20;
/// The most slots that a segment can have.
const SLOTS_MAX: u32 = 1 << 20;
/// The largest segment, in bytes.
const SEGMENT_MAX: u64 = 4 << 30;

/// "ipc-shm" and a 1. Read in the wrong byte order it is another number.
const MAGIC: u64 = u64::from_be_bytes(*b"ipc-shm\x01");
const VERSION: u64 = 1;

/// Words in a cache line.
pub(super) const LINE: usize = 8;

/// Positions of words in the first line.
const MAGIC_AT: usize = 0;
const FIELDS_AT: usize = 1;
const FIELDS: usize = 5;
const CHECK_AT: usize = FIELDS_AT + FIELDS;

/// Positions of lines. `published`, which all readers read, is two lines apart from the rest, because processors fetch
/// two lines together.
const PUBLISHED_AT: usize = 2;
const SLOTS_AT: usize = 4;

/// The numbers from which every position in a segment is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) payload_max: usize,
    /// The number of slots - 1.
    mask: u32,
    pub(super) tag: u64,
    /// The number of a slot's lines - 1. It is computed from `payload_max`.
    slot_last: u32,
}

impl Geometry {
    /// For `capacity` readable values at least, beside the one that is being written.
    pub(super) fn new(payload_max: usize, capacity: usize, tag: u64) -> io::Result<Geometry> {
        // 0 is too few slots, and the largest number too many: `of` returns the error.
        let slots = match capacity {
            0 => 0,
            _ => (capacity as u64).saturating_add(1).checked_next_power_of_two().unwrap_or(u64::MAX),
        };
        Geometry::of(payload_max, slots, tag)
            .map_err(|fault| io::Error::new(io::ErrorKind::InvalidInput, fault))
    }

    fn of(payload_max: usize, slots: u64, tag: u64) -> Result<Geometry, String> {
        if payload_max == 0 || payload_max > PAYLOAD_MAX {
            return Err(format!("values of {payload_max} bytes: 1 to {PAYLOAD_MAX} are possible"));
        }
        let possible = |slots: &u32| slots.is_power_of_two() && (2..=SLOTS_MAX).contains(slots);
        let Some(slots) = u32::try_from(slots).ok().filter(possible) else {
            return Err(format!("{slots} slots: a power of two from 2 to {SLOTS_MAX} is possible"));
        };
        // One more word for the length, and one less line because this is the last one's position.
        let slot_last = (payload_max.div_ceil(8) + 1).div_ceil(LINE) - 1;
        let slot_last = u32::try_from(slot_last).expect("PAYLOAD_MAX is far below 2^32 lines");
        let geometry = Geometry { payload_max, mask: slots - 1, tag, slot_last };
        match geometry.segment_len() {
            len if len > SEGMENT_MAX => Err(format!("a segment of {len} bytes exceeds {SEGMENT_MAX}")),
            _ => Ok(geometry),
        }
    }

    fn slots(&self) -> u64 {
        u64::from(self.mask) + 1
    }

    /// Bytes of the whole segment.
    pub(super) fn segment_len(&self) -> u64 {
        // At most 2^20 slots of 2^21 lines: no product overflows.
        (SLOTS_AT as u64 + self.slots() * (u64::from(self.slot_last) + 1)) * LINE as u64 * 8
    }

    fn fields(&self) -> [u64; FIELDS] {
        [VERSION, self.payload_max as u64, self.slots(), self.tag, self.segment_len()]
    }

    /// Writes the header, the magic number last.
    pub(super) fn store<W: Word>(&self, lines: &[[W; LINE]]) {
        let words = &lines[0];
        let fields = self.fields();
        for (word, field) in words[FIELDS_AT..].iter().zip(fields) {
            word.store(field);
        }
        words[CHECK_AT].store(check(&fields));
        W::fence(Ordering::Release);
        words[MAGIC_AT].store(MAGIC);
    }

    /// Reads the header of the segment `lines`, which has `segment_len` bytes. `InvalidData`: the header does not
    /// describe a segment of exactly that size.
    pub(super) fn load<W: Word>(lines: &[[W; LINE]], segment_len: u64) -> io::Result<Geometry> {
        let refuse =
            |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("not a segment: {what}"));
        let words = &lines[0];
        if words[MAGIC_AT].load() != MAGIC {
            return Err(refuse("its magic number is missing".into()));
        }
        W::fence(Ordering::Acquire);
        let fields: [u64; FIELDS] = std::array::from_fn(|i| words[FIELDS_AT + i].load());
        let [version, payload_max, slots, tag, len] = fields;
        if version != VERSION {
            return Err(refuse(format!("layout version {version}, and this program knows {VERSION}")));
        }
        if words[CHECK_AT].load() != check(&fields) {
            return Err(refuse("its checksum is wrong".into()));
        }
        let payload_max = usize::try_from(payload_max).unwrap_or(usize::MAX);
        let geometry = Geometry::of(payload_max, slots, tag).map_err(refuse)?;
        if len != geometry.segment_len() || len != segment_len {
            let needed = geometry.segment_len();
            return Err(refuse(format!("it says {len} bytes, has {segment_len} and would need {needed}")));
        }
        Ok(geometry)
    }

    /// The ring of slots of the segment `lines`.
    #[inline]
    pub(super) fn ring<'a, W: Word>(&self, lines: &'a [[W; LINE]]) -> Ring<'a, W, LINE> {
        let (header, slots) = lines.split_first_chunk::<SLOTS_AT>().expect("a segment has a header");
        Ring::new(&header[PUBLISHED_AT][0], slots, self.mask, self.slot_last)
    }

    /// The word `published` of the segment `lines`.
    #[inline]
    pub(super) fn published<'a, W: Word>(&self, lines: &'a [[W; LINE]]) -> &'a W {
        &lines[PUBLISHED_AT][0]
    }
}

/// FNV-1a over words. It detects damage, and not malice.
fn check(fields: &[u64]) -> u64 {
    fields.iter().fold(0xcbf2_9ce4_8422_2325, |hash, field| (hash ^ field).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use proptest::prelude::*;

    use super::*;

    fn header(fields: [u64; FIELDS]) -> [[AtomicU64; LINE]; 1] {
        let mut words = [0; LINE];
        words[MAGIC_AT] = MAGIC;
        words[FIELDS_AT..][..FIELDS].copy_from_slice(&fields);
        words[CHECK_AT] = check(&fields);
        [words.map(AtomicU64::new)]
    }

    fn near(value: u64) -> impl Strategy<Value = u64> {
        prop_oneof![Just(value), 0..4u64, any::<u64>(), (0..64u32).prop_map(|bit| 1 << bit), Just(value + 1)]
    }

    proptest! {
        /// What a malicious publisher could write, with a correct checksum.
        #[test]
        fn a_forged_header_never_describes_more_than_there_is(
            payload_max in near(100), slots in near(8), tag: u64,
            len in near(8 * 128 + 256), size in near(8 * 128 + 256),
        ) {
            let lines = header([VERSION, payload_max, slots, tag, len]);
            if let Ok(geometry) = Geometry::load(&lines, size) {
                prop_assert_eq!(geometry.segment_len(), size);
                prop_assert_eq!((geometry.payload_max as u64, geometry.slots()), (payload_max, slots));
                prop_assert!(slots * (payload_max + 8) < size);
            }
        }

        #[test]
        fn what_is_stored_is_loaded(payload_max in 1..5000usize, capacity in 1..500usize, tag: u64) {
            let geometry = Geometry::new(payload_max, capacity, tag).unwrap();
            let lines = header([0; FIELDS]);
            geometry.store(&lines);
            prop_assert_eq!(Geometry::load(&lines, geometry.segment_len()).unwrap(), geometry);
            prop_assert!(u64::from(geometry.mask) >= capacity as u64);
            prop_assert!(Geometry::load(&lines, geometry.segment_len() - 1).is_err());
        }
    }
}
