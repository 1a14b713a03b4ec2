//! `Session`: the handler of one client.

use std::io;

use crate::{
    net::peer::Peer,
    set::{context::Context, driver::Driver},
    types::{cause::Cause, key::TimerKey},
};

/// Makes the session of a new client.
pub(crate) type Factory<S> = Box<dyn FnMut(&Peer<'_>, &mut S) -> io::Result<Box<dyn Driver<S>>>>;

/// The handler of one client, with its state.
///
/// The factory given to [`listen`](crate::PollSet::listen) makes one for each connection (CIR) of the master socket.
/// The reactor owns it, and calls it for each request (SRM). `S` is the service's shared state, which every call
/// borrows.
///
/// A method that returns an error, or panics, closes its own client and nothing else: `on_close` is called with the
/// cause. **Never block** in any of them: all other clients wait meanwhile.
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
    /// The connection is established: a greeting can be sent. Called once, before any request.
    ///
    /// # Errors
    /// Closes the client.
    fn on_open(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (cx, state);
        Ok(())
    }

    /// A request (SRM) has arrived: one frame, or one seqpacket record. `request` is valid during this call.
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

    /// A slow consumer ([`Limits::output_high_water`](crate::Limits::output_high_water)) has read its output down to
    /// half of that mark: its requests are read again, and a producer can go on.
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

    /// The reactor drains, and every request of this client has been handled, every reply sent. A session that still
    /// has to answer returns [`Drain::Wait`], and closes its client after the answer.
    ///
    /// # Errors
    /// Closes the client.
    fn on_drain(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<Drain> {
        let _ = (cx, state);
        Ok(Drain::Close)
    }

    /// The client is closed: its descriptor is closed, and its key names nothing any more. Called exactly once, for any
    /// cause, unless the reactor is dropped while the client is connected.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        let _ = (cause, cx, state);
    }
}

/// What to do when a peer has shut down its writing side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfClose {
    /// Close the client after its output is sent.
    Close,
    /// Keep the connection for writing, until a handler or the peer closes it.
    KeepWriting,
}

/// What a session answers to a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Close the client.
    Close,
    /// An answer is still to come: the session closes the client, or the drain's deadline does.
    Wait,
}
