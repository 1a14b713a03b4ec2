//! One client of a multiplexed server, and one step of the echo.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::net::{recv, send};

/// The size of the one buffer that a server reads into. All clients share it, so that an idle client
/// costs a descriptor and a few bytes, not a buffer.
pub(crate) const BUFFER: usize = 64 * 1024;

/// Which readiness a client must have before its next step can do anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// An SRM: the handle must become readable.
    Srm,
    /// Room for the rest of an answer: the handle must become writable.
    Room,
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bytes were received or sent, and there may be more.
    Moved,
    /// The call would block (`EAGAIN`): no further step before the next event.
    Blocked,
    /// The client has finished or failed: close its handle.
    Finished,
}

/// A client handle, and the part of its answer that is not sent yet.
pub(crate) struct Client {
    handle: OwnedFd,
    /// Almost always empty, and then it has no memory allocated.
    unsent: Vec<u8>,
}

impl Client {
    pub(crate) fn new(handle: OwnedFd) -> Self {
        Self { handle, unsent: Vec::new() }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.handle.as_raw_fd()
    }

    /// While an answer is unsent we do not read: a client that sends without reading its answers makes
    /// the server buffer one answer at most, and then its own `send` blocks.
    pub(crate) fn interest(&self) -> Interest {
        if self.unsent.is_empty() { Interest::Srm } else { Interest::Room }
    }

    /// Sends what is unsent, or else receives an SRM and echoes it. Never blocks.
    ///
    /// An error ends this client only; it has no effect on the server's other clients.
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
            // The client has shut down its sending side, perhaps only that side. Every request has been
            // answered, as nothing is unsent here: closing now loses nothing.
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
