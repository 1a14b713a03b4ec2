//! `Remote`: the handle for other threads, and the list of jobs behind it.

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
    /// `None` once the reactor is dropped.
    jobs: Mutex<Option<Vec<Job<S>>>>,
    /// The reactor was woken, and has not taken the jobs yet: no other wake-up is needed.
    woken: AtomicBool,
    waker: Waker,
}

/// A handle to a reactor for other threads: [`Reactor::remote`](crate::Reactor::remote).
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
    /// Runs `job` in the reactor's thread, in its next turn, after all earlier jobs.
    ///
    /// # Errors
    /// `BrokenPipe`: the reactor was dropped; the error returns the job.
    pub fn run<F>(&self, job: F) -> Result<(), Rejected<F>>
    where
        F: FnOnce(&mut Context<'_, S>, &mut S) + Send + 'static,
    {
        {
            let mut jobs = self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *jobs {
                Some(jobs) => jobs.push(Box::new(job)),
                None => {
                    let error = io::Error::new(io::ErrorKind::BrokenPipe, "the reactor was dropped");
                    return Err(Rejected { error, source: job });
                }
            }
        }
        if !self.shared.woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.shared.waker.wake()
        {
            // The job is in the list, and runs in the next turn.
            self.shared.woken.store(false, Ordering::Release);
            log::error!(target: "ipc_reactor", "waking the reactor: {error}");
        }
        Ok(())
    }

    /// Passes a connected socket to the reactor's thread, which [adopts](crate::PollSet::adopt) it.
    ///
    /// # Errors
    /// `BrokenPipe`: the reactor was dropped; the error returns the socket. If the reactor cannot adopt it, it logs a
    /// warning and closes the socket.
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

    /// Stops the reactor: it closes every source, and [`run`](crate::Reactor::run) returns.
    ///
    /// # Errors
    /// `BrokenPipe`: the reactor was dropped.
    pub fn stop(&self) -> io::Result<()> {
        self.run(|cx, _| cx.stop()).map_err(|rejected| rejected.error)
    }
}

impl<S> fmt::Debug for Remote<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

/// The reactor's side of its [`Remote`]s.
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
    /// Takes the jobs that have come by now.
    pub(crate) fn take(&self) -> Vec<Job<S>> {
        // Before the list is taken: a later job wakes the reactor again.
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
        // After the lock is released: the drop of a job may use a Remote.
        drop(jobs);
    }
}
