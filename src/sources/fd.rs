//! The open variant: any descriptor, with a handler of the embedder's.

use std::{
    any::Any,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use mio::{Interest, unix::SourceFd};

use crate::{
    set::{
        call::{guarded, report},
        context::Context,
        poll_set::{Phase, PollSet},
        source::{Ready, Source, Visited},
    },
    types::{cause::Cause, key::Key, rejected::Rejected},
};

/// How far a handler got with what was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left until the kernel's next edge: the last call said `WouldBlock`, or nothing need be called.
    Drained,
    /// There may be more: call me again, in this visit while its budget lasts, else in the next round.
    More,
}

/// A source of the embedder's own: a pipe, a pidfd, an inotify descriptor, a device, anything that epoll watches.
///
/// Readiness is told once per edge and then remembered: a handler that does one read and answers
/// [`Progress::More`] is called again until a call of its own says `WouldBlock`. That error may be returned as it is:
/// it means [`Progress::Drained`]. So a handler is a `read` with a question mark behind it.
pub trait FdSource<S>: AsFd {
    /// The descriptor is ready.
    ///
    /// # Errors
    /// `WouldBlock` means drained, `Interrupted` means more; any other closes this source, and no other.
    fn on_ready(&mut self, ready: Ready, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<Progress>;

    /// The source is out of the poll set; its descriptor is closed when this returns.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        let _ = (cause, cx, state);
    }
}

/// A source that can be asked for its type. Not a part of [`FdSource`], or the state would have to be `'static`.
pub(crate) trait TypedSource<S>: FdSource<S> {
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<S, T: FdSource<S> + 'static> TypedSource<S> for T {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

pub(crate) struct Open<S> {
    pub(crate) source: Box<dyn TypedSource<S>>,
}

struct WithClosure<T, F> {
    fd: T,
    handler: F,
}

impl<T: AsFd, F> AsFd for WithClosure<T, F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<S, T, F> FdSource<S> for WithClosure<T, F>
where
    T: AsFd,
    F: FnMut(&mut T, Ready, &mut Context<'_, S>, &mut S) -> io::Result<Progress>,
{
    fn on_ready(&mut self, ready: Ready, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<Progress> {
        (self.handler)(&mut self.fd, ready, cx, state)
    }
}

impl<S> PollSet<S> {
    /// Watches any descriptor. The handler gets what was given, what it is ready for, and the state.
    ///
    /// The descriptor should be non-blocking, or the handler must not read more than was announced.
    ///
    /// ```
    /// use ipc_reactor::{Progress, Reactor};
    /// use mio::Interest;
    /// use std::io::Read;
    /// # use std::{io::Write, os::unix::net::UnixStream};
    /// # let (mut theirs, ours) = UnixStream::pair()?;
    /// # ours.set_nonblocking(true)?;
    /// # theirs.write_all(b"hello")?;
    /// # drop(theirs);
    /// let mut reactor = Reactor::<Vec<u8>>::new()?;
    /// reactor.fd(ours, Interest::READABLE, |stream, _ready, cx, heard| {
    ///     let mut buffer = [0; 16];
    ///     let count = stream.read(&mut buffer)?; // WouldBlock: drained
    ///     heard.extend_from_slice(&buffer[..count]);
    ///     if count == 0 { cx.stop(); }
    ///     Ok(Progress::More)
    /// })?;
    /// let mut heard = Vec::new();
    /// reactor.run(&mut heard)?;
    /// assert_eq!(heard, b"hello");
    /// # std::io::Result::Ok(())
    /// ```
    ///
    /// # Errors
    /// epoll does not watch descriptors of this kind (regular files), or not this one; it is handed back.
    pub fn fd<T: AsFd + 'static>(
        &mut self,
        fd: T,
        interest: Interest,
        handler: impl FnMut(&mut T, Ready, &mut Context<'_, S>, &mut S) -> io::Result<Progress> + 'static,
    ) -> Result<Key, Rejected<T>> {
        match self.register(fd.as_fd(), interest) {
            Ok(key) => Ok(self
                .place(key, Source::Open(Box::new(Open { source: Box::new(WithClosure { fd, handler }) })))),
            Err(error) => Err(Rejected { error, source: fd }),
        }
    }

    /// Watches a source with a type of its own, which is told when it is closed.
    ///
    /// # Errors
    /// As for [`fd`](PollSet::fd).
    pub fn fd_source<T: FdSource<S> + 'static>(
        &mut self,
        source: T,
        interest: Interest,
    ) -> Result<Key, Rejected<T>> {
        match self.register(source.as_fd(), interest) {
            Ok(key) => Ok(self.place(key, Source::Open(Box::new(Open { source: Box::new(source) })))),
            Err(error) => Err(Rejected { error, source }),
        }
    }

    /// The source that was given to [`fd_source`](PollSet::fd_source), by its key and its type. `None` once it is closed,
    /// and while its own handler runs.
    pub fn fd_source_mut<T: FdSource<S> + 'static>(&mut self, key: Key) -> Option<&mut T> {
        match &mut self.slot(key)?.source {
            Source::Open(open) => open.source.as_any().downcast_mut(),
            _ => None,
        }
    }

    /// Changes what a descriptor is watched for. What is ready already is told anew.
    ///
    /// # Errors
    /// `NotFound`: the key names no open descriptor, or its own handler runs (which answers with its progress instead).
    pub fn set_interest(&mut self, key: Key, interest: Interest) -> io::Result<()> {
        let Some(Source::Open(open)) = self.source(key) else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{key} is no open descriptor at rest"),
            ));
        };
        let fd = open.source.as_fd().as_raw_fd();
        self.check_not_forked()?;
        self.poll.registry().reregister(&mut SourceFd(&fd), key.token(), interest)
    }
}

/// One visit: calls the handler until it has drained the descriptor, or the budget is spent.
pub(crate) fn visit<S>(
    set: &mut PollSet<S>,
    key: Key,
    open: &mut Open<S>,
    ready: Ready,
    state: &mut S,
) -> Visited {
    for _ in 0..set.limits.messages_per_visit.max(1) {
        let ready = |cx: &mut Context<'_, S>| match open.source.on_ready(ready, cx, state) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Progress::Drained),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Progress::More),
            answer => answer,
        };
        let progress = match guarded(set, key, ready) {
            Ok(progress) => progress,
            Err(cause) => {
                report(set, key, "source", &cause);
                return Visited::Closed(cause);
            }
        };
        if set.take_halt() {
            return Visited::closed(Cause::Closed);
        }
        if progress == Progress::Drained {
            return Visited::Drained;
        }
        if set.phase == Phase::Stopped {
            break;
        }
    }
    Visited::Again(ready)
}
