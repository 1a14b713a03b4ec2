//! The manager's log: numbered lines, which it sends to the logger through a message queue without blocking.

use std::{fmt, io, time::Duration};

use ipc_reactor::{Key, PollSet, Queue};

use crate::manager::Manager;

/// The queue's message size: the longest line of the log, in bytes.
const LINE_BYTES: usize = 200;

/// How long to wait before the next attempt to report dropped lines.
const RETRY: Duration = Duration::from_millis(100);

/// The level of a line, which is also its message's priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    pub(crate) fn of_priority(priority: u32) -> Level {
        [Level::Info, Level::Warning].get(priority as usize).copied().unwrap_or(Level::Error)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        })
    }
}

#[derive(Default)]
pub(crate) struct Journal {
    /// None: there is no log.
    outbox: Option<Key>,
    written: u64,
    dropped: u64,
    /// The dropped lines that the log does not report yet.
    untold: u64,
}

/// Unlinks the queue when the manager ends; the logger then ends, too.
pub(crate) struct OwnQueue(String);

impl Drop for OwnQueue {
    fn drop(&mut self) {
        if let Err(error) = Queue::unlink(&self.0) {
            log::warn!("{error}");
        }
    }
}

impl Journal {
    /// Opens a journal on the queue of this name. Creates the queue, unless a killed manager left one.
    pub(crate) fn open(set: &mut PollSet<Manager>, name: &str) -> io::Result<(Journal, OwnQueue)> {
        let queue = Queue::options().write(true).create(true).message_size(LINE_BYTES).open(name)?;
        let own = OwnQueue(name.into());
        Ok((Journal { outbox: Some(set.outbox(queue)?), ..Journal::default() }, own))
    }

    /// Writes a line. If the queue is full it waits in the outbox; if that is full too, it is dropped, and counted.
    pub(crate) fn write(&mut self, set: &mut PollSet<Manager>, level: Level, text: fmt::Arguments<'_>) {
        let Some(outbox) = self.outbox else { return };
        self.written += 1;
        let line = format!("{} {text}", self.written);
        if self.untold > 0 || post(set, outbox, &line, level).is_err() {
            self.dropped += 1;
            self.untold += 1;
            if self.untold == 1 {
                tell_later(set);
            }
        }
    }

    /// Reports in the log that lines are missing; until then no more are written, so that there is only one gap.
    fn tell_dropped(&mut self, set: &mut PollSet<Manager>) {
        let Some(outbox) = self.outbox else { return };
        let line = format!("{} lines were dropped: the logger is too slow", self.untold);
        match post(set, outbox, &line, Level::Error) {
            Ok(()) => self.untold = 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tell_later(set),
            // The queue was removed from the poll set: the loop is about to end.
            Err(_) => {}
        }
    }

    /// Lines written, dropped ones included; lines that wait for room in the queue; lines dropped.
    pub(crate) fn counts(&self, set: &PollSet<Manager>) -> (u64, usize, u64) {
        (self.written, self.outbox.map_or(0, |outbox| set.outbox_len(outbox)), self.dropped)
    }

    /// How many of the dropped lines the log does not report.
    pub(crate) fn untold(&self) -> u64 {
        self.untold
    }
}

fn tell_later(set: &mut PollSet<Manager>) {
    set.after(RETRY, |cx, manager| {
        manager.journal.tell_dropped(cx);
        Ok(())
    });
}

fn post(set: &mut PollSet<Manager>, outbox: Key, line: &str, level: Level) -> io::Result<()> {
    let line = &line.as_bytes()[..line.len().min(LINE_BYTES)];
    set.post(outbox, line, level as u32).map(drop)
}
