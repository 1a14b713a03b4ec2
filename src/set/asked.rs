//! What a handler asks for while it runs, and the call under way.

use crate::types::key::Key;

/// What a handler asked for while it ran; of several, the last in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    Nothing,
    /// The caller has something to do before it calls the handler again: send replies that have become too many, call
    /// `on_close` of a removed source, begin a drain, show events to a new observer.
    Pause,
    /// Close the handler's own source after its output is sent.
    Close,
    /// Close the handler's own source at once.
    Abort,
    /// End the loop.
    Stop,
}

impl Asked {
    /// Whether the handler is not to be called again in this visit.
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

    /// The handler has returned. Returns what it asked for.
    #[inline]
    pub(crate) fn end(&mut self) -> Asked {
        self.key = Key::NONE;
        if self.asked == Asked::Nothing { Asked::Nothing } else { self.take() }
    }

    #[cold]
    fn take(&mut self) -> Asked {
        std::mem::replace(&mut self.asked, Asked::Nothing)
    }

    /// The source whose handler runs; [`Key::NONE`] between two calls.
    #[inline]
    pub(crate) fn key(&self) -> Key {
        self.key
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

    /// The running handler asks for something. Between two calls this does nothing.
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
