//! A subscription to shared memory in the poll set: drained within a budget, and only then put to sleep.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use mio::Interest;

use crate::{
    observe::{event::What, throttle::Kind},
    set::{
        call::{Called, call, call_closed, report},
        context::Context,
        endpoints::SubscriptionPort,
        handlers::{Closure, Delivery, Subscription, SubscriptionHandler},
        poll_set::PollSet,
        source::{Source, Visited},
    },
    shm::{Subscriber, Update},
    types::{
        cause::{Cause, Limit},
        key::Key,
        ready::Ready,
        rejected::Rejected,
    },
};

impl<S> PollSet<S> {
    /// Follows a segment of shared memory: `handler` gets the new values, at most
    /// [`Limits::messages_per_visit`](crate::Limits::messages_per_visit) in a visit. While it is behind, the publisher need
    /// not ring; it never waits for us.
    ///
    /// A subscription with a doorbell ends with [`Cause::Peer`] when the publisher is gone, or has ended it; what was
    /// published before is told first. Without a doorbell the end shows on the connection that the ticket came over, and
    /// nowhere else: [`connect_subscriber`](PollSet::connect_subscriber) watches that.
    ///
    /// ```
    /// use ipc_reactor::shm::{Publisher, Subscriber, Update};
    /// use ipc_reactor::{Delivery, Reactor};
    ///
    /// let mut publisher = Publisher::every(64, 7)?;
    /// let (_id, ticket) = publisher.subscribe()?; // to be sent to another process
    ///
    /// let mut reactor = Reactor::<Vec<String>>::new()?;
    /// reactor.subscribe(Subscriber::open(ticket)?, Delivery::Every, |update, cx, heard| {
    ///     match update {
    ///         Update::Value(value) => heard.push(String::from_utf8_lossy(value).into()),
    ///         Update::Lost(count) => eprintln!("{count} values were overwritten before we read them"),
    ///     }
    ///     if heard.len() == 2 { cx.stop(); }
    ///     Ok(())
    /// })?;
    /// publisher.publish(b"1 EUR = 1.17 USD")?;
    /// publisher.publish(b"1 EUR = 1.18 USD")?;
    /// let mut heard = Vec::new();
    /// reactor.run(&mut heard)?;
    /// assert_eq!(heard, ["1 EUR = 1.17 USD", "1 EUR = 1.18 USD"]);
    /// # std::io::Result::Ok(())
    /// ```
    ///
    /// # Errors
    /// The kernel refuses to watch the doorbell; the subscriber is handed back.
    #[allow(clippy::result_large_err, reason = "once per subscription, and it is worth having back")]
    pub fn subscribe(
        &mut self,
        subscriber: Subscriber,
        delivery: Delivery,
        handler: impl FnMut(Update<&[u8]>, &mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
    ) -> Result<Key, Rejected<Subscriber>> {
        self.subscribe_handler(subscriber, delivery, Closure(handler))
    }

    /// [`subscribe`](PollSet::subscribe) with a handler that is also told when the subscription begins and ends.
    ///
    /// # Errors
    /// As for [`subscribe`](PollSet::subscribe).
    #[allow(clippy::result_large_err, reason = "once per subscription, and it is worth having back")]
    pub fn subscribe_handler(
        &mut self,
        subscriber: Subscriber,
        delivery: Delivery,
        handler: impl SubscriptionHandler<S> + 'static,
    ) -> Result<Key, Rejected<Subscriber>> {
        match self.register_doorbell(&subscriber) {
            Ok(()) => Ok(self.place_subscription(subscriber, delivery, Box::new(handler), None)),
            Err(error) => Err(Rejected { error, source: subscriber }),
        }
    }

    /// Tells a subscription that its publisher has published something: for notifications that come by other means than
    /// a doorbell, such as a [`QueueNotifier`](crate::shm::QueueNotifier)'s. Once too often does no harm. False if the
    /// key names no subscription.
    pub fn updated(&mut self, key: Key) -> bool {
        match self.registry.get(key) {
            Some(Source::Shm { .. }) => self.mark_ready(key, Ready::READABLE),
            _ => false,
        }
    }

    /// The first of two steps, as [`register`](PollSet::register) is. Without a doorbell there is nothing to register.
    pub(crate) fn register_doorbell(&mut self, subscriber: &Subscriber) -> io::Result<()> {
        match subscriber.doorbell() {
            Some(doorbell) => self.register(doorbell.as_fd(), Interest::READABLE).map(drop),
            None => self.registry.check_not_forked(),
        }
    }

    pub(crate) fn place_subscription(
        &mut self,
        subscriber: Subscriber,
        delivery: Delivery,
        handler: Box<dyn SubscriptionHandler<S>>,
        connection: Option<Key>,
    ) -> Key {
        let doorbell = subscriber.doorbell().map(|doorbell| doorbell.as_fd().as_raw_fd());
        let port = SubscriptionPort { doorbell, connection, ended: None };
        let subscription = Subscription { subscriber, delivery, handler, opened: false };
        let key = self.place(Source::Shm { port, handler: Some(Box::new(subscription)) });
        // The publisher does not ring before the subscriber has gone to sleep for the first time.
        self.mark_ready(key, Ready::READABLE);
        key
    }

    /// The connection to a subscription's publisher has ended.
    pub(crate) fn end_subscription(&mut self, key: Key, cause: &Cause) {
        let Some(Source::Shm { port, handler: Some(subscription) }) = self.registry.get_mut(key) else {
            return;
        };
        port.connection = None;
        if matches!(cause, Cause::Peer | Cause::Reset | Cause::HalfFrame) {
            // What it had published before is still to be told.
            port.ended.get_or_insert_with(|| {
                let newest = subscription.subscriber.newest();
                Box::new((cause.copy(), newest))
            });
            self.mark_ready(key, Ready::READABLE);
        } else {
            self.remove(key, cause.copy());
        }
    }
}

/// The publisher's end of the doorbell is closed. What was published before is still to be told.
#[cold]
fn doorbell_ended<S>(set: &mut PollSet<S>, key: Key) {
    if let Some(Source::Shm { port, handler: Some(subscription) }) = set.registry.get_mut(key) {
        port.ended.get_or_insert_with(|| Box::new((Cause::Peer, subscription.subscriber.newest())));
    }
}

/// What there is for a handler, if anything.
enum Next {
    /// The handler was told of an update, and its subscriber stands at this value.
    Told { position: u64 },
    /// Nothing is new.
    Nothing { asleep: bool },
}

/// One visit: reads until nothing is new, and goes to sleep; or until the budget is spent, and stays awake, so that the
/// publisher need not ring.
pub(crate) fn visit<S>(set: &mut PollSet<S>, key: Key, ready: Ready, state: &mut S) -> Visited {
    if ready.is_read_closed() || ready.is_error() {
        doorbell_ended(set, key);
    }
    let opened = call(set, key, |subscription: &mut Box<Subscription<S>>, cx| {
        if std::mem::replace(&mut subscription.opened, true) {
            return Ok(());
        }
        subscription.handler.on_open(&subscription.subscriber, cx, state)
    });
    if let Err(visited) = applied(set, key, opened, ready) {
        return visited;
    }
    for _ in 0..set.limits.messages_per_visit.max(1) {
        // The subscriber is lent to its handler, so reading and handling are one call.
        let mut failed = None;
        let called = call(set, key, |subscription: &mut Box<Subscription<S>>, cx| {
            let Subscription { subscriber, delivery, handler, .. } = &mut **subscription;
            let update = match delivery {
                Delivery::Latest => subscriber.latest().map(|value| value.map(Update::Value)),
                Delivery::Every => subscriber.recv(),
            };
            match update {
                Ok(Some(update)) => tell(update, &mut **handler, cx, state)?,
                Ok(None) => return Ok(Next::Nothing { asleep: subscriber.arm() }),
                Err(error) => {
                    failed = Some(error);
                    return Ok(Next::Nothing { asleep: false });
                }
            }
            Ok(Next::Told { position: subscriber.position() })
        });
        match (applied(set, key, called, ready), failed) {
            (Err(visited), _) => return visited,
            // The publisher is too fast for a copy of its value: others have their turn first.
            (_, Some(error)) if error.kind() == io::ErrorKind::WouldBlock => return Visited::Again(ready),
            (_, Some(error)) => {
                let error = io::Error::new(error.kind(), format!("from the publisher: {error}"));
                set.stats.failed(error.kind());
                set.warn(Kind::Source, format_args!("subscription {key}: {error}"));
                return Visited::closed(Cause::Malformed(error));
            }
            (Ok(Next::Told { position }), None) => {
                if let Some(visited) = end(set, key, position) {
                    return visited;
                }
            }
            (Ok(Next::Nothing { asleep }), None) => match end(set, key, u64::MAX) {
                Some(visited) => return visited,
                None if asleep => return Visited::Drained,
                None => {}
            },
        }
    }
    set.count_limit(Limit::Messages);
    Visited::Again(ready)
}

fn tell<S>(
    update: Update<&[u8]>,
    handler: &mut dyn SubscriptionHandler<S>,
    cx: &mut Context<'_, S>,
    state: &mut S,
) -> io::Result<()> {
    cx.set.stats.updates += 1;
    let observed = cx.set.observes_messages();
    if observed {
        cx.set.lap();
    }
    let handled = handler.on_update(update, cx, state);
    if observed && let Update::Value(bytes) = update {
        cx.set.emit_timed(|handler_ns, who| What::Message { who, bytes, priority: None, handler_ns });
    }
    handled
}

/// How the visit ends, once the last value that there will be has been told. `position`: the value that was told last.
fn end<S>(set: &mut PollSet<S>, key: Key, position: u64) -> Option<Visited> {
    let Some(Source::Shm { port, .. }) = set.registry.get_mut(key) else { return None };
    let (cause, _) = *port.ended.take_if(|ended| position >= ended.1)?;
    Some(Visited::closed(cause))
}

/// What the handler returned, or how the visit ends.
fn applied<S, T>(set: &mut PollSet<S>, key: Key, called: Called<T>, ready: Ready) -> Result<T, Visited> {
    let Called { result, asked } = called;
    let value = match result {
        Ok(value) => value,
        Err(cause) if matches!(*cause, Cause::Stop) => return Err(Visited::Again(ready)),
        Err(cause) => {
            report(set, key, "subscription", &cause);
            return Err(Visited::Closed(cause));
        }
    };
    asked.ends_visit(ready).map_or(Ok(value), Err)
}

/// A subscription is out of the poll set.
pub(crate) fn closed<S>(
    set: &mut PollSet<S>,
    key: Key,
    port: SubscriptionPort,
    mut subscription: Box<Subscription<S>>,
    cause: &Cause,
    state: &mut S,
) {
    if let Some(connection) = port.connection {
        set.close(connection);
    }
    call_closed(set, key, move |cx| subscription.handler.on_close(cause, cx, state));
}
