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
    /// Has a blocked source visited again.
    Resume(Key),
    /// Looks whether a queue still has its name, and again after this time.
    CheckQueue(Key, Duration),
    /// Cuts a drain off.
    DrainDeadline,
}

impl<S> Task<S> {
    /// It was set by a handler, and runs one.
    pub(crate) fn is_embedders(&self) -> bool {
        match self {
            Task::Once(_) | Task::Every(..) | Task::Session(_) => true,
            Task::Resume(_) | Task::CheckQueue(..) | Task::DrainDeadline => false,
        }
    }
}
