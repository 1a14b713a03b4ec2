//! Signals, and children by SIGCHLD, as a source.

use std::{
    io,
    os::fd::AsFd,
    process::{Child, Command},
};

use mio::Interest;

use crate::{
    children::{self, Exit},
    observe::event::What,
    set::{
        asked::Asked,
        call::call,
        context::Context,
        endpoints::SignalPort,
        handlers::SignalHandler,
        poll_set::PollSet,
        source::{Source, Visited},
    },
    signals::{SignalBatch, SignalInfo, Signals, signal::Signal},
    types::{cause::Cause, key::Key, ready::Ready, rejected::Rejected},
};

impl<S> PollSet<S> {
    /// Receives signals in normal control flow: blocks them, and reads them from a signalfd (`signalfd(2)`). Signals
    /// that are pending are received too. **Call it first, in `main`**, before any thread is started: the kernel may
    /// deliver a signal to a thread that does not block it, with the default action.
    ///
    /// The kernel merges equal signals that are pending: two may arrive as one.
    ///
    /// An error that `handler` returns is counted and logged; the source stays open.
    ///
    /// # Errors
    /// Those of [`Signals::new`]: the signal cannot be caught, must not be blocked, or is received elsewhere already.
    pub fn signals(
        &mut self,
        signals: impl IntoIterator<Item = Signal>,
        handler: impl FnMut(SignalInfo, &mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
    ) -> io::Result<Key> {
        self.insert_signals(Signals::new(signals)?, SignalHandler::Signal(Box::new(handler)))
    }

    /// Reaps children by SIGCHLD: `handler` gets the exit of each child that was given to
    /// [`watch_child`](PollSet::watch_child) or started by [`spawn`](PollSet::spawn), and of no other.
    ///
    /// # Errors
    /// As for [`signals`](PollSet::signals): SIGCHLD is received elsewhere already.
    pub fn children(
        &mut self,
        handler: impl FnMut(Exit, &mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
    ) -> io::Result<Key> {
        let key =
            self.insert_signals(Signals::new([Signal::CHLD])?, SignalHandler::Exit(Box::new(handler)))?;
        self.children.source = Some(key);
        // The SIGCHLD of a child that ended before it was blocked is lost: look once.
        self.mark_ready(key, Ready::READABLE);
        Ok(key)
    }

    fn insert_signals(&mut self, signals: Signals, handler: SignalHandler<S>) -> io::Result<Key> {
        self.register(signals.as_fd(), Interest::READABLE)?;
        let port = SignalPort { signals, batch: Some(Box::new(SignalBatch::new())) };
        Ok(self.place(Source::Signals { port: Box::new(port), handler: Some(handler) }))
    }

    /// Reports the exit of a child to the handler of [`children`](PollSet::children), even if it has ended already.
    /// Returns its pid. Pipes that were not taken out of the `Child` are closed.
    ///
    /// # Errors
    /// `NotFound`: [`children`](PollSet::children) was not called. The error returns the child.
    #[allow(
        clippy::result_large_err,
        reason = "once per child, which must not be lost: it would stay a zombie"
    )]
    pub fn watch_child(&mut self, child: Child) -> Result<u32, Rejected<Child>> {
        let key = match self.exit_handler() {
            Ok(key) => key,
            Err(error) => return Err(Rejected { error, source: child }),
        };
        let pid = self.children.reaper.watch(child);
        self.mark_ready(key, Ready::READABLE);
        Ok(pid)
    }

    /// Starts a child with an empty signal mask, and reports its exit like [`watch_child`](PollSet::watch_child).
    /// ([`Command::spawn`] alone lets a child inherit the blocked signals, so that SIGTERM would not end it.) Returns
    /// its pid.
    ///
    /// # Errors
    /// Those of [`Command::spawn`], and of [`watch_child`](PollSet::watch_child); then no child is started.
    pub fn spawn(&mut self, command: &mut Command) -> io::Result<u32> {
        self.exit_handler()?;
        Ok(self.watch_child(children::spawn(command)?)?)
    }

    fn exit_handler(&self) -> io::Result<Key> {
        self.children.source.filter(|&key| self.registry.get(key).is_some()).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "there is no handler for exits; call PollSet::children first",
            )
        })
    }
}

/// The endpoint of the signals source that is visited.
fn port<S>(set: &mut PollSet<S>, key: Key) -> &mut SignalPort {
    match set.registry.get_mut(key) {
        Some(Source::Signals { port, .. }) => port,
        _ => unreachable!("signals are not removed while they are visited"),
    }
}

/// One visit: reads the pending signals, within the budget.
pub(crate) fn visit<S>(set: &mut PollSet<S>, key: Key, ready: Ready, state: &mut S) -> Visited {
    for _ in 0..set.limits.messages_per_visit.div_ceil(SignalBatch::CAPACITY).max(1) {
        let port_ = port(set, key);
        // Out of its slot while the signals are handled.
        let Some(mut batch) = port_.batch.take() else { unreachable!("it is there between visits") };
        let read = port_.signals.read_into(&mut batch);
        let asked = match read {
            Ok(_) => handle(set, key, &batch, state),
            Err(_) => Asked::Nothing,
        };
        port(set, key).batch = Some(batch);
        let count = match read {
            Ok(count) => count,
            Err(error) => {
                set.stats.failed(error.kind());
                return Visited::closed(Cause::Io(error));
            }
        };
        if let Some(visited) = asked.ends_visit(ready) {
            return visited;
        }
        if count < SignalBatch::CAPACITY {
            return Visited::Drained;
        }
    }
    Visited::Again(ready)
}

/// Calls the handler with each signal, or with each exit that SIGCHLD reports, until it asks for something.
fn handle<S>(set: &mut PollSet<S>, key: Key, signals: &[SignalInfo], state: &mut S) -> Asked {
    set.stats.signals += signals.len() as u64;
    if set.observes_messages() {
        set.lap();
    }
    if matches!(set.registry.get(key), Some(Source::Signals { handler: Some(SignalHandler::Exit(_)), .. })) {
        return reap(set, key, state);
    }
    for &signal in signals {
        let asked = call(set, key, |handler: &mut SignalHandler<S>, cx| match handler {
            SignalHandler::Signal(on_signal) => on_signal(signal, cx, state),
            SignalHandler::Exit(_) => Ok(()),
        })
        .or_report(set, key, "signals");
        if set.observes_messages() {
            set.emit_timed(|handler_ns, source| What::Signal { source, info: &signal, handler_ns });
        }
        if asked.ends() {
            return asked;
        }
    }
    Asked::Nothing
}

fn reap<S>(set: &mut PollSet<S>, key: Key, state: &mut S) -> Asked {
    let mut exits = set.children.reap();
    let mut asked = Asked::Nothing;
    for exit in exits.drain(..) {
        asked = call(set, key, |handler: &mut SignalHandler<S>, cx| match handler {
            SignalHandler::Exit(on_exit) => on_exit(exit, cx, state),
            SignalHandler::Signal(_) => Ok(()),
        })
        .or_report(set, key, "children");
        if asked.ends() {
            break;
        }
    }
    set.children.give_back(exits);
    asked
}
