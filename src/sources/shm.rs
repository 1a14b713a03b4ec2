//! A subscription to shared memory in the poll set: drained within a budget, and only then put to sleep.

use std::{io, mem, os::fd::AsFd};

use log::Level;
use mio::Interest;

use crate::{
    observe::{event::What, throttle::Kind},
    set::{
        call::{guarded, report},
        context::Context,
        poll_set::{Phase, PollSet},
        source::{Ready, Source, Visited},
    },
    shm::{Subscriber, Update},
    types::{
        cause::{Cause, Limit},
        key::Key,
        rejected::Rejected,
    },
};

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

struct Closure<F>(F);

impl<S, F> SubscriptionHandler<S> for Closure<F>
where
    F: FnMut(Update<&[u8]>, &mut Context<'_, S>, &mut S) -> io::Result<()>,
{
    fn on_update(&mut self, update: Update<&[u8]>, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        (self.0)(update, cx, state)
    }
}

pub(crate) struct ShmSource<S> {
    pub(crate) subscriber: Subscriber,
    delivery: Delivery,
    handler: Box<dyn SubscriptionHandler<S>>,
    /// The client handle that the ticket came over. Its hang-up tells of the publisher's death.
    connection: Option<Key>,
    opened: bool,
    /// Why there will be nothing new after this value.
    ended: Option<(Cause, u64)>,
}

impl<S> PollSet<S> {
    /// Follows a segment of shared memory: `handler` gets the new values, at most
    /// [`Limits::messages_per_visit`](crate::Limits::messages_per_visit) in a visit. While it is behind, the publisher need
    /// not ring; it never waits for us.
    ///
    /// The death of the publisher shows on the connection that the ticket came over, and nowhere else:
    /// [`connect_subscriber`](PollSet::connect_subscriber) watches it, too.
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
        match self.watch_doorbell(&subscriber) {
            Ok(key) => Ok(self.place_subscription(key, subscriber, delivery, Box::new(handler), None)),
            Err(error) => Err(Rejected { error, source: subscriber }),
        }
    }

    /// Tells a subscription that its publisher has published something: for notifications that come by other means than
    /// a doorbell, such as a [`QueueNotifier`](crate::shm::QueueNotifier)'s. Once too often does no harm. False if the
    /// key names no subscription.
    pub fn updated(&mut self, key: Key) -> bool {
        match self.source(key) {
            Some(Source::Shm(_)) => self.mark_ready(key, Ready::READABLE),
            // Taken out, because its handler runs: it looks again before it sleeps.
            Some(Source::Running) => true,
            _ => false,
        }
    }

    /// The first of two steps, as [`register`](PollSet::register) is. Without a doorbell there is nothing to watch.
    pub(crate) fn watch_doorbell(&mut self, subscriber: &Subscriber) -> io::Result<Key> {
        match subscriber.doorbell() {
            Some(doorbell) => self.register(doorbell.as_fd(), Interest::READABLE),
            None => self.check_not_forked().map(|()| self.next_key()),
        }
    }

    pub(crate) fn place_subscription(
        &mut self,
        key: Key,
        subscriber: Subscriber,
        delivery: Delivery,
        handler: Box<dyn SubscriptionHandler<S>>,
        connection: Option<Key>,
    ) -> Key {
        let source = ShmSource { subscriber, delivery, handler, connection, opened: false, ended: None };
        self.place(key, Source::Shm(Box::new(source)));
        // Nobody rings before it has gone to sleep for the first time.
        self.mark_ready(key, Ready::READABLE);
        key
    }

    /// The connection to a subscription's publisher has ended.
    pub(crate) fn end_subscription(&mut self, key: Key, cause: &Cause) {
        let Some(slot) = self.slot(key) else { return };
        let Source::Shm(source) = &mut slot.source else { return };
        source.connection = None;
        if matches!(cause, Cause::Peer | Cause::Reset | Cause::HalfFrame) {
            // What it had published before is still to be told.
            source.ended = Some((cause.copy(), source.subscriber.newest()));
            self.mark_ready(key, Ready::READABLE);
        } else {
            let source = mem::replace(&mut slot.source, Source::Running);
            self.retire(key, source, cause.copy());
        }
    }
}

impl<S> ShmSource<S> {
    /// Whether the last value that there will be has been told.
    fn is_at_end(&self) -> bool {
        self.ended.as_ref().is_some_and(|&(_, last)| self.subscriber.position() >= last)
    }

    fn end(&mut self) -> Option<Visited> {
        self.ended.take().map(|(cause, _)| Visited::closed(cause))
    }
}

/// One visit: reads until nothing is new, and goes to sleep; or until the budget is spent, and stays awake, so that the
/// publisher has nobody to ring for.
pub(crate) fn visit<S>(
    set: &mut PollSet<S>,
    key: Key,
    source: &mut ShmSource<S>,
    ready: Ready,
    state: &mut S,
) -> Visited {
    if !source.opened {
        source.opened = true;
        let (handler, subscriber) = (&mut source.handler, &source.subscriber);
        if let Some(visited) = handle(set, key, |cx| handler.on_open(subscriber, cx, state)) {
            return visited;
        }
    }
    for _ in 0..set.limits.messages_per_visit.max(1) {
        if set.phase == Phase::Stopped {
            return Visited::Again(ready);
        }
        let update = match source.delivery {
            Delivery::Latest => source.subscriber.latest().map(|value| value.map(Update::Value)),
            Delivery::Every => source.subscriber.recv(),
        };
        let update = match update {
            Ok(Some(update)) => update,
            Ok(None) => match source.end() {
                Some(visited) => return visited,
                None if source.subscriber.arm() => return Visited::Drained,
                None => continue,
            },
            // The publisher is too fast for a copy of its value: others have their turn first.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Visited::Again(ready),
            Err(error) => {
                set.stats.failed(error.kind());
                set.complain(Kind::Source, Level::Warn, format_args!("subscription {key}: {error}"));
                return Visited::closed(Cause::Malformed(error));
            }
        };
        set.stats.updates += 1;
        let handler = &mut source.handler;
        if set.tells_messages() {
            set.lap();
        }
        let visited = handle(set, key, |cx| handler.on_update(update, cx, state));
        if set.tells_messages()
            && let Update::Value(bytes) = update
        {
            set.tell_lap(|handler_ns, who| What::Message { who, bytes, priority: None, handler_ns });
        }
        if let Some(visited) = visited {
            return visited;
        }
        if source.is_at_end()
            && let Some(visited) = source.end()
        {
            return visited;
        }
    }
    set.tripped(Limit::Messages);
    Visited::Again(ready)
}

/// Calls the handler; answers how the visit ends, if that ends it.
fn handle<S>(
    set: &mut PollSet<S>,
    key: Key,
    call: impl FnOnce(&mut Context<'_, S>) -> io::Result<()>,
) -> Option<Visited> {
    if let Err(cause) = guarded(set, key, call) {
        report(set, key, "subscription", &cause);
        return Some(Visited::Closed(cause));
    }
    set.take_halt().then(|| Visited::closed(Cause::Closed))
}

/// The last that happens to a subscription that is out of the poll set.
pub(crate) fn bury<S>(mut source: ShmSource<S>, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
    if let Some(connection) = source.connection {
        cx.close(connection);
    }
    source.handler.on_close(cause, cx, state);
}
