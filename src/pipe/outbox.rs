//! A pipe's writer with a buffer for the bytes that the pipe has no room for.

use std::{
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
};

use super::PipeWriter;
use crate::{bytes::buffer::Buffer, types::posted::Posted};

/// A pipe to write to without waiting. Bytes for which the pipe has no room are buffered, up to a limit, and written
/// when it has.
///
/// It is a source for the poll set ([`PollSet::fd_source`](crate::PollSet::fd_source)), which writes the buffered
/// bytes. It is reached there by its key:
///
/// ```
/// use ipc_reactor::{Interest, PollSet, Posted, Reactor, pipe};
///
/// let (reader, writer) = pipe::pair()?;
/// let mut reactor = Reactor::<()>::new()?;
/// let key = reactor.fd_source(pipe::Outbox::new(writer, 1 << 20), Interest::WRITABLE)?;
///
/// let outbox = reactor.fd_source_mut::<pipe::Outbox>(key).expect("its reader is open");
/// assert_eq!(outbox.send(b"small")?, Posted::Sent);
/// assert_eq!(outbox.send(&[0; 100_000])?, Posted::Buffered);
/// # drop(reader);
/// # std::io::Result::Ok(())
/// ```
///
/// When the pipe has no reader any more, the poll set closes it, with [`Cause::Handler`](crate::Cause::Handler) and the
/// error `BrokenPipe`. Bytes that are buffered when it is closed are lost.
#[derive(Debug)]
pub struct Outbox {
    writer: PipeWriter,
    unsent: Buffer,
    unsent_max: usize,
}

impl Outbox {
    /// An outbox that buffers at most `unsent_max` bytes.
    pub fn new(writer: PipeWriter, unsent_max: usize) -> Outbox {
        Outbox { writer, unsent: Buffer::default(), unsent_max }
    }

    /// Writes `bytes` after those that are buffered.
    ///
    /// # Errors
    /// - `WouldBlock`: more than the limit would be buffered. None of `bytes` was written or buffered.
    /// - `BrokenPipe`: the pipe has no reader any more.
    /// - `OutOfMemory`: a part of `bytes` may have been written. Close the outbox.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<Posted> {
        if bytes.len() > self.unsent_max.saturating_sub(self.unsent.len()) {
            let (buffered, most, len) = (self.unsent.len(), self.unsent_max, bytes.len());
            let why =
                format!("{buffered} bytes wait for the pipe's reader, and {len} more would exceed {most}");
            return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
        }
        let mut rest = bytes;
        while self.unsent.is_empty() && !rest.is_empty() {
            match self.writer.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.unsent.extend(rest)?;
        Ok(if self.unsent.is_empty() { Posted::Sent } else { Posted::Buffered })
    }

    /// Writes the buffered bytes, as far as the pipe has room.
    ///
    /// # Errors
    /// `WouldBlock`: some are still buffered. `BrokenPipe`: the pipe has no reader any more.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.writer.write(self.unsent.bytes()) {
                Ok(count) => self.unsent.consume(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) => {
                    // No process will read them. The next send gets the same error from the pipe.
                    self.unsent = Buffer::default();
                    return Err(error);
                }
            }
        }
        // Frees the memory: an outbox whose reader keeps up has none.
        self.unsent = Buffer::default();
        Ok(())
    }

    /// How many bytes are buffered.
    pub fn unsent(&self) -> usize {
        self.unsent.len()
    }
}

impl AsFd for Outbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }
}
