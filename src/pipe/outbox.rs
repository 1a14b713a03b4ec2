//! What waits for room in a pipe.

use std::{
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
};

use super::PipeWriter;
use crate::{
    bytes::buffer::Buffer,
    set::{context::Context, source::Ready},
    sources::{
        fd::{FdSource, Progress},
        queue::Posted,
    },
};

/// A pipe to write to without ever waiting: what it has no room for is kept, up to a bound, and written when there is room.
///
/// It is a source for the poll set ([`PollSet::fd_source`](crate::PollSet::fd_source)), where it empties itself, and is
/// reached there by its key:
///
/// ```
/// use ipc_reactor::{Interest, PollSet, Posted, Reactor, pipe};
///
/// let (reader, writer) = pipe::pair()?;
/// let mut reactor = Reactor::<()>::new()?;
/// let key = reactor.fd_source(pipe::Outbox::new(writer, 1 << 20), Interest::WRITABLE)?;
///
/// let outbox = reactor.fd_source_mut::<pipe::Outbox>(key).expect("its reader lives");
/// assert_eq!(outbox.send(b"small")?, Posted::Sent);
/// assert_eq!(outbox.send(&[0; 100_000])?, Posted::Waits);
/// # drop(reader);
/// # std::io::Result::Ok(())
/// ```
///
/// When its last reader has left, it closes itself, with [`Cause::Handler`](crate::Cause::Handler) and the error `BrokenPipe`.
/// What waits when it is closed is lost.
#[derive(Debug)]
pub struct Outbox {
    writer: PipeWriter,
    unsent: Buffer,
    unsent_max: usize,
}

impl Outbox {
    /// Nothing waits yet, and never more than `unsent_max` bytes will.
    pub fn new(writer: PipeWriter, unsent_max: usize) -> Outbox {
        Outbox { writer, unsent: Buffer::default(), unsent_max }
    }

    /// Writes `bytes` behind what waits already.
    ///
    /// # Errors
    /// `WouldBlock`: more than the bound would wait; nothing of these bytes was taken. `BrokenPipe`: nobody reads any
    /// more. `OutOfMemory`: a part may be written; nothing sensible can follow it.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<Posted> {
        if bytes.len() > self.unsent_max.saturating_sub(self.unsent.len()) {
            let (waiting, most) = (self.unsent.len(), self.unsent_max);
            let why = format!("{waiting} bytes wait for the pipe's reader, of {most} at most");
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
        Ok(if self.unsent.is_empty() { Posted::Sent } else { Posted::Waits })
    }

    /// Writes what waits, as far as there is room.
    ///
    /// # Errors
    /// `WouldBlock`: some still waits. `BrokenPipe`: nobody reads any more.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.writer.write(self.unsent.bytes()) {
                Ok(count) => self.unsent.consume(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) => {
                    // Nobody will read it; and the next send meets the error itself.
                    self.unsent = Buffer::default();
                    return Err(error);
                }
            }
        }
        // Given back: a pipe that keeps up holds no memory.
        self.unsent = Buffer::default();
        Ok(())
    }

    /// How many bytes wait.
    pub fn unsent(&self) -> usize {
        self.unsent.len()
    }
}

impl AsFd for Outbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }
}

impl<S> FdSource<S> for Outbox {
    fn on_ready(&mut self, ready: Ready, _: &mut Context<'_, S>, _: &mut S) -> io::Result<Progress> {
        if ready.is_write_closed() {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the pipe's last reader has left"));
        }
        self.flush()?;
        Ok(Progress::Drained)
    }
}
