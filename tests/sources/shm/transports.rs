//! The notification "shared memory has been updated", by doorbell, over the Unix socket, and through a message queue.

use crate::support::names::QueueName;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

use ipc_reactor::SubscriberSession;
use ipc_reactor::shm::{QueueNotifier, SocketNotifier, Subscriber, Ticket, UPDATED};
use ipc_reactor::{Address, Delivery, Listener, Queue, Reactor};

use crate::support::shm::refused;
use crate::support::turns::{settle, until};
use crate::support::world::{Ear, Heard, World, address, numbers, value};

/// A reactor whose subscribers are notified over the socket that carried their tickets.
fn telling_by_socket(address: &Address) -> Reactor<World> {
    let mut reactor = Reactor::<World>::new().unwrap();
    reactor
        .listen(Listener::bind(address).unwrap(), SubscriberSession::framing(), |peer, _| {
            Ok(SubscriberSession::new(|world: &mut World| &mut world.publisher)
                .via(SocketNotifier::new(peer)?))
        })
        .unwrap();
    reactor
}

#[test]
fn over_the_socket_there_is_one_message_for_each_sleep() {
    let folder = tempfile::tempdir().unwrap();
    for address in [
        Address::UnixStream(folder.path().join("stream")),
        Address::UnixSeqpacket(folder.path().join("records")),
    ] {
        let mut reactor = telling_by_socket(&address);
        let mut world = World::new(numbers(127));
        reactor.connect_subscriber(&address, Delivery::Every, Ear).unwrap();
        until(&mut reactor, &mut world, |world| world.heard == [Heard::Open]);
        settle(&mut reactor, &mut world);
        let tickets = reactor.stats().requests;
        for round in 0..50 {
            world.publish(round * 100..(round + 1) * 100);
            settle(&mut reactor, &mut world);
        }
        assert!(world.heard[1..].iter().cloned().eq((0..5000).map(value)), "{address}");
        assert_eq!(reactor.stats().requests - tickets, 50, "{address}");
    }
}

#[test]
fn a_subscriber_that_takes_no_notification_is_not_waited_for() {
    let (_folder, address) = address();
    let Address::UnixStream(path) = &address else { unreachable!() };
    let mut reactor = telling_by_socket(&address);
    let mut world = World::new(numbers(7));
    let mut deaf = UnixStream::connect(path).unwrap();
    reactor.connect_subscriber(&address, Delivery::Every, Ear).unwrap();
    until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 2);
    settle(&mut reactor, &mut world);

    // A socket that is not read meanwhile, and a page that is armed repeatedly.
    let mut bytes = [0; Ticket::BYTES];
    deaf.read_exact(&mut bytes).unwrap();
    let notify = SocketNotifier::new(&deaf).unwrap();
    let (_, ticket) = world.publisher.subscribe_via(notify).unwrap();
    let mut armed = Subscriber::open(ticket).unwrap();
    for number in 0..20_000 {
        while armed.recv().unwrap().is_some() {}
        assert!(armed.arm());
        world.publish([number]);
    }
    assert_eq!(world.publisher.subscribers(), 3, "a full socket is no fault");
    settle(&mut reactor, &mut world);
    assert_eq!(world.heard.last(), Some(&value(19_999)));
}

fn create(name: &QueueName, capacity: usize, message_size: usize) -> Queue {
    let mut options = Queue::options();
    options.create_new(true).capacity(capacity).message_size(message_size).open(&name.0).unwrap()
}

#[test]
fn through_a_message_queue_there_is_one_message_for_each_sleep() {
    let name = QueueName::new();
    let (_folder, address) = address();
    let mut reactor = Reactor::<World>::new().unwrap();
    // The subscriber's own queue. A capacity of one message is enough.
    reactor
        .queue(create(&name, 1, 16), |message, cx, world: &mut World| {
            assert_eq!(message.bytes, UPDATED);
            cx.updated(world.open[0]);
            Ok(())
        })
        .unwrap();
    let to = name.0.clone();
    reactor
        .listen(Listener::bind(&address).unwrap(), SubscriberSession::framing(), move |_, _| {
            let queue = Queue::options().read(false).write(true).open(&to)?;
            let notify = QueueNotifier::new(queue, 3)?;
            Ok(SubscriberSession::new(|world: &mut World| &mut world.publisher).via(notify))
        })
        .unwrap();
    let mut world = World::new(numbers(127));
    reactor.connect_subscriber(&address, Delivery::Every, Ear).unwrap();
    until(&mut reactor, &mut world, |world| world.heard == [Heard::Open]);
    settle(&mut reactor, &mut world);
    for round in 0..50 {
        world.publish(round * 100..(round + 1) * 100);
        settle(&mut reactor, &mut world);
    }
    assert!(world.heard[1..].iter().cloned().eq((0..5000).map(value)));
    assert_eq!(reactor.stats().queue_messages, 50);
}

#[test]
fn a_full_queue_holds_up_nobody_and_its_reader_is_told_by_what_is_in_it() {
    let name = QueueName::new();
    let queue = create(&name, 1, 16);
    queue.send(&UPDATED, 0).unwrap();
    let mut world = World::new(numbers(7));
    let notify = QueueNotifier::new(Queue::open(&name.0).unwrap(), 0).unwrap();
    let (_, ticket) = world.publisher.subscribe_via(notify).unwrap();
    let mut reactor = Reactor::<World>::new().unwrap();
    let subscriber = Subscriber::open(ticket).unwrap();
    reactor.subscribe_handler(subscriber, Delivery::Every, Ear).unwrap();
    settle(&mut reactor, &mut world);
    world.publish(1..=5);
    assert_eq!((world.publisher.subscribers(), world.take()), (1, vec![Heard::Open]));
    reactor
        .queue(queue, |_, cx, world: &mut World| {
            cx.updated(world.open[0]);
            Ok(())
        })
        .unwrap();
    settle(&mut reactor, &mut world);
    assert_eq!(world.take(), (1..=5).map(value).collect::<Vec<_>>());
    world.publish([6]);
    settle(&mut reactor, &mut world);
    assert_eq!(world.take(), [value(6)]);
}

#[test]
fn a_queue_that_cannot_carry_the_message_is_refused() {
    let name = QueueName::new();
    refused(QueueNotifier::new(create(&name, 1, 15), 0), ErrorKind::InvalidInput, "takes 16 bytes");
    Queue::unlink(&name.0).unwrap();
    let priority = Queue::PRIORITY_MAX + 1;
    refused(
        QueueNotifier::new(create(&name, 1, 16), priority),
        ErrorKind::InvalidInput,
        "priority 32768 exceeds",
    );
}

#[test]
fn a_way_that_is_gone_ends_the_subscription_at_the_publisher() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut world = World::new(numbers(7));
    let (_, ticket) = world.publisher.subscribe_via(SocketNotifier::new(&ours).unwrap()).unwrap();
    let mut subscriber = Subscriber::open(ticket).unwrap();
    assert!(subscriber.arm());
    drop(theirs);
    world.publish([1]);
    assert_eq!(world.publisher.subscribers(), 0);
    assert_eq!(
        subscriber.latest().unwrap(),
        Some(&1_u64.to_ne_bytes()[..]),
        "what it has mapped it can read"
    );
}
