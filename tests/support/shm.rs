//! Helpers that several test files use.

use ipc_reactor::shm::{Publisher, Subscriber};
use std::io;

pub(crate) use super::{child::KillOnDrop, is_root, names::ShmName, skip};

/// A subscriber of this process.
pub(crate) fn subscribe(publisher: &mut Publisher) -> Subscriber {
    Subscriber::open(publisher.subscribe().unwrap().1).unwrap()
}

/// Asserts an error's kind, and that its text says what was wrong.
#[track_caller]
pub(crate) fn refused<T>(result: io::Result<T>, kind: io::ErrorKind, says: &str) {
    let Err(e) = result else { panic!("not refused, should have said {says:?}") };
    assert!(
        e.kind() == kind && e.to_string().contains(says),
        "{:?}: {e}; wanted {kind:?}: …{says}…",
        e.kind()
    );
}

/// Whether the long tests are enabled.
pub(crate) fn torture() -> bool {
    std::env::var_os("IPC_TORTURE").is_some_and(|value| value == "1")
}

/// The length in bytes of value `number`, which consists of that number over and over: so a value
/// of parts shows.
fn len(number: u64, words_max: usize) -> usize {
    (words_max - number as usize % 3) * 8
}

pub(crate) fn fill(buffer: &mut [u8], number: u64) -> &[u8] {
    let len = len(number, buffer.len() / 8);
    let value = &mut buffer[..len];
    value.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number.to_ne_bytes()));
    value
}

/// The value's number, if it is whole.
#[track_caller]
pub(crate) fn whole(value: &[u8], words_max: usize) -> u64 {
    let number = u64::from_ne_bytes(value[..8].try_into().unwrap());
    assert_eq!(value.len(), len(number, words_max), "value {number} has the length of another");
    if value[8..] != value[..value.len() - 8] {
        let at = value.chunks(8).position(|word| word != number.to_ne_bytes()).unwrap();
        panic!("value {number} is torn at word {at}: {:?}", &value[at * 8..][..8]);
    }
    number
}
