//! A child in the poll set: its output, its input and its end as one source.
//!
//! A child has up to four descriptors: a pidfd and three pipes. They are in a poll set of their own, whose descriptor is the source
//! in the reactor's. So a child has one key and one handler, which is told of the exit behind the last of the output.

pub(crate) mod process;

use std::{
    io::{self, Read},
    mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::Command,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token};

pub use self::process::ChildProcess;
use self::process::{Mortal, forget, watch};

use crate::{
    children::{self, Exit, PidFd},
    pipe::{Outbox, PipeReader, PipeWriter},
    set::{
        context::Context,
        poll_set::{Halt, Phase, PollSet},
        source::Ready,
    },
    sources::fd::{FdSource, Progress},
    sys,
    types::{
        cause::{Cause, Limit},
        key::Key,
    },
};

/// What happens to a child's output and at its end: [`PollSet::run_child`].
///
/// Bytes come as the pipe has them, in any pieces. `child` is the child itself, to write to, or to signal.
///
/// A method that returns an error, or panics, closes the child's source: see [`on_close`](ChildHandler::on_close).
pub trait ChildHandler<S> {
    /// The child has written to its standard output.
    ///
    /// # Errors
    /// Ends the child.
    fn on_stdout(
        &mut self,
        bytes: &[u8],
        child: &mut ChildProcess,
        cx: &mut Context<'_, S>,
        state: &mut S,
    ) -> io::Result<()> {
        let _ = (bytes, child, cx, state);
        Ok(())
    }

    /// The child has written to its standard error.
    ///
    /// # Errors
    /// Ends the child.
    fn on_stderr(
        &mut self,
        bytes: &[u8],
        child: &mut ChildProcess,
        cx: &mut Context<'_, S>,
        state: &mut S,
    ) -> io::Result<()> {
        let _ = (bytes, child, cx, state);
        Ok(())
    }

    /// What waited for the child's standard input is written, so a producer can go on; or the child has closed it, and
    /// [`write`](ChildProcess::write) says so.
    ///
    /// # Errors
    /// Ends the child.
    fn on_flushed(
        &mut self,
        child: &mut ChildProcess,
        cx: &mut Context<'_, S>,
        state: &mut S,
    ) -> io::Result<()> {
        let _ = (child, cx, state);
        Ok(())
    }

    /// The child has ended, and all that it had written has been told. Called once; the key names nothing any more when this
    /// returns.
    ///
    /// What a grandchild that has inherited the pipes writes *later* is not waited for: the pipes are closed, and its
    /// next write fails. Give a child that leaves others behind a file for its output.
    ///
    /// # Errors
    /// Counted, and logged.
    fn on_exit(&mut self, exit: Exit, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (exit, cx, state);
        Ok(())
    }

    /// Instead of [`on_exit`](ChildHandler::on_exit): the source was closed before the child ended, by a
    /// [`close`](PollSet::close), a fault of this handler, or the end of the reactor. The child is killed (`SIGKILL`),
    /// and does not become a zombie.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        let _ = (cause, cx, state);
    }
}

impl<S: 'static> PollSet<S> {
    /// Starts a child with an empty signal mask, and puts it into the poll set: the pipes that `command` asks for with
    /// [`Stdio::piped`](std::process::Stdio::piped), and its exit. What is not asked for is inherited.
    ///
    /// | | `run_child` | [`spawn`](PollSet::spawn) with [`children`](PollSet::children) |
    /// |---|---|---|
    /// | tells of | output, room for input, the exit, each child to its own handler | exits, all to one handler |
    /// | by | pidfd and pipes | SIGCHLD |
    /// | descriptors a child | two, and one for each pipe | none |
    /// | needs | Linux 5.4 | SIGCHLD blocked in every thread: first thing in `main` |
    /// | signals go | to this very process | to a pid, which may be another process by then |
    /// | closed early | ends the child | leaves the child alone |
    ///
    /// So this is for children that one talks to, or in a process whose signals are somebody else's; SIGCHLD for those that only end,
    /// and for many of them. Both can be used in one reactor.
    ///
    /// ```
    /// use ipc_reactor::{ChildHandler, ChildProcess, Context, Reactor, children::Exit};
    /// use std::{io, process::{Command, Stdio}};
    ///
    /// struct Listing;
    ///
    /// impl ChildHandler<String> for Listing {
    ///     fn on_stdout(&mut self, bytes: &[u8], _: &mut ChildProcess, _: &mut Context<'_, String>, heard: &mut String) -> io::Result<()> {
    ///         heard.push_str(&String::from_utf8_lossy(bytes));
    ///         Ok(())
    ///     }
    ///     fn on_exit(&mut self, exit: Exit, cx: &mut Context<'_, String>, _: &mut String) -> io::Result<()> {
    ///         assert!(exit.status.expect("ours to wait for").success());
    ///         cx.stop();
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let mut reactor = Reactor::new()?;
    /// let key = reactor.run_child(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()), Listing)?;
    /// let cat = reactor.child(key).expect("at rest");
    /// cat.write(b"hello")?;
    /// cat.close_stdin();
    /// let mut heard = String::new();
    /// reactor.run(&mut heard)?;
    /// assert_eq!(heard, "hello");
    /// # std::io::Result::Ok(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Command::spawn`]; no descriptors are left (a child that was started already is ended); `ENOSYS`
    /// before Linux 5.3.
    pub fn run_child(
        &mut self,
        command: &mut Command,
        handler: impl ChildHandler<S> + 'static,
    ) -> io::Result<Key> {
        self.check_not_forked()?;
        let source = ChildSource::start(command, self.limits.output_max, Box::new(handler))?;
        Ok(self.fd_source(source, Interest::READABLE)?)
    }

    /// The child of this key, to write to, or to signal. `None` once it has ended, and while its own handler runs, which is
    /// given it.
    pub fn child(&mut self, key: Key) -> Option<&mut ChildProcess> {
        self.fd_source_mut::<ChildSource<S>>(key).map(|source| &mut source.process)
    }
}

const EXIT: Token = Token(0);
const STDOUT: Token = Token(1);
const STDERR: Token = Token(2);
const STDIN: Token = Token(3);

/// Bytes read from a pipe at once. On the stack, for a handler may reach all that the reactor has.
const CHUNK: usize = 16 << 10;

/// One of the pipes that the child writes to.
#[derive(Default)]
struct Output {
    pipe: Option<PipeReader>,
    /// The kernel's edge, until a read says that the pipe is empty.
    ready: bool,
    /// Once the child has ended: how much of what is in the pipe can be its own.
    left: Option<usize>,
}

impl Output {
    fn next(&mut self, poll: &Poll, buffer: &mut [u8]) -> usize {
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
                    forget(poll, pipe);
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

struct ChildSource<S> {
    process: ChildProcess,
    events: Events,
    stdout: Output,
    stderr: Output,
    exit: Option<Exit>,
    told: bool,
    handler: Box<dyn ChildHandler<S>>,
}

impl<S: 'static> ChildSource<S> {
    fn start(
        command: &mut Command,
        unsent_max: usize,
        handler: Box<dyn ChildHandler<S>>,
    ) -> io::Result<ChildSource<S>> {
        // What can fail for want of a descriptor, before the child is there.
        let poll = Poll::new()?;
        let mut child = children::spawn(command)?;
        let pidfd = match PidFd::from_child(&child) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                child.kill()?;
                child.wait()?;
                return Err(error);
            }
        };
        let mortal = Mortal::new(pidfd);
        watch(&poll, &mortal, EXIT, Interest::READABLE)?;
        let output = |pipe: Option<OwnedFd>, token| -> io::Result<Output> {
            let pipe = pipe.map(PipeReader::new).transpose()?;
            if let Some(pipe) = &pipe {
                watch(&poll, pipe, token, Interest::READABLE)?;
            }
            Ok(Output { pipe, ..Output::default() })
        };
        let stdout = output(child.stdout.take().map(Into::into), STDOUT)?;
        let stderr = output(child.stderr.take().map(Into::into), STDERR)?;
        let stdin = match child.stdin.take() {
            Some(stdin) => {
                let stdin = Outbox::new(PipeWriter::new(stdin)?, unsent_max);
                // For good: a pipe becomes writable anew only after it was full.
                watch(&poll, &stdin, STDIN, Interest::WRITABLE)?;
                Some(stdin)
            }
            None => None,
        };
        let process = ChildProcess {
            pid: child.id(),
            mortal: Some(mortal),
            poll,
            stdin,
            stdin_ends: false,
            refused: 0,
        };
        let events = Events::with_capacity(4);
        Ok(ChildSource { process, events, stdout, stderr, exit: None, told: false, handler })
    }

    fn note_edges(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
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
            && let Some(status) = self.process.mortal.as_mut().and_then(Mortal::collect)
        {
            self.exit = Some(Exit { pid: self.process.pid, status });
            self.stdout.last();
            self.stderr.last();
        }
        if room && self.process.flush() {
            self.handler.on_flushed(&mut self.process, cx, state)?;
        }
        Ok(())
    }

    /// Tells what there is in the pipes. False: there may be more.
    fn read(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<bool> {
        let mut buffer = [0; CHUNK];
        let mut budget = cx.limits().bytes_per_visit.max(1);
        while budget > 0 {
            let buffer = &mut buffer[..budget.min(CHUNK)];
            let out = self.stdout.next(&self.process.poll, buffer);
            if out > 0 {
                self.handler.on_stdout(&buffer[..out], &mut self.process, cx, state)?;
            }
            if ends(cx) {
                return Ok(false);
            }
            let err = self.stderr.next(&self.process.poll, buffer);
            if err > 0 {
                self.handler.on_stderr(&buffer[..err], &mut self.process, cx, state)?;
            }
            if ends(cx) {
                return Ok(false);
            }
            if out + err == 0 {
                return Ok(true);
            }
            budget = budget.saturating_sub(out + err);
        }
        cx.set.trip(Limit::Bytes, format_args!("child {}", self.process.pid));
        Ok(false)
    }
}

impl<S> AsFd for ChildSource<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        sys::poll_fd(&self.process.poll)
    }
}

impl<S: 'static> FdSource<S> for ChildSource<S> {
    fn on_ready(&mut self, _: Ready, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<Progress> {
        self.note_edges(cx, state)?;
        let all = !ends(cx) && self.read(cx, state)?;
        for _ in 0..mem::take(&mut self.process.refused) {
            cx.set.trip(Limit::Output, format_args!("child {}", self.process.pid));
        }
        if ends(cx) {
            return Ok(Progress::Drained);
        }
        match self.exit {
            Some(exit) if all => {
                self.told = true;
                cx.finish();
                self.handler.on_exit(exit, cx, state)?;
            }
            // In the next round: others have their turn first.
            _ if !all => {
                cx.set.mark_ready(cx.key, Ready::READABLE);
            }
            _ => {}
        }
        Ok(Progress::Drained)
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        if !self.told {
            self.handler.on_close(cause, cx, state);
        }
        if let Some(mortal) = self.process.mortal.take_if(|mortal| !mortal.collected)
            && cx.set.phase != Phase::Stopped
        {
            mortal.kill();
            // Its end is awaited in the poll set, or if that cannot be, where the source is dropped.
            let _ = cx.fd(mortal, Interest::READABLE, |mortal, _, cx, _| {
                if mortal.collect().is_some() {
                    cx.finish();
                }
                Ok(Progress::Drained)
            });
        }
    }
}

/// Whether the handler has ended this visit.
fn ends<S>(cx: &Context<'_, S>) -> bool {
    matches!(cx.set.halt, Halt::Close | Halt::Abort) || cx.set.phase == Phase::Stopped
}
