//! Pipes and FIFOs for the poll set. They never block, and never cause a `SIGPIPE`.
//!
//! A pipe goes one way, between a process and its children: [`pair`] makes one. A FIFO is a pipe with a path, which any
//! process can open: [`Fifo`] makes and removes the path, [`PipeReader::open`] and [`PipeWriter::open`] open an
//! existing one. Every end is non-blocking and close-on-exec, and is registered with
//! [`PollSet::fd`](crate::PollSet::fd). See `pipe(7)` and `fifo(7)`.
//!
//! ```
//! use ipc_reactor::{Interest, Progress, Reactor, pipe};
//! use std::io::{Read, Write};
//!
//! let (reader, mut writer) = pipe::pair()?;
//! writer.write_all(b"hello")?;
//! drop(writer);
//!
//! let mut reactor = Reactor::<Vec<u8>>::new()?;
//! reactor.fd(reader, Interest::READABLE, |pipe, _ready, cx, heard| {
//!     let mut buffer = [0; 4096];
//!     let count = pipe.read(&mut buffer)?; // WouldBlock: drained
//!     heard.extend_from_slice(&buffer[..count]);
//!     if count == 0 {
//!         cx.stop(); // the last writer has closed its end
//!     }
//!     Ok(Progress::More)
//! })?;
//! let mut heard = Vec::new();
//! reactor.run(&mut heard)?;
//! assert_eq!(heard, b"hello");
//! # std::io::Result::Ok(())
//! ```
//!
//! **Bytes, not messages.** A write of up to `PIPE_BUF` (4,096) bytes is written whole, without bytes of other writers
//! in between. But one read may return a part of it, or several writes. Use lines or length prefixes.
//!
//! **A hang-up is not the end of a FIFO.** When its last writer has closed it, a reader gets an end of file (`Ok(0)`)
//! and one event for which [`Ready::is_read_closed`](crate::Ready::is_read_closed) is true. The next writer's bytes
//! come on the same descriptor, so a server returns [`Drained`](crate::Progress::Drained) and keeps it. Opening it
//! again is not necessary, and would lose what was written in between. To get no hang-ups, use
//! [`Fifo::reader_kept_open`].
//!
//! **No `SIGPIPE` ends the process**, whatever the signal's action: see [`PipeWriter`].

mod fifo;
mod outbox;

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::Path,
};

pub use self::{fifo::Fifo, outbox::Outbox};
use crate::{signals::signal::Signal, sys};

/// Makes a pipe: the end to read from, and the end to write to. See `pipe2(2)`.
///
/// # Errors
/// `EMFILE` or `ENFILE`: no descriptor is free, or this user's pipes have reached their limit
/// (`/proc/sys/fs/pipe-user-pages-soft`).
pub fn pair() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = sys::pipe::pipe()?;
    Ok((PipeReader { file: reader.into(), _writer: None }, PipeWriter { file: writer.into() }))
}

/// The end of a pipe or FIFO to read from.
///
/// A read fails with `WouldBlock` if it is empty, and returns `Ok(0)` if it is empty and has no writer.
#[derive(Debug)]
pub struct PipeReader {
    file: File,
    /// Kept open and never used: while there is a writer, there is no end of file.
    _writer: Option<File>,
}

impl PipeReader {
    /// Adopts an open descriptor, such as a [`ChildStdout`](std::process::ChildStdout), and makes it non-blocking.
    ///
    /// Do not adopt the inherited standard input: `O_NONBLOCK` belongs to the open file, which the shell shares.
    ///
    /// # Errors
    /// Those of `ioctl(2)`; none is expected.
    pub fn new(fd: impl Into<OwnedFd>) -> io::Result<PipeReader> {
        Ok(PipeReader { file: nonblocking(fd.into())?, _writer: None })
    }

    /// Opens the FIFO at `path`, and does not wait for a writer. Until there is one, a read returns an end of file.
    ///
    /// # Errors
    /// `InvalidInput`: it is no FIFO. Those of `open(2)`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<PipeReader> {
        let file = open_fifo(path.as_ref(), OpenOptions::new().read(true))?;
        Ok(PipeReader { file, _writer: None })
    }

    /// How many bytes are in the pipe: `FIONREAD` of `ioctl(2)`.
    ///
    /// # Errors
    /// None is expected.
    pub fn unread(&self) -> io::Result<usize> {
        sys::file::unread(self.as_fd())
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl AsFd for PipeReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The end of a pipe or FIFO to write to.
///
/// A write fails with `WouldBlock` if the pipe is full (it holds 64 KiB by default), and with `BrokenPipe` if it has no
/// reader any more. An [`Outbox`] keeps the bytes for which there is no room.
///
/// With `BrokenPipe` the kernel sends a `SIGPIPE`. It is blocked during the write and then discarded, so it does not
/// end a program that leaves the signal at its default action. A program that has blocked it itself, to read it from a
/// [`Signals`](crate::Signals), gets it there.
#[derive(Debug)]
pub struct PipeWriter {
    file: File,
}

impl PipeWriter {
    /// Adopts an open descriptor, such as a [`ChildStdin`](std::process::ChildStdin), and makes it non-blocking.
    ///
    /// # Errors
    /// Those of `ioctl(2)`; none is expected.
    pub fn new(fd: impl Into<OwnedFd>) -> io::Result<PipeWriter> {
        Ok(PipeWriter { file: nonblocking(fd.into())? })
    }

    /// Opens the FIFO at `path`.
    ///
    /// # Errors
    /// `NotConnected`: it has no reader (`ENXIO`). `InvalidInput`: it is no FIFO. Those of `open(2)`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<PipeWriter> {
        Ok(PipeWriter { file: open_fifo(path.as_ref(), OpenOptions::new().write(true))? })
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        without_sigpipe(|| self.file.write(bytes))
    }

    /// Does nothing: every byte was written. (But see [`Outbox::flush`].)
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for PipeWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn nonblocking(fd: OwnedFd) -> io::Result<File> {
    sys::file::set_nonblocking(fd.as_fd(), true)?;
    Ok(fd.into())
}

fn open_fifo(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| explain_open(path, error))?;
    if !file.metadata()?.file_type().is_fifo() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{path:?} is no FIFO; make one with mkfifo(1)"),
        ));
    }
    Ok(file)
}

fn explain_open(path: &Path, error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENXIO) => io::Error::new(
            io::ErrorKind::NotConnected,
            format!(
                "no process has the FIFO {path:?} open for reading; start the reader first, or try again later"
            ),
        ),
        _ => io::Error::new(error.kind(), format!("cannot open {path:?}: {error}")),
    }
}

/// Runs a write to a pipe, and discards the `SIGPIPE` that it may cause. The kernel sends the signal to the writing
/// thread only, so blocking it in that thread is enough. If it was not blocked before, one that is pending now is from
/// this write: an earlier one would have been delivered.
fn without_sigpipe(write: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
    let sigpipe = Signal::PIPE.bit();
    let blocked_before = sys::signal::block(sigpipe)?;
    let written = write();
    if blocked_before & sigpipe == 0 {
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            let interrupted = |error: io::Error| error.kind() == io::ErrorKind::Interrupted;
            while sys::signal::take_pending(sigpipe).is_err_and(interrupted) {}
        }
        sys::signal::unblock(sigpipe)?;
    }
    written
}
