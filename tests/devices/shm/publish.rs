//! Publisher and subscribers as they are meant to be used.

use crate::support::shm::{refused, subscribe};
use ipc_reactor::shm::{PAYLOAD_MAX, Publisher, PublisherOptions, Subscriber, Ticket, Update};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn latest_is_the_newest_value_once() {
    let mut publisher = Publisher::latest(100).unwrap();
    let mut subscriber = subscribe(&mut publisher);
    assert_eq!(subscriber.latest().unwrap(), None);
    for round in 0..100usize {
        let value = vec![round as u8; round];
        publisher.publish(b"overtaken").unwrap();
        publisher.publish(&value).unwrap();
        assert_eq!(subscriber.latest().unwrap(), Some(&value[..]));
        assert_eq!(subscriber.latest().unwrap(), None);
    }
    assert_eq!((subscriber.position(), publisher.published()), (200, 200));
}

#[test]
fn a_newcomer_sees_the_present_value_but_follows_from_its_admission() {
    let mut publisher = Publisher::every(8, 7).unwrap();
    publisher.publish(b"before").unwrap();
    let (_, ticket) = publisher.subscribe().unwrap();
    publisher.publish(b"between").unwrap();
    let mut follower = Subscriber::open(ticket).unwrap();
    assert_eq!(follower.recv().unwrap(), Some(Update::Value(&b"between"[..])));
    assert_eq!(follower.recv().unwrap(), None);

    let mut looker = subscribe(&mut publisher);
    assert_eq!(looker.recv().unwrap(), None);
    assert_eq!(subscribe(&mut publisher).latest().unwrap(), Some(&b"between"[..]));
}

#[test]
fn every_value_arrives_in_order() {
    let mut publisher = Publisher::every(8, 100).unwrap();
    let (mut one, mut other) = (subscribe(&mut publisher), subscribe(&mut publisher));
    assert_eq!(one.capacity(), 127, "100 and one being written, rounded up to 128 slots");
    let mut next = 0u64;
    for burst in 0..=127u64 {
        for i in 0..burst {
            publisher.publish(&(next + i).to_ne_bytes()).unwrap();
        }
        for i in 0..burst {
            let value = (next + i).to_ne_bytes();
            assert_eq!(one.recv().unwrap(), Some(Update::Value(&value[..])));
            assert_eq!(other.recv().unwrap(), Some(Update::Value(&value[..])));
        }
        assert_eq!(one.recv().unwrap(), None);
        next += burst;
    }
}

#[test]
fn whoever_falls_behind_is_told_how_many_it_lost() {
    let mut publisher = Publisher::every(8, 7).unwrap();
    let mut subscriber = subscribe(&mut publisher);
    for n in 1..=20u64 {
        publisher.publish(&n.to_ne_bytes()).unwrap();
    }
    assert_eq!(subscriber.recv().unwrap(), Some(Update::Lost(13)));
    for n in 14..=20u64 {
        assert_eq!(subscriber.recv().unwrap(), Some(Update::Value(&n.to_ne_bytes()[..])));
    }
    assert_eq!(subscriber.recv().unwrap(), None);
}

#[test]
fn both_ways_of_reading_go_together() {
    let mut publisher = Publisher::every(8, 7).unwrap();
    let mut subscriber = subscribe(&mut publisher);
    for n in 1..=4u64 {
        publisher.publish(&n.to_ne_bytes()).unwrap();
    }
    assert_eq!(subscriber.recv().unwrap(), Some(Update::Value(&1u64.to_ne_bytes()[..])));
    assert_eq!(subscriber.latest().unwrap(), Some(&4u64.to_ne_bytes()[..]));
    assert_eq!(subscriber.recv().unwrap(), None);
    publisher.publish(b"5").unwrap();
    assert_eq!(subscriber.recv().unwrap(), Some(Update::Value(&b"5"[..])));
    assert_eq!(subscriber.latest().unwrap(), None);
}

#[test]
fn a_value_is_written_in_place() {
    let mut publisher = Publisher::latest(40).unwrap();
    let mut subscriber = subscribe(&mut publisher);
    publisher.write(|place| write!(place, "{}+{}={}", 1, 2, 3)).unwrap();
    assert_eq!(subscriber.latest().unwrap(), Some(&b"1+2=3"[..]));

    let mut loan = publisher.loan();
    loan.write_at(35, b"tail!").unwrap();
    loan.write_at(0, &[b'.'; 35]).unwrap();
    refused(loan.write_at(36, b"tail!"), ErrorKind::InvalidInput, "41 bytes exceeds payload_max 40");
    refused(loan.write_at(usize::MAX, b"tail!"), ErrorKind::InvalidInput, "exceeds payload_max 40");
    loan.publish().unwrap();
    assert_eq!(subscriber.latest().unwrap(), Some(&b"...................................tail!"[..]));
}

#[test]
fn an_abandoned_loan_leaves_no_trace() {
    let mut publisher = Publisher::latest(40).unwrap();
    let mut subscriber = subscribe(&mut publisher);
    publisher.publish(b"good").unwrap();
    publisher.loan().write_all(b"never seen, and longer").unwrap();
    let failed = publisher.write(|place| {
        place.write_all(b"half of a val")?;
        Err::<(), _>(io::Error::other("no more"))
    });
    refused(failed, ErrorKind::Other, "no more");
    assert_eq!(subscriber.latest().unwrap(), Some(&b"good"[..]));
    assert_eq!(subscriber.latest().unwrap(), None);
    publisher.publish(b"next").unwrap();
    assert_eq!(subscriber.recv().unwrap(), Some(Update::Value(&b"next"[..])));
}

#[test]
fn sizes_have_limits_that_are_said() {
    refused(Publisher::latest(0), ErrorKind::InvalidInput, "values of 0 bytes");
    refused(Publisher::latest(PAYLOAD_MAX + 1), ErrorKind::InvalidInput, "1 to 67108864 are possible");
    refused(Publisher::every(8, 0), ErrorKind::InvalidInput, "0 slots: a power of two from 2");
    refused(Publisher::every(8, usize::MAX), ErrorKind::InvalidInput, "power of two");
    refused(Publisher::every(PAYLOAD_MAX, 1000), ErrorKind::InvalidInput, "exceeds 4294967296");

    let mut publisher = Publisher::every(3, 1).unwrap();
    let mut subscriber = subscribe(&mut publisher);
    refused(publisher.publish(b"four"), ErrorKind::InvalidInput, "4 bytes exceeds payload_max 3");
    assert_eq!(subscriber.recv().unwrap(), None);
    publisher.publish(b"").unwrap();
    assert_eq!(subscriber.recv().unwrap(), Some(Update::Value(&b""[..])), "an empty value is a value");
}

#[test]
fn a_tag_travels() {
    let mut publisher = PublisherOptions::latest(8).tag(42).create().unwrap();
    assert_eq!(subscribe(&mut publisher).tag(), 42);
}

/// A publisher with one subscriber, and the number of notifications it sent.
fn counted() -> (Publisher, Subscriber, Arc<AtomicUsize>) {
    let mut publisher = Publisher::every(8, 7).unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let notify = move || {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let (_, ticket) = publisher.subscribe_via(notify).unwrap();
    (publisher, Subscriber::open(ticket).unwrap(), told)
}

#[test]
fn only_a_sleeper_is_told_and_only_once() {
    let (mut publisher, mut subscriber, told) = counted();
    let told = || told.load(Ordering::Relaxed);
    publisher.publish(b"1").unwrap();
    assert_eq!(told(), 0, "it never slept");

    assert!(!subscriber.arm(), "there is something new");
    publisher.publish(b"2").unwrap();
    assert_eq!(told(), 0, "so it did not fall asleep");

    while subscriber.recv().unwrap().is_some() {}
    assert!(subscriber.arm());
    publisher.publish(b"3").unwrap();
    assert_eq!(told(), 1);
    publisher.publish(b"4").unwrap();
    assert_eq!(told(), 1, "one notification is outstanding");

    subscriber.latest().unwrap();
    publisher.publish(b"5").unwrap();
    assert_eq!(told(), 1, "it is awake");
    subscriber.latest().unwrap();
    assert!(subscriber.arm());
    assert!(subscriber.arm(), "arming twice is arming once");
    publisher.publish(b"6").unwrap();
    assert_eq!(told(), 2);
}

#[test]
fn a_notification_that_cannot_be_sent_now_is_sent_later_and_a_failed_one_ends_the_subscription() {
    let mut publisher = Publisher::latest(8).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let notify = move || match count.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => Err(ErrorKind::WouldBlock.into()),
        2 => Ok(()),
        _ => Err(ErrorKind::BrokenPipe.into()),
    };
    let mut subscriber = Subscriber::open(publisher.subscribe_via(notify).unwrap().1).unwrap();
    let mut other = subscribe(&mut publisher);
    assert!(subscriber.arm());
    for calls_so_far in [1, 2, 3, 3] {
        publisher.publish(b"x").unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), calls_so_far);
    }
    subscriber.latest().unwrap();
    assert!(subscriber.arm());
    publisher.publish(b"y").unwrap();
    assert_eq!((calls.load(Ordering::Relaxed), publisher.subscribers()), (4, 1));
    assert_eq!(subscriber.latest().unwrap(), Some(&b"y"[..]), "what it mapped it can still read");
    assert_eq!(other.latest().unwrap(), Some(&b"y"[..]));
    refused(subscriber.wait(None), ErrorKind::Unsupported, "no doorbell");
}

#[test]
fn subscriptions_are_counted_and_ended() {
    let mut publisher = PublisherOptions::latest(8).subscribers_max(2).create().unwrap();
    let (first, ticket) = publisher.subscribe().unwrap();
    let (second, _) = publisher.subscribe().unwrap();
    refused(publisher.subscribe(), ErrorKind::QuotaExceeded, "subscribers_max");
    assert!(publisher.unsubscribe(first));
    assert!(!publisher.unsubscribe(first));
    assert_eq!(publisher.subscribers(), 1);
    let (third, _) = publisher.subscribe().unwrap();
    assert!(third != first && third != second);

    let mut silent = Subscriber::open(ticket).unwrap();
    assert!(silent.arm());
    publisher.publish(b"x").unwrap();
    assert!(silent.wait(Some(Duration::ZERO)).unwrap(), "it is not told, but it sees");
}

/// The doorbell in a poll set, edge-triggered and never read.
#[test]
fn each_ring_is_an_event_of_its_own() {
    let mut publisher = Publisher::latest(8).unwrap();
    let mut subscriber = subscribe(&mut publisher);
    let mut poll = mio::Poll::new().unwrap();
    let mut events = mio::Events::with_capacity(8);
    let fd = subscriber.doorbell().unwrap().as_fd().try_clone_to_owned().unwrap();
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    let mut source = mio::unix::SourceFd(&raw);
    poll.registry().register(&mut source, mio::Token(7), mio::Interest::READABLE).unwrap();
    let mut events_now = || {
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        events.iter().filter(|event| event.token() == mio::Token(7) && event.is_readable()).count()
    };

    assert_eq!(events_now(), 0);
    for round in 0..100u8 {
        assert!(subscriber.arm());
        assert_eq!(events_now(), 0);
        publisher.publish(&[round]).unwrap();
        publisher.publish(&[round]).unwrap();
        assert_eq!(events_now(), 1, "round {round}");
        assert_eq!(events_now(), 0);
        assert_eq!(subscriber.latest().unwrap(), Some(&[round][..]));
    }
}

#[test]
fn a_waiting_thread_hears_of_every_value() {
    const VALUES: u64 = 20_000;
    let mut publisher = Publisher::every(8, 1023).unwrap();
    let mut subscriber = subscribe(&mut publisher);
    let mut back = Publisher::latest(8).unwrap();
    let mut answers = subscribe(&mut back);
    std::thread::scope(|scope| {
        let answering = scope.spawn(move || {
            let mut expected = 1;
            while expected <= VALUES {
                assert!(subscriber.wait(Some(Duration::from_secs(60))).unwrap(), "a wake-up was lost");
                while let Some(update) = subscriber.recv().unwrap() {
                    assert_eq!(update, Update::Value(&u64::to_ne_bytes(expected)[..]));
                    back.publish(&expected.to_ne_bytes()).unwrap();
                    expected += 1;
                }
            }
            // The publisher lives until its last answer is received: a ring that is not received yet is lost with its
            // publisher.
            back
        });
        for n in 1..=VALUES {
            publisher.publish(&n.to_ne_bytes()).unwrap();
            // Every other one in lock step, so that both sides sleep often.
            while n % 2 == 0 && answers.latest().unwrap() != Some(&n.to_ne_bytes()[..]) {
                assert!(answers.wait(Some(Duration::from_secs(60))).unwrap(), "a wake-up was lost");
            }
        }
        drop(answering.join().unwrap());
    });
}

/// The class: the last ring is lost with the publisher that sent it.
#[test]
fn a_publisher_that_ends_right_after_its_last_value_wakes_whoever_waits() {
    for round in 0..500u64 {
        let mut publisher = Publisher::latest(8).unwrap();
        let mut subscriber = subscribe(&mut publisher);
        std::thread::scope(|scope| {
            scope.spawn(move || publisher.publish(&round.to_ne_bytes()).unwrap());
            assert!(subscriber.wait(None).unwrap());
            assert_eq!(subscriber.latest().unwrap(), Some(&round.to_ne_bytes()[..]));
            refused(subscriber.wait(None), ErrorKind::BrokenPipe, "the publisher is gone");
        });
        refused(subscriber.wait(None), ErrorKind::BrokenPipe, "all its values were read");
        assert!(!subscriber.wait(Some(Duration::ZERO)).unwrap());
    }
}

#[test]
fn whoever_waits_is_told_that_its_subscription_was_ended() {
    let mut publisher = Publisher::latest(8).unwrap();
    let (id, ticket) = publisher.subscribe().unwrap();
    let mut subscriber = Subscriber::open(ticket).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(move || subscriber.wait(None));
        assert!(publisher.unsubscribe(id));
        refused(waits.join().unwrap(), ErrorKind::BrokenPipe, "has ended this subscription");
    });
}

/// The two ways to sleep, one after the other: each leaves the doorbell as the other needs it.
#[test]
fn a_wait_and_a_poll_set_can_share_a_doorbell() {
    let mut publisher = Publisher::latest(8).unwrap();
    let mut subscriber = subscribe(&mut publisher);
    let mut poll = mio::Poll::new().unwrap();
    let mut events = mio::Events::with_capacity(8);
    let raw = std::os::fd::AsRawFd::as_raw_fd(&subscriber.doorbell().unwrap().as_fd());
    poll.registry().register(&mut mio::unix::SourceFd(&raw), mio::Token(7), mio::Interest::READABLE).unwrap();
    for round in 0..1000u32 {
        let value = round.to_ne_bytes();
        if round % 7 < 3 {
            publisher.publish(&value).unwrap();
            assert!(subscriber.wait(None).unwrap());
        } else {
            assert!(subscriber.arm());
            publisher.publish(&value).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
            assert!(!events.is_empty(), "round {round}: a ring was lost");
        }
        assert_eq!(subscriber.latest().unwrap(), Some(&value[..]));
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        if round % 5 == 0 {
            assert!(!subscriber.wait(Some(Duration::from_micros(1))).unwrap());
        }
    }
}

#[test]
fn waiting_ends_with_the_time() {
    let mut publisher = Publisher::latest(8).unwrap();
    let mut subscriber = subscribe(&mut publisher);
    assert!(!subscriber.wait(Some(Duration::ZERO)).unwrap());
    assert!(!subscriber.wait(Some(Duration::from_micros(300))).unwrap());
    publisher.publish(b"x").unwrap();
    assert!(subscriber.wait(Some(Duration::ZERO)).unwrap());
    assert!(subscriber.wait(None).unwrap(), "it was not read yet");
}

#[test]
fn what_a_publisher_published_outlives_it() {
    let mut publisher = Publisher::every(8, 7).unwrap();
    let mut subscriber = subscribe(&mut publisher);
    publisher.publish(b"first").unwrap();
    publisher.publish(b"last").unwrap();
    publisher.loan().write_all(b"never").unwrap();
    drop(publisher);
    assert_eq!(subscriber.recv().unwrap(), Some(Update::Value(&b"first"[..])));
    assert_eq!(subscriber.latest().unwrap(), Some(&b"last"[..]));
    assert!(!subscriber.wait(Some(Duration::ZERO)).unwrap());
}

#[test]
fn a_ticket_goes_through_a_message_and_back() {
    let mut publisher = Publisher::every(8, 7).unwrap();
    publisher.publish(b"before").unwrap();
    let (_, ticket) = publisher.subscribe().unwrap();
    publisher.publish(b"after").unwrap();
    let (bytes, fds) = ticket.into_fds();
    assert_eq!(fds.len(), Ticket::FDS_MAX);
    let mut subscriber = Subscriber::open(Ticket::from_fds(&bytes, fds).unwrap()).unwrap();
    assert_eq!(subscriber.recv().unwrap(), Some(Update::Value(&b"after"[..])));
}

#[test]
fn every_descriptor_is_closed_on_exec() {
    let mut publisher = Publisher::latest(8).unwrap();
    let (_, fds) = publisher.subscribe().unwrap().1.into_fds();
    for fd in &fds {
        let info =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(fd)))
                .unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        assert!(u32::from_str_radix(flags, 8).unwrap() & 0o2000000 != 0, "{info}");
    }
}

#[cfg(feature = "bytemuck")]
mod typed {
    use super::*;
    use ipc_reactor::shm::{TypedPublisher, TypedSubscriber};

    #[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
    #[repr(C)]
    struct Quote {
        id: u32,
        flags: u32,
        price: f64,
    }

    #[test]
    fn values_keep_their_type() {
        let mut publisher = TypedPublisher::<Quote>::every(3).unwrap();
        let mut subscriber = TypedSubscriber::<Quote>::open(publisher.subscribe().unwrap().1).unwrap();
        let quote = |id| Quote { id, flags: 0, price: f64::from(id) / 3.0 };
        for id in 1..=5 {
            publisher.publish(&quote(id)).unwrap();
        }
        assert_eq!(subscriber.recv().unwrap(), Some(Update::Lost(2)));
        assert_eq!(subscriber.recv().unwrap(), Some(Update::Value(quote(3))));
        assert_eq!(subscriber.latest().unwrap(), Some(quote(5)));
        assert_eq!(subscriber.recv().unwrap(), None);
    }

    #[test]
    fn another_size_is_refused() {
        let mut publisher = Publisher::latest(15).unwrap();
        let subscriber = subscribe(&mut publisher);
        refused(TypedSubscriber::<Quote>::new(subscriber), ErrorKind::InvalidData, "values have 15 bytes");
        refused(TypedPublisher::<Quote>::new(publisher), ErrorKind::InvalidInput, "Quote has 16");

        let mut publisher = TypedPublisher::<Quote>::latest().unwrap();
        let mut subscriber = TypedSubscriber::<Quote>::open(publisher.subscribe().unwrap().1).unwrap();
        publisher.get_mut().publish(b"short").unwrap();
        refused(subscriber.latest(), ErrorKind::InvalidData, "5 bytes instead of 16");
        refused(TypedPublisher::<()>::latest(), ErrorKind::InvalidInput, "values of 0 bytes");
    }
}
