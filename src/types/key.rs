//! The names of sources and timers.

use std::fmt;

use mio::Token;

/// Names one source in the poll set: a listener, a client, a queue, or any other.
///
/// A key is a slot's index and the serial number of the source in it. Slots are used again, keys are not: the key of a
/// closed source names nothing, until 2³² more sources have been inserted. The reactor recognises an event for an
/// earlier source of the slot in the same way.
///
/// ```
/// # fn show(key: ipc_reactor::Key) {
/// println!("client {key} has left");   // "client 3:41 has left": slot 3, serial 41
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub(crate) index: u32,
    pub(crate) serial: u32,
}

impl Key {
    /// No source has it: a slab never has that many slots.
    pub(crate) const NONE: Key = Key { index: u32::MAX, serial: u32::MAX };

    pub(crate) fn token(self) -> Token {
        Token((self.serial as usize) << 32 | self.index as usize)
    }

    #[allow(clippy::cast_possible_truncation, reason = "a token is two numbers of 32 bits")]
    pub(crate) fn from_token(token: Token) -> Key {
        Key { index: token.0 as u32, serial: (token.0 >> 32) as u32 }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.index, self.serial)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Names one timer, to cancel it. The key of a one-shot timer that has fired names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimerKey {
    pub(crate) index: u32,
    pub(crate) serial: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_carries_the_whole_key() {
        for key in [
            Key { index: 0, serial: u32::MAX },
            Key { index: u32::MAX, serial: 0 },
            Key { index: 7, serial: 9 },
        ] {
            assert_eq!(Key::from_token(key.token()), key);
        }
    }
}
