//! What goes over the socket between a publisher and its subscriber: the ticket, and then hardly anything.
//!
//! The wire format: messages of 16 bytes. The publisher's first is a [`Ticket`], its descriptors attached to the first
//! byte. Each other one, in either direction, is [`UPDATED`]: from the publisher a notification, where the subscriber has
//! no doorbell; else it only shows that somebody is there, so that no idle deadline ends a subscription to values that
//! change seldom. The socket's hang-up is what it is there for: it tells each side of the other's death.

use std::{fmt, io, mem};

use crate::{
    bytes::framing::Framing,
    net::address::Address,
    set::{
        context::Context,
        handlers::{Delivery, SubscriptionHandler},
        poll_set::PollSet,
        session::Session,
    },
    shm::{Notify, Publisher, Subscriber, SubscriberId, Ticket, UPDATED},
    types::{
        cause::Cause,
        key::{Key, TimerKey},
    },
};

const _: () = assert!(Ticket::BYTES == UPDATED.len());

impl<S> Context<'_, S> {
    /// Hands a subscriber its ticket: [`reply_with`](Context::reply_with) the ticket's bytes, the descriptors attached.
    ///
    /// # Errors
    /// Those of [`reply_with`](Context::reply_with).
    pub fn reply_ticket(&mut self, ticket: Ticket) -> io::Result<()> {
        let (bytes, descriptors) = ticket.into_fds();
        self.reply_with(&bytes, descriptors)
    }
}

/// The publisher's side of one subscriber: a [`Session`] that subscribes its client when it connects, hands it the
/// ticket, and unsubscribes it when it is gone, be it that it was killed.
///
/// Who may subscribe is the factory's affair, which sees the peer.
///
/// ```
/// use ipc_reactor::{Handout, shm::Publisher};
/// use ipc_reactor::{Listener, Reactor};
///
/// struct Exchange { rate: Publisher }
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("rates");
/// let mut reactor = Reactor::<Exchange>::new()?;
/// reactor.listen(Listener::unix(path)?, Handout::framing(), |peer, _exchange| {
///     if peer.credentials()?.uid == 65534 {
///         return Err(std::io::Error::other("not for nobody"));
///     }
///     Ok(Handout::new(|exchange: &mut Exchange| &mut exchange.rate))
/// })?;
/// let mut exchange = Exchange { rate: Publisher::latest(64)? };
/// // From any handler:
/// exchange.rate.publish(b"1 EUR = 1.17 USD")?;
/// # std::io::Result::Ok(())
/// ```
pub struct Handout<F> {
    publisher: F,
    notify: Option<Box<dyn Notify>>,
    id: Option<SubscriberId>,
    keepalive: Keepalive,
}

impl<F> Handout<F> {
    /// A session whose client subscribes to the publisher that `publisher` finds in the service's shared state, and is
    /// told of updates by a [`Doorbell`](crate::shm::Doorbell).
    pub fn new<S>(publisher: F) -> Handout<F>
    where
        F: FnMut(&mut S) -> &mut Publisher,
    {
        Handout { publisher, notify: None, id: None, keepalive: Keepalive::default() }
    }

    /// Has its client told by other means: over this very socket by a [`SocketNotifier`](crate::shm::SocketNotifier) of
    /// the factory's peer, through a message queue by a [`QueueNotifier`](crate::shm::QueueNotifier), or in any other way.
    #[must_use]
    pub fn via(mut self, notify: impl Notify + 'static) -> Handout<F> {
        self.notify = Some(Box::new(notify));
        self
    }
}

impl Handout<()> {
    /// How the messages between a publisher and its subscriber are framed.
    pub fn framing() -> Framing {
        Framing::fixed(Ticket::BYTES)
    }
}

impl<S, F: FnMut(&mut S) -> &mut Publisher> Session<S> for Handout<F> {
    fn on_open(&mut self, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let publisher = (self.publisher)(state);
        let (id, ticket) = match self.notify.take() {
            Some(mut notify) => publisher.subscribe_via(move || notify.notify())?,
            None => publisher.subscribe()?,
        };
        self.id = Some(id);
        self.keepalive.begin(cx);
        cx.reply_ticket(ticket)
    }

    fn on_request(&mut self, request: &[u8], _: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
        expect_updated(request)
    }

    fn on_timer(&mut self, timer: TimerKey, cx: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
        self.keepalive.show(timer, cx)
    }

    fn on_close(&mut self, _: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        self.keepalive.end(cx);
        if let Some(id) = self.id {
            (self.publisher)(state).unsubscribe(id);
        }
    }
}

impl<F> fmt::Debug for Handout<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handout").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The subscriber's side: waits for the ticket, then for the end.
struct Link<H> {
    stage: Stage<H>,
    keepalive: Keepalive,
}

enum Stage<H> {
    Waiting { delivery: Delivery, handler: H, deadline: Option<TimerKey> },
    Subscribed(Key),
    Over,
}

impl<S> PollSet<S> {
    /// Subscribes at a publisher's master socket ([`Handout`]), without waiting for it: `handler` is told when the
    /// subscription stands, of each update, and, once, of the end. The publisher's death is such an end, however sudden,
    /// and so is a publisher that cannot be reached.
    ///
    /// Returns the key of the connection: to close that is to end the subscription. While the handler runs,
    /// [`Context::key`] is the subscription's own, which can be closed as well.
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
    /// `InvalidInput`: the address is of no Unix stream or seqpacket socket. No descriptors.
    pub fn connect_subscriber(
        &mut self,
        address: &Address,
        delivery: Delivery,
        handler: impl SubscriptionHandler<S> + 'static,
    ) -> io::Result<Key> {
        if matches!(address, Address::Tcp(_)) {
            let why =
                format!("{address} may be another machine's, which shares no memory; use a Unix socket");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let stage = Stage::Waiting { delivery, handler, deadline: None };
        #[allow(clippy::cast_possible_truncation, reason = "it is 3")]
        let framing = Handout::framing().descriptors(Ticket::FDS_MAX as u16);
        self.connect(address, framing, Link { stage, keepalive: Keepalive::default() })
    }
}

impl<H> Link<H> {
    /// Nothing is given up before nothing can fail any more: the handler is owed its `on_close`.
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

impl<S, H: SubscriptionHandler<S> + 'static> Session<S> for Link<H> {
    fn on_open(&mut self, cx: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
        if let Stage::Waiting { deadline, .. } = &mut self.stage {
            *deadline = Some(cx.wake_after(cx.limits().connect));
        }
        self.keepalive.begin(cx);
        Ok(())
    }

    fn on_request(&mut self, message: &[u8], cx: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
        let Stage::Subscribed(subscription) = self.stage else { return self.open(message, cx) };
        expect_updated(message)?;
        cx.updated(subscription);
        Ok(())
    }

    fn on_timer(&mut self, timer: TimerKey, cx: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
        match &self.stage {
            Stage::Waiting { deadline, .. } if *deadline == Some(timer) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("connected, but no ticket came within {:?}: is it a publisher?", cx.limits().connect),
            )),
            _ => self.keepalive.show(timer, cx),
        }
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        self.keepalive.end(cx);
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

/// Says now and then that this side is there: a message each half of the time that a client may be idle.
#[derive(Default)]
struct Keepalive(Option<TimerKey>);

impl Keepalive {
    fn begin<S>(&mut self, cx: &mut Context<'_, S>) {
        self.0 = cx.limits().idle.map(|idle| cx.wake_after(idle / 2));
    }

    fn show<S>(&mut self, timer: TimerKey, cx: &mut Context<'_, S>) -> io::Result<()> {
        if self.0 == Some(timer) {
            cx.reply(&UPDATED)?;
            self.begin(cx);
        }
        Ok(())
    }

    fn end<S>(&mut self, cx: &mut Context<'_, S>) {
        if let Some(timer) = self.0.take() {
            cx.cancel(timer);
        }
    }
}

fn expect_updated(message: &[u8]) -> io::Result<()> {
    if message == UPDATED {
        return Ok(());
    }
    let what = format!("no message between a publisher and its subscriber: {}", message.escape_ascii());
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}
