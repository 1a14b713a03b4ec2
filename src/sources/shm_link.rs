//! The connection between a publisher and a subscriber: it carries the ticket, and reports the end of either side.
//!
//! Messages have 16 bytes. The first one of the publisher is a [`Ticket`], its descriptors attached to the first byte.
//! All others, in both directions, are [`UPDATED`]: from the publisher a notification, for a subscriber without a
//! doorbell; otherwise a keepalive, so that the idle deadline does not close the connection while no value changes. A
//! subscriber with a doorbell answers each with the same message, and may leave out some: a publisher with an idle
//! limit ends the subscription of one that is silent for twice that time. The socket's hang-up reports to each side
//! that the other has ended.

use std::{
    fmt, io, mem,
    time::{Duration, Instant},
};

use crate::{
    bytes::framing::Framing,
    net::address::Address,
    observe::throttle::Kind,
    set::{
        context::Context,
        handlers::{Delivery, SubscriptionHandler},
        poll_set::PollSet,
        session::Session,
        source::Source,
    },
    shm::{Notify, Publisher, Subscriber, SubscriberId, Ticket, UPDATED},
    sys::socket,
    types::{
        cause::{Cause, Limit},
        key::{Key, TimerKey},
    },
};

const _: () = assert!(Ticket::BYTES == UPDATED.len());

impl<S> Context<'_, S> {
    /// Sends a ticket to the client whose session runs: [`reply_with`](Context::reply_with) of its bytes and its
    /// descriptors.
    ///
    /// # Errors
    /// Those of [`reply_with`](Context::reply_with).
    pub fn reply_ticket(&mut self, ticket: Ticket) -> io::Result<()> {
        let (bytes, descriptors) = ticket.into_fds();
        self.reply_with(&bytes, descriptors)
    }
}

/// The publisher's [`Session`] for one subscriber: it subscribes its client when it connects, sends it the ticket, and
/// unsubscribes it when the connection closes, even if the subscriber was killed.
///
/// The factory decides who may subscribe: it sees the peer.
///
/// With an idle limit ([`Limits::idle`](crate::Limits::idle)) it asks its client now and then whether it is there, and
/// closes one with a doorbell that does not answer for twice that time. What it sends itself is no sign of life.
///
/// ```
/// use ipc_reactor::{SubscriberSession, shm::Publisher};
/// use ipc_reactor::{Listener, Reactor};
///
/// struct Exchange { rate: Publisher }
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("rates");
/// let mut reactor = Reactor::<Exchange>::new()?;
/// reactor.listen(Listener::unix(path)?, SubscriberSession::framing(), |peer, _exchange| {
///     if peer.credentials()?.uid == 65534 {
///         return Err(std::io::Error::other("user 65534 may not subscribe"));
///     }
///     Ok(SubscriberSession::new(|exchange: &mut Exchange| &mut exchange.rate))
/// })?;
/// let mut exchange = Exchange { rate: Publisher::latest(64)? };
/// // From any handler:
/// exchange.rate.publish(b"1 EUR = 1.17 USD")?;
/// # std::io::Result::Ok(())
/// ```
pub struct SubscriberSession<F> {
    publisher: F,
    notify: Option<Box<dyn Notify>>,
    /// Not told by other means.
    rings_doorbell: bool,
    id: Option<SubscriberId>,
    keepalive: Keepalive,
}

impl<F> SubscriberSession<F> {
    /// A session for subscribers of the publisher that `publisher` returns from the service's shared state. A
    /// [`Doorbell`](crate::shm::Doorbell) notifies them of updates.
    pub fn new<S>(publisher: F) -> SubscriberSession<F>
    where
        F: FnMut(&mut S) -> &mut Publisher,
    {
        SubscriberSession {
            publisher,
            notify: None,
            rings_doorbell: false,
            id: None,
            keepalive: Keepalive::default(),
        }
    }

    /// Notifies the subscriber by other means: over the connection's own socket with a
    /// [`SocketNotifier`](crate::shm::SocketNotifier) of the factory's peer, by a message queue with a
    /// [`QueueNotifier`](crate::shm::QueueNotifier), or by a custom [`Notify`].
    #[must_use]
    pub fn via(mut self, notify: impl Notify + 'static) -> SubscriberSession<F> {
        self.notify = Some(Box::new(notify));
        self
    }
}

impl SubscriberSession<()> {
    /// The framing of the connection, for [`listen`](PollSet::listen).
    pub fn framing() -> Framing {
        Framing::fixed(Ticket::BYTES)
    }
}

impl<S, F: FnMut(&mut S) -> &mut Publisher> Session<S> for SubscriberSession<F> {
    fn on_open(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let uid = uid_of(cx);
        let notify = self.notify.take();
        self.rings_doorbell = notify.is_none();
        let (id, ticket) = (self.publisher)(state).subscribe_user(uid, notify)?;
        self.id = Some(id);
        self.keepalive.begin(cx);
        cx.reply_ticket(ticket)
    }

    fn on_request(&mut self, request: &[u8], _: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
        self.keepalive.unanswered = 0;
        expect_updated(request)
    }

    fn on_timer(&mut self, timer: TimerKey, cx: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
        // What this side sends itself does not keep a silent client.
        if self.rings_doorbell
            && self.keepalive.timer == Some(timer)
            && self.keepalive.unanswered >= UNANSWERED_MAX
        {
            let key = cx.key();
            cx.set.report_limit(Limit::Idle, format_args!("subscriber {key}"));
            cx.abort(key);
            return Ok(());
        }
        self.keepalive.send(timer, cx)
    }

    fn on_close(&mut self, _: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        self.keepalive.end(cx);
        if let Some(id) = self.id {
            (self.publisher)(state).unsubscribe(id);
        }
    }
}

/// The user of the client whose session runs, where its kernel vouches for one.
fn uid_of<S>(cx: &Context<'_, S>) -> Option<u32> {
    match cx.set.registry.get(cx.key()) {
        Some(Source::Client { io, .. }) if io.config.unix => {
            socket::peer_credentials(io.fd()).ok().map(|peer| peer.uid)
        }
        _ => None,
    }
}

impl<F> fmt::Debug for SubscriberSession<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriberSession").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The subscriber's session: receives the ticket, then waits for the end.
struct SubscriptionSession<H> {
    stage: Stage<H>,
    keepalive: Keepalive,
    /// Why this side ends the connection. It is not the handler's fault.
    fault: Option<Cause>,
}

enum Stage<H> {
    Waiting { delivery: Delivery, handler: H, deadline: Option<TimerKey> },
    Subscribed(Key),
    Over,
}

impl<S> PollSet<S> {
    /// Connects to a publisher's listener ([`SubscriberSession`]) and subscribes, without waiting: `handler` is called
    /// when the subscription begins, for each update, and once when it ends. It also ends when the publisher's process
    /// ends, even if it was killed, and when the publisher cannot be reached. If the publisher sends what is no ticket,
    /// or values that its segment cannot have, the cause is [`Cause::Malformed`](crate::Cause::Malformed).
    ///
    /// Returns the key of the connection. Closing the connection ends the subscription. While the handler runs,
    /// [`Context::key`] is the key of the subscription, which can be closed as well.
    ///
    /// ```no_run
    /// use ipc_reactor::shm::Update;
    /// use ipc_reactor::{Cause, Context, Delivery, Reactor, SubscriptionHandler};
    /// use std::io;
    ///
    /// struct Rates;
    ///
    /// impl SubscriptionHandler<()> for Rates {
    ///     fn on_update(&mut self, update: Update<&[u8]>, _: &mut Context<'_, ()>, _: &mut ()) -> io::Result<()> {
    ///         if let Update::Value(value) = update {
    ///             println!("{}", String::from_utf8_lossy(value));
    ///         }
    ///         Ok(())
    ///     }
    ///
    ///     fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, ()>, _: &mut ()) {
    ///         eprintln!("the publisher is gone: {cause}");
    ///         cx.stop();
    ///     }
    /// }
    ///
    /// let mut reactor = Reactor::<()>::new()?;
    /// reactor.connect_subscriber(&"unix:/run/rates".parse()?, Delivery::Latest, Rates)?;
    /// reactor.run(&mut ())?;
    /// # io::Result::Ok(())
    /// ```
    ///
    /// # Errors
    /// `InvalidInput`: the address is not that of a Unix stream or seqpacket socket. Those of
    /// [`connect`](PollSet::connect).
    pub fn connect_subscriber(
        &mut self,
        address: &Address,
        delivery: Delivery,
        handler: impl SubscriptionHandler<S> + 'static,
    ) -> io::Result<Key> {
        if matches!(address, Address::Tcp(_)) {
            let why =
                format!("{address} may be on another machine, which shares no memory; use a Unix socket");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let stage = Stage::Waiting { delivery, handler, deadline: None };
        #[allow(clippy::cast_possible_truncation, reason = "it is 3")]
        let framing = SubscriberSession::framing().descriptors(Ticket::FDS_MAX as u16);
        self.connect(
            address,
            framing,
            SubscriptionSession { stage, keepalive: Keepalive::default(), fault: None },
        )
    }
}

impl<H> SubscriptionSession<H> {
    /// The stage changes only after the last step that can fail, so that `on_close` of the handler is always called.
    fn open<S>(&mut self, message: &[u8], cx: &mut Context<'_, S>) -> io::Result<()>
    where
        H: SubscriptionHandler<S> + 'static,
    {
        let mut descriptors = Vec::new();
        while let Some(descriptor) = cx.descriptor() {
            descriptors.push(descriptor);
        }
        let subscriber = Subscriber::open(Ticket::from_fds(message, descriptors)?)?;
        cx.register_doorbell(&subscriber)?;
        if let Stage::Waiting { delivery, handler, deadline } = mem::replace(&mut self.stage, Stage::Over) {
            if let Some(deadline) = deadline {
                cx.cancel(deadline);
            }
            let connection = cx.key();
            let key = cx.place_subscription(subscriber, delivery, Box::new(handler), Some(connection));
            self.stage = Stage::Subscribed(key);
        }
        Ok(())
    }
}

impl<H> SubscriptionSession<H> {
    /// Ends the connection, and so the subscription, for this cause.
    fn fail<S>(&mut self, cause: Cause, cx: &mut Context<'_, S>) {
        let key = cx.key();
        if let Cause::Malformed(error) | Cause::Io(error) | Cause::Connect(error) = &cause {
            cx.set.stats.failed(error.kind());
        }
        cx.set.warn(Kind::Source, format_args!("subscription over {key}: {cause}"));
        self.fault = Some(cause);
        cx.abort(key);
    }

    /// Answers a keepalive. Only with a doorbell: without one most messages are notifications.
    fn answer<S>(&mut self, cx: &mut Context<'_, S>) -> io::Result<()> {
        if let Stage::Subscribed(subscription) = self.stage
            && has_doorbell(cx, subscription)
            && self.keepalive.may_answer()
        {
            return cx.reply(&UPDATED);
        }
        Ok(())
    }
}

fn has_doorbell<S>(cx: &Context<'_, S>, subscription: Key) -> bool {
    matches!(cx.set.registry.get(subscription), Some(Source::Shm { port, .. }) if port.doorbell.is_some())
}

impl<S, H: SubscriptionHandler<S> + 'static> Session<S> for SubscriptionSession<H> {
    fn on_open(&mut self, cx: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
        if let Stage::Waiting { deadline, .. } = &mut self.stage {
            *deadline = Some(cx.wake_after(cx.limits().connect));
        }
        self.keepalive.begin(cx);
        Ok(())
    }

    fn on_request(&mut self, message: &[u8], cx: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
        let handled = match self.stage {
            Stage::Subscribed(subscription) => expect_updated(message).map(|()| subscription),
            _ => match self.open(message, cx) {
                Ok(()) => return Ok(()),
                Err(error) => Err(error),
            },
        };
        match handled {
            Ok(subscription) => {
                cx.updated(subscription);
                self.answer(cx)
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let what = format!("from the publisher: {error}");
                self.fail(Cause::Malformed(io::Error::new(error.kind(), what)), cx);
                Ok(())
            }
            // It is not the publisher's fault either: there is no memory or no descriptor.
            Err(error) => {
                self.fail(Cause::Io(error), cx);
                Ok(())
            }
        }
    }

    fn on_timer(&mut self, timer: TimerKey, cx: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
        match &self.stage {
            Stage::Waiting { deadline, .. } if *deadline == Some(timer) => {
                let within = cx.limits().connect;
                let what = format!("connected, but no ticket came within {within:?}: is it a publisher?");
                self.fail(Cause::Connect(io::Error::new(io::ErrorKind::TimedOut, what)), cx);
                Ok(())
            }
            _ => self.keepalive.send(timer, cx),
        }
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        self.keepalive.end(cx);
        let fault = self.fault.take();
        let cause = fault.as_ref().unwrap_or(cause);
        match mem::replace(&mut self.stage, Stage::Over) {
            Stage::Waiting { mut handler, deadline, .. } => {
                if let Some(deadline) = deadline {
                    cx.cancel(deadline);
                }
                handler.on_close(cause, cx, state);
            }
            Stage::Subscribed(subscription) => cx.end_subscription(subscription, cause),
            Stage::Over => {}
        }
    }
}

/// The least time between two answers: a publisher that asks without end is not answered without end.
const BETWEEN_ANSWERS: Duration = Duration::from_millis(10);
/// Messages without an answer, each half of the idle time after the one before, after which a subscriber counts as
/// gone. The first two could be due in a turn that came late, before what the subscriber has sent is read.
const UNANSWERED_MAX: u32 = 4;

/// Sends a message every half of [`Limits::idle`](crate::Limits::idle), so that neither side is idle.
#[derive(Default)]
struct Keepalive {
    timer: Option<TimerKey>,
    /// Messages since the other side was heard.
    unanswered: u32,
    answered: Option<Instant>,
}

impl Keepalive {
    fn begin<S>(&mut self, cx: &mut Context<'_, S>) {
        self.timer = cx.limits().idle.map(|idle| cx.wake_after(idle / 2));
    }

    fn send<S>(&mut self, timer: TimerKey, cx: &mut Context<'_, S>) -> io::Result<()> {
        if self.timer == Some(timer) {
            cx.reply(&UPDATED)?;
            self.unanswered += 1;
            self.begin(cx);
        }
        Ok(())
    }

    fn may_answer(&mut self) -> bool {
        let now = Instant::now();
        let may = self.answered.is_none_or(|answered| now - answered >= BETWEEN_ANSWERS);
        if may {
            self.answered = Some(now);
        }
        may
    }

    fn end<S>(&mut self, cx: &mut Context<'_, S>) {
        if let Some(timer) = self.timer.take() {
            cx.cancel(timer);
        }
    }
}

fn expect_updated(message: &[u8]) -> io::Result<()> {
    if message == UPDATED {
        return Ok(());
    }
    let what = format!(
        "not a message of the publisher's protocol (UPDATED was expected): {}",
        message.escape_ascii()
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}
