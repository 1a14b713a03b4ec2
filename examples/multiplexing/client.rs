//! One client of a multiplexed server, and one step of the echo.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::net::{recv, send};

/// The size of the one buffer a server reads into. It is lent to each client in turn, so that an idle
/// client costs a descriptor and a few words, not a buffer.
pub(crate) const BUFFER: usize = 64 * 1024;

/// What a client must be monitored for before its next step can do anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// An SRM: the handle must become readable.
    Srm,
    /// Room for the rest of an answer: the handle must become writable.
    Room,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bytes went in or out, and more might.
    Moved,
    /// The kernel said that the call would block: nothing more until the monitored set says so.
    Blocked,
    /// The client is done, or gone: close its handle.
    Finished,
}

/// A client handle, and the part of its answer that the kernel would not take yet.
pub(crate) struct Client {
    handle: OwnedFd,
    /// Empty for almost every client almost always, and then it owns no memory.
    unsent: Vec<u8>,
}

impl Client {
    pub(crate) fn new(handle: OwnedFd) -> Self {
        Self { handle, unsent: Vec::new() }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.handle.as_raw_fd()
    }

    /// While an answer is stuck we do not read: a client that asks without ever listening holds one
    /// buffer of ours, and then waits itself.
    pub(crate) fn interest(&self) -> Interest {
        if self.unsent.is_empty() { Interest::Srm } else { Interest::Room }
    }

    /// Sends what is unsent, or else receives an SRM and echoes it. Never blocks.
    ///
    /// An error is this client's alone, and is its end; the server's other clients do not notice.
    pub(crate) fn step(&mut self, buffer: &mut [u8]) -> Step {
        let result = if self.unsent.is_empty() { self.echo(buffer) } else { self.flush() };
        match result {
            Ok(step) => step,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step::Blocked,
            Err(_) => Step::Finished,
        }
    }

    fn echo(&mut self, buffer: &mut [u8]) -> io::Result<Step> {
        let len = recv(self.handle.as_fd(), buffer)?;
        if len == 0 {
            // The client has shut down its sending side, perhaps only that side. All it asked has been
            // answered, as nothing is unsent here: now closing loses nothing.
            return Ok(Step::Finished);
        }
        let sent = match send(self.handle.as_fd(), &buffer[..len]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            other => other?,
        };
        self.unsent.extend_from_slice(&buffer[sent..len]);
        Ok(Step::Moved)
    }

    fn flush(&mut self) -> io::Result<Step> {
        let sent = send(self.handle.as_fd(), &self.unsent)?;
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
        Ok(Step::Moved)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}
