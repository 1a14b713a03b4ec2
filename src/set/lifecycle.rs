//! Whether the loop runs, drains, or has stopped.

use std::collections::VecDeque;

use crate::types::key::TimerKey;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    Draining,
    Stopped,
}

pub(crate) struct Lifecycle<T> {
    phase: Phase,
    /// Removed sources whose `on_close` is still to be called, in the order of removal.
    pub(crate) pending: VecDeque<T>,
    /// Sources that a drain waits for. When the last of them is closed, the loop ends.
    pub(crate) drainable: usize,
    pub(crate) drain_deadline: Option<TimerKey>,
    /// Plain clients are visited as soon as their event is read. Not in a drain, not after a stop, and not in the rest
    /// of a turn in which an observer was added.
    pub(crate) visits_at_once: bool,
}

impl<T> Lifecycle<T> {
    pub(crate) fn new() -> Lifecycle<T> {
        Lifecycle {
            phase: Phase::Running,
            pending: VecDeque::new(),
            drainable: 0,
            drain_deadline: None,
            visits_at_once: true,
        }
    }

    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// A stopped loop stays stopped.
    pub(crate) fn enter(&mut self, phase: Phase) {
        debug_assert!(self.phase != Phase::Stopped || phase == Phase::Stopped);
        self.phase = phase;
        self.visits_at_once = phase == Phase::Running;
    }

    pub(crate) fn begin_turn(&mut self) {
        self.visits_at_once = self.phase == Phase::Running;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_has_no_way_back_and_ends_visits_at_once() {
        let mut lifecycle = Lifecycle::<()>::new();
        assert!(lifecycle.visits_at_once);
        lifecycle.enter(Phase::Draining);
        lifecycle.begin_turn();
        assert!(!lifecycle.visits_at_once);
        lifecycle.enter(Phase::Stopped);
        lifecycle.begin_turn();
        assert!(!lifecycle.visits_at_once);
        assert_eq!(lifecycle.phase(), Phase::Stopped);
    }
}
