//! A segment's first words: what the publisher promises of the rest.
//!
//! A subscriber reads them once, checks them against the real size of what it was given, and
//! computes every address from its own copy afterwards.

use super::protocol::{Ring, Word};
use std::io;
use std::sync::atomic::Ordering;

/// The longest value that a segment can be made for, in bytes.
pub const PAYLOAD_MAX: usize = 64 << 20;
/// The most slots that a segment can have.
const SLOTS_MAX: u64 = 1 << 20;
/// The largest segment, in bytes.
const SEGMENT_MAX: u64 = 4 << 30;

/// "ipc-shm" and a byte that says which byte order wrote it.
const MAGIC: u64 = u64::from_be_bytes(*b"ipc-shm\x01");
const VERSION: u64 = 1;

/// Word numbers. The index has cache lines of its own: it is what all readers look at.
const MAGIC_AT: usize = 0;
const FIELDS_AT: usize = 1;
const CHECK_AT: usize = FIELDS_AT + FIELDS;
const PUBLISHED_AT: usize = 16;
const SLOTS_AT: usize = 32;
const FIELDS: usize = 5;
const LINE_WORDS: usize = 8;

/// All that the addresses within a segment follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) payload_max: usize,
    slots: u64,
    pub(super) tag: u64,
}

impl Geometry {
    /// Room for `capacity` values at least beside the one being written.
    pub(super) fn new(payload_max: usize, capacity: usize, tag: u64) -> io::Result<Geometry> {
        // 0 is too few slots, and the largest is too many: `fault` says so.
        let slots = match capacity {
            0 => 0,
            _ => (capacity as u64).saturating_add(1).checked_next_power_of_two().unwrap_or(u64::MAX),
        };
        let geometry = Geometry { payload_max, slots, tag };
        match geometry.fault() {
            None => Ok(geometry),
            Some(fault) => Err(io::Error::new(io::ErrorKind::InvalidInput, fault)),
        }
    }

    fn fault(&self) -> Option<String> {
        let Geometry { payload_max, slots, .. } = *self;
        if payload_max == 0 || payload_max > PAYLOAD_MAX {
            Some(format!("values of {payload_max} bytes: 1 to {PAYLOAD_MAX} are possible"))
        } else if !slots.is_power_of_two() || !(2..=SLOTS_MAX).contains(&slots) {
            Some(format!("{slots} slots: a power of two from 2 to {SLOTS_MAX} is possible"))
        } else if self.segment_len() > SEGMENT_MAX {
            Some(format!("a segment of {} bytes exceeds {SEGMENT_MAX}", self.segment_len()))
        } else {
            None
        }
    }

    fn slot_words(&self) -> usize {
        (1 + self.payload_max.div_ceil(8)).next_multiple_of(LINE_WORDS)
    }

    pub(super) fn segment_len(&self) -> u64 {
        8 * (SLOTS_AT as u64 + self.slots * self.slot_words() as u64)
    }

    fn fields(&self) -> [u64; FIELDS] {
        [VERSION, self.payload_max as u64, self.slots, self.tag, self.segment_len()]
    }

    /// Writes the header, the magic last.
    pub(super) fn store<W: Word>(&self, words: &[W]) {
        let fields = self.fields();
        for (word, field) in words[FIELDS_AT..].iter().zip(fields) {
            word.store(field);
        }
        words[CHECK_AT].store(check(&fields));
        W::fence(Ordering::Release);
        words[MAGIC_AT].store(MAGIC);
    }

    /// Copies the header and believes it only if it describes a segment of exactly `segment_len`
    /// bytes, which is what `words` is of.
    pub(super) fn load<W: Word>(words: &[W], segment_len: u64) -> io::Result<Geometry> {
        let refuse =
            |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("not a segment: {what}"));
        if words.len() < SLOTS_AT || words[MAGIC_AT].load() != MAGIC {
            return Err(refuse("its magic number is missing".into()));
        }
        W::fence(Ordering::Acquire);
        let fields: [u64; FIELDS] = std::array::from_fn(|i| words[FIELDS_AT + i].load());
        let [version, payload_max, slots, tag, len] = fields;
        if version != VERSION {
            return Err(refuse(format!("layout version {version}, this side knows {VERSION}")));
        }
        if words[CHECK_AT].load() != check(&fields) {
            return Err(refuse("its layout check does not fit its fields".into()));
        }
        let geometry =
            Geometry { payload_max: usize::try_from(payload_max).unwrap_or(usize::MAX), slots, tag };
        if let Some(fault) = geometry.fault() {
            return Err(refuse(fault));
        }
        if len != geometry.segment_len() || len != segment_len {
            let needed = geometry.segment_len();
            return Err(refuse(format!("it says {len} bytes, has {segment_len} and would need {needed}")));
        }
        Ok(geometry)
    }

    pub(super) fn ring<'a, W: Word>(&self, words: &'a [W]) -> Ring<'a, W> {
        Ring::new(&words[PUBLISHED_AT], &words[SLOTS_AT..], self.slot_words())
    }

    pub(super) fn published<'a, W: Word>(&self, words: &'a [W]) -> &'a W {
        &words[PUBLISHED_AT]
    }
}

/// FNV-1a over words: against damage, not against malice.
fn check(fields: &[u64]) -> u64 {
    fields.iter().fold(0xcbf2_9ce4_8422_2325, |hash, field| (hash ^ field).wrapping_mul(0x0100_0000_01b3))
}
