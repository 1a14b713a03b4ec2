//! What an embedder writes: one session per client.

use std::io;

use crate::{
    net::peer::Peer,
    set::{context::Context, driver::Driver},
    types::{cause::Cause, key::TimerKey},
};

/// Makes the session of a new client.
pub(crate) type Factory<S> = Box<dyn FnMut(&Peer<'_>, &mut S) -> io::Result<Box<dyn Driver<S>>>>;

/// The server's side of one connection, with what it remembers of its client.
///
/// The factory given to `listen` makes one for each CIR; the reactor keeps it in its slab and calls it for each SRM.
/// `S` is the service's shared state: there is one, and it is lent to every call.
///
/// A method that returns an error, or panics, loses its own client and nothing else: the client is closed, and
/// `on_close` is told why. **Never block** in any of them: every other client waits meanwhile.
///
/// ```
/// use ipc_reactor::{Context, Session};
/// use std::io;
///
/// struct Echo;
///
/// impl<S> Session<S> for Echo {
///     fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
///         cx.reply(request)
///     }
/// }
/// ```
pub trait Session<S> {
    /// The connection is established; a greeting can be sent. Called once, before any request.
    ///
    /// # Errors
    /// Closes the client.
    fn on_open(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (cx, state);
        Ok(())
    }

    /// A service request message: one frame, or one seqpacket record. `request` is valid for this call.
    ///
    /// # Errors
    /// Closes the client.
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()>;

    /// The peer has shut down its writing side; what it sent before has been handled. It may still read.
    ///
    /// # Errors
    /// Closes the client.
    fn on_half_close(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<HalfClose> {
        let _ = (cx, state);
        Ok(HalfClose::Close)
    }

    /// The peer, which had been a slow consumer
    /// ([`Limits::output_high_water`](crate::Limits::output_high_water)), has taken at least half of what waited for
    /// it: its requests are read again, and a producer can go on.
    ///
    /// # Errors
    /// Closes the client.
    fn on_flushed(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (cx, state);
        Ok(())
    }

    /// A timer set with [`Context::wake_after`] is due.
    ///
    /// # Errors
    /// Closes the client.
    fn on_timer(&mut self, timer: TimerKey, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (timer, cx, state);
        Ok(())
    }

    /// The reactor drains, every request of this client has been handled and every reply sent. A session that
    /// still owes an answer says [`Drain::Wait`], and closes itself once it has given it.
    ///
    /// # Errors
    /// Closes the client.
    fn on_drain(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<Drain> {
        let _ = (cx, state);
        Ok(Drain::Close)
    }

    /// The client is gone, its descriptor closed, its key void. Called exactly once, whatever ended it, unless the
    /// reactor itself is dropped while clients are connected.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        let _ = (cause, cx, state);
    }
}

/// What follows when a peer has shut down its writing side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfClose {
    /// Send what waits, then close.
    Close,
    /// Keep the connection for writing, until a handler closes it or the peer goes away altogether.
    KeepWriting,
}

/// What a session answers to a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Nothing is owed: close.
    Close,
    /// An answer is still to come; the session closes itself, or the drain's deadline does.
    Wait,
}
