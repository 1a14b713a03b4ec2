//! Timers: when they fire, in which order, and when they do not.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::support::turns::{PATIENCE, run, settle, until};
use ipc_reactor::{Context, Reactor, TimerKey, Turn};

const MILLISECOND: Duration = Duration::from_millis(1);

fn reactor<S>() -> Reactor<S> {
    Reactor::<S>::new().unwrap()
}

/// A timer that records its number.
fn note(number: u32) -> impl FnOnce(&mut Context<'_, Vec<u32>>, &mut Vec<u32>) -> io::Result<()> {
    move |_, fired| {
        fired.push(number);
        Ok(())
    }
}

#[test]
fn a_one_shot_timer_fires_once_and_its_key_is_void_then() {
    let mut reactor = reactor();
    let key = reactor.after(MILLISECOND, note(1));
    assert_eq!(reactor.timers(), 1);
    let mut fired = Vec::new();
    until(&mut reactor, &mut fired, |fired| !fired.is_empty());
    assert_eq!(reactor.timers(), 0);
    assert!(!reactor.cancel(key));
    // Its slot may be another timer's now.
    let other = reactor.after(MILLISECOND, note(2));
    assert!(!reactor.cancel(key));
    until(&mut reactor, &mut fired, |fired| fired.len() == 2);
    assert_eq!(fired, [1, 2]);
    assert!(!reactor.cancel(other));
    assert_eq!(reactor.stats().timers, 2);
}

#[test]
fn a_repeating_timer_repeats_until_it_cancels_itself() {
    let mut reactor = reactor::<u32>();
    let own = Rc::new(Cell::new(None::<TimerKey>));
    let key = own.clone();
    own.set(Some(reactor.every(Duration::from_micros(200), move |cx, fired| {
        *fired += 1;
        if *fired == 5 {
            assert_eq!(cx.timers(), 1, "it counts while it runs");
            assert!(cx.cancel(key.get().unwrap()));
            assert!(!cx.cancel(key.get().unwrap()));
            // In the slot that it has just left.
            cx.after(MILLISECOND, |cx, _| {
                cx.stop();
                Ok(())
            });
        }
        Ok(())
    })));
    let mut fired = 0;
    run(&mut reactor, &mut fired);
    assert_eq!((fired, reactor.timers()), (5, 0));
}

#[test]
fn a_cancelled_timer_does_not_fire() {
    let mut reactor = reactor();
    let keys: Vec<TimerKey> = (0..10).map(|n| reactor.after(MILLISECOND, note(n))).collect();
    for key in keys.iter().step_by(2) {
        assert!(reactor.cancel(*key));
        assert!(!reactor.cancel(*key));
    }
    let mut fired = Vec::new();
    until(&mut reactor, &mut fired, |fired| fired.len() == 5);
    settle(&mut reactor, &mut fired);
    fired.sort_unstable();
    assert_eq!(fired, [1, 3, 5, 7, 9]);
}

#[test]
fn a_timer_can_be_cancelled_by_an_earlier_one_of_the_same_batch() {
    let mut reactor = reactor::<Vec<u32>>();
    let victims = Rc::new(RefCell::new(Vec::new()));
    let chosen = victims.clone();
    reactor.after(Duration::from_micros(10), move |cx, fired: &mut Vec<u32>| {
        fired.push(0);
        for (key, expected) in chosen.borrow().iter().zip([true, true]) {
            assert_eq!(cx.cancel(*key), expected);
        }
        // These take the slots of the cancelled timers, which are still to come in this batch.
        cx.after(Duration::ZERO, note(10));
        cx.after(Duration::ZERO, note(11));
        Ok(())
    });
    victims.borrow_mut().push(reactor.after(Duration::from_micros(20), note(1)));
    victims.borrow_mut().push(reactor.every(Duration::from_micros(30), |_, fired| {
        fired.push(2);
        Ok(())
    }));
    reactor.after(Duration::from_micros(40), note(3));
    // All of them are due when the first turn begins.
    let due = Instant::now() + MILLISECOND;
    while Instant::now() < due {}
    let mut fired = Vec::new();
    let _ = reactor.turn(Some(PATIENCE), &mut fired).unwrap();
    assert_eq!(fired, [0, 3]);
    until(&mut reactor, &mut fired, |fired| fired.len() == 4);
    fired.sort_unstable();
    assert_eq!(fired, [0, 3, 10, 11]);
    assert_eq!(reactor.timers(), 0);
}

#[test]
fn a_timer_set_by_a_timer_does_not_fire_in_the_same_round() {
    fn chain(cx: &mut Context<'_, u32>, fired: &mut u32) -> io::Result<()> {
        *fired += 1;
        cx.after(Duration::ZERO, chain);
        Ok(())
    }
    let mut reactor = reactor::<u32>();
    reactor.after(Duration::ZERO, chain);
    let mut fired = 0;
    for turns in 1..=50 {
        let _ = reactor.turn(Some(PATIENCE), &mut fired).unwrap();
        assert_eq!(fired, turns, "one link of the chain a turn");
    }
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines() {
    let mut reactor = reactor();
    reactor
        .remote()
        .run(|cx, _| {
            // 7 has no factor in common with 1,000: every number once, out of order.
            for number in (0..1_000).map(|n| n * 7 % 1_000) {
                cx.after(Duration::from_micros(number.into()), note(number));
            }
        })
        .unwrap();
    let mut fired = Vec::new();
    until(&mut reactor, &mut fired, |fired| fired.len() == 1_000);
    assert!(fired.iter().copied().eq(0..1_000), "{fired:?}");
}

#[test]
fn a_hundred_thousand_live_timers() {
    const TIMERS: u64 = 100_000;
    let mut reactor = reactor::<u64>();
    let count = |_: &mut Context<'_, u64>, fired: &mut u64| {
        *fired += 1;
        Ok(())
    };
    let mut keys = Vec::new();
    for number in 0..TIMERS {
        // One in four is far away; the others come out of order.
        let after = match number % 4 {
            0 => Duration::from_secs(3_600 + number),
            _ => Duration::from_nanos(number * 7_919 % 5_000_000),
        };
        keys.push(reactor.after(after, count));
    }
    assert_eq!(reactor.timers() as u64, TIMERS);
    // Half of the far and of the near ones.
    let cancelled: Vec<&TimerKey> = keys.chunks(8).flat_map(|eight| &eight[..4]).collect();
    assert!(cancelled.iter().all(|key| reactor.cancel(**key)));
    assert_eq!(reactor.timers() as u64, TIMERS / 2);
    let mut fired = 0;
    until(&mut reactor, &mut fired, |&fired| fired == TIMERS / 2 / 4 * 3);
    settle(&mut reactor, &mut fired);
    assert_eq!((fired, reactor.stats().timers), (37_500, 37_500));
    assert_eq!(reactor.timers() as u64, TIMERS / 2 / 4);
    assert_eq!(keys.iter().filter(|key| reactor.cancel(**key)).count() as u64, TIMERS / 8);
    assert_eq!(reactor.timers(), 0);
}

#[test]
fn a_task_that_fails_or_panics_ends_nothing() {
    let mut reactor = reactor::<u32>();
    reactor.after(Duration::ZERO, |_, _| Err(io::Error::other("this one fails")));
    reactor.after(Duration::ZERO, |_, _| panic!("this one panics"));
    reactor.every(Duration::from_micros(100), |cx, calls| {
        *calls += 1;
        match *calls {
            1 => Err(io::Error::other("a repeating one fails")),
            2 => panic!("a repeating one panics"),
            _ => {
                cx.stop();
                Ok(())
            }
        }
    });
    let mut calls = 0;
    run(&mut reactor, &mut calls);
    assert_eq!((calls, reactor.stats().handler_errors, reactor.stats().panics), (3, 2, 2));
}

#[test]
fn missed_periods_are_left_out_and_the_rhythm_is_kept() {
    const PERIOD: Duration = Duration::from_millis(2);
    let mut reactor = reactor::<Vec<Instant>>();
    let before = Instant::now();
    reactor.every(PERIOD, |_, calls: &mut Vec<Instant>| {
        calls.push(Instant::now());
        Ok(())
    });
    // The loop is held up for ten periods and a half.
    let late = before + PERIOD * 21 / 2;
    std::thread::sleep(late - Instant::now());
    let mut calls = Vec::new();
    until(&mut reactor, &mut calls, |calls| calls.len() == 2);
    assert!(calls[0] >= late);
    assert!(calls[1] >= before + PERIOD * 11, "the next is on the beat: {:?}", calls[1] - before);
    assert_eq!(reactor.stats().timers, 2);
}

#[test]
fn a_fraction_of_a_millisecond_is_waited_for_without_turning_idly() {
    for micros in [300, 50, 1_700] {
        let mut reactor = reactor::<Option<Duration>>();
        let set = Instant::now();
        let after = Duration::from_micros(micros);
        reactor.after(after, move |cx, waited: &mut Option<Duration>| {
            *waited = Some(set.elapsed());
            cx.stop();
            Ok(())
        });
        let mut waited = None;
        run(&mut reactor, &mut waited);
        assert!(waited.unwrap() >= after, "it fired {:?} too early", after - waited.unwrap());
        assert!(reactor.stats().turns <= 2, "{}", reactor.stats());
    }
}

#[test]
fn all_handlers_of_a_turn_see_the_same_time() {
    let mut reactor = reactor::<Vec<Instant>>();
    for _ in 0..3 {
        reactor
            .remote()
            .run(|cx, times| {
                times.push(cx.now());
                while Instant::now() == times[0] {}
            })
            .unwrap();
    }
    let mut times = Vec::new();
    until(&mut reactor, &mut times, |times| times.len() == 3);
    assert_eq!(times, [times[0]; 3]);
    assert!(reactor.now() > times[0]);
}

#[test]
fn the_far_future_does_not_overflow() {
    let mut reactor = reactor();
    let far = [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_nanos(u64::MAX)];
    let keys = far.map(|after| reactor.after(after, note(1)));
    let every = reactor.every(Duration::MAX, |_, _| Ok(()));
    reactor.after(MILLISECOND, note(2));
    let mut fired = Vec::new();
    until(&mut reactor, &mut fired, |fired| !fired.is_empty());
    settle(&mut reactor, &mut fired);
    assert_eq!(fired, [2]);
    assert!(keys.into_iter().chain([every]).all(|key| reactor.cancel(key)));
}

#[test]
#[should_panic = "a period of zero would leave time for nothing else"]
fn a_period_of_zero_is_refused() {
    reactor::<()>().every(Duration::ZERO, |_, ()| Ok(()));
}

#[test]
fn a_cancelled_first_timer_costs_one_idle_turn_at_most() {
    let mut reactor = reactor();
    let key = reactor.after(MILLISECOND, note(1));
    let mut fired = Vec::new();
    // Armed for the one that will be cancelled.
    assert_eq!(reactor.turn(Some(Duration::ZERO), &mut fired).unwrap(), Turn::Idle);
    assert!(reactor.cancel(key));
    reactor.after(5 * MILLISECOND, note(2));
    until(&mut reactor, &mut fired, |fired| !fired.is_empty());
    assert_eq!(fired, [2]);
    assert!(reactor.stats().turns <= 3, "{}", reactor.stats());
}
