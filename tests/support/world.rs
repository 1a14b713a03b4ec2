//! A publisher and its subscribers in one reactor, and what the subscribers received.

use std::io;

use ipc_reactor::SubscriberSession;
use ipc_reactor::shm::{Publisher, Subscriber, Update};
use ipc_reactor::{Address, Cause, Context, Delivery, Key, Limits, Listener, Reactor, SubscriptionHandler};
use tempfile::TempDir;

use crate::support::turns::until;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Open,
    Value(Vec<u8>),
    Lost(u64),
    End(String),
}

pub(crate) fn value(number: u64) -> Heard {
    Heard::Value(number.to_ne_bytes().into())
}

/// A service that publishes, with what its subscribers, in the same reactor, have received.
pub(crate) struct World {
    pub(crate) publisher: Publisher,
    pub(crate) heard: Vec<Heard>,
    /// The subscriptions' own keys.
    pub(crate) open: Vec<Key>,
}

impl World {
    pub(crate) fn new(publisher: Publisher) -> World {
        World { publisher, heard: Vec::new(), open: Vec::new() }
    }

    pub(crate) fn publish(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.publisher.publish(&number.to_ne_bytes()).unwrap();
        }
    }

    /// What was received since the last call.
    pub(crate) fn take(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.heard)
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.heard.last(), Some(Heard::End(_)))
    }
}

/// Records all that it receives.
pub(crate) struct Ear;

impl SubscriptionHandler<World> for Ear {
    fn on_open(&mut self, _: &Subscriber, cx: &mut Context<'_, World>, world: &mut World) -> io::Result<()> {
        world.heard.push(Heard::Open);
        world.open.push(cx.key());
        Ok(())
    }

    fn on_update(
        &mut self,
        update: Update<&[u8]>,
        _: &mut Context<'_, World>,
        world: &mut World,
    ) -> io::Result<()> {
        world.heard.push(match update {
            Update::Value(value) => Heard::Value(value.into()),
            Update::Lost(count) => Heard::Lost(count),
        });
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, World>, world: &mut World) {
        world.heard.push(Heard::End(cause.to_string()));
    }
}

/// An address of this test's own; its path is removed with the folder.
pub(crate) fn address() -> (TempDir, Address) {
    let folder = tempfile::tempdir().unwrap();
    let address = Address::UnixStream(folder.path().join("publisher"));
    (folder, address)
}

pub(crate) fn publishing_at(address: &Address, limits: Limits) -> Reactor<World> {
    let mut reactor = Reactor::<World>::builder().limits(limits).build().unwrap();
    reactor
        .listen(Listener::bind(address).unwrap(), SubscriberSession::framing(), |_, _| {
            Ok(SubscriberSession::new(|world: &mut World| &mut world.publisher))
        })
        .unwrap();
    reactor
}

/// A reactor with a publisher of numbers and one subscriber that sleeps.
pub(crate) fn subscribed(
    publisher: Publisher,
    delivery: Delivery,
    limits: Limits,
) -> (Reactor<World>, World, Key) {
    let (_folder, address) = address();
    let mut reactor = publishing_at(&address, limits);
    let mut world = World::new(publisher);
    let connection = reactor.connect_subscriber(&address, delivery, Ear).unwrap();
    until(&mut reactor, &mut world, |world| world.heard == [Heard::Open]);
    world.take();
    (reactor, world, connection)
}

pub(crate) fn numbers(capacity: usize) -> Publisher {
    Publisher::every(8, capacity).unwrap()
}
