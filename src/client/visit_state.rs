//! The state of a visit: its client, its budget, and what the session asks for.

use std::io;

use crate::{
    poll::registry::Registry,
    set::{
        asked::Asked,
        call::{Called, call},
        client::{ClientIo, Ending, Flags, Read},
        context::Context,
        driver::Driver,
        poll_set::PollSet,
        source::Source,
    },
    types::{
        cause::{Cause, Limit},
        key::Key,
        ready::Ready,
    },
};

/// What the loop passes to a visit.
pub(crate) struct VisitArgs<'a, S> {
    /// The read buffer.
    pub(crate) scratch: &'a mut [u8],
    pub(crate) state: &'a mut S,
}

/// A client's session, as its slot has it.
pub(super) type Stored<S> = Option<Box<dyn Driver<S>>>;

/// The two halves of a client that is visited.
#[inline(always)]
pub(super) fn halves<S>(registry: &mut Registry<Source<S>>, key: Key) -> (&mut ClientIo, &mut Stored<S>) {
    match registry.get_known_mut(key) {
        Some(Source::Client { io, session }) => (io, session),
        _ => unreachable!("a client is not removed while it is visited"),
    }
}

/// The I/O half of a client that is visited.
#[inline(always)]
pub(super) fn io_of<S>(registry: &mut Registry<Source<S>>, key: Key) -> &mut ClientIo {
    halves(registry, key).0
}

/// Why a visit ends early.
pub(super) enum Exit {
    Close(Box<Cause>),
    /// A client that was being closed has no output left.
    Ended(Ending),
    /// The loop has stopped.
    Stop,
}

impl From<Box<Cause>> for Exit {
    fn from(cause: Box<Cause>) -> Exit {
        Exit::Close(cause)
    }
}

impl From<Cause> for Exit {
    fn from(cause: Cause) -> Exit {
        Exit::Close(Box::new(cause))
    }
}

pub(super) type Flow<T> = Result<T, Exit>;

/// What is left of a visit's budget.
pub(super) struct Budget {
    pub(super) bytes: usize,
    pub(super) messages: usize,
}

impl Budget {
    /// The limit that is reached; `None` if budget is left.
    pub(super) fn spent(&self) -> Option<Limit> {
        match self {
            Budget { bytes: 0, .. } => Some(Limit::Bytes),
            Budget { messages: 0, .. } => Some(Limit::Messages),
            _ => None,
        }
    }
}

pub(super) struct Visit<'a, S> {
    pub(super) set: &'a mut PollSet<S>,
    pub(super) key: Key,
    pub(super) scratch: &'a mut [u8],
    pub(super) state: &'a mut S,
    /// The edges that remain.
    pub(super) left: Ready,
    /// The result of a read that is not handled yet.
    pub(super) first: Option<Read>,
    pub(super) budget: Budget,
}

impl<'a, S> Visit<'a, S> {
    pub(super) fn new(
        set: &'a mut PollSet<S>,
        key: Key,
        ready: Ready,
        args: &'a mut VisitArgs<'_, S>,
    ) -> Visit<'a, S> {
        let budget = Budget { bytes: set.limits.bytes_per_visit, messages: set.limits.messages_per_visit };
        let left = ready.without(Ready::WRITABLE);
        Visit { set, key, scratch: args.scratch, state: args.state, left, first: None, budget }
    }

    pub(super) fn io(&mut self) -> &mut ClientIo {
        io_of(&mut self.set.registry, self.key)
    }

    pub(super) fn has(&mut self, any: Flags) -> bool {
        self.io().flags.has(any)
    }

    /// Calls the session, and does what it asks.
    pub(super) fn call<T>(
        &mut self,
        f: impl FnOnce(&mut dyn Driver<S>, &mut Context<'_, S>, &mut S) -> io::Result<T>,
    ) -> Flow<T> {
        let state = &mut *self.state;
        let called =
            call(self.set, self.key, |session: &mut Box<dyn Driver<S>>, cx| f(&mut **session, cx, state));
        self.apply(called)
    }

    /// Does what a session has asked for. An error comes first: it closes the client.
    pub(super) fn apply<T>(&mut self, called: Called<T>) -> Flow<T> {
        let value = match called.result {
            Ok(value) => value,
            // It was not called: the loop has stopped.
            Err(cause) if matches!(*cause, Cause::Stop) => return Err(Exit::Stop),
            Err(cause) => return Err(Exit::Close(cause)),
        };
        match called.asked {
            Asked::Nothing | Asked::Pause => Ok(value),
            Asked::Close => {
                let now_ns = self.set.now_ns();
                self.io().end(Ending::Closed, now_ns);
                Ok(value)
            }
            Asked::Abort => Err(Cause::Closed.into()),
            Asked::Stop => Err(Exit::Stop),
        }
    }
}
