//! What a handler asks of its own source while it runs.

use crate::types::key::Key;

/// What a handler asked for while it ran; of several, the last in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    Nothing,
    /// So many replies wait that they should be sent before more requests are handled.
    Flush,
    /// Its own source is to be closed, once flushed.
    Close,
    /// Its own source is to be closed at once.
    Abort,
    /// The loop is to end.
    Stop,
}

/// The call under way.
#[derive(Debug)]
pub(crate) struct CurrentCall {
    /// The source whose handler runs.
    key: Key,
    asked: Asked,
}

impl Default for CurrentCall {
    fn default() -> CurrentCall {
        CurrentCall { key: Key::NONE, asked: Asked::Nothing }
    }
}

impl CurrentCall {
    /// A handler of `key` begins to run.
    #[inline]
    pub(crate) fn begin(&mut self, key: Key) {
        debug_assert_eq!(self.key, Key::NONE, "a handler cannot run another");
        *self = CurrentCall { key, asked: Asked::Nothing };
    }

    /// It has returned: what it has asked for.
    #[inline]
    pub(crate) fn end(&mut self) -> Asked {
        self.key = Key::NONE;
        self.asked
    }

    /// Whether the handler of `key` runs.
    #[inline]
    pub(crate) fn is_of(&self, key: Key) -> bool {
        self.key == key
    }

    #[inline]
    pub(crate) fn has_asked(&self) -> bool {
        self.asked != Asked::Nothing
    }

    /// What the last handler that ran has asked for.
    pub(crate) fn asked(&self) -> Asked {
        self.asked
    }

    pub(crate) fn ask(&mut self, asked: Asked) {
        self.asked = self.asked.max(asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_requests_the_strongest_counts() {
        let mut current = CurrentCall::default();
        for asked in [Asked::Flush, Asked::Abort, Asked::Close] {
            current.ask(asked);
        }
        assert_eq!(current.asked, Asked::Abort);
        current.ask(Asked::Stop);
        assert_eq!(current.asked, Asked::Stop);
    }

    #[test]
    fn nothing_is_left_of_the_call_before() {
        let (mut current, key) = (CurrentCall::default(), Key { index: 3, serial: 4 });
        current.begin(key);
        assert!(current.is_of(key) && !current.has_asked());
        current.ask(Asked::Close);
        assert_eq!(current.end(), Asked::Close);
        assert!(!current.is_of(key));
        current.begin(key);
        assert_eq!(current.end(), Asked::Nothing);
    }
}
