//! A subscription to shared memory as a source.

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
    /// Puts a subscription to shared memory into the poll set: `handler` gets the new values, at most
    /// [`Limits::messages_per_visit`](crate::Limits::messages_per_visit) in a visit. The publisher rings the doorbell
    /// only for a subscriber that has read everything, and never waits for it.
    ///
    /// A subscription with a doorbell ends with [`Cause::Peer`] when the publisher is gone, or has ended it; what was
    /// published before is told first. Without a doorbell the end shows on the connection that the ticket came over,
    /// and nowhere else: [`connect_subscriber`](PollSet::connect_subscriber) watches that.
    ///
    /// ```
    /// use ipc_reactor::shm::{Publisher, Subscriber, Update};
    /// use ipc_reactor::{Delivery, Reactor};
    ///
    /// let mut publisher = Publisher::every(64, 7)?;
    /// let (_id, ticket) = publisher.subscribe()?; // to be sent to another process
    ///
    /// let mut reactor = Reactor::<Vec<String>>::new()?;
    /// reactor.subscribe(Subscriber::open(ticket)?, Delivery::Every, |update, cx, values| {
    ///     match update {
    ///         Update::Value(value) => values.push(String::from_utf8_lossy(value).into()),
    ///         Update::Lost(count) => eprintln!("{count} values were overwritten before we read them"),
    ///     }
    ///     if values.len() == 2 { cx.stop(); }
    ///     Ok(())
    /// })?;
    /// publisher.publish(b"1 EUR = 1.17 USD")?;
    /// publisher.publish(b"1 EUR = 1.18 USD")?;
    /// let mut values = Vec::new();
    /// reactor.run(&mut values)?;
    /// assert_eq!(values, ["1 EUR = 1.17 USD", "1 EUR = 1.18 USD"]);
    /// # std::io::Result::Ok(())
    /// ```
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`. The error returns the subscriber.
    #[allow(clippy::result_large_err, reason = "once per subscription, and it is worth having back")]
    pub fn subscribe(
        &mut self,
        subscriber: Subscriber,
        delivery: Delivery,
        handler: impl FnMut(Update<&[u8]>, &mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
    ) -> Result<Key, Rejected<Subscriber>> {
        self.subscribe_handler(subscriber, delivery, Closure(handler))
    }

    /// [`subscribe`](PollSet::subscribe) with a handler that also has methods for the beginning and for the end.
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

    /// Marks a subscription as ready: for a notification that comes by other means than a doorbell, such as a
    /// [`QueueNotifier`](crate::shm::QueueNotifier). A call without a new value does no harm. False if the key names no
    /// subscription.
    pub fn updated(&mut self, key: Key) -> bool {
        match self.registry.get(key) {
            Some(Source::Shm { .. }) => self.mark_ready(key, Ready::READABLE),
            _ => false,
        }
    }

    /// The first of two steps, like [`register`](PollSet::register). Without a doorbell there is nothing to register.
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
        // The publisher does not ring before the subscriber has armed its doorbell for the first time.
        self.mark_ready(key, Ready::READABLE);
        key
    }

    /// The connection to a subscription's publisher has ended.
    pub(crate) fn end_subscription(&mut self, key: Key, cause: &Cause) {
        let Some(Source::Shm { port, handler: Some(subscription) }) = self.registry.get_mut(key) else {
            return;
        };
        port.connection = None;
        if matches!(cause, Cause::Peer | Cause::Reset | Cause::PartialFrame) {
            // What it published before is still to be delivered.
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

/// The publisher's end of the doorbell is closed. What was published before is still to be delivered.
#[cold]
fn doorbell_ended<S>(set: &mut PollSet<S>, key: Key) {
    if let Some(Source::Shm { port, handler: Some(subscription) }) = set.registry.get_mut(key) {
        port.ended.get_or_insert_with(|| Box::new((Cause::Peer, subscription.subscriber.newest())));
    }
}

/// The result of a read.
enum Next {
    /// The handler was called with an update; the subscriber is at this position.
    Delivered { position: u64 },
    /// There is no new value. `asleep`: the doorbell is armed.
    Nothing { asleep: bool },
}

/// One visit: reads until there is no new value, and arms the doorbell; or until the budget is spent, and leaves it
/// unarmed, so that the publisher need not ring.
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
        // The handler borrows the value from the subscriber, so reading and handling are one call.
        let mut failed = None;
        let called = call(set, key, |subscription: &mut Box<Subscription<S>>, cx| {
            let Subscription { subscriber, delivery, handler, .. } = &mut **subscription;
            let update = match delivery {
                Delivery::Latest => subscriber.latest().map(|value| value.map(Update::Value)),
                Delivery::Every => subscriber.recv(),
            };
            match update {
                Ok(Some(update)) => deliver(update, &mut **handler, cx, state)?,
                Ok(None) => return Ok(Next::Nothing { asleep: subscriber.arm() }),
                Err(error) => {
                    failed = Some(error);
                    return Ok(Next::Nothing { asleep: false });
                }
            }
            Ok(Next::Delivered { position: subscriber.position() })
        });
        match (applied(set, key, called, ready), failed) {
            (Err(visited), _) => return visited,
            // The publisher overwrote the value during each copy: other sources are visited first.
            (_, Some(error)) if error.kind() == io::ErrorKind::WouldBlock => return Visited::Again(ready),
            (_, Some(error)) => {
                let error = io::Error::new(error.kind(), format!("from the publisher: {error}"));
                set.stats.failed(error.kind());
                set.warn(Kind::Source, format_args!("subscription {key}: {error}"));
                return Visited::closed(Cause::Malformed(error));
            }
            (Ok(Next::Delivered { position }), None) => {
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

fn deliver<S>(
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
        cx.set.emit_timed(|handler_ns, source| What::Message { source, bytes, priority: None, handler_ns });
    }
    handled
}

/// How the visit ends if the last value was delivered and there will be no other. `position`: that of the last value
/// delivered.
fn end<S>(set: &mut PollSet<S>, key: Key, position: u64) -> Option<Visited> {
    let Some(Source::Shm { port, .. }) = set.registry.get_mut(key) else { return None };
    let (cause, _) = *port.ended.take_if(|ended| position >= ended.1)?;
    Some(Visited::closed(cause))
}

/// Checks a call. `Err`: how the visit ends.
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

/// A subscription was removed from the poll set.
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
