//! The traits of the handlers that embedders write, but for a client's ([`Session`](crate::Session)).

use std::{any::Any, io, os::fd::AsFd};

use crate::{
    children::Exit,
    net::datagram::{Datagram, address::SocketAddress},
    set::context::Context,
    shm::{Subscriber, Update},
    signals::SignalInfo,
    types::{cause::Cause, ready::Ready},
};

/// A closure, as a handler that only handles.
pub(crate) struct Closure<F>(pub(crate) F);

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

impl<S, F> QueueHandler<S> for Closure<F>
where
    F: FnMut(Message<'_>, &mut Context<'_, S>, &mut S) -> io::Result<()>,
{
    fn on_message(&mut self, message: Message<'_>, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        (self.0)(message, cx, state)
    }
}

/// A datagram as a socket gives it, and the way to answer it.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Its bytes; there may be none. They are valid for this call.
    pub bytes: &'a [u8],
    /// `Some` if it was longer than [`Datagram::message_size`]: the bytes that it had. The rest is lost.
    pub truncated: Option<usize>,
    /// Who sent it: as the sender's kernel says on a Unix socket, as anybody can write on UDP.
    pub from: SocketAddress,
    pub(crate) socket: &'a Datagram,
}

impl Incoming<'_> {
    /// Sends a datagram back to the sender, at once and without waiting.
    ///
    /// # Errors
    /// `NotConnected`: the sender is unnamed. Those of [`Datagram::send_to`]; `WouldBlock` means that the sender has not
    /// received what it was sent before.
    pub fn reply(&self, bytes: &[u8]) -> io::Result<()> {
        if !self.from.is_unnamed() {
            return self.socket.send_to(bytes, &self.from);
        }
        // The other end of a pair is unnamed, and connected.
        self.socket.send(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::NotConnected => io::Error::new(
                io::ErrorKind::NotConnected,
                "the sender is unnamed: it must bind its socket to be answered (autobind will do)",
            ),
            _ => error,
        })
    }
}

/// What happens to a socket's datagrams. A closure given to [`PollSet::datagram`] is one that only handles datagrams.
///
/// A datagram socket is shared by all who send to it, so a handler that fails or panics loses the datagram and nothing
/// else.
pub trait DatagramHandler<S> {
    /// A datagram has been received.
    ///
    /// # Errors
    /// Counted, and logged. The socket stays.
    fn on_datagram(
        &mut self,
        datagram: Incoming<'_>,
        cx: &mut Context<'_, S>,
        state: &mut S,
    ) -> io::Result<()>;

    /// The kernel reports an error on the socket: `ConnectionRefused` and its like tell a connected socket that an earlier
    /// datagram of its own found nobody (`udp(7)`), `ConnectionReset` that the peer left without reading it
    /// (`unix(7)`). It is counted and logged already.
    ///
    /// # Errors
    /// Counted, and logged. The socket stays.
    fn on_error(&mut self, error: &io::Error, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (error, cx, state);
        Ok(())
    }

    /// The socket is out of the poll set.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        let _ = (cause, cx, state);
    }
}

impl<S, F> DatagramHandler<S> for Closure<F>
where
    F: FnMut(Incoming<'_>, &mut Context<'_, S>, &mut S) -> io::Result<()>,
{
    fn on_datagram(
        &mut self,
        datagram: Incoming<'_>,
        cx: &mut Context<'_, S>,
        state: &mut S,
    ) -> io::Result<()> {
        (self.0)(datagram, cx, state)
    }
}

/// Which of a publisher's values a subscription is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The newest, once each; what was overtaken meanwhile is not missed. The first is the one that was published
    /// before the subscription, if any.
    Latest,
    /// Each that is published from now on, in order, or how many were overwritten before they were read.
    Every,
}

/// What happens to a subscription's updates. A closure given to [`PollSet::subscribe`] is one that only handles
/// updates.
///
/// A method that returns an error, or panics, ends this subscription and nothing else.
pub trait SubscriptionHandler<S> {
    /// The subscription stands. Here is the place to ask whether its values are what they should be, by their
    /// [`tag`](Subscriber::tag) or size, and to note its [`key`](Context::key).
    ///
    /// # Errors
    /// Ends the subscription.
    fn on_open(&mut self, subscriber: &Subscriber, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (subscriber, cx, state);
        Ok(())
    }

    /// There is a new value, or some were lost. A value is a copy, valid for this call: the publisher goes on meanwhile.
    ///
    /// # Errors
    /// Ends the subscription.
    fn on_update(&mut self, update: Update<&[u8]>, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()>;

    /// The subscription has ended; called exactly once. [`Cause::Peer`] or [`Cause::Reset`] mean that the publisher is
    /// gone, be it that it was killed; all that it had published until then has been told before.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        let _ = (cause, cx, state);
    }
}

impl<S, F> SubscriptionHandler<S> for Closure<F>
where
    F: FnMut(Update<&[u8]>, &mut Context<'_, S>, &mut S) -> io::Result<()>,
{
    fn on_update(&mut self, update: Update<&[u8]>, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        (self.0)(update, cx, state)
    }
}

/// How far a handler got with what was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left until the kernel's next edge: the last call said `WouldBlock`, or nothing need be called.
    Drained,
    /// There may be more: call me again, in this visit while its budget lasts, else in the next round.
    More,
}

/// A source of the embedder's own: a pipe, a pidfd, an inotify descriptor, a device, anything that epoll watches.
///
/// Readiness is told once per edge and then remembered: a handler that does one read and answers
/// [`Progress::More`] is called again until a call of its own says `WouldBlock`. That error may be returned as it is:
/// it means [`Progress::Drained`]. So a handler is a `read` with a question mark behind it.
pub trait FdSource<S>: AsFd {
    /// The descriptor is ready.
    ///
    /// # Errors
    /// `WouldBlock` means drained, `Interrupted` means more; any other closes this source, and no other.
    fn on_ready(&mut self, ready: Ready, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<Progress>;

    /// The source is out of the poll set; its descriptor is closed when this returns.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        let _ = (cause, cx, state);
    }
}

/// A source that can be asked for its type. Not a part of [`FdSource`], or the state would have to be `'static`.
pub(crate) trait TypedSource<S>: FdSource<S> {
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<S, T: FdSource<S> + 'static> TypedSource<S> for T {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// What happens to a child's output and at its end: [`PollSet::run_child`].
///
/// Bytes come as the pipe has them, in any pieces. [`Context::child_process`] is the child itself, to write to, or to
/// signal.
///
/// A method that returns an error, or panics, closes the child's source: see [`on_close`](ChildHandler::on_close).
pub trait ChildHandler<S> {
    /// The child has written to its standard output.
    ///
    /// # Errors
    /// Ends the child.
    fn on_stdout(&mut self, bytes: &[u8], cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (bytes, cx, state);
        Ok(())
    }

    /// The child has written to its standard error.
    ///
    /// # Errors
    /// Ends the child.
    fn on_stderr(&mut self, bytes: &[u8], cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (bytes, cx, state);
        Ok(())
    }

    /// What waited for the child's standard input is written, so a producer can go on; or the child has closed it, and
    /// [`write`](ChildProcess::write) says so.
    ///
    /// # Errors
    /// Ends the child.
    fn on_flushed(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (cx, state);
        Ok(())
    }

    /// The child has ended, and all that it had written has been told. Called once; the key names nothing any more when this
    /// returns.
    ///
    /// What a grandchild that has inherited the pipes writes *later* is not waited for: the pipes are closed, and its
    /// next write fails. Give a child that leaves others behind a file for its output.
    ///
    /// # Errors
    /// Counted, and logged.
    fn on_exit(&mut self, exit: Exit, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (exit, cx, state);
        Ok(())
    }

    /// Instead of [`on_exit`](ChildHandler::on_exit): the source was closed before the child ended, by a
    /// [`close`](PollSet::close), a fault of this handler, or the end of the reactor. The child is killed (`SIGKILL`),
    /// and does not become a zombie.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        let _ = (cause, cx, state);
    }
}

type OnSignal<S> = Box<dyn FnMut(SignalInfo, &mut Context<'_, S>, &mut S) -> io::Result<()>>;
type OnExit<S> = Box<dyn FnMut(Exit, &mut Context<'_, S>, &mut S) -> io::Result<()>>;

/// What a signalfd is there for.
pub(crate) enum SignalHandler<S> {
    Signal(OnSignal<S>),
    /// SIGCHLD, which says that some children have ended, not which, nor how many.
    Exit(OnExit<S>),
}

/// A subscription's handler, and the subscriber, which is lent to it.
pub(crate) struct Subscription<S> {
    pub(crate) subscriber: Subscriber,
    pub(crate) delivery: Delivery,
    pub(crate) handler: Box<dyn SubscriptionHandler<S>>,
    pub(crate) opened: bool,
}
