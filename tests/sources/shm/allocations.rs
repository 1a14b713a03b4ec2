//! A value in shared memory needs no allocation when it is published, received, or passed to a handler by a reactor.
//! A program of its own, for its allocator counts.

use std::time::Duration;

use ipc_reactor::shm::{Publisher, Subscriber, Update};
use ipc_reactor::{Delivery, Reactor};

use crate::support::allocations::allocations;

/// Runs `step` until all buffers have their size; and then counts.
#[track_caller]
fn assert_no_allocation(mut step: impl FnMut()) {
    (0..100).for_each(|_| step());
    let before = allocations();
    (0..1_000).for_each(|_| step());
    assert_eq!(allocations() - before, 0);
}

// One test: another would allocate meanwhile.
#[test]
fn a_value_costs_no_allocation() {
    let before = allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(allocations() - before, 1, "the counter counts");

    let mut publisher = Publisher::every(64, 63).unwrap();
    let mut subscriber = Subscriber::open(publisher.subscribe().unwrap().1).unwrap();
    assert_no_allocation(|| {
        publisher.publish(&[7; 64]).unwrap();
        assert_eq!(subscriber.recv().unwrap(), Some(Update::Value(&[7; 64][..])));
        publisher.publish(b"short").unwrap();
        assert_eq!(subscriber.latest().unwrap(), Some(&b"short"[..]));
        // It falls behind by more than the ring holds.
        (0..100).for_each(|_| publisher.publish(b"too many").unwrap());
        assert!(matches!(subscriber.recv().unwrap(), Some(Update::Lost(_))));
        assert_eq!(subscriber.latest().unwrap(), Some(&b"too many"[..]));
    });

    for delivery in [Delivery::Every, Delivery::Latest] {
        let mut reactor = Reactor::<u64>::new().unwrap();
        let subscriber = Subscriber::open(publisher.subscribe().unwrap().1).unwrap();
        reactor
            .subscribe(subscriber, delivery, |update, _, heard| {
                *heard += u64::from(matches!(update, Update::Value(_)));
                Ok(())
            })
            .unwrap();
        // The subscriber sleeps, so that each value rings its doorbell.
        let _ = reactor.turn(Some(Duration::ZERO), &mut 0).unwrap();
        assert_no_allocation(|| {
            publisher.publish(&[7; 64]).unwrap();
            let mut heard = 0;
            while heard == 0 {
                let _ = reactor.turn(Some(Duration::from_secs(20)), &mut heard).unwrap();
            }
        });
    }
}
