//! A writer that never pauses. `IPC_TORTURE=1` makes the run long.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_reactor::shm::{Publisher, Subscriber, Update};

use crate::support::shm::{fill, subscribe, torture, whole};

/// One torture at a time: they spin, and more threads than processors would only wait for one another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `reads` successful reads against a writer at full speed.
fn hot_writer(words_max: usize, capacity: usize, reads: u64, read: impl Fn(&mut Subscriber, u64) + Sync) {
    let mut publisher = Publisher::every(words_max * 8, capacity).unwrap();
    let mut readers = [subscribe(&mut publisher), subscribe(&mut publisher)];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let writer = scope.spawn(move || {
            let mut buffer = vec![0; words_max * 8];
            let mut number = 0u64;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                publisher.publish(fill(&mut buffer, number)).unwrap();
            }
        });
        let _stop = StopOnDrop(stop);
        std::thread::scope(|scope| {
            for reader in &mut readers {
                scope.spawn(|| read(reader, reads / 2));
            }
        });
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
}

/// When a test has gone on for long enough, however little of it a busy machine has allowed. A long run has no such
/// end.
fn enough() -> Option<Instant> {
    (!torture()).then(|| Instant::now() + Duration::from_secs(20))
}

fn is_over(end: Option<Instant>) -> bool {
    end.is_some_and(|end| Instant::now() >= end)
}

fn reads() -> u64 {
    if torture() { 100_000_000 } else { 1_000_000 }
}

#[test]
fn the_latest_of_a_hot_writer_is_never_torn() {
    let _alone = alone();
    hot_writer(32, 3, reads(), |reader, reads| {
        let (mut done, mut before, end) = (0, 0, enough());
        while done < reads {
            let number = match reader.latest() {
                Ok(Some(value)) => whole(value, 32),
                Ok(None) if done > 0 && is_over(end) => break,
                Ok(None) => {
                    std::thread::yield_now();
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                Err(e) => panic!("{e}"),
            };
            assert!(number > before, "{number} after {before}");
            assert_eq!(number, reader.position());
            (done, before) = (done + 1, number);
        }
    });
}

#[test]
fn who_follows_a_hot_writer_misses_nothing_untold() {
    let _alone = alone();
    hot_writer(8, 63, reads(), |reader, reads| {
        let (mut done, mut expected, end) = (0, 1, enough());
        while done < reads {
            match reader.recv().unwrap() {
                Some(Update::Value(value)) => {
                    assert_eq!(whole(value, 8), expected);
                    (done, expected) = (done + 1, expected + 1);
                }
                Some(Update::Lost(count)) => {
                    assert!(count > 0);
                    expected += count;
                }
                None if done > 0 && is_over(end) => break,
                None => std::thread::yield_now(),
            }
        }
    });
}
