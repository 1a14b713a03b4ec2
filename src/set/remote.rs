//! The one way into the reactor from another thread.

use std::{
    fmt, io, mem,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use mio::Waker;

use crate::{
    bytes::framing::Framing,
    set::{context::Context, session::Session},
    types::rejected::Rejected,
};

pub(crate) type Job<S> = Box<dyn FnOnce(&mut Context<'_, S>, &mut S) + Send>;

struct Shared<S> {
    /// None once the reactor is gone.
    jobs: Mutex<Option<Vec<Job<S>>>>,
    /// Somebody has woken the reactor and it has not looked yet: nobody else need pay for a system call.
    woken: AtomicBool,
    waker: Waker,
}

/// A handle to a reactor that can be sent to, and used from, other threads.
///
/// ```
/// # let mut reactor = ipc_reactor::Reactor::<u32>::new()?;
/// let remote = reactor.remote();
/// std::thread::spawn(move || {
///     remote.run(|cx, state| {
///         *state += 1;
///         cx.stop();
///     })
/// });
/// let mut state = 0;
/// reactor.run(&mut state)?;
/// assert_eq!(state, 1);
/// # std::io::Result::Ok(())
/// ```
pub struct Remote<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for Remote<S> {
    fn clone(&self) -> Remote<S> {
        Remote { shared: self.shared.clone() }
    }
}

impl<S> Remote<S> {
    /// Runs `job` in the reactor's thread, in its next turn, after all jobs given to it before.
    ///
    /// # Errors
    /// `BrokenPipe`: the reactor is gone; the job is handed back in the error.
    pub fn run<F>(&self, job: F) -> Result<(), Rejected<F>>
    where
        F: FnOnce(&mut Context<'_, S>, &mut S) + Send + 'static,
    {
        {
            let mut jobs = self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *jobs {
                Some(jobs) => jobs.push(Box::new(job)),
                None => {
                    let error = io::Error::new(io::ErrorKind::BrokenPipe, "the reactor is gone");
                    return Err(Rejected { error, source: job });
                }
            }
        }
        if !self.shared.woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.shared.waker.wake()
        {
            // The job is in the list, and runs at the next turn whatever wakes it.
            self.shared.woken.store(false, Ordering::Release);
            log::error!(target: "ipc_reactor", "waking the reactor: {error}");
        }
        Ok(())
    }

    /// Hands a connected socket to the reactor, to serve it as though it had been accepted there.
    ///
    /// # Errors
    /// `BrokenPipe`: the reactor is gone; the socket is handed back. What goes wrong in the reactor itself is logged
    /// there, and closes the socket.
    pub fn adopt(
        &self,
        socket: impl Into<OwnedFd>,
        framing: Framing,
        session: impl Session<S> + Send + 'static,
    ) -> Result<(), Rejected<OwnedFd>> {
        let socket = Arc::new(Mutex::new(Some(socket.into())));
        let sent = socket.clone();
        let take = move |socket: &Mutex<Option<OwnedFd>>| {
            socket.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let job = move |cx: &mut Context<'_, S>, _: &mut S| {
            if let Some(socket) = take(&sent)
                && let Err(error) = cx.adopt(socket, framing, session)
            {
                log::warn!(target: "ipc_reactor", "adopting a socket: {error}");
            }
        };
        self.run(job).map_err(|rejected| Rejected {
            error: rejected.error,
            source: take(&socket).expect("the job that would take it was not run"),
        })
    }

    /// Stops the reactor: [`run`](crate::Reactor::run) returns, every source closed.
    ///
    /// # Errors
    /// `BrokenPipe`: the reactor is gone.
    pub fn stop(&self) -> io::Result<()> {
        self.run(|cx, _| cx.stop()).map_err(|rejected| rejected.error)
    }
}

impl<S> fmt::Debug for Remote<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

/// The reactor's end.
pub(crate) struct Inbox<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Inbox<S> {
    pub(crate) fn new(waker: Waker) -> Inbox<S> {
        let shared = Shared { jobs: Mutex::new(Some(Vec::new())), woken: AtomicBool::new(false), waker };
        Inbox { shared: Arc::new(shared) }
    }

    pub(crate) fn remote(&self) -> Remote<S> {
        Remote { shared: self.shared.clone() }
    }

    /// Makes the loop's descriptor readable, so that a loop around it takes another turn.
    pub(crate) fn wake(&self) -> io::Result<()> {
        self.shared.waker.wake()
    }
}

impl<S> Inbox<S> {
    /// The jobs that have come by now.
    pub(crate) fn take(&self) -> Vec<Job<S>> {
        // Before the list is taken: a job that comes later wakes us again.
        self.shared.woken.store(false, Ordering::SeqCst);
        match &mut *self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(jobs) => mem::take(jobs),
            None => Vec::new(),
        }
    }
}

impl<S> Drop for Inbox<S> {
    fn drop(&mut self) {
        let jobs = self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        // After the lock is gone: a job's own drop may use a Remote.
        drop(jobs);
    }
}
