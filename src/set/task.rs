//! What a timer does when it is due.

use std::{io, time::Duration};

use crate::{set::context::Context, types::key::Key};

pub(crate) type Once<S> = Box<dyn FnOnce(&mut Context<'_, S>, &mut S) -> io::Result<()>>;
pub(crate) type Every<S> = Box<dyn FnMut(&mut Context<'_, S>, &mut S) -> io::Result<()>>;

pub(crate) enum Task<S> {
    Once(Once<S>),
    Every(Duration, Every<S>),
    /// Calls the session's `on_timer`.
    Session(Key),
    /// Resumes a blocked source.
    Resume(Key),
    /// Checks that a queue still has its name, and does so again after this time.
    CheckQueue(Key, Duration),
    /// Ends a drain.
    DrainDeadline,
}

impl<S> Task<S> {
    /// The embedder set it, and it calls the embedder's code.
    pub(crate) fn is_embedders(&self) -> bool {
        match self {
            Task::Once(_) | Task::Every(..) | Task::Session(_) => true,
            Task::Resume(_) | Task::CheckQueue(..) | Task::DrainDeadline => false,
        }
    }
}
