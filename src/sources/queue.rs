//! A message queue in the poll set: drained within a budget, and written without ever waiting.

use std::{
    collections::VecDeque,
    io, mem,
    os::fd::{AsFd, AsRawFd},
};

use log::Level;
use mio::{Interest, unix::SourceFd};

use crate::{
    observe::{event::What, throttle::Kind},
    queue::{Queue, TrySendError},
    set::{
        call::{guarded, report},
        context::Context,
        poll_set::{Phase, PollSet},
        source::{Ready, Source, Visited},
    },
    types::{
        cause::{Cause, Limit},
        key::Key,
        rejected::Rejected,
    },
};

/// A message as a queue gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its bytes; there may be none. They are valid for this call.
    pub bytes: &'a [u8],
    /// Its priority, 0 to [`Queue::PRIORITY_MAX`]. The kernel gives the highest first, and the oldest of those.
    pub priority: u32,
}

/// What happens to a queue's messages. A closure given to [`PollSet::queue`] is one that only handles messages.
///
/// A queue is shared by all who send to it, so a handler that fails or panics loses the message and nothing else.
pub trait QueueHandler<S> {
    /// A message has been received.
    ///
    /// # Errors
    /// Counted, and logged. The queue stays.
    fn on_message(&mut self, message: Message<'_>, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()>;

    /// The queue's name is gone ([`Limits::queue_check`](crate::Limits::queue_check)): those who have it open still
    /// reach us, nobody else can. Called once.
    ///
    /// # Errors
    /// Counted, and logged. The queue stays.
    fn on_unlinked(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (cx, state);
        Ok(())
    }

    /// The queue is out of the poll set.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        let _ = (cause, cx, state);
    }
}

struct Closure<F>(F);

impl<S, F> QueueHandler<S> for Closure<F>
where
    F: FnMut(Message<'_>, &mut Context<'_, S>, &mut S) -> io::Result<()>,
{
    fn on_message(&mut self, message: Message<'_>, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        (self.0)(message, cx, state)
    }
}

/// What became of a message given to [`PollSet::post`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// It is in the queue.
    Sent,
    /// The queue is full; the message waits in the outbox and goes out as soon as there is room.
    Waits,
}

pub(crate) struct QueueSource<S> {
    pub(crate) queue: Queue,
    /// None for a queue that is only written.
    pub(crate) handler: Option<Box<dyn QueueHandler<S>>>,
    buffer: Vec<u8>,
    /// Sorted as the kernel would: highest priority first, oldest first within one.
    outbox: VecDeque<(u32, Box<[u8]>)>,
    watches_write: bool,
    /// How many messages a drain has still to handle.
    to_drain: Option<usize>,
    /// A drain need not wait for it.
    pub(crate) drained: bool,
}

impl<S> PollSet<S> {
    /// Receives from a queue: `handler` gets every message, in the kernel's order, at most
    /// [`Limits::messages_per_visit`](crate::Limits::messages_per_visit) in a visit. Opened for writing too, the queue
    /// can be [`post`](PollSet::post)ed to.
    ///
    /// # Errors
    /// The queue is not open for reading, or the kernel refuses to watch it; it is handed back.
    pub fn queue(
        &mut self,
        queue: Queue,
        handler: impl FnMut(Message<'_>, &mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
    ) -> Result<Key, Rejected<Queue>> {
        self.queue_handler(queue, Closure(handler))
    }

    /// Receives from a queue, with a handler that is also told when the queue is unlinked or closed.
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

    /// Takes in a queue to write to with [`post`](PollSet::post).
    ///
    /// # Errors
    /// The kernel refuses to watch it; it is handed back.
    pub fn outbox(&mut self, queue: Queue) -> Result<Key, Rejected<Queue>> {
        self.insert_queue(queue, None)
    }

    fn insert_queue(
        &mut self,
        queue: Queue,
        handler: Option<Box<dyn QueueHandler<S>>>,
    ) -> Result<Key, Rejected<Queue>> {
        // Whether it is open for reading is asked first of all, so a buffer too short for any message does no harm.
        if handler.is_some()
            && let Err(error) = queue.try_recv(&mut [])
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return Err(Rejected { error, source: queue });
        }
        // One's own sends wake one, with the whole mask: a queue that is not read is watched for what never comes.
        let interest = if handler.is_some() { Interest::READABLE } else { Interest::PRIORITY };
        let registered = queue.set_nonblocking(true).and_then(|()| self.register(queue.as_fd(), interest));
        let key = match registered {
            Ok(key) => key,
            Err(error) => return Err(Rejected { error, source: queue }),
        };
        let buffer = if handler.is_some() { vec![0; queue.message_size()] } else { Vec::new() };
        let only_written = handler.is_none();
        let source = QueueSource {
            queue,
            handler,
            buffer,
            outbox: VecDeque::new(),
            watches_write: false,
            to_drain: None,
            drained: only_written,
        };
        self.place(key, Source::Queue(Box::new(source)));
        if let Some(period) = self.limits.queue_check {
            self.check_queue_after(key, period);
        }
        Ok(key)
    }

    /// Sends a message to a queue of the poll set, without ever waiting: if the queue is full it is kept, and sent
    /// when there is room.
    ///
    /// # Errors
    /// `WouldBlock`: [`Limits::outbox`](crate::Limits::outbox) messages wait already; this one was not taken.
    /// `NotFound`: the key names no queue, or the queue's own handler runs. Those of [`Queue::send`].
    pub fn post(&mut self, key: Key, message: &[u8], priority: u32) -> io::Result<Posted> {
        self.check_not_forked()?;
        let limit = self.limits.outbox;
        let Some(Source::Queue(source)) = self.slot(key).map(|slot| &mut slot.source) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{key} is no queue at rest")));
        };
        // Nothing overtakes what waits.
        if source.outbox.is_empty() {
            match source.queue.try_send(message, priority) {
                Ok(()) => return Ok(Posted::Sent),
                Err(TrySendError::Full) => {}
                Err(TrySendError::Failed(error)) => return Err(error),
            }
        } else if message.len() > source.queue.message_size() || priority > Queue::PRIORITY_MAX {
            // Refused now, not when its turn comes. The queue says why.
            source.queue.try_send(message, priority)?;
        }
        if source.outbox.len() >= limit {
            self.trip(Limit::Outbox, format_args!("queue {key}"));
            let why = format!("the queue is full and {limit} messages wait for it; raise Limits::outbox");
            return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
        }
        let place = source.outbox.partition_point(|&(waiting, _)| waiting >= priority);
        source.outbox.insert(place, (priority, message.into()));
        let fd = (!source.watches_write).then(|| source.queue.as_fd().as_raw_fd());
        let interest = source.interest(true);
        source.watches_write = true;
        if let Some(fd) = fd {
            self.poll.registry().reregister(&mut SourceFd(&fd), key.token(), interest)?;
        }
        Ok(Posted::Waits)
    }

    /// Whether any queue still has messages to send.
    pub(crate) fn has_waiting_posts(&self) -> bool {
        self.slots
            .iter()
            .any(|(_, slot)| matches!(&slot.source, Source::Queue(queue) if !queue.outbox.is_empty()))
    }

    /// How many messages wait for room in a queue.
    pub fn waiting(&self, key: Key) -> usize {
        match self.source(key) {
            Some(Source::Queue(source)) => source.outbox.len(),
            _ => 0,
        }
    }
}

impl<S> QueueSource<S> {
    fn interest(&self, write: bool) -> Interest {
        match (self.handler.is_some(), write) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => Interest::PRIORITY,
        }
    }
}

/// One visit: empties the outbox as far as there is room, and the queue as far as the budget reaches.
pub(crate) fn visit<S>(
    set: &mut PollSet<S>,
    key: Key,
    source: &mut QueueSource<S>,
    ready: Ready,
    state: &mut S,
) -> Visited {
    if let Err(error) = send_waiting(set, key, source) {
        set.stats.failed(error.kind());
        set.complain(Kind::Queue, Level::Warn, format_args!("queue {key}: {error}"));
        return Visited::closed(Cause::Io(error));
    }
    let draining = set.phase == Phase::Draining;
    if draining && !source.drained && source.to_drain.is_none() {
        let queued = source.queue.attributes().map_or(0, |attributes| attributes.queued);
        source.to_drain = Some(queued);
    }
    for _ in 0..set.limits.messages_per_visit.max(1) {
        if source.to_drain == Some(0) {
            // It stays for those who still post to it, to the end of the drain.
            if !mem::replace(&mut source.drained, true) {
                set.drainable -= 1;
            }
            return Visited::Drained;
        }
        let Some(handler) = &mut source.handler else { return Visited::Drained };
        let received = match source.queue.try_recv(&mut source.buffer) {
            Ok(Some(received)) => received,
            // Another receiver may have been faster: that is no fault, and no end.
            Ok(None) if draining => {
                source.to_drain = Some(0);
                continue;
            }
            Ok(None) => return Visited::Drained,
            Err(error) => {
                set.stats.failed(error.kind());
                set.complain(Kind::Queue, Level::Error, format_args!("queue {key}: {error}"));
                return Visited::closed(Cause::Io(error));
            }
        };
        set.stats.queue_messages += 1;
        if set.tells_messages() {
            set.lap();
        }
        let message = Message { bytes: &source.buffer[..received.len], priority: received.priority };
        if let Err(cause) = guarded(set, key, |cx| handler.on_message(message, cx, state)) {
            report(set, key, "queue", &cause);
        }
        if set.tells_messages() {
            let (bytes, priority) = (message.bytes, Some(message.priority));
            set.tell_lap(|handler_ns, who| What::Message { who, bytes, priority, handler_ns });
        }
        if let Some(left) = &mut source.to_drain {
            *left -= 1;
        }
        if set.take_halt() {
            return Visited::closed(Cause::Closed);
        }
        if set.phase == Phase::Stopped {
            break;
        }
    }
    set.tripped(Limit::Messages);
    // A sender may be blocked on the full queue: no edge would ever call us back.
    Visited::Again(ready)
}

fn send_waiting<S>(set: &mut PollSet<S>, key: Key, source: &mut QueueSource<S>) -> io::Result<()> {
    while let Some((priority, message)) = source.outbox.front() {
        match source.queue.try_send(message, *priority) {
            Ok(()) => drop(source.outbox.pop_front()),
            Err(TrySendError::Full) => return Ok(()),
            Err(TrySendError::Failed(error)) => return Err(error),
        }
    }
    if source.watches_write {
        source.watches_write = false;
        let fd = source.queue.as_fd().as_raw_fd();
        set.poll.registry().reregister(&mut SourceFd(&fd), key.token(), source.interest(false))?;
    }
    Ok(())
}

/// Looks whether the queue still has its name; true if it is to be looked at again.
pub(crate) fn check<S>(set: &mut PollSet<S>, key: Key, state: &mut S) -> bool {
    let Some(slot) = set.slot(key) else { return false };
    if !matches!(&slot.source, Source::Queue(source) if source.queue.is_unlinked().unwrap_or(false)) {
        return true;
    }
    let mut source = mem::replace(&mut slot.source, Source::Running);
    set.complain(
        Kind::Queue,
        Level::Warn,
        format_args!("queue {key} was unlinked: nobody can open it by name any more"),
    );
    let timers = mem::replace(&mut set.current, key);
    if let Source::Queue(source) = &mut source
        && let Some(handler) = &mut source.handler
        && let Err(cause) = guarded(set, key, |cx| handler.on_unlinked(cx, state))
    {
        report(set, key, "queue", &cause);
    }
    // Whatever was ready of it is still noted in its slot.
    let visited = if set.take_halt() { Visited::closed(Cause::Closed) } else { Visited::Drained };
    set.put_back(key, source, visited);
    set.current = timers;
    false
}
