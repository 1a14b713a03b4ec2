//! The traits of all handlers but that of a client, which is [`Session`](crate::Session).

use std::{any::Any, io, os::fd::AsFd};

use crate::{
    children::Exit,
    net::datagram::{Datagram, address::SocketAddress},
    set::context::Context,
    shm::{Subscriber, Update},
    signals::SignalInfo,
    types::{cause::Cause, ready::Ready},
};

/// A closure as a handler, without the optional methods.
pub(crate) struct Closure<F>(pub(crate) F);

/// A message from a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its bytes; there may be none. They are valid during this call.
    pub bytes: &'a [u8],
    /// Its priority, 0 to [`Queue::PRIORITY_MAX`](crate::Queue::PRIORITY_MAX). The kernel delivers the highest first,
    /// and the oldest first within a priority.
    pub priority: u32,
}

/// The handler of a queue. A closure given to [`PollSet::queue`](crate::PollSet::queue) is one that only handles
/// messages.
///
/// All senders share a queue, so if the handler fails or panics, the message is lost and the queue stays open.
pub trait QueueHandler<S> {
    /// A message has been received.
    ///
    /// # Errors
    /// Counted, and logged. The queue stays.
    fn on_message(&mut self, message: Message<'_>, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()>;

    /// The queue was unlinked ([`Limits::queue_check`](crate::Limits::queue_check)): processes that have it open can
    /// still send, no other can open it. Called once.
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

/// A datagram from a socket, and the means to answer it.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Its bytes; there may be none. They are valid during this call.
    pub bytes: &'a [u8],
    /// `Some` with its full length, if that is more than [`Datagram::message_size`](crate::Datagram::message_size). The
    /// rest is lost.
    pub truncated: Option<usize>,
    /// The sender's address. On a Unix socket the kernel fills it in; on UDP the sender can forge it.
    pub from: SocketAddress,
    pub(crate) socket: &'a Datagram,
}

impl Incoming<'_> {
    /// Sends a datagram to the sender, without waiting.
    ///
    /// # Errors
    /// `NotConnected`: the sender is unnamed. Those of [`Datagram::send_to`](crate::Datagram::send_to); `WouldBlock`
    /// means that the sender's receive queue is full.
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

/// The handler of a datagram socket. A closure given to [`PollSet::datagram`](crate::PollSet::datagram) is one that
/// only handles datagrams.
///
/// All senders share a datagram socket, so if the handler fails or panics, the datagram is lost and the socket stays
/// open.
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

    /// The kernel reported an error of the socket. On a connected socket, `ConnectionRefused` and similar errors mean
    /// that an earlier datagram had no receiver (`udp(7)`), `ConnectionReset` that the peer closed without reading it
    /// (`unix(7)`). The error is counted and logged already.
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

/// Which of a publisher's values a subscription delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The newest value, each at most once; older values are skipped. The first is the value published last before the
    /// subscription, if any.
    Latest,
    /// Each value that is published from now on, in order. If some were overwritten before they were read, their
    /// number.
    Every,
}

/// The handler of a subscription. A closure given to [`PollSet::subscribe`](crate::PollSet::subscribe) is one that only
/// handles updates.
///
/// A method that returns an error, or panics, ends this subscription and nothing else.
pub trait SubscriptionHandler<S> {
    /// The subscription has begun. Here a handler can check the [`tag`](crate::shm::Subscriber::tag) or the size of its
    /// values, and store its [`key`](Context::key).
    ///
    /// # Errors
    /// Ends the subscription.
    fn on_open(&mut self, subscriber: &Subscriber, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (subscriber, cx, state);
        Ok(())
    }

    /// There is a new value, or some were lost. The value is a copy that is valid during this call: the publisher can
    /// publish the next meanwhile.
    ///
    /// # Errors
    /// Ends the subscription.
    fn on_update(&mut self, update: Update<&[u8]>, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()>;

    /// The subscription has ended. Called exactly once. [`Cause::Peer`] and [`Cause::Reset`] mean that the publisher
    /// has closed the connection, or its process has ended; all that it had published was delivered before.
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

/// How far a handler has got with a ready descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left until the kernel's next edge: the last call returned `WouldBlock`, or none is needed.
    Drained,
    /// There may be more: call the handler again, in this visit if its budget allows it, else in the next round.
    More,
}

/// A source with any descriptor that epoll accepts: a pipe, a pidfd, an inotify descriptor, a device.
///
/// The kernel reports readiness once per edge, and the reactor keeps it: a handler that does one read and returns
/// [`Progress::More`] is called again, until one of its calls returns `WouldBlock`. It can return that error: it means
/// [`Progress::Drained`]. So one `read` with a question mark is enough.
pub trait FdSource<S>: AsFd {
    /// The descriptor is ready.
    ///
    /// # Errors
    /// `WouldBlock` means drained, `Interrupted` means more; any other closes this source, and no other.
    fn on_ready(&mut self, ready: Ready, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<Progress>;

    /// The source was removed from the poll set. Its descriptor is closed when this returns.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        let _ = (cause, cx, state);
    }
}

/// A source that can be downcast to its type. Not a part of [`FdSource`], which would then require a `'static` state.
pub(crate) trait TypedSource<S>: FdSource<S> {
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<S, T: FdSource<S> + 'static> TypedSource<S> for T {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// The handler of a child process: [`PollSet::run_child`](crate::PollSet::run_child).
///
/// Output arrives in any pieces. [`Context::child_process`] is the child, to write to or to signal.
///
/// A method that returns an error, or panics, closes the source: see [`on_close`](ChildHandler::on_close).
pub trait ChildHandler<S> {
    /// The child has written to its standard output.
    ///
    /// # Errors
    /// Closes the source, and kills the child.
    fn on_stdout(&mut self, bytes: &[u8], cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (bytes, cx, state);
        Ok(())
    }

    /// The child has written to its standard error.
    ///
    /// # Errors
    /// Closes the source, and kills the child.
    fn on_stderr(&mut self, bytes: &[u8], cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (bytes, cx, state);
        Ok(())
    }

    /// All that was buffered for the child's standard input is written, so a producer can go on. Also called when the
    /// child has closed its standard input: then [`write`](crate::ChildProcess::write) fails.
    ///
    /// # Errors
    /// Closes the source, and kills the child.
    fn on_flushed(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (cx, state);
        Ok(())
    }

    /// The child has ended, and all its output was delivered. Called once; when it returns, the key names nothing any
    /// more.
    ///
    /// Output that a grandchild with the inherited pipes writes *later* is lost: the pipes are closed, and its next
    /// write fails. Give a child that leaves processes behind a file for its output.
    ///
    /// # Errors
    /// Counted, and logged.
    fn on_exit(&mut self, exit: Exit, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (exit, cx, state);
        Ok(())
    }

    /// Called instead of [`on_exit`](ChildHandler::on_exit) if the source is closed before the child has ended: by
    /// [`close`](crate::PollSet::close), a fault of this handler, or the end of the reactor. The child is killed
    /// (`SIGKILL`) and reaped.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        let _ = (cause, cx, state);
    }
}

type OnSignal<S> = Box<dyn FnMut(SignalInfo, &mut Context<'_, S>, &mut S) -> io::Result<()>>;
type OnExit<S> = Box<dyn FnMut(Exit, &mut Context<'_, S>, &mut S) -> io::Result<()>>;

/// The handler of a signalfd.
pub(crate) enum SignalHandler<S> {
    Signal(OnSignal<S>),
    /// For SIGCHLD, which reports that children have ended, but not which or how many.
    Exit(OnExit<S>),
}

/// A subscription's handler, and the subscriber that it borrows.
pub(crate) struct Subscription<S> {
    pub(crate) subscriber: Subscriber,
    pub(crate) delivery: Delivery,
    pub(crate) handler: Box<dyn SubscriptionHandler<S>>,
    pub(crate) opened: bool,
}
