//! How sources are removed from the poll set: closed by a handler, drained, stopped, or after an error.

use std::{io, mem, time::Duration};

use crate::{
    observe::{
        event::{VisitEnd, What},
        throttle::Kind,
    },
    poll::registry::Slot,
    set::{
        accounts::UID_UNKNOWN,
        asked::Asked,
        client::{ClientIo, Ending},
        lifecycle::Phase,
        poll_set::PollSet,
        source::{Closed, PendingClose, Source, Visited},
        task::Task,
    },
    types::{cause::Cause, key::Key, ready::Ready},
};

impl<S> PollSet<S> {
    /// Closes any source, the running handler's included. The output of a client is sent first, within
    /// [`Limits::flush`](crate::Limits::flush), and no more is read from it. False if the key names nothing.
    pub fn close(&mut self, key: Key) -> bool {
        self.end(key, Asked::Close)
    }

    /// Closes any source at once. The unsent output of a client is lost. False if the key names nothing.
    pub fn abort(&mut self, key: Key) -> bool {
        self.end(key, Asked::Abort)
    }

    fn end(&mut self, key: Key, how: Asked) -> bool {
        let now_ns = self.now_ns();
        let Some(source) = self.registry.get_mut(key) else { return false };
        if source.is_own() {
            return false;
        }
        if self.call.is_of(key) {
            // The visit closes it after the handler has returned.
            self.call.ask(how);
            return true;
        }
        if let Source::Client { io, .. } = source
            && how == Asked::Close
        {
            if !io.is_open() {
                return false;
            }
            if io.has_output() {
                io.end(Ending::Closed, now_ns);
                self.mark_ready(key, Ready::NONE);
                return true;
            }
        }
        self.remove(key, Cause::Closed);
        true
    }

    /// Ends the loop when the running handler has returned: every source is closed, its `on_close` is called with
    /// [`Cause::Stop`], and no other handler is called.
    pub fn stop(&mut self) {
        self.lifecycle.enter(Phase::Stopped);
        self.call.ask(Asked::Stop);
    }

    /// Ends the loop in order. Connections, requests, messages and datagrams that have arrived by now are handled, and
    /// no later ones; replies are sent; each client is closed when it has nothing left to do. Sources that are still
    /// there after `within`, or [`Limits::drain`](crate::Limits::drain) if that is shorter, are closed with
    /// [`Cause::DrainDeadline`]. [`Stats::drained`](crate::Stats::drained) and
    /// [`Stats::drain_cut`](crate::Stats::drain_cut) count both.
    ///
    /// A second drain can only bring the end of the first one forward.
    ///
    /// # Errors
    /// None. It returns a `Result` so that it can be a handler's last expression.
    pub fn drain(&mut self, within: Duration) -> io::Result<()> {
        let within = within.min(self.limits.drain);
        if self.lifecycle.phase() == Phase::Stopped {
            return Ok(());
        }
        self.set_drain_deadline(within);
        if self.lifecycle.phase() == Phase::Running {
            log::info!(target: "ipc_reactor", "draining: {} clients, {within:?} at most", self.stats.clients);
            self.lifecycle.enter(Phase::Draining);
            self.call.ask(Asked::Pause);
            let drainable: Vec<Key> = self
                .registry
                .iter()
                .filter(|(_, source)| source.is_drainable())
                .map(|(key, _)| key)
                .collect();
            for key in drainable {
                self.mark_ready(key, Ready::READABLE);
            }
        }
        Ok(())
    }

    fn set_drain_deadline(&mut self, within: Duration) {
        let due_ns = self.timers.due_ns(within);
        if !self.lifecycle.drain_deadline.is_some_and(|timer| self.timers.bring_forward(timer, due_ns)) {
            self.lifecycle.drain_deadline = Some(self.timers.add(within, Task::DrainDeadline));
        }
    }

    /// The drain's deadline has passed.
    pub(crate) fn cut_off_drain(&mut self) {
        self.warn(Kind::Limit, format_args!("the drain's deadline has passed"));
        self.remove_all(
            || Cause::DrainDeadline,
            |source| source.is_drainable() || matches!(source, Source::Queue { .. }),
        );
        self.lifecycle.enter(Phase::Stopped);
    }

    pub(crate) fn remove_all(&mut self, cause: impl Fn() -> Cause, which: impl Fn(&Source<S>) -> bool) {
        let keys: Vec<Key> =
            self.registry.iter().filter(|(_, source)| which(source)).map(|(key, _)| key).collect();
        for key in keys {
            self.remove(key, cause());
        }
    }

    /// Does what a visit has come to: the source keeps its remaining edges, is visited again, or is removed.
    pub(crate) fn finish_visit(&mut self, key: Key, visited: Visited) -> VisitEnd {
        let end = visited.end();
        match visited {
            Visited::Drained => {}
            Visited::Again(left) => {
                self.mark_ready(key, left);
            }
            Visited::Blocked(left) => {
                if let Some(slot) = self.registry.slot_mut(key) {
                    slot.ready |= left;
                }
            }
            Visited::Closed(cause) => self.remove(key, *cause),
        }
        end
    }

    /// Removes a source whose handler does not run. Its `on_close` is called after the running handler has returned.
    pub(crate) fn remove(&mut self, key: Key, cause: Cause) {
        debug_assert!(!self.call.is_of(key), "the source of the running handler is closed by its visit");
        let Some(source) = self.registry.get(key) else { return };
        let unregistered = matches!(source, Source::Client { io, .. } if io.is_unregistered());
        if !unregistered && let Some(fd) = source.raw_fd() {
            // DEL, though the descriptor is closed: a duplicate of it would keep the registration.
            if let Err(error) = self.registry.deregister(fd) {
                self.stats.failed(error.kind());
            }
        }
        if self.observers.is_some()
            && let Some(source) = self.registry.get(key)
        {
            let source = source.info(key);
            self.emit(What::Closed { source, cause: &cause });
        }
        self.timers.clear_slot_deadline(key.index);
        let Some(Slot { value: source, ready, queued, .. }) = self.registry.remove(key) else { return };
        // Edges of this turn that no visit handles.
        self.stats.stale_events += u64::from(queued && ready != Ready::NONE);
        self.lifecycle.drainable -= usize::from(source.is_drainable());
        let handler = match source {
            Source::Client { io, session: Some(session) } => {
                self.release_client(key, io, &cause);
                Closed::Session(session)
            }
            other => Closed::Source(other),
        };
        self.lifecycle.pending.push_back(PendingClose { key, cause, handler });
        self.call.ask(Asked::Pause);
        self.resume_acceptors();
        let capacity = self.registry.capacity();
        self.timers.shrink_slots_to(capacity);
    }

    /// Takes back a client's buffers and place, and closes its descriptor.
    fn release_client(&mut self, key: Key, mut io: ClientIo, cause: &Cause) {
        log::debug!(target: "ipc_reactor", "client {key} fd {}: {cause}", io.raw_fd());
        self.stats.clients -= 1;
        self.stats.closed += 1;
        match cause {
            Cause::Drain => self.stats.drained += 1,
            Cause::DrainDeadline => self.stats.drain_cut += 1,
            _ => {}
        }
        let buffered = mem::take(&mut io.buffered);
        debug_assert!(io.uid != UID_UNKNOWN || !self.accounts.counts_users());
        self.accounts.release(io.uid, buffered as usize);
        if let Some(input) = io.take_input() {
            self.io.pool.give_back(input);
        }
        if let Some(output) = io.take_output() {
            self.io.pool.give_back(output);
        }
        self.stats.descriptors_discarded += io.close();
    }

    /// Resumes the paused listeners.
    pub(crate) fn resume_acceptors(&mut self) {
        while let Some((listener, timer)) = self.acceptors.resume() {
            self.timers.remove(timer);
            self.mark_ready(listener, Ready::READABLE);
        }
    }
}
