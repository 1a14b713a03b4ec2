//! A handler's own faults, kept from everybody else: its panics are caught, its errors become causes.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use log::Level;

use crate::{
    observe::{event::What, throttle::Kind},
    set::{context::Context, poll_set::PollSet},
    types::{
        cause::{Cause, Outcome},
        key::Key,
    },
};

/// Runs a handler. What it was told to work on may be half done after a panic: the caller closes it, or goes on
/// without it. The reactor's own state is whole at every point where a handler runs.
#[inline]
pub(crate) fn guarded<S, T>(
    set: &mut PollSet<S>,
    key: Key,
    handler: impl FnOnce(&mut Context<'_, S>) -> io::Result<T>,
) -> Outcome<T> {
    caught(set, key, |cx| handler(cx).map_err(|error| Box::new(Cause::Handler(error))))
}

/// The same for what tells its own cause.
#[inline(always)]
pub(crate) fn caught<S, T>(
    set: &mut PollSet<S>,
    key: Key,
    handlers: impl FnOnce(&mut Context<'_, S>) -> Outcome<T>,
) -> Outcome<T> {
    match catch_unwind(AssertUnwindSafe(|| handlers(&mut Context { set, key }))) {
        Ok(answer) => answer,
        Err(panic) => Err(panicked(&*panic)),
    }
}

#[cold]
fn panicked(panic: &(dyn Any + Send)) -> Box<Cause> {
    Box::new(Cause::Panic(message(panic)))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// Counts a handler's fault, and says so in the log.
#[cold]
pub(crate) fn report<S>(set: &mut PollSet<S>, key: Key, what: &str, cause: &Cause) {
    if matches!(cause, Cause::Panic(_) | Cause::Handler(_)) {
        set.tell(What::Fault { key, cause });
    }
    match cause {
        Cause::Panic(message) => {
            set.stats.panics += 1;
            set.complain(
                Kind::Panic,
                Level::Error,
                format_args!("{what} {key}: the handler panicked: {message}"),
            );
        }
        Cause::Handler(error) => {
            set.stats.handler_errors += 1;
            set.complain(
                Kind::Handler,
                Level::Warn,
                format_args!("{what} {key}: the handler failed: {error}"),
            );
        }
        _ => {}
    }
}
