//! Signals and children in the poll set.

use std::{io, mem, os::fd::AsFd, process::Child, process::Command};

use mio::Interest;

use crate::{
    children::{self, Exit},
    observe::event::What,
    set::{
        call::{guarded, report},
        context::Context,
        poll_set::PollSet,
        source::{Ready, Source, Visited},
    },
    signals::{SignalBatch, SignalInfo, Signals, signal::Signal},
    types::{cause::Cause, key::Key, rejected::Rejected},
};

type OnSignal<S> = Box<dyn FnMut(SignalInfo, &mut Context<'_, S>, &mut S) -> io::Result<()>>;
type OnExit<S> = Box<dyn FnMut(Exit, &mut Context<'_, S>, &mut S) -> io::Result<()>>;

enum Handler<S> {
    Signal(OnSignal<S>),
    /// SIGCHLD, which says that some children have ended, not which, nor how many.
    Exit(OnExit<S>),
}

pub(crate) struct SignalSource<S> {
    pub(crate) signals: Signals,
    handler: Handler<S>,
    batch: Box<SignalBatch>,
}

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
        self.insert_signals(Signals::new(signals)?, Handler::Signal(Box::new(handler)))
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
        let key = self.insert_signals(Signals::new([Signal::CHLD])?, Handler::Exit(Box::new(handler)))?;
        self.children = Some(key);
        // Those that ended before SIGCHLD was blocked sent a signal that nobody kept.
        self.mark_ready(key, Ready::READABLE);
        Ok(key)
    }

    fn insert_signals(&mut self, signals: Signals, handler: Handler<S>) -> io::Result<Key> {
        let key = self.register(signals.as_fd(), Interest::READABLE)?;
        let source = SignalSource { signals, handler, batch: Box::new(SignalBatch::new()) };
        Ok(self.place(key, Source::Signals(Box::new(source))))
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
        let pid = self.reaper.watch(child);
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
        self.children.filter(|&key| self.source(key).is_some()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "nobody handles exits; call children() first")
        })
    }
}

/// One visit: reads all signals that are there, within the budget.
pub(crate) fn visit<S>(
    set: &mut PollSet<S>,
    key: Key,
    source: &mut SignalSource<S>,
    ready: Ready,
    state: &mut S,
) -> Visited {
    for _ in 0..set.limits.messages_per_visit.div_ceil(SignalBatch::CAPACITY).max(1) {
        let count = match source.signals.read_into(&mut source.batch) {
            Ok(count) => count,
            Err(error) => {
                set.stats.failed(error.kind());
                return Visited::closed(Cause::Io(error));
            }
        };
        set.stats.signals += count as u64;
        if set.tells_messages() {
            set.lap();
        }
        match &mut source.handler {
            Handler::Signal(handler) => {
                for &signal in source.batch.iter() {
                    if let Err(cause) = guarded(set, key, |cx| handler(signal, cx, state)) {
                        report(set, key, "signals", &cause);
                    }
                    if set.tells_messages() {
                        set.tell_lap(|handler_ns, who| What::Signal { who, info: &signal, handler_ns });
                    }
                }
            }
            Handler::Exit(handler) => reap(set, key, handler, state),
        }
        if set.take_halt() {
            return Visited::closed(Cause::Closed);
        }
        if count < SignalBatch::CAPACITY {
            return Visited::Drained;
        }
    }
    Visited::Again(ready)
}

fn reap<S>(set: &mut PollSet<S>, key: Key, handler: &mut OnExit<S>, state: &mut S) {
    let mut exits = mem::take(&mut set.exits);
    set.reaper.reap(|exit| exits.push(exit));
    for exit in exits.drain(..) {
        if let Err(cause) = guarded(set, key, |cx| handler(exit, cx, state)) {
            report(set, key, "children", &cause);
        }
    }
    set.exits = exits;
}
