//! A running child: its process, which must not outlive its source, and its standard input.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    process::ExitStatus,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};

use crate::{children::PidFd, pipe::Outbox, signals::signal::Signal, sources::queue::Posted, sys};

/// How long the end of a killed process is awaited where nothing can await it later. It takes far less, unless the
/// process is in the midst of I/O that the kernel does not break off.
const DEATH_MS_MAX: u64 = 100;

/// A running child of [`PollSet::run_child`](crate::PollSet::run_child): its standard input, and its process.
#[derive(Debug)]
pub struct ChildProcess {
    pub(super) pid: u32,
    /// None once another awaits its end.
    pub(super) mortal: Option<Mortal>,
    pub(super) poll: Poll,
    pub(super) stdin: Option<Outbox>,
    /// [`close_stdin`](ChildProcess::close_stdin) was called while bytes waited.
    pub(super) stdin_ends: bool,
    /// Writes refused since the reactor last counted them.
    pub(super) refused: u32,
}

impl ChildProcess {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Writes `bytes` to the child's standard input, without ever waiting: what the pipe has no room for is kept, and written
    /// when there is room.
    ///
    /// # Errors
    /// `WouldBlock`: more than [`Limits::output_max`](crate::Limits::output_max) bytes would wait; nothing of these was
    /// taken. `BrokenPipe`: the child has closed its standard input. `NotConnected`: it is no pipe of ours, or
    /// [`close_stdin`](ChildProcess::close_stdin) was called. `OutOfMemory`.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Posted> {
        let Some(stdin) = self.stdin.as_mut().filter(|_| !self.stdin_ends) else {
            let why = format!("child {} has no standard input of ours, or not any more", self.pid);
            return Err(io::Error::new(io::ErrorKind::NotConnected, why));
        };
        let written = stdin.send(bytes);
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.refused += 1;
        }
        written
    }

    /// How many bytes wait for the child to read them.
    pub fn unsent(&self) -> usize {
        self.stdin.as_ref().map_or(0, Outbox::unsent)
    }

    /// Ends the child's standard input, behind what waits to be written to it.
    pub fn close_stdin(&mut self) {
        self.stdin_ends = true;
        if self.unsent() == 0 {
            self.drop_stdin();
        }
    }

    /// Sends a signal to the child, and never to another process that has its pid by now.
    ///
    /// # Errors
    /// `ESRCH`: it has ended. `PermissionDenied`: it has changed its user.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        match &self.mortal {
            Some(mortal) => mortal.pidfd.kill(signal),
            None => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }

    fn drop_stdin(&mut self) {
        if let Some(stdin) = self.stdin.take() {
            forget(&self.poll, &stdin);
        }
    }

    /// Writes what waits. True if there is news for the handler.
    pub(super) fn flush(&mut self) -> bool {
        let Some(stdin) = &mut self.stdin else { return false };
        let waited = stdin.unsent() > 0;
        match stdin.flush() {
            Ok(()) if self.stdin_ends => self.drop_stdin(),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // Kept until it is closed, so that a write says BrokenPipe.
            Err(_) if self.stdin_ends => self.drop_stdin(),
            Err(_) => {}
        }
        waited
    }
}

/// A process that must not outlive its owner.
#[derive(Debug)]
pub(super) struct Mortal {
    pidfd: PidFd,
    pub(super) collected: bool,
    made_in: u32,
}

impl Mortal {
    pub(super) fn new(pidfd: PidFd) -> Mortal {
        Mortal { pidfd, collected: false, made_in: sys::fork::generation() }
    }

    /// The exit, as it is told: the status once it has ended, or word that there will be none.
    pub(super) fn collect(&mut self) -> Option<Option<ExitStatus>> {
        let status = match self.pidfd.try_wait() {
            Ok(None) => return None,
            Ok(status) => status,
            Err(_) => None,
        };
        self.collected = true;
        Some(status)
    }

    pub(super) fn kill(&self) {
        // It fails only for one that is gone.
        let _ = self.pidfd.kill(Signal::KILL);
    }

    fn await_death(&mut self) -> io::Result<()> {
        let mut poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&self.as_fd().as_raw_fd()), Token(0), Interest::READABLE)?;
        poll.poll(&mut Events::with_capacity(1), Some(Duration::from_millis(DEATH_MS_MAX)))
    }
}

impl AsFd for Mortal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        // In a forked child of ours it is a sibling, and the parent's affair.
        if self.collected || self.made_in != sys::fork::generation() {
            return;
        }
        self.kill();
        if let Err(error) = self.await_death() {
            log::warn!(target: "ipc_reactor", "awaiting the end of a killed child: {error}");
        }
        if self.collect().is_none() {
            log::warn!(target: "ipc_reactor", "a killed child has not ended yet; it will be a zombie");
        }
    }
}

pub(super) fn watch(poll: &Poll, fd: &impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
    poll.registry().register(&mut SourceFd(&fd.as_fd().as_raw_fd()), token, interest)
}

pub(super) fn forget(poll: &Poll, fd: &impl AsFd) {
    // DEL though we close: a forked child may have the descriptor too.
    let _ = poll.registry().deregister(&mut SourceFd(&fd.as_fd().as_raw_fd()));
}
