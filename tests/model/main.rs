//! The protocol under every interleaving and every stale read that the memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --test model --target-dir target/loom`
//!
//! The model uses the library's own source file. The broken variants take one fence out of it, and loom has to find
//! what that breaks: this shows that the model proves something.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;
use std::cell::Cell;
use std::sync::atomic::Ordering;

#[allow(dead_code, reason = "the models have no use for all of it")]
#[path = "../../src/shm/protocol.rs"]
mod protocol;

use protocol::{Ring, Word, arm, copy_value_in, disarm, is_armed, wake_fence};

/// Which fence is missing.
const NONE: u8 = 0;
const BEGIN: u8 = 1;
const COMMIT: u8 = 2;
const NEWEST: u8 = 3;
const READ: u8 = 4;
const FULL: u8 = 5;

loom::thread_local! {
    /// How many Release, and how many Acquire fences this thread has come upon.
    static FENCES: Cell<[usize; 2]> = Cell::new([0; 2]);
}

/// A word with one fence missing.
struct Without<const FENCE: u8>(AtomicU64);

impl<const FENCE: u8> Without<FENCE> {
    fn new() -> Self {
        Without(AtomicU64::new(0))
    }
}

impl<const FENCE: u8> Word for Without<FENCE> {
    fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn store(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn merge(&self, mask: u64, bits: u64) {
        self.store(self.load() & !mask | bits & mask);
    }

    fn fence(order: Ordering) {
        // The calls alternate: begin and commit in the writer, newest and read in the reader.
        let turn = |kind: usize| {
            FENCES.with(|fences| {
                let mut counts = fences.get();
                counts[kind] += 1;
                fences.set(counts);
                counts[kind] % 2
            })
        };
        let which = match order {
            Ordering::Release => [COMMIT, BEGIN][turn(0)],
            Ordering::Acquire => [READ, NEWEST][turn(1)],
            Ordering::SeqCst => FULL,
            other => panic!("no fence of order {other:?} is in use"),
        };
        if which != FENCE {
            fence(order);
        }
    }
}

struct Segment<const FENCE: u8> {
    published: Without<FENCE>,
    slots: Vec<[Without<FENCE>; LINE]>,
    armed: Without<FENCE>,
}

/// Lines of two words instead of eight: a value, and then its length.
const LINE: usize = 2;
const PAYLOAD_WORDS: usize = 2;
const SLOT_LINES: usize = 2;

impl<const FENCE: u8> Segment<FENCE> {
    fn new(slots: usize) -> Arc<Self> {
        let lines = (0..slots * SLOT_LINES).map(|_| [Without::new(), Without::new()]).collect();
        Arc::new(Segment { published: Without::new(), slots: lines, armed: Without::new() })
    }

    fn ring(&self) -> Ring<'_, Without<FENCE>, LINE> {
        let slots = self.slots.len() / SLOT_LINES;
        Ring::new(&self.published, &self.slots, slots as u32 - 1, SLOT_LINES as u32 - 1)
    }

    /// A value's words are all its number.
    fn publish(&self, number: u64) {
        let ring = self.ring();
        let (lines, len) = ring.begin(number);
        len.store(8 * PAYLOAD_WORDS as u64);
        copy_value_in(lines, number.to_ne_bytes().repeat(PAYLOAD_WORDS).as_slice());
        ring.commit(number);
    }

    /// Whether the value could still be read. If so, it must be whole.
    fn check(&self, number: u64) -> bool {
        let mut copy = [[[0; 8]; LINE]];
        let Ok(len) = self.ring().read(number, &mut copy) else { return false };
        assert_eq!(len, 8 * PAYLOAD_WORDS as u64, "torn: value {number} without its length");
        assert_eq!(copy, [[number.to_ne_bytes(); LINE]], "torn: value {number}");
        true
    }
}

/// Two slots are the tightest ring: each value overwrites the last but one.
fn a_reader_takes_the_latest<const FENCE: u8>() {
    loom::model(|| {
        let segment = Segment::<FENCE>::new(2);
        let writer = {
            let segment = segment.clone();
            thread::spawn(move || (1..=3).for_each(|number| segment.publish(number)))
        };
        let newest = segment.ring().newest();
        if newest > 0 {
            segment.check(newest);
        }
        writer.join().unwrap();
        assert_eq!(segment.ring().newest(), 3);
        assert!(segment.check(3), "nobody writes: the newest value must be readable");
    });
}

/// As [`a_reader_takes_the_latest`], with the writer gone in the middle of a value.
fn a_writer_dies<const FENCE: u8>() {
    loom::model(|| {
        let segment = Segment::<FENCE>::new(2);
        let writer = {
            let segment = segment.clone();
            thread::spawn(move || {
                segment.publish(1);
                segment.publish(2);
                segment.ring().begin(3).0[0][0].store(3);
            })
        };
        let newest = segment.ring().newest();
        if newest > 0 {
            segment.check(newest);
        }
        writer.join().unwrap();
        assert_eq!(segment.ring().newest(), 2);
        assert!(segment.check(2), "the newest whole value must be readable");
        assert!(!segment.check(1), "its slot is half of another value");
    });
}

fn a_reader_follows<const FENCE: u8>() {
    loom::model(|| {
        let segment = Segment::<FENCE>::new(2);
        let writer = {
            let segment = segment.clone();
            thread::spawn(move || (1..=3).for_each(|number| segment.publish(number)))
        };
        let ring = segment.ring();
        let mut cursor = 0;
        for _ in 0..2 {
            let newest = ring.newest();
            if newest > cursor {
                let number = (cursor + 1).max(ring.oldest(newest));
                segment.check(number);
                cursor = number;
            }
        }
        writer.join().unwrap();
    });
}

/// A writer that breaks the rule: the index goes last.
fn the_index_goes_first() {
    loom::model(|| {
        let segment = Segment::<NONE>::new(2);
        let writer = {
            let segment = segment.clone();
            thread::spawn(move || {
                segment.ring().commit(1);
                let (lines, len) = segment.ring().begin(1);
                len.store(8 * PAYLOAD_WORDS as u64);
                copy_value_in(lines, 1u64.to_ne_bytes().repeat(PAYLOAD_WORDS).as_slice());
            })
        };
        let newest = segment.ring().newest();
        if newest > 0 {
            segment.check(newest);
        }
        writer.join().unwrap();
    });
}

/// If the subscriber went to sleep before it saw the value, then it was notified.
fn the_doorbell_dance<const ASLEEP: u8, const WAKE: u8>(updates: u64) {
    loom::model(move || {
        let segment = Segment::<ASLEEP>::new(2);
        let publisher = {
            let segment = segment.clone();
            thread::spawn(move || {
                (1..=updates)
                    .filter(|&number| {
                        segment.publish(number);
                        wake_fence::<Without<WAKE>>();
                        let asleep = is_armed(&segment.armed);
                        if asleep {
                            disarm(&segment.armed);
                        }
                        asleep
                    })
                    .count()
            })
        };
        let (mut seen, mut slept) = (0, 0);
        for _ in 0..updates {
            if arm(&segment.armed, &segment.published, seen) {
                slept += 1;
                break;
            }
            seen = segment.ring().newest();
        }
        let rung = publisher.join().unwrap();
        assert!(rung <= slept + seen as usize, "rung {rung} times for {slept} sleeps");
        if slept > 0 && seen < updates {
            assert!(rung > 0, "lost wake-up: asleep since value {seen} of {updates}");
        }
    });
}

#[test]
fn the_latest_value_is_whole() {
    a_reader_takes_the_latest::<NONE>();
}

#[test]
fn a_followed_value_is_whole() {
    a_reader_follows::<NONE>();
}

#[test]
fn a_dead_writer_harms_nobody() {
    a_writer_dies::<NONE>();
}

#[test]
fn no_wake_up_is_lost() {
    the_doorbell_dance::<NONE, NONE>(1);
    the_doorbell_dance::<NONE, NONE>(2);
}

#[test]
#[should_panic(expected = "torn")]
fn a_value_that_follows_its_index_is_seen_torn() {
    the_index_goes_first();
}

#[test]
#[should_panic(expected = "torn")]
fn begin_needs_its_fence() {
    a_reader_takes_the_latest::<BEGIN>();
}

#[test]
#[should_panic(expected = "torn")]
fn commit_needs_its_fence() {
    a_reader_takes_the_latest::<COMMIT>();
}

#[test]
#[should_panic(expected = "torn")]
fn newest_needs_its_fence() {
    a_reader_takes_the_latest::<NEWEST>();
}

#[test]
#[should_panic(expected = "torn")]
fn read_needs_its_fence() {
    a_reader_takes_the_latest::<READ>();
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn falling_asleep_needs_its_fence() {
    the_doorbell_dance::<FULL, NONE>(1);
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn waking_needs_its_fence() {
    the_doorbell_dance::<NONE, FULL>(1);
}
