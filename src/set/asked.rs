//! What a handler asks of its own source while it runs.

use crate::types::key::Key;

/// What a handler asked for while it ran; of several, the last in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    Nothing,
    /// Something is to be done before more of its requests are handled: so many replies wait that they should be sent, or
    /// the loop has a source to remove, a drain to begin, an observer to tell.
    Pause,
    /// Its own source is to be closed, once flushed.
    Close,
    /// Its own source is to be closed at once.
    Abort,
    /// The loop is to end.
    Stop,
}

impl Asked {
    /// No more of what is ready is handed to the handler.
    #[inline]
    pub(crate) fn ends(self) -> bool {
        self > Asked::Pause
    }
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
        self.key = key;
    }

    /// It has returned: what it has asked for.
    #[inline]
    pub(crate) fn end(&mut self) -> Asked {
        self.key = Key::NONE;
        if self.asked == Asked::Nothing { Asked::Nothing } else { self.take() }
    }

    #[cold]
    fn take(&mut self) -> Asked {
        std::mem::replace(&mut self.asked, Asked::Nothing)
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

    /// The handler that runs asks for something; between two calls nothing is asked.
    pub(crate) fn ask(&mut self, asked: Asked) {
        if self.key != Key::NONE {
            self.asked = self.asked.max(asked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_requests_the_strongest_counts() {
        let mut current = CurrentCall::default();
        current.ask(Asked::Close);
        assert!(!current.has_asked(), "no handler runs");
        current.begin(Key { index: 3, serial: 4 });
        for asked in [Asked::Pause, Asked::Abort, Asked::Close] {
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
