//! Any other descriptor as a source.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use mio::Interest;

use crate::{
    set::{
        call::{call, report},
        context::Context,
        endpoints::FdPort,
        handlers::{FdSource, Progress, TypedSource},
        poll_set::PollSet,
        source::{Source, Visited},
    },
    types::{cause::Cause, key::Key, ready::Ready, rejected::Rejected},
};

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
    /// Puts any descriptor into the poll set. `handler` gets the value `fd`, what it is ready for, and the state.
    ///
    /// If the descriptor is not non-blocking, the handler must not read more than is there.
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
    /// reactor.fd(ours, Interest::READABLE, |stream, _ready, cx, received| {
    ///     let mut buffer = [0; 16];
    ///     let count = stream.read(&mut buffer)?; // WouldBlock: drained
    ///     received.extend_from_slice(&buffer[..count]);
    ///     if count == 0 { cx.stop(); }
    ///     Ok(Progress::More)
    /// })?;
    /// let mut received = Vec::new();
    /// reactor.run(&mut received)?;
    /// assert_eq!(received, b"hello");
    /// # std::io::Result::Ok(())
    /// ```
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`, such as `PermissionDenied` for regular files. The error returns `fd`.
    pub fn fd<T: AsFd + 'static>(
        &mut self,
        fd: T,
        interest: Interest,
        handler: impl FnMut(&mut T, Ready, &mut Context<'_, S>, &mut S) -> io::Result<Progress> + 'static,
    ) -> Result<Key, Rejected<T>> {
        if let Err(error) = self.register(fd.as_fd(), interest) {
            return Err(Rejected { error, source: fd });
        }
        Ok(self.place_fd(WithClosure { fd, handler }))
    }

    /// Puts a source with its own type into the poll set. Its [`on_close`](FdSource::on_close) is called when it is
    /// closed.
    ///
    /// # Errors
    /// As for [`fd`](PollSet::fd).
    pub fn fd_source<T: FdSource<S> + 'static>(
        &mut self,
        source: T,
        interest: Interest,
    ) -> Result<Key, Rejected<T>> {
        if let Err(error) = self.register(source.as_fd(), interest) {
            return Err(Rejected { error, source });
        }
        Ok(self.place_fd(source))
    }

    fn place_fd(&mut self, source: impl FdSource<S> + 'static) -> Key {
        let port = FdPort { fd: source.as_fd().as_raw_fd() };
        self.place(Source::Fd { port, handler: Some(Box::new(source)) })
    }

    /// The source that was given to [`fd_source`](PollSet::fd_source), by its key and its type. `None` once it is
    /// closed, and while its own handler runs, which has it as `self`.
    pub fn fd_source_mut<T: FdSource<S> + 'static>(&mut self, key: Key) -> Option<&mut T> {
        match self.registry.get_mut(key)? {
            Source::Fd { handler: Some(source), .. } => source.as_any().downcast_mut(),
            _ => None,
        }
    }

    /// Changes the interest of a descriptor, the running handler's included. If it is ready, the kernel reports a new
    /// event.
    ///
    /// # Errors
    /// `NotFound`: the key names no descriptor that was given to [`fd`](PollSet::fd) or
    /// [`fd_source`](PollSet::fd_source).
    pub fn set_interest(&mut self, key: Key, interest: Interest) -> io::Result<()> {
        let Some(Source::Fd { port, .. }) = self.registry.get(key) else {
            let why = format!("{key} names no descriptor that was given to fd or fd_source, or it is closed");
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        };
        self.registry.reregister(key, port.fd, interest)
    }
}

/// One visit: calls the handler until it has drained the descriptor, or the budget is spent.
pub(crate) fn visit<S>(set: &mut PollSet<S>, key: Key, ready: Ready, state: &mut S) -> Visited {
    for _ in 0..set.limits.messages_per_visit.max(1) {
        let called = call(set, key, |source: &mut Box<dyn TypedSource<S>>, cx| {
            match source.on_ready(ready, cx, state) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Progress::Drained),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Progress::More),
                answer => answer,
            }
        });
        let progress = match called.result {
            Ok(progress) => progress,
            Err(cause) if matches!(*cause, Cause::Stop) => return Visited::Again(ready),
            Err(cause) => {
                report(set, key, "source", &cause);
                return Visited::Closed(cause);
            }
        };
        if let Some(visited) = called.asked.ends_visit(ready) {
            return visited;
        }
        if progress == Progress::Drained {
            return Visited::Drained;
        }
    }
    Visited::Again(ready)
}
