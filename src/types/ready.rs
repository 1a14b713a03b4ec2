//! What a source is ready for.

use std::{
    fmt,
    ops::{BitOr, BitOrAssign},
};

use mio::event::Event;

/// What a source is ready for, as the kernel reported it (`epoll_ctl(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready(u8);

impl Ready {
    pub(crate) const NONE: Ready = Ready(0);
    pub(crate) const READABLE: Ready = Ready(1);
    pub(crate) const WRITABLE: Ready = Ready(2);
    pub(crate) const PRIORITY: Ready = Ready(4);
    pub(crate) const READ_CLOSED: Ready = Ready(8);
    pub(crate) const WRITE_CLOSED: Ready = Ready(16);
    pub(crate) const ERROR: Ready = Ready(32);

    /// Whether the event reports readable and nothing else, as nearly all events do. (A peer that no longer reads is
    /// reported as a hang-up, or with one of the other bits.)
    #[inline]
    pub(crate) fn is_just_readable(event: &Event) -> bool {
        event.is_readable()
            && !(event.is_read_closed() || event.is_writable() | event.is_priority() | event.is_error())
    }

    pub(crate) fn of(event: &Event) -> Ready {
        let mut ready = Ready::NONE;
        if event.is_readable() {
            ready |= Ready::READABLE;
        }
        if event.is_writable() {
            ready |= Ready::WRITABLE;
        }
        if event.is_priority() {
            ready |= Ready::PRIORITY;
        }
        if event.is_read_closed() {
            ready |= Ready::READ_CLOSED;
        }
        if event.is_write_closed() {
            ready |= Ready::WRITE_CLOSED;
        }
        if event.is_error() {
            ready |= Ready::ERROR;
        }
        ready
    }

    #[inline]
    pub(crate) fn has(self, any: Ready) -> bool {
        self.0 & any.0 != 0
    }

    #[inline]
    pub(crate) fn without(self, gone: Ready) -> Ready {
        Ready(self.0 & !gone.0)
    }

    /// There is something to read, or an end of file (`EPOLLIN`).
    pub fn is_readable(self) -> bool {
        self.has(Ready::READABLE)
    }

    /// There is room to write (`EPOLLOUT`).
    pub fn is_writable(self) -> bool {
        self.has(Ready::WRITABLE)
    }

    /// There is urgent data, or an exceptional condition (`EPOLLPRI`).
    pub fn is_priority(self) -> bool {
        self.has(Ready::PRIORITY)
    }

    /// The other end has closed, or shut down its writing side (`EPOLLRDHUP`, `EPOLLHUP`).
    pub fn is_read_closed(self) -> bool {
        self.has(Ready::READ_CLOSED)
    }

    /// The other end no longer reads: writing would fail (`EPOLLHUP`, or `EPOLLERR` on a pipe).
    pub fn is_write_closed(self) -> bool {
        self.has(Ready::WRITE_CLOSED)
    }

    /// An error is pending on the descriptor (`EPOLLERR`).
    pub fn is_error(self) -> bool {
        self.has(Ready::ERROR)
    }
}

/// In epoll's words: `readable, rdhup`. Empty, if it is ready for nothing.
impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.is_readable(), "readable"),
            (self.is_writable(), "writable"),
            (self.is_priority(), "urgent"),
            (self.is_read_closed() && !self.is_write_closed(), "rdhup"),
            (self.is_write_closed(), "hup"),
            (self.is_error(), "error"),
        ];
        let mut between = "";
        for (_, word) in words.iter().filter(|(is_set, _)| *is_set) {
            write!(f, "{between}{word}")?;
            between = ", ";
        }
        Ok(())
    }
}

impl BitOr for Ready {
    type Output = Ready;

    fn bitor(self, other: Ready) -> Ready {
        Ready(self.0 | other.0)
    }
}

impl BitOrAssign for Ready {
    #[inline]
    fn bitor_assign(&mut self, other: Ready) {
        self.0 |= other.0;
    }
}
