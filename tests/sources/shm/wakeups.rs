//! No wake-up is lost between a publisher and subscribers that go to sleep and wake up at any moment.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipc_reactor::SubscriberSession;
use ipc_reactor::shm::{SocketNotifier, Subscriber, Update};
use ipc_reactor::{Cause, Context, Delivery, Limits, Listener, Reactor, SubscriptionHandler};

use crate::support::turns::PATIENCE;
use crate::support::world::{World, address, numbers};

const UPDATES: u64 = 1_000_000;

fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    *seed >> 33
}

/// A subscriber's side: sleeps whenever it may, and stores the last value that it has read.
struct Reader<'a> {
    reached: &'a AtomicU64,
    stop: &'a AtomicBool,
}

impl Reader<'_> {
    fn read(&self, subscriber: Subscriber, delivery: Delivery) -> u64 {
        // A visit of few values, so that it is sometimes behind and sometimes not.
        let limits = Limits { messages_per_visit: 5, ..Limits::default() };
        let mut reactor = Reactor::<u64>::builder().limits(limits).build().unwrap();
        let subscribed = reactor.subscribe(subscriber, delivery, |update, _, newest| {
            match update {
                Update::Value(value) => {
                    let number = u64::from_ne_bytes(value.try_into().unwrap());
                    assert!(number > *newest, "{number} after {newest}");
                    *newest = number;
                }
                Update::Lost(count) => assert!(count > 0),
            }
            Ok(())
        });
        subscribed.unwrap();
        let mut newest = 0;
        while !self.stop.load(Ordering::Relaxed) {
            // A timeout does not make the subscriber read: a lost wake-up stays lost.
            let _ = reactor.turn(Some(Duration::from_secs(1)), &mut newest).unwrap();
            self.reached.store(newest, Ordering::Release);
        }
        newest
    }
}

/// So that the other thread does not wait when this one fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Publishes in bursts of random length at random moments, and waits after each until its last value has arrived: if
/// one wake-up is lost, this never ends.
fn bursts(delivery: Delivery) {
    let mut publisher = numbers(63);
    let (reached, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let subscriber = Subscriber::open(publisher.subscribe().unwrap().1).unwrap();
    thread::scope(|scope| {
        let reader = Reader { reached: &reached, stop: &stop };
        let stopped = StopOnDrop(&stop);
        let reading = scope.spawn(move || reader.read(subscriber, delivery));
        let mut seed = u64::from(std::process::id());
        let mut published = 0;
        while published < UPDATES {
            for _ in 0..1 + next(&mut seed) % 200 {
                published += 1;
                publisher.publish(&published.to_ne_bytes()).unwrap();
                for _ in 0..next(&mut seed) % 16 {
                    std::hint::spin_loop();
                }
            }
            let since = Instant::now();
            while reached.load(Ordering::Acquire) != published {
                assert!(since.elapsed() < PATIENCE, "value {published} has not arrived: a wake-up was lost");
                assert!(!reading.is_finished(), "the reader has failed");
                thread::yield_now();
            }
        }
        drop(stopped);
        // To wake it; it may read this value or not.
        publisher.publish(&(published + 1).to_ne_bytes()).unwrap();
        assert!(reading.join().unwrap() >= published);
    });
}

#[test]
fn the_last_of_a_million_updates_arrives_at_one_who_wants_the_newest() {
    bursts(Delivery::Latest);
}

#[test]
fn the_last_of_a_million_updates_arrives_at_one_who_wants_every() {
    bursts(Delivery::Every);
}

/// The last value that the `Latest` subscriber has read, for the publisher's thread.
struct Reached<'a>(&'a AtomicU64);

struct Last;

impl<'a> SubscriptionHandler<Reached<'a>> for Last {
    fn on_update(
        &mut self,
        update: Update<&[u8]>,
        _: &mut Context<'_, Reached<'a>>,
        reached: &mut Reached<'a>,
    ) -> io::Result<()> {
        if let Update::Value(number) = update.typed::<u64>()? {
            reached.0.store(number, Ordering::Release);
        }
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Reached<'a>>, _: &mut Reached<'a>) {
        assert_eq!(cause.to_string(), "closed by the peer");
        cx.stop();
    }
}

/// As above, notified over a socket: the publisher in its own reactor, in another thread.
#[test]
fn the_last_update_arrives_when_told_over_the_socket() {
    const ROUNDS: u64 = 5_000;
    let (_folder, address) = address();
    let listener = Listener::bind(&address).unwrap();
    let reached = AtomicU64::new(0);
    thread::scope(|scope| {
        let reached = &reached;
        scope.spawn(move || {
            let mut reactor = Reactor::<World>::new().unwrap();
            reactor
                .listen(listener, SubscriberSession::framing(), |peer, _| {
                    Ok(SubscriberSession::new(|world: &mut World| &mut world.publisher)
                        .via(SocketNotifier::new(peer)?))
                })
                .unwrap();
            let mut world = World::new(numbers(63));
            while world.publisher.subscribers() == 0 {
                let _ = reactor.turn(Some(PATIENCE), &mut world).unwrap();
            }
            // The ticket is sent at the end of the visit.
            let _ = reactor.turn(Some(Duration::ZERO), &mut world).unwrap();
            let mut seed = 1;
            let mut published = 0;
            for _ in 0..ROUNDS {
                let burst = 1 + next(&mut seed) % 100;
                world.publish(published + 1..=published + burst);
                published += burst;
                let since = Instant::now();
                while reached.load(Ordering::Acquire) != published {
                    assert!(since.elapsed() < PATIENCE, "value {published} has not arrived");
                    thread::yield_now();
                }
            }
        });

        let mut reactor = Reactor::<Reached<'_>>::new().unwrap();
        reactor.connect_subscriber(&address, Delivery::Latest, Last).unwrap();
        reactor.run(&mut Reached(reached)).unwrap();
    });
    assert!(reached.load(Ordering::Relaxed) >= ROUNDS);
}
