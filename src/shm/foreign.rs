//! Descriptors that another process has made.
//!
//! They can be of any kind, and with some kinds the simplest calls block for as long as that process likes, also
//! against SIGKILL: `fstat(2)`, `epoll_ctl(2)` and `close(2)` of a file of a FUSE mount, the close of a TCP socket with
//! `SO_LINGER`, and `read(2)`, `write(2)` and `close(2)` of a pipe while another process reads it into memory that does
//! not come. So the kind is proved first, with calls that the kernel answers by itself (`F_GET_SEALS` of `fcntl(2)`,
//! `getsockopt(2)`), and what is not of that kind is only discarded.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::closer;

/// Closes a descriptor that may be of any kind.
pub(super) fn discard(descriptor: OwnedFd) {
    closer::close(descriptor);
}

/// A descriptor whose kind is not proved yet. Dropped, it is discarded.
#[derive(Debug)]
pub(super) struct Foreign(Option<OwnedFd>);

impl Foreign {
    /// The descriptor, of which the caller has proved that closing it does not block, or that another owner takes.
    pub(super) fn into_inner(mut self) -> OwnedFd {
        self.0.take().expect("it is taken once, by value")
    }
}

impl From<OwnedFd> for Foreign {
    fn from(descriptor: OwnedFd) -> Foreign {
        Foreign(Some(descriptor))
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("it is taken by value only").as_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(descriptor) = self.0.take() {
            discard(descriptor);
        }
    }
}
