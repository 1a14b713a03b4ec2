//! A writer that never rests, and writers that are killed. `IPC_TORTURE=1` makes it a long night.

use crate::support::{Reaped, child_test, subscribe};
use ipc_reactor::shm::{Access, Mapping, Publisher, Subscriber, Ticket, Update};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One torture at a time: they spin, and more threads than processors would only wait for one another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn torture() -> bool {
    std::env::var_os("IPC_TORTURE").is_some_and(|value| value == "1")
}

/// The length in bytes of value `number`, which consists of that number over and over: so a value
/// of parts shows.
fn len(number: u64, words_max: usize) -> usize {
    (words_max - number as usize % 3) * 8
}

fn fill(buffer: &mut [u8], number: u64) -> &[u8] {
    let len = len(number, buffer.len() / 8);
    let value = &mut buffer[..len];
    value.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number.to_ne_bytes()));
    value
}

/// The value's number, if it is whole.
#[track_caller]
fn whole(value: &[u8], words_max: usize) -> u64 {
    let number = u64::from_ne_bytes(value[..8].try_into().unwrap());
    assert_eq!(value.len(), len(number, words_max), "value {number} has the length of another");
    if value[8..] != value[..value.len() - 8] {
        let at = value.chunks(8).position(|word| word != number.to_ne_bytes()).unwrap();
        panic!("value {number} is torn at word {at}: {:?}", &value[at * 8..][..8]);
    }
    number
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

fn reads() -> u64 {
    if torture() { 100_000_000 } else { 1_000_000 }
}

#[test]
fn the_latest_of_a_hot_writer_is_never_torn() {
    let _alone = alone();
    hot_writer(32, 3, reads(), |reader, reads| {
        let (mut done, mut before) = (0, 0);
        while done < reads {
            let number = match reader.latest() {
                Ok(Some(value)) => whole(value, 32),
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
        let (mut done, mut expected) = (0, 1);
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
                None => std::thread::yield_now(),
            }
        }
    });
}

const KILLED_WORDS: usize = 512;
const KILLED_CAPACITY: usize = 15;

/// Its place in the segment, as the module's documentation has it.
fn half_written(segment: &OwnedFd) -> bool {
    let len = File::from(segment.try_clone().unwrap()).metadata().unwrap().len() as usize;
    let map = Mapping::of(segment, 0, len, Access::ReadOnly).unwrap();
    let word = |at: usize| {
        let mut bytes = [0; 8];
        map.read(at * 8, &mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    };
    let published = word(16);
    let slots = word(3) as usize;
    let slot_words = (len / 8 - 32) / slots;
    let payload = 32 + (published + 1) as usize % slots * slot_words;
    // The last words of a value may be an older one's: lengths differ by up to two.
    word(payload) == published + 1 && word(payload + KILLED_WORDS - 3) != published + 1
}

#[test]
fn a_writer_killed_at_any_moment_harms_no_reader() {
    let _alone = alone();
    let kills = if torture() { 2000 } else { 50 };
    let mut half_written_count = 0;
    let mut seed = u64::from(std::process::id());
    for round in 0..kills {
        let mut child = Reaped(
            child_test("torture::child_publishing_until_killed")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let line = loop {
            let line = lines.next().expect("the child ended early").unwrap();
            if let Some((_, ticket)) = line.split_once("ticket ") {
                break ticket.to_owned();
            }
        };
        let open = |fd: &str, write| {
            File::options().read(true).write(write).open(format!("/proc/{}/fd/{fd}", child.0.id())).unwrap()
        };
        let [segment, page, description] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let segment = OwnedFd::from(open(segment, false));
        let fds = vec![segment.try_clone().unwrap(), open(page, true).into()];
        let description: Vec<u8> = description.split(',').map(|byte| byte.parse().unwrap()).collect();
        let mut subscriber = Subscriber::open(Ticket::from_fds(&description, fds).unwrap()).unwrap();

        // A different moment each time, and never before there is something to lose.
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut left = 1 + (seed >> 33) % 50;
        let mut newest = 0;
        while left > 0 {
            let value = match round % 2 {
                0 => subscriber.latest().unwrap_or(None),
                _ => match subscriber.recv().unwrap() {
                    Some(Update::Value(value)) => Some(value),
                    _ => None,
                },
            };
            match value {
                Some(value) => (newest, left) = (whole(value, KILLED_WORDS), left - 1),
                None => std::thread::yield_now(),
            }
        }
        child.0.kill().unwrap();
        child.0.wait().unwrap();

        half_written_count += u32::from(half_written(&segment));
        while let Some(update) = subscriber.recv().unwrap() {
            if let Update::Value(value) = update {
                newest = whole(value, KILLED_WORDS);
            }
        }
        assert_eq!(newest, subscriber.position(), "the newest value is readable to the last");
        assert_eq!(subscriber.latest().unwrap(), None);
        assert!(subscriber.arm(), "a dead publisher has no news");
    }
    eprintln!("{half_written_count} of {kills} writers died in the middle of a value");
    assert!(half_written_count > 0, "no kill hit the middle of a value: this test proved nothing");
}

#[test]
#[ignore = "the child of a_writer_killed_at_any_moment_harms_no_reader"]
fn child_publishing_until_killed() {
    let mut publisher = Publisher::every(KILLED_WORDS * 8, KILLED_CAPACITY).unwrap();
    let (_, ticket) = publisher.subscribe_via(|| Ok(())).unwrap();
    let (description, fds) = ticket.into_fds();
    let description: Vec<_> = description.iter().map(u8::to_string).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "ticket {} {} {}", fds[0].as_raw_fd(), fds[1].as_raw_fd(), description.join(",")).unwrap();
    out.flush().unwrap();
    let parent = std::os::unix::process::parent_id();
    let mut buffer = vec![0; KILLED_WORDS * 8];
    for number in 1u64.. {
        publisher.publish(fill(&mut buffer, number)).unwrap();
        // Orphaned if the test itself was killed.
        if number % 10_000 == 0 && std::os::unix::process::parent_id() != parent {
            return;
        }
    }
}
