//! How sources leave the poll set: closed by a handler, drained, stopped, or by a fault of their own.

use std::{io, mem, os::fd::AsRawFd, time::Duration};

use mio::unix::SourceFd;

use crate::{
    observe::event::What,
    set::{
        client::{Client, Ending},
        poll_set::{Dead, DeadHandler, Halt, OWN_SOURCES, Phase, PollSet, Serves},
        session::Session,
        source::{Ready, Source},
    },
    types::{cause::Cause, key::Key},
};

impl<S> PollSet<S> {
    /// Closes any source, that of the running handler included. A client first takes what waits for it (at most for
    /// [`Limits::flush`](crate::Limits::flush)); no more is read from it. Returns false if the key names nothing any more.
    pub fn close(&mut self, key: Key) -> bool {
        self.end(key, Halt::Close)
    }

    /// Closes any source at once. What waits to be sent to a client is lost.
    pub fn abort(&mut self, key: Key) -> bool {
        self.end(key, Halt::Abort)
    }

    fn end(&mut self, key: Key, how: Halt) -> bool {
        if key.index < OWN_SOURCES {
            return false;
        }
        let now_ns = self.now_ns();
        let runs = self.runs(key);
        let Some(slot) = self.slots.get_mut(key.index as usize).filter(|slot| slot.serial == key.serial)
        else {
            return false;
        };
        match &mut slot.source {
            // Its handler runs, whether it was taken out of its slot alone or with its client.
            Source::Running | Source::Client(_) if runs => {
                if self.halt != Halt::Abort {
                    self.halt = how;
                }
            }
            Source::Client(client) if how == Halt::Close && client.is_open() && client.output.is_some() => {
                client.end(Ending::Closed, now_ns);
                self.mark_ready(key, Ready::NONE);
            }
            Source::Client(client) if how == Halt::Close && !client.is_open() => return false,
            Source::Running => {
                debug_assert!(false, "only the running handler's source is taken out");
                return false;
            }
            _ => {
                let source = mem::replace(&mut slot.source, Source::Running);
                self.retire(key, source, Cause::Closed);
            }
        }
        true
    }

    /// Ends the loop when the running handler has returned: every source is closed, with [`Cause::Stop`].
    pub fn stop(&mut self) {
        self.phase = Phase::Stopped;
        self.serves = Serves::Nobody;
    }

    /// Ends the loop in order: no more CIRs are accepted than have arrived by now; every request that has arrived is
    /// handled, every reply sent, every client closed when nothing is owed to it, and messages that are in the queues
    /// and datagrams that are in the sockets now are handled. What is not done after `within` (or [`Limits::drain`](crate::Limits::drain)) is cut off, with
    /// [`Cause::DrainDeadline`]. [`Stats`](crate::Stats) tells how many were drained, and how many cut off.
    ///
    /// Another drain while one is under way can only bring its end forward.
    ///
    /// # Errors
    /// None; the type lets it stand as a handler's last expression.
    pub fn drain(&mut self, within: Duration) -> io::Result<()> {
        let within = within.min(self.limits.drain);
        self.drain_deadline(within);
        if self.phase == Phase::Running {
            log::info!(target: "ipc_reactor", "draining: {} clients, {within:?} at most", self.stats.clients);
            self.phase = Phase::Draining;
            self.serves = Serves::Nobody;
            let keys: Vec<Key> = self
                .slots
                .iter()
                .map(|(index, slot)| Key { index: index as u32, serial: slot.serial })
                .collect();
            for key in keys {
                if self
                    .source(key)
                    .is_some_and(|source| is_drainable(source) || matches!(source, Source::Running))
                {
                    self.mark_ready(key, Ready::READABLE);
                }
            }
        }
        Ok(())
    }

    /// The drain's deadline has passed.
    pub(crate) fn cut_off(&mut self) {
        self.close_all(
            || Cause::DrainDeadline,
            |source| is_drainable(source) || matches!(source, Source::Queue(_)),
        );
        self.phase = Phase::Stopped;
    }

    pub(crate) fn close_all(&mut self, cause: impl Fn() -> Cause, which: impl Fn(&Source<S>) -> bool) {
        let keys: Vec<Key> = self
            .slots
            .iter()
            .filter(|(_, slot)| which(&slot.source) && !matches!(slot.source, Source::Running))
            .map(|(index, slot)| Key { index: index as u32, serial: slot.serial })
            .collect();
        for key in keys {
            if let Some(slot) = self.slot(key) {
                let source = mem::replace(&mut slot.source, Source::Running);
                self.retire(key, source, cause());
            }
        }
    }

    /// Whether the running handler has closed its own source; for sources that have nothing to flush.
    pub(crate) fn take_halt(&mut self) -> bool {
        matches!(mem::replace(&mut self.halt, Halt::No), Halt::Close | Halt::Abort)
    }

    /// Takes a source, which the caller has taken out of its slot, out of the poll set; `on_close` follows when the
    /// running handler has returned.
    pub(crate) fn retire(&mut self, key: Key, source: Source<S>, cause: Cause) {
        let unwatched = matches!(&source, Source::Client(client) if client.unwatched);
        if self.check_not_forked().is_ok()
            && !unwatched
            && let Some(fd) = source.raw_fd()
        {
            // DEL though we close: a dup'd descriptor keeps the registration alive.
            if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&fd)) {
                self.stats.failed(error.kind());
            }
        }
        self.timers.forget_client(&mut self.slots, key.index);
        let slot = self.slots.remove(key.index as usize);
        // Edges of this batch that nobody will see.
        self.stats.stale_events += u64::from(slot.queued && slot.ready != Ready::NONE);
        self.drainable -= usize::from(is_drainable(&source));
        if self.watch.is_some() {
            self.tell(What::Closed { who: source.who(key), cause: &cause });
        }
        let handler = match source {
            Source::Client(client) => DeadHandler::Session(self.dismantle(key, client, &cause)),
            other => DeadHandler::Source(other),
        };
        self.dead.push_back(Dead { key, cause, handler });
        self.resume_masters();
        if self.slots.capacity() > 1024 && self.slots.len() < self.slots.capacity() / 8 {
            self.slots.shrink_to_fit();
        }
    }

    fn dismantle(&mut self, key: Key, client: Client<S>, cause: &Cause) -> Box<dyn Session<S>> {
        log::debug!(target: "ipc_reactor", "client {key} fd {}: {cause}", client.socket.as_raw_fd());
        self.stats.clients -= 1;
        self.stats.closed += 1;
        match cause {
            Cause::Drain => self.stats.drained += 1,
            Cause::DrainDeadline => self.stats.drain_cut += 1,
            _ => {}
        }
        client.dismantle(self)
    }
}

/// What a drain waits for.
pub(crate) fn is_drainable<S>(source: &Source<S>) -> bool {
    match source {
        Source::Queue(queue) => !queue.drained,
        source => matches!(source, Source::Master(_) | Source::Client(_) | Source::Datagram(_)),
    }
}
