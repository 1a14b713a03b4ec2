//! Which updates a subscriber's handler gets, and in which order.

use crate::support::names::unique;
use ipc_reactor::SubscriberSession;
use ipc_reactor::shm::{Publisher, Subscriber, TypedPublisher, Update};
use ipc_reactor::{Address, Delivery, Limits, Listener, Reactor, Turn};

use crate::support::turns::{settle, until};
use crate::support::world::{Ear, Heard, World, address, numbers, publishing_at, subscribed, value};

#[test]
fn every_value_arrives_in_order_over_each_kind_of_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let name = |kind: &str| format!("{}-{kind}", unique()).into_bytes();
    for address in [
        Address::UnixStream(folder.path().join("stream")),
        Address::UnixSeqpacket(folder.path().join("records")),
        Address::AbstractStream(name("stream")),
        Address::AbstractSeqpacket(name("records")),
    ] {
        let mut reactor = publishing_at(&address, Limits::default());
        let mut world = World::new(numbers(127));
        reactor.connect_subscriber(&address, Delivery::Every, Ear).unwrap();
        until(&mut reactor, &mut world, |world| world.heard == [Heard::Open]);
        let mut expected = world.take();
        let mut next = 1;
        for burst in [1, 2, 0, 127, 3, 64, 1, 1] {
            world.publish(next..next + burst);
            expected.extend((next..next + burst).map(value));
            next += burst;
            settle(&mut reactor, &mut world);
        }
        assert_eq!(world.heard, expected[1..], "{address}");
    }
}

#[test]
fn latest_is_the_newest_alone_and_a_newcomer_gets_it_at_once() {
    let (_folder, address) = address();
    let mut reactor = publishing_at(&address, Limits::default());
    let mut world = World::new(numbers(7));
    world.publish([1, 2]);
    reactor.connect_subscriber(&address, Delivery::Latest, Ear).unwrap();
    until(&mut reactor, &mut world, |world| world.heard.len() == 2);
    assert_eq!(world.take(), [Heard::Open, value(2)]);
    world.publish(3..1000);
    settle(&mut reactor, &mut world);
    assert_eq!(world.take(), [value(999)]);
    settle(&mut reactor, &mut world);
    assert_eq!(world.take(), []);
}

#[test]
fn a_newcomer_that_wants_every_value_starts_with_the_first_after_it_came() {
    let (_folder, address) = address();
    let mut reactor = publishing_at(&address, Limits::default());
    let mut world = World::new(numbers(7));
    world.publish([1, 2]);
    reactor.connect_subscriber(&address, Delivery::Every, Ear).unwrap();
    until(&mut reactor, &mut world, |world| !world.heard.is_empty());
    world.publish([3]);
    settle(&mut reactor, &mut world);
    assert_eq!(world.take(), [Heard::Open, value(3)]);
}

#[test]
fn who_falls_behind_is_told_how_many_it_lost_and_the_publisher_never_waits() {
    let (mut reactor, mut world, _) = subscribed(numbers(7), Delivery::Every, Limits::default());
    // The subscriber runs no turn meanwhile: if the publisher waited for it, this would not end.
    world.publish(1..=1000);
    settle(&mut reactor, &mut world);
    let mut expected = vec![Heard::Lost(993)];
    expected.extend((994..=1000).map(value));
    assert_eq!(world.take(), expected);
    assert_eq!(reactor.stats().updates, 8);
}

#[test]
fn a_budget_ends_a_visit_and_nothing_is_forgotten() {
    let limits = Limits { messages_per_visit: 3, ..Limits::default() };
    let (mut reactor, mut world, _) = subscribed(numbers(127), Delivery::Every, limits);
    world.publish(1..=100);
    let mut turns = 0;
    while world.heard.len() < 100 {
        let before = world.heard.len();
        let turn = reactor.turn(Some(std::time::Duration::ZERO), &mut world).unwrap();
        assert!(world.heard.len() - before <= 3);
        assert!(turn == Turn::Pending || world.heard.len() == 100);
        turns += 1;
    }
    assert!(turns >= 34, "{turns}");
    settle(&mut reactor, &mut world);
    assert!(world.heard.iter().cloned().eq((1..=100).map(value)));
    world.publish([101]);
    settle(&mut reactor, &mut world);
    assert_eq!(world.heard.last(), Some(&value(101)), "it has gone to sleep in the end, and was woken");
}

#[test]
fn only_a_sleeper_is_told() {
    #[derive(Default)]
    struct Counted {
        told: u64,
        values: u64,
    }
    let rings = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = rings.clone();
    let mut publisher = numbers(1023);
    let ring = move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    };
    let (_, ticket) = publisher.subscribe_via(ring).unwrap();
    let limits = Limits { messages_per_visit: 10, ..Limits::default() };
    let mut reactor = Reactor::<Counted>::builder().limits(limits).build().unwrap();
    let key = reactor
        .subscribe(Subscriber::open(ticket).unwrap(), Delivery::Every, |update, _, counted| {
            counted.values += u64::from(matches!(update, Update::Value(_)));
            Ok(())
        })
        .unwrap();
    let mut counted = Counted::default();
    settle(&mut reactor, &mut counted);
    for round in 1..=50_u64 {
        for _ in 0..1000_u64 {
            publisher.publish(&round.to_ne_bytes()).unwrap();
        }
        counted.told = rings.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(counted.told, round, "one for a sleep, not one for each value");
        assert!(reactor.updated(key));
        // Awake, and behind: it needs no notification.
        while reactor.turn(Some(std::time::Duration::ZERO), &mut counted).unwrap() == Turn::Pending {
            publisher.publish(&round.to_ne_bytes()).unwrap();
            assert!(counted.values < 1_000_000, "it never catches up");
        }
        assert_eq!(rings.load(std::sync::atomic::Ordering::Relaxed), round);
        settle(&mut reactor, &mut counted);
    }
    assert!(counted.values > 50_000);
}

#[test]
fn a_subscription_without_a_socket_is_a_source_like_any_other() {
    let mut world = World::new(numbers(7));
    let mut reactor = Reactor::<World>::new().unwrap();
    let subscriber = Subscriber::open(world.publisher.subscribe().unwrap().1).unwrap();
    world.publish([1]);
    let key = reactor.subscribe_handler(subscriber, Delivery::Every, Ear).unwrap();
    world.publish([2]);
    settle(&mut reactor, &mut world);
    assert_eq!(world.take(), [Heard::Open, value(1), value(2)]);
    world.publish([3]);
    assert!(reactor.close(key));
    assert!(!reactor.close(key));
    assert!(!reactor.updated(key));
    settle(&mut reactor, &mut world);
    assert_eq!(world.take(), [Heard::End("closed by a handler".into())]);
}

#[test]
fn values_of_a_type() {
    struct Rates {
        publisher: TypedPublisher<[f64; 2]>,
        heard: Vec<Update<[f64; 2]>>,
    }
    let (_folder, address) = address();
    let mut reactor = Reactor::<Rates>::new().unwrap();
    reactor
        .listen(Listener::bind(&address).unwrap(), SubscriberSession::framing(), |_, _| {
            Ok(SubscriberSession::new(|rates: &mut Rates| rates.publisher.get_mut()))
        })
        .unwrap();
    let mut rates = Rates { publisher: TypedPublisher::every(1).unwrap(), heard: Vec::new() };
    let (_, ticket) = rates.publisher.subscribe().unwrap();
    reactor
        .subscribe(Subscriber::open(ticket).unwrap(), Delivery::Every, |update, _, rates: &mut Rates| {
            rates.heard.push(update.typed()?);
            Ok(())
        })
        .unwrap();
    settle(&mut reactor, &mut rates);
    for n in 0..3 {
        rates.publisher.publish(&[f64::from(n), 0.5]).unwrap();
    }
    settle(&mut reactor, &mut rates);
    assert_eq!(rates.heard, [Update::Lost(2), Update::Value([2.0, 0.5])]);
}

#[test]
fn a_value_of_another_size_is_an_error_of_its_handler() {
    let mut reactor = Reactor::<Vec<u64>>::new().unwrap();
    let mut publisher = Publisher::latest(8).unwrap();
    let subscriber = Subscriber::open(publisher.subscribe().unwrap().1).unwrap();
    let key = reactor
        .subscribe(subscriber, Delivery::Latest, |update, _, heard: &mut Vec<u64>| {
            if let Update::Value(number) = update.typed::<u64>()? {
                heard.push(number);
            }
            Ok(())
        })
        .unwrap();
    let mut heard = Vec::new();
    publisher.publish(&7_u64.to_ne_bytes()).unwrap();
    settle(&mut reactor, &mut heard);
    publisher.publish(&[0; 7]).unwrap();
    settle(&mut reactor, &mut heard);
    assert_eq!((heard, reactor.stats().handler_errors), (vec![7], 1));
    assert!(!reactor.close(key), "it has ended");
}
