//! Pipes and FIFOs: for the poll set, without a wait anywhere and without a `SIGPIPE`.
//!
//! A pipe goes one way, between relatives: [`pair`] makes one. A FIFO is a pipe with a path, for strangers: [`Fifo`] makes
//! and removes the path, [`PipeReader::open`] and [`PipeWriter::open`] are for those who find it there. Every end is
//! non-blocking and CLOEXEC, and goes into the poll set with [`PollSet::fd`](crate::PollSet::fd). See pipe(7) and fifo(7).
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
//!         cx.stop(); // the last writer has left
//!     }
//!     Ok(Progress::More)
//! })?;
//! let mut heard = Vec::new();
//! reactor.run(&mut heard)?;
//! assert_eq!(heard, b"hello");
//! # std::io::Result::Ok(())
//! ```
//!
//! **Bytes, not messages.** Writes of up to `PIPE_BUF` (4,096) bytes are whole among those of other writers, and with
//! nobody else's bytes between theirs; a read may still return half of one, or several. Use lines or lengths.
//!
//! **A hang-up is not the end of a FIFO.** When its last writer has left, a reader gets an end of file (`Ok(0)`) and one
//! event that [says so](crate::Ready::is_read_closed); the next writer's bytes come on the same descriptor, so a server answers
//! [`Drained`](crate::Progress::Drained) and stays. To open anew is not needed, and would lose what was written between
//! the two. Who does not want to know of hang-ups uses [`Fifo::reader_kept_open`].
//!
//! **Nobody dies of `SIGPIPE`**, whatever its disposition: see [`PipeWriter`].

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

/// A pipe: what is written to its second end is read from its first. See pipe2(2).
///
/// # Errors
/// No descriptors are left; or this user's pipes hold all they may (`/proc/sys/fs/pipe-user-pages-soft`).
pub fn pair() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = sys::pipe::pipe()?;
    Ok((PipeReader { file: reader.into(), _writer: None }, PipeWriter { file: writer.into() }))
}

/// The end of a pipe or FIFO that is read.
///
/// Reading says `WouldBlock` when it is empty, and `Ok(0)` when it is empty and has no writer.
#[derive(Debug)]
pub struct PipeReader {
    file: File,
    /// Held, never used: while there is a writer, there is no end of file.
    _writer: Option<File>,
}

impl PipeReader {
    /// Takes over an end that is open already, such as a [`ChildStdout`](std::process::ChildStdout), and makes it
    /// non-blocking.
    ///
    /// Not for standard input as it was inherited: to be non-blocking is a property of the open file, and the shell
    /// has the same one open.
    ///
    /// # Errors
    /// What ioctl(2) says; none is expected.
    pub fn new(fd: impl Into<OwnedFd>) -> io::Result<PipeReader> {
        Ok(PipeReader { file: nonblocking(fd.into())?, _writer: None })
    }

    /// Opens the FIFO at `path`, without waiting for a writer. Until one has come, a read finds an end of file.
    ///
    /// # Errors
    /// `InvalidInput`: it is no FIFO. Those of open(2).
    pub fn open(path: impl AsRef<Path>) -> io::Result<PipeReader> {
        let file = open_fifo(path.as_ref(), OpenOptions::new().read(true))?;
        Ok(PipeReader { file, _writer: None })
    }

    /// How many bytes wait to be read.
    ///
    /// # Errors
    /// What ioctl(2) says of `FIONREAD`; none is expected of a pipe.
    pub fn unread(&self) -> io::Result<usize> {
        sys::pipe::unread(self.as_fd())
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

/// The end of a pipe or FIFO that is written.
///
/// Writing says `WouldBlock` when it is full (it holds 64 KiB unless told otherwise), and `BrokenPipe` when nobody reads it any more.
/// What cannot wait in the caller waits in an [`Outbox`].
///
/// The `SIGPIPE` that the kernel sends with `BrokenPipe` is blocked during the write and taken off again: a program that leaves
/// the signal at its default survives. One that has blocked it itself, to read it from a [`Signals`](crate::Signals),
/// gets it there.
#[derive(Debug)]
pub struct PipeWriter {
    file: File,
}

impl PipeWriter {
    /// Takes over an end that is open already, such as a [`ChildStdin`](std::process::ChildStdin), and makes it
    /// non-blocking.
    ///
    /// # Errors
    /// What ioctl(2) says; none is expected.
    pub fn new(fd: impl Into<OwnedFd>) -> io::Result<PipeWriter> {
        Ok(PipeWriter { file: nonblocking(fd.into())? })
    }

    /// Opens the FIFO at `path`.
    ///
    /// # Errors
    /// `NotConnected`: nobody has it open for reading (`ENXIO`). `InvalidInput`: it is no FIFO. Those of open(2).
    pub fn open(path: impl AsRef<Path>) -> io::Result<PipeWriter> {
        Ok(PipeWriter { file: open_fifo(path.as_ref(), OpenOptions::new().write(true))? })
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        without_sigpipe(|| self.file.write(bytes))
    }

    /// Nothing is held back: see [`Outbox::flush`].
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
    sys::socket::set_nonblocking(fd.as_fd())?;
    Ok(fd.into())
}

fn open_fifo(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| explain_open(path, error))?;
    if !file.metadata()?.file_type().is_fifo() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is no FIFO")));
    }
    Ok(file)
}

fn explain_open(path: &Path, error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENXIO) => io::Error::new(
            io::ErrorKind::NotConnected,
            format!("nobody has {path:?} open for reading; start the reader first, or try again later"),
        ),
        _ => io::Error::new(error.kind(), format!("cannot open {path:?}: {error}")),
    }
}

/// Runs a write to a pipe so that its `SIGPIPE` reaches nobody. The signal goes to the writing thread alone, so that
/// thread's mask is enough; and it is pending there only if this write made it so, or it would have been delivered before.
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
