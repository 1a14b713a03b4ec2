//! A message queue as a source.

use std::{io, os::fd::AsFd};

use log::Level;

use crate::{
    observe::{event::What, throttle::Kind},
    queue::{Queue, TrySendError},
    set::{
        call::call,
        context::Context,
        endpoints::QueuePort,
        handlers::{Closure, Message, QueueHandler},
        lifecycle::Phase,
        poll_set::PollSet,
        source::{Source, Visited},
        task::Task,
    },
    types::{
        cause::{Cause, Limit},
        key::Key,
        posted::Posted,
        ready::Ready,
        rejected::Rejected,
    },
};

impl<S> PollSet<S> {
    /// Puts a queue into the poll set: `handler` gets every message, in the kernel's order, at most
    /// [`Limits::messages_per_visit`](crate::Limits::messages_per_visit) in a visit. If the queue is also open for
    /// writing, [`post`](PollSet::post) sends to it.
    ///
    /// # Errors
    /// `PermissionDenied`: the queue is not open for reading. Those of `epoll_ctl(2)`. The error returns the queue.
    pub fn queue(
        &mut self,
        queue: Queue,
        handler: impl FnMut(Message<'_>, &mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
    ) -> Result<Key, Rejected<Queue>> {
        self.queue_handler(queue, Closure(handler))
    }

    /// [`queue`](PollSet::queue) with a handler that also has methods for the unlinking and for the end.
    ///
    /// # Errors
    /// As for [`queue`](PollSet::queue).
    pub fn queue_handler(
        &mut self,
        queue: Queue,
        handler: impl QueueHandler<S> + 'static,
    ) -> Result<Key, Rejected<Queue>> {
        self.insert_queue(queue, Some(Box::new(handler)))
    }

    /// Puts a queue into the poll set only to write to it with [`post`](PollSet::post).
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`. The error returns the queue.
    pub fn outbox(&mut self, queue: Queue) -> Result<Key, Rejected<Queue>> {
        self.insert_queue(queue, None)
    }

    fn insert_queue(
        &mut self,
        queue: Queue,
        handler: Option<Box<dyn QueueHandler<S>>>,
    ) -> Result<Key, Rejected<Queue>> {
        // The kernel checks the access mode first, so a buffer that is too short takes no message.
        if handler.is_some()
            && let Err(error) = queue.try_recv(&mut [])
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return Err(Rejected { error, source: queue });
        }
        let port = QueuePort::new(queue, handler.is_some());
        let registered = port
            .queue
            .set_nonblocking(true)
            .and_then(|()| self.register(port.queue.as_fd(), port.interest()));
        if let Err(error) = registered {
            return Err(Rejected { error, source: port.queue });
        }
        if handler.is_some() {
            self.io.need_read_room(port.queue.message_size());
        }
        let key = self.place(Source::Queue { port: Box::new(port), handler });
        if let Some(period) = self.limits.queue_check {
            self.timers.add(period, Task::CheckQueue(key, period));
        }
        Ok(key)
    }

    /// Sends a message to a queue of the poll set, the running handler's included, without waiting: if the queue is
    /// full, the message is buffered, and sent when there is room.
    ///
    /// # Errors
    /// `WouldBlock`: [`Limits::outbox`](crate::Limits::outbox) messages are buffered already, and this one is not.
    /// `NotFound`: the key names no queue. Those of [`Queue::send`].
    pub fn post(&mut self, key: Key, message: &[u8], priority: u32) -> io::Result<Posted> {
        self.registry.check_not_forked()?;
        let limit = self.limits.outbox;
        let Some(Source::Queue { port, .. }) = self.registry.get_mut(key) else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{key} names no queue in the poll set"),
            ));
        };
        // Buffered messages are sent first.
        if port.outbox.is_empty() {
            match port.queue.try_send(message, priority) {
                Ok(()) => return Ok(Posted::Sent),
                Err(TrySendError::Full) => {}
                Err(TrySendError::Failed(error)) => return Err(error),
            }
        } else if message.len() > port.queue.message_size() || priority > Queue::PRIORITY_MAX {
            // The kernel would refuse it: it does so now, with its error.
            port.queue.try_send(message, priority)?;
        }
        if port.outbox.len() >= limit {
            self.report_limit(Limit::Outbox, format_args!("queue {key}"));
            let why = format!(
                "queue {key} is full, and {limit} messages are buffered for it; raise Limits::outbox"
            );
            return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
        }
        port.keep(message, priority);
        set_write_interest(self, key, true)?;
        Ok(Posted::Buffered)
    }

    /// Whether any queue has buffered messages.
    pub(crate) fn has_waiting_posts(&self) -> bool {
        self.registry
            .iter()
            .any(|(_, source)| matches!(source, Source::Queue { port, .. } if !port.outbox.is_empty()))
    }

    /// How many messages are buffered for a queue. 0 if the key names no queue.
    pub fn outbox_len(&self, key: Key) -> usize {
        match self.registry.get(key) {
            Some(Source::Queue { port, .. }) => port.outbox.len(),
            _ => 0,
        }
    }
}

/// The endpoint of the queue that is visited.
fn port<S>(set: &mut PollSet<S>, key: Key) -> &mut QueuePort {
    match set.registry.get_mut(key) {
        Some(Source::Queue { port, .. }) => port,
        _ => unreachable!("a queue is not removed while it is visited"),
    }
}

fn set_write_interest<S>(set: &mut PollSet<S>, key: Key, on: bool) -> io::Result<()> {
    let port = port(set, key);
    if port.write_interest == on {
        return Ok(());
    }
    port.write_interest = on;
    let (fd, interest) = (port.raw_fd(), port.interest());
    set.registry.reregister(key, fd, interest)
}

fn failed<S>(set: &mut PollSet<S>, key: Key, error: io::Error) -> Visited {
    set.stats.failed(error.kind());
    set.log(Kind::Queue, Level::Error, format_args!("queue {key}: {error}"));
    Visited::closed(Cause::Io(error))
}

/// One visit: sends buffered messages while there is room, then receives until the queue is empty or the budget is
/// spent.
pub(crate) fn visit<S>(
    set: &mut PollSet<S>,
    key: Key,
    ready: Ready,
    scratch: &mut [u8],
    state: &mut S,
) -> Visited {
    match port(set, key)
        .flush()
        .and_then(|sent| if sent { set_write_interest(set, key, false) } else { Ok(()) })
    {
        Ok(()) => {}
        Err(error) => return failed(set, key, error),
    }
    if !port(set, key).is_read {
        return Visited::Drained;
    }
    let draining = set.lifecycle.phase() == Phase::Draining;
    if draining && !port(set, key).drained && port(set, key).to_drain.is_none() {
        let queued = port(set, key).queue.attributes().map_or(0, |attributes| attributes.queued);
        port(set, key).to_drain = Some(queued);
    }
    for _ in 0..set.limits.messages_per_visit.max(1) {
        let queue = port(set, key);
        if queue.to_drain == Some(0) {
            // It stays open for posts, until the end of the drain.
            if !std::mem::replace(&mut queue.drained, true) {
                set.lifecycle.drainable -= 1;
            }
            return Visited::Drained;
        }
        let received = match queue.queue.try_recv(scratch) {
            Ok(Some(received)) => received,
            // Another receiver may have taken the rest.
            Ok(None) if draining => {
                queue.to_drain = Some(0);
                continue;
            }
            Ok(None) => return Visited::Drained,
            Err(error) => return failed(set, key, error),
        };
        set.stats.queue_messages += 1;
        if set.observes_messages() {
            set.lap();
        }
        let message = Message { bytes: &scratch[..received.len], priority: received.priority };
        let asked = call(set, key, |handler: &mut Box<dyn QueueHandler<S>>, cx| {
            handler.on_message(message, cx, state)
        })
        .or_report(set, key, "queue");
        if set.observes_messages() {
            let (bytes, priority) = (message.bytes, Some(message.priority));
            set.emit_timed(|handler_ns, source| What::Message { source, bytes, priority, handler_ns });
        }
        if let Some(left) = &mut port(set, key).to_drain {
            *left -= 1;
        }
        if let Some(visited) = asked.ends_visit(ready) {
            return visited;
        }
    }
    set.count_limit(Limit::Messages);
    // If a sender blocks on the full queue, its message makes no edge: the queue must be visited again.
    Visited::Again(ready)
}

/// Checks that the queue still has its name. True: check again later.
pub(crate) fn check<S>(set: &mut PollSet<S>, key: Key, state: &mut S) -> bool {
    let Some(Source::Queue { port, .. }) = set.registry.get(key) else { return false };
    if !port.queue.is_unlinked().unwrap_or(false) {
        return true;
    }
    let is_read = port.is_read;
    set.warn(Kind::Queue, format_args!("queue {key} was unlinked: it cannot be opened by name any more"));
    if is_read {
        let asked =
            call(set, key, |handler: &mut Box<dyn QueueHandler<S>>, cx| handler.on_unlinked(cx, state))
                .or_report(set, key, "queue");
        // The slot keeps the queue's edges.
        if let Some(closed @ Visited::Closed(_)) = asked.ends_visit(Ready::NONE) {
            set.finish_visit(key, closed);
        }
    }
    false
}
