//! Signals, and children by SIGCHLD, in the poll set.

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
    /// Receives signals in normal control flow: they are blocked, and read from a signalfd. Those that were pending
    /// already are received too. **Install signals first, in `main`**, before any thread is started: a thread that
    /// does not block a signal takes it, by default action.
    ///
    /// A signal is a level, never a count: two that come before one is read may be one.
    ///
    /// An error that `handler` returns is counted and logged; the signals stay.
    ///
    /// # Errors
    /// Those of [`Signals::new`]: the signal cannot be caught, must not be blocked, or is watched already.
    pub fn signals(
        &mut self,
        signals: impl IntoIterator<Item = Signal>,
        handler: impl FnMut(SignalInfo, &mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
    ) -> io::Result<Key> {
        self.insert_signals(Signals::new(signals)?, SignalHandler::Signal(Box::new(handler)))
    }

    /// Reaps children, the SIGCHLD way: `handler` gets the exit of each child given to
    /// [`watch_child`](PollSet::watch_child) or made by [`spawn`](PollSet::spawn), and of no other.
    ///
    /// # Errors
    /// As for [`signals`](PollSet::signals): SIGCHLD is watched already.
    pub fn children(
        &mut self,
        handler: impl FnMut(Exit, &mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
    ) -> io::Result<Key> {
        let key =
            self.insert_signals(Signals::new([Signal::CHLD])?, SignalHandler::Exit(Box::new(handler)))?;
        self.children.source = Some(key);
        // Those that ended before SIGCHLD was blocked sent a signal that was not kept.
        self.mark_ready(key, Ready::READABLE);
        Ok(key)
    }

    fn insert_signals(&mut self, signals: Signals, handler: SignalHandler<S>) -> io::Result<Key> {
        self.register(signals.as_fd(), Interest::READABLE)?;
        let port = SignalPort { signals, batch: Some(Box::new(SignalBatch::new())) };
        Ok(self.place(Source::Signals { port: Box::new(port), handler: Some(handler) }))
    }

    /// Has a child's exit reported to the handler of [`children`](PollSet::children), also if it has ended already.
    /// Returns its pid. Pipes to it that were not taken out of the `Child` are closed.
    ///
    /// # Errors
    /// `NotFound`: [`children`](PollSet::children) was not called; the child is handed back.
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

    /// Starts a child with an empty signal mask (a child of [`Command::spawn`] inherits what we block, and SIGTERM
    /// would not reach it), and watches it. Returns its pid.
    ///
    /// # Errors
    /// Those of [`Command::spawn`], and of [`watch_child`](PollSet::watch_child); then no child is started.
    pub fn spawn(&mut self, command: &mut Command) -> io::Result<u32> {
        self.exit_handler()?;
        Ok(self.watch_child(children::spawn(command)?)?)
    }

    fn exit_handler(&self) -> io::Result<Key> {
        self.children.source.filter(|&key| self.registry.get(key).is_some()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no handler is told of exits; call children() first")
        })
    }
}

/// The endpoint of the signals that are visited.
fn port<S>(set: &mut PollSet<S>, key: Key) -> &mut SignalPort {
    match set.registry.get_mut(key) {
        Some(Source::Signals { port, .. }) => port,
        _ => unreachable!("signals are not removed while they are visited"),
    }
}

/// One visit: reads all signals that are there, within the budget.
pub(crate) fn visit<S>(set: &mut PollSet<S>, key: Key, ready: Ready, state: &mut S) -> Visited {
    for _ in 0..set.limits.messages_per_visit.div_ceil(SignalBatch::CAPACITY).max(1) {
        let port_ = port(set, key);
        // Out of its slot while handlers are lent what is in it.
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

/// Hands signals, or the exits that SIGCHLD stands for, to the handler, until that asks for something.
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
