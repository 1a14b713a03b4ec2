//! The one place where the embedder's code runs.
//!
//! [`run`] catches a panic, and returns the error and what the handler asked for as a value. The functions around it
//! differ in where the handler comes from: [`call`] takes it out of its slot and puts it back, [`call_once`] gets it as
//! an argument, and [`call_closed`] is for `on_close`, the only method that is called after a stop.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use log::Level;

use crate::{
    observe::{event::What, throttle::Kind},
    set::{
        asked::Asked,
        context::Context,
        driver::{Driver, failed},
        handlers::{ChildHandler, DatagramHandler, QueueHandler, SignalHandler, Subscription, TypedSource},
        lifecycle::Phase,
        poll_set::PollSet,
        session::Factory,
        source::{Source, Visited},
    },
    types::{
        cause::{Cause, Outcome},
        key::Key,
        ready::Ready,
    },
};

impl Asked {
    /// How this ends the visit to a source without output; `None` if it does not. `left`: the edges that remain.
    pub(crate) fn ends_visit(self, left: Ready) -> Option<Visited> {
        match self {
            Asked::Nothing | Asked::Pause => None,
            Asked::Close | Asked::Abort => Some(Visited::closed(Cause::Closed)),
            Asked::Stop => Some(Visited::Again(left)),
        }
    }
}

/// The result of a call.
#[must_use = "the caller does what the handler asked for"]
pub(crate) struct Called<T> {
    pub(crate) result: Outcome<T>,
    pub(crate) asked: Asked,
}

impl Called<()> {
    /// A call that succeeded and asked for nothing.
    pub(crate) fn plain() -> Called<()> {
        Called { result: Ok(()), asked: Asked::Nothing }
    }
}

impl<T> Called<T> {
    /// Whether the handler succeeded and asked for nothing.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.result.is_ok() && self.asked == Asked::Nothing
    }

    /// The handler was not called, because the loop has stopped or there is no handler any more.
    #[cold]
    fn not_made() -> Called<T> {
        Called { result: Err(Box::new(Cause::Stop)), asked: Asked::Stop }
    }

    /// For a source that stays open after its handler's faults: counts and logs a fault, and returns what was asked.
    pub(crate) fn or_report<S>(self, set: &mut PollSet<S>, key: Key, what: &str) -> Asked {
        if let Err(cause) = self.result {
            report(set, key, what, &cause);
        }
        self.asked
    }
}

/// A kind of handler, and where a source keeps it while it does not run.
pub(crate) trait Handler<S>: Sized {
    fn slot(source: &mut Source<S>) -> Option<&mut Option<Self>>;
}

macro_rules! handlers {
    ($($variant:ident { $field:ident } => $handler:ty,)*) => {
        $(impl<S> Handler<S> for $handler {
            #[inline(always)]
            fn slot(source: &mut Source<S>) -> Option<&mut Option<Self>> {
                match source {
                    Source::$variant { $field, .. } => Some($field),
                    _ => None,
                }
            }
        })*
    };
}

handlers! {
    Listener { handler } => Factory<S>,
    Client { session } => Box<dyn Driver<S>>,
    Datagram { handler } => Box<dyn DatagramHandler<S>>,
    Queue { handler } => Box<dyn QueueHandler<S>>,
    Signals { handler } => SignalHandler<S>,
    Shm { handler } => Box<Subscription<S>>,
    Child { handler } => Box<dyn ChildHandler<S>>,
    Fd { handler } => Box<dyn TypedSource<S>>,
}

/// Calls the handler of a source.
#[inline]
pub(crate) fn call<S, H: Handler<S>, T>(
    set: &mut PollSet<S>,
    key: Key,
    f: impl FnOnce(&mut H, &mut Context<'_, S>) -> io::Result<T>,
) -> Called<T> {
    call_outcome(set, key, |handler, cx| f(handler, cx).map_err(failed))
}

/// [`call`], for a function that returns the cause itself.
#[inline]
pub(crate) fn call_outcome<S, H: Handler<S>, T>(
    set: &mut PollSet<S>,
    key: Key,
    f: impl FnOnce(&mut H, &mut Context<'_, S>) -> Outcome<T>,
) -> Called<T> {
    if set.lifecycle.phase() == Phase::Stopped {
        return Called::not_made();
    }
    let Some(mut handler) = set.registry.get_mut(key).and_then(H::slot).and_then(Option::take) else {
        return Called::not_made();
    };
    let called = run(set, key, |cx| f(&mut handler, cx));
    match set.registry.get_mut(key).and_then(H::slot) {
        Some(slot) => *slot = Some(handler),
        None => debug_assert!(false, "a slot is not freed while its handler runs"),
    }
    called
}

/// [`call_outcome`], for the straight line of a visit: the loop has not stopped, and the caller takes the session out
/// of its slot and puts it back. `Err`: the session has failed, or asked for something.
#[inline(always)]
pub(crate) fn call_session<S>(
    set: &mut PollSet<S>,
    key: Key,
    f: impl FnOnce(&mut Context<'_, S>) -> Outcome<()>,
) -> Result<(), Called<()>> {
    debug_assert_ne!(set.lifecycle.phase(), Phase::Stopped, "no handler of a stopped loop is called");
    let Called { result, asked } = run(set, key, f);
    match result {
        Ok(()) if asked == Asked::Nothing => Ok(()),
        result => Err(Called { result, asked }),
    }
}

/// Calls a handler that is in no slot: a one-shot timer, a job from another thread.
pub(crate) fn call_once<S, T>(
    set: &mut PollSet<S>,
    key: Key,
    f: impl FnOnce(&mut Context<'_, S>) -> io::Result<T>,
) -> Called<T> {
    if set.lifecycle.phase() == Phase::Stopped {
        return Called::not_made();
    }
    run(set, key, |cx| f(cx).map_err(failed))
}

/// Calls an `on_close`. Its source is out of the poll set, so it can ask for nothing but a stop.
pub(crate) fn call_closed<S>(set: &mut PollSet<S>, key: Key, f: impl FnOnce(&mut Context<'_, S>)) {
    let called = run(set, key, |cx| {
        f(cx);
        Ok(())
    });
    called.or_report(set, key, "on_close of");
}

/// **The one function that runs the embedder's code.** After a panic the handler's own state may be inconsistent: the
/// caller closes its source, or counts the fault. The reactor's state is consistent whenever a handler runs.
#[inline(always)]
fn run<S, T>(set: &mut PollSet<S>, key: Key, f: impl FnOnce(&mut Context<'_, S>) -> Outcome<T>) -> Called<T> {
    set.call.begin(key);
    match catch_unwind(AssertUnwindSafe(|| f(&mut Context { set }))) {
        Ok(Ok(value)) => Called { result: Ok(value), asked: set.call.end() },
        Ok(Err(cause)) => failed_call(set, cause),
        Err(panic) => {
            let cause = panicked(&*panic);
            failed_call(set, cause)
        }
    }
}

#[cold]
fn failed_call<S, T>(set: &mut PollSet<S>, cause: Box<Cause>) -> Called<T> {
    Called { result: Err(cause), asked: set.call.end() }
}

#[cold]
fn panicked(panic: &(dyn Any + Send)) -> Box<Cause> {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Box::new(Cause::Panic(text.unwrap_or("a panic without a message").to_owned()))
}

/// Counts a handler's fault, and logs it.
#[cold]
pub(crate) fn report<S>(set: &mut PollSet<S>, key: Key, what: &str, cause: &Cause) {
    match cause {
        Cause::Panic(message) => {
            set.emit(What::Fault { key, cause });
            set.stats.panics += 1;
            set.log(Kind::Panic, Level::Error, format_args!("{what} {key}: the handler panicked: {message}"));
        }
        Cause::Handler(error) => {
            set.emit(What::Fault { key, cause });
            set.stats.handler_errors += 1;
            set.warn(Kind::Handler, format_args!("{what} {key}: the handler failed: {error}"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::limits::Limits;
    use std::{cell::Cell, rc::Rc};

    fn set() -> PollSet<u32> {
        PollSet::new(Limits::default(), 4096, Default::default()).unwrap()
    }

    #[test]
    fn what_is_asked_and_what_failed_come_back_as_a_value() {
        let mut set = set();
        let key = Key { index: 9, serial: 9 };
        let called = call_once(&mut set, key, |cx| {
            assert_eq!(cx.key(), key);
            cx.set.call.ask(Asked::Close);
            Err::<(), _>(io::Error::other("failed"))
        });
        assert!(matches!(*called.result.unwrap_err(), Cause::Handler(_)));
        assert_eq!(called.asked, Asked::Close);
        let called = call_once(&mut set, key, |_| -> io::Result<()> { panic!("the text") });
        assert!(matches!(*called.result.unwrap_err(), Cause::Panic(text) if text == "the text"));
        assert_eq!(called.asked, Asked::Nothing, "nothing is left of the call before");
    }

    /// The class: a handler of a stopped loop runs again.
    #[test]
    fn after_a_stop_only_on_close_runs() {
        let (mut set, key) = (set(), Key { index: 9, serial: 9 });
        let called = call_once(&mut set, key, |cx| {
            cx.stop();
            Ok(())
        });
        assert_eq!(called.asked, Asked::Stop);
        let ran = Rc::new(Cell::new(0));
        let counts = || ran.set(ran.get() + 1);
        let called = call_once(&mut set, key, |_| {
            counts();
            Ok(())
        });
        assert_eq!((ran.get(), called.asked), (0, Asked::Stop));
        call_closed(&mut set, key, |_| counts());
        assert_eq!(ran.get(), 1);
    }
}
