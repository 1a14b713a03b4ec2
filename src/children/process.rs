//! A running child: its process, which must not outlive its owner, its standard input, and its output.

use std::{
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    process::{Command, ExitStatus},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};

use crate::{
    children::{self, Exit, PidFd},
    pipe::{Outbox, PipeReader, PipeWriter},
    signals::signal::Signal,
    sys,
    types::posted::Posted,
};

/// How long the end of a killed process is waited for where nothing can wait for it later. It takes far less, unless
/// the process is in the middle of I/O that the kernel does not break off.
const KILLED_MS_MAX: u64 = 100;

const EXIT: Token = Token(0);
const STDOUT: Token = Token(1);
const STDERR: Token = Token(2);
const STDIN: Token = Token(3);

/// A running child of [`PollSet::run_child`](crate::PollSet::run_child): its standard input, and its process.
#[derive(Debug)]
pub struct ChildProcess {
    pub(crate) pid: u32,
    /// None once its end is waited for elsewhere.
    pub(crate) process: Option<KillOnDrop>,
    pub(crate) poll: Poll,
    pub(crate) stdin: Option<Outbox>,
    /// [`close_stdin`](ChildProcess::close_stdin) was called while bytes waited.
    pub(crate) stdin_ends: bool,
    /// Writes refused since the reactor last counted them.
    pub(crate) refused: u32,
}

impl ChildProcess {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Writes `bytes` to the child's standard input, without ever waiting: what the pipe has no room for is kept, and
    /// written when there is room.
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
        match &self.process {
            Some(process) => process.pidfd.kill(signal),
            None => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }

    fn drop_stdin(&mut self) {
        if let Some(stdin) = self.stdin.take() {
            deregister(&self.poll, &stdin);
        }
    }

    /// Writes what waits. True if there is news for the handler.
    pub(crate) fn flush(&mut self) -> bool {
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
pub(crate) struct KillOnDrop {
    pidfd: PidFd,
    pub(crate) collected: bool,
    made_in: u32,
}

impl KillOnDrop {
    pub(crate) fn new(pidfd: PidFd) -> KillOnDrop {
        KillOnDrop { pidfd, collected: false, made_in: sys::fork::generation() }
    }

    /// The exit, once the child has ended. Without a status if it was reaped elsewhere.
    pub(crate) fn collect(&mut self) -> Option<Option<ExitStatus>> {
        let status = match self.pidfd.try_wait() {
            Ok(None) => return None,
            Ok(status) => status,
            Err(_) => None,
        };
        self.collected = true;
        Some(status)
    }

    pub(crate) fn kill(&self) {
        // It fails only for a process that has ended.
        let _ = self.pidfd.kill(Signal::KILL);
    }

    fn wait_killed(&mut self) -> io::Result<()> {
        let mut poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&self.as_fd().as_raw_fd()), Token(0), Interest::READABLE)?;
        poll.poll(&mut Events::with_capacity(1), Some(Duration::from_millis(KILLED_MS_MAX)))
    }
}

impl AsFd for KillOnDrop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // In a forked child of ours it is a sibling, and the parent's affair.
        if self.collected || self.made_in != sys::fork::generation() {
            return;
        }
        self.kill();
        if let Err(error) = self.wait_killed() {
            log::warn!(target: "ipc_reactor", "awaiting the end of a killed child: {error}");
        }
        if self.collect().is_none() {
            log::warn!(target: "ipc_reactor", "a killed child has not ended yet; it will be a zombie");
        }
    }
}

fn register(poll: &Poll, fd: &impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
    poll.registry().register(&mut SourceFd(&fd.as_fd().as_raw_fd()), token, interest)
}

fn deregister(poll: &Poll, fd: &impl AsFd) {
    // DEL though we close: a forked child may have the descriptor too.
    let _ = poll.registry().deregister(&mut SourceFd(&fd.as_fd().as_raw_fd()));
}

/// One of the pipes that the child writes to.
#[derive(Default)]
pub(crate) struct Output {
    pipe: Option<PipeReader>,
    /// The kernel's edge, until a read says that the pipe is empty.
    ready: bool,
    /// Once the child has ended: how much of what is in the pipe can be its own.
    left: Option<usize>,
}

impl Output {
    /// Reads the next bytes; 0: there are none now.
    pub(crate) fn next(&mut self, poll: &Poll, buffer: &mut [u8]) -> usize {
        let room = self.left.map_or(buffer.len(), |left| left.min(buffer.len()));
        while let Some(pipe) = self.pipe.as_mut().filter(|_| self.ready && room > 0) {
            match pipe.read(&mut buffer[..room]) {
                Ok(count) if count > 0 => {
                    self.left = self.left.map(|left| left - count);
                    return count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready = false,
                // The end of the file, or nothing that could be read again.
                _ => {
                    deregister(poll, pipe);
                    self.pipe = None;
                }
            }
        }
        0
    }

    /// The child has ended: all of its output is in the pipe.
    fn last(&mut self) {
        if let Some(pipe) = &self.pipe {
            self.ready = true;
            self.left = Some(pipe.unread().unwrap_or(0));
        }
    }
}

/// A child in the poll set, without its handler.
///
/// It has up to four descriptors: a pidfd and three pipes. They are in a poll set of their own, whose descriptor is the
/// one that is registered: so a child has one key.
pub(crate) struct ChildPort {
    pub(crate) process: ChildProcess,
    events: Events,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) exit: Option<Exit>,
    /// `on_exit` has been called.
    pub(crate) exit_delivered: bool,
}

impl ChildPort {
    /// Starts a child. Its standard input keeps at most `unsent_max` bytes.
    pub(crate) fn start(command: &mut Command, unsent_max: usize) -> io::Result<ChildPort> {
        // What can fail for want of a descriptor, before the child is there.
        let poll = Poll::new()?;
        children::check_pidfds()?;
        let mut child = children::spawn(command)?;
        let pidfd = match PidFd::from_child(&child) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                child.kill()?;
                child.wait()?;
                return Err(error);
            }
        };
        let process = KillOnDrop::new(pidfd);
        register(&poll, &process, EXIT, Interest::READABLE)?;
        let output = |pipe: Option<OwnedFd>, token| -> io::Result<Output> {
            let pipe = pipe.map(PipeReader::new).transpose()?;
            if let Some(pipe) = &pipe {
                register(&poll, pipe, token, Interest::READABLE)?;
            }
            Ok(Output { pipe, ..Output::default() })
        };
        let stdout = output(child.stdout.take().map(Into::into), STDOUT)?;
        let stderr = output(child.stderr.take().map(Into::into), STDERR)?;
        let stdin = match child.stdin.take() {
            Some(stdin) => {
                let stdin = Outbox::new(PipeWriter::new(stdin)?, unsent_max);
                // For good: a pipe becomes writable anew only after it was full.
                register(&poll, &stdin, STDIN, Interest::WRITABLE)?;
                Some(stdin)
            }
            None => None,
        };
        let process = ChildProcess {
            pid: child.id(),
            process: Some(process),
            poll,
            stdin,
            stdin_ends: false,
            refused: 0,
        };
        let events = Events::with_capacity(4);
        Ok(ChildPort { process, events, stdout, stderr, exit: None, exit_delivered: false })
    }

    /// Takes the events of the child's own poll set. True: what waited for its standard input is written, or it is
    /// closed.
    pub(crate) fn poll(&mut self) -> io::Result<bool> {
        while let Err(error) = self.process.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        let (mut ended, mut room) = (false, false);
        for event in &self.events {
            match event.token() {
                EXIT => ended = true,
                STDOUT => self.stdout.ready = true,
                STDERR => self.stderr.ready = true,
                _ => room = true,
            }
        }
        if ended
            && self.exit.is_none()
            && let Some(status) = self.process.process.as_mut().and_then(KillOnDrop::collect)
        {
            self.exit = Some(Exit { pid: self.process.pid, status });
            self.stdout.last();
            self.stderr.last();
        }
        Ok(room && self.process.flush())
    }
}

impl AsFd for ChildPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        sys::poll_fd(&self.process.poll)
    }
}
