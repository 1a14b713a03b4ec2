//! An open loop under a simulated clock, against latencies calculated by hand.

use std::{collections::VecDeque, fs};

use crate::stress::{
    dispatch::{Dispatch, Due},
    hdr_log::HdrLog,
    record::{Phase, Record, Times},
    schedule::{Arrival, Schedule},
};

const MS: u64 = 1_000_000;

/// What one request went through, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    intended: u64,
    held: bool,
    sent: u64,
    answered: u64,
}

impl Seen {
    fn latency(&self) -> u64 {
        self.answered - self.intended
    }

    fn service(&self) -> u64 {
        self.answered - self.sent
    }
}

/// Runs a loop over `places` connections with one request each at a time, until 30 ms are over. `serves(n, now)` is when the server has answered
/// its n-th request, which it got now. The generator looks up at multiples of `wakes`.
fn simulate(
    schedule: Option<Schedule>,
    places: u32,
    wakes: u64,
    serves: impl Fn(u64, u64) -> u64,
) -> Vec<Seen> {
    let mut dispatch = Dispatch::new(schedule, 30 * MS);
    let mut under_way: VecDeque<(u64, u32, Due, u64)> = VecDeque::new();
    let mut seen = Vec::new();
    let mut now = 0;
    (0..places).for_each(|place| dispatch.release(place));
    loop {
        while let Some((due, place)) = dispatch.next(now) {
            let answered = serves((seen.len() + under_way.len()) as u64, now);
            under_way.push_back((answered, place, due, now));
        }
        under_way.make_contiguous().sort_by_key(|&(answered, ..)| answered);
        let next_answer = under_way.front().map(|&(answered, ..)| answered);
        let Some(next) = next_answer.into_iter().chain(dispatch.upcoming_ns()).min() else { return seen };
        now = next.next_multiple_of(wakes);
        while let Some(&(answered, place, due, sent)) = under_way.front().filter(|first| first.0 <= now) {
            under_way.pop_front();
            seen.push(Seen { intended: due.intended_ns, held: due.held, sent, answered });
            dispatch.release(place);
        }
    }
}

/// 1,000 a second: one a millisecond.
fn every_millisecond() -> Option<Schedule> {
    Some(Schedule::new(Arrival::Constant, 1_000.0, 0, 1))
}

/// A tenth of a millisecond each, but 10 ms more for the request with the number 5.
fn stalls_once(number: u64, now: u64) -> u64 {
    now + MS / 10 + if number == 5 { 10 * MS } else { 0 }
}

#[test]
fn a_stall_is_charged_to_every_request_that_it_held_up() {
    let seen = simulate(every_millisecond(), 1, 1, stalls_once);
    assert_eq!(seen.len(), 30);
    for (number, request) in seen.iter().enumerate() {
        let number = number as u64;
        assert_eq!(request.intended, number * MS);
        let (latency, service) = match number {
            5 => (101 * MS / 10, 101 * MS / 10),
            // Answered in turn from 15.1 ms on, 0.1 ms each, while one comes due each millisecond.
            6..=16 => (92 * MS / 10 - (number - 6) * 9 * MS / 10, MS / 10),
            _ => (MS / 10, MS / 10),
        };
        assert_eq!((request.latency(), request.service()), (latency, service), "request {number}");
        assert_eq!(request.held, (6..=16).contains(&number), "request {number}");
    }
}

#[test]
fn a_late_generator_is_late_by_its_own_fault_and_changes_nothing_of_what_was_due() {
    let seen = simulate(every_millisecond(), 10, 3 * MS, |_, now| now + MS / 10);
    // Those after 27 ms would go out at 30, when it is over: they still do.
    assert_eq!(seen.len(), 30);
    for (number, request) in seen.iter().enumerate() {
        let due = number as u64 * MS;
        assert_eq!((request.intended, request.sent), (due, due.next_multiple_of(3 * MS)), "request {number}");
        assert_eq!(request.latency(), request.sent - due + MS / 10);
        assert!(!request.held, "request {number}: nobody's connection was in the way");
    }
}

#[test]
fn a_closed_loop_omits_what_the_stall_held_up() {
    let seen = simulate(None, 1, 1, stalls_once);
    // 30 ms less the 10 of the stall, at 0.1 ms each.
    assert_eq!(seen.len(), 200);
    let slow: Vec<_> = seen.iter().filter(|request| request.latency() > MS / 10).collect();
    assert_eq!(slow.len(), 1, "one stall, one slow request");
    assert!(seen.iter().all(|request| request.latency() == request.service() && !request.held));
}

#[test]
fn with_more_connections_a_stall_of_one_holds_up_nobody() {
    let seen = simulate(every_millisecond(), 2, 1, stalls_once);
    let slow: Vec<_> = seen.iter().filter(|request| request.latency() > MS / 10).collect();
    assert_eq!(slow.len(), 1);
    assert!(seen.iter().all(|request| !request.held));
}

#[test]
fn what_could_not_be_sent_stays_the_oldest_and_is_not_the_generators_lag() {
    let mut dispatch = Dispatch::new(every_millisecond(), 30 * MS);
    dispatch.release('a');
    let (due, place) = dispatch.next(0).unwrap();
    assert_eq!((due, place), (Due { intended_ns: 0, held: false }, 'a'));
    dispatch.put_back(due);
    dispatch.release('b');
    assert_eq!(dispatch.next(2 * MS), Some((Due { intended_ns: 0, held: true }, 'b')));
    assert_eq!(dispatch.waiting(), 2);
    // Requests that have waited too long are given up, oldest first.
    assert_eq!(dispatch.expire(MS), Some(Due { intended_ns: MS, held: true }));
    assert_eq!(dispatch.expire(MS), None);
}

#[test]
fn a_place_that_is_withdrawn_gets_nothing_more() {
    let mut dispatch = Dispatch::new(None, 30 * MS);
    for place in ['a', 'b', 'a'] {
        dispatch.release(place);
    }
    dispatch.withdraw('a');
    assert_eq!(dispatch.next(0).map(|(_, place)| place), Some('b'));
    assert_eq!(dispatch.next(0), None);
}

#[test]
fn arrivals_keep_their_rate() {
    let count_within_a_second = |arrival, rate| {
        let mut schedule = Schedule::new(arrival, rate, 7, 1);
        let mut count = 0;
        while schedule.next_ns() < 1_000_000_007 {
            schedule.advance();
            count += 1;
        }
        count
    };
    // A gap that nanoseconds do not divide adds up to no error.
    assert_eq!(count_within_a_second(Arrival::Constant, 30_000.0), 30_000);
    let poisson = count_within_a_second(Arrival::Poisson, 30_000.0);
    // Six standard deviations; the seed is fixed.
    assert!((28_960..=31_040).contains(&poisson), "{poisson}");
}

#[test]
fn the_hdr_log_holds_what_was_measured_and_nothing_else() {
    use hdrhistogram::{
        Histogram,
        serialization::{
            Deserializer,
            interval_log::{IntervalLogIterator, LogEntry},
        },
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut record = Record::new(Some(HdrLog::create(&path, "a test").unwrap()));
    let times = |intended_ns, latency_ns| Times {
        intended_ns,
        sent_ns: Some(intended_ns + 1),
        ended_ns: intended_ns + latency_ns,
    };
    record.begin(100);
    record.answered(Phase::Warmup, times(100, 77), false);
    record.end_interval(Phase::Warmup, 100, 200);
    record.answered(Phase::Measure, times(150, 60), false);
    record.answered(Phase::Measure, times(210, 10), true);
    record.answered(Phase::Measure, times(220, 20), true);
    record.end_interval(Phase::Measure, 100, 300);
    record.given_up(Phase::Drain, times(290, 1000), true, "no answer".into());
    record.end_interval(Phase::Drain, 100, 400);
    record.log.take().unwrap().finish().unwrap();
    assert_eq!((record.answers, record.answers_within, record.answers_ever, record.missing), (2, 3, 4, 1));

    let text = fs::read(&path).unwrap();
    assert!(text.starts_with(b"#[Histogram log format version 1.3]\n"));
    let mut merged = [crate::stress::record::histogram(), crate::stress::record::histogram()];
    for entry in IntervalLogIterator::new(&text) {
        if let LogEntry::Interval(interval) = entry.unwrap() {
            let bytes = base64(interval.encoded_histogram());
            let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
            merged[usize::from(interval.tag().is_some())].add(histogram).unwrap();
        }
    }
    let [latency, service] = merged;
    assert_eq!((&latency, &service), (&record.latency, &record.service));
    assert_eq!((latency.len(), latency.max(), service.max()), (3, 1000, 999));
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|byte| DIGITS.iter().position(|&digit| digit == byte));
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in digits {
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
