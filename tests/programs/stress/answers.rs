//! Requests and their answers: what is right, what is wrong, however it is cut into pieces.

use std::time::Duration;

use proptest::prelude::*;

use crate::stress::{
    protocol::{Answer, Checked, Protocol, Requests},
    values::{self, Sizes},
};

fn protocols() -> Vec<(Protocol, Sizes)> {
    let some = Sizes { least: 2, most: 300 };
    let fixed = |answer| Protocol::Fixed { request: b"PING\r\n".to_vec(), answer };
    let mut all = vec![
        (Protocol::Echo, Sizes { least: 1, most: 300 }),
        (Protocol::Lines, some),
        (Protocol::Adder, Sizes { least: 64, most: 64 }),
        (fixed(Answer::Exactly(b"+PONG\r\n".to_vec())), some),
    ];
    for prefix in ["u16be", "u16le", "u32be", "u32le"] {
        all.push((Protocol::Prefixed(prefix.parse().unwrap()), some));
    }
    all
}

proptest! {
    /// The right answer is whole at its last byte, wherever it is cut, and what comes behind it is not its; a byte changed is found out.
    #[test]
    fn an_answer_is_checked_byte_for_byte(cut in 0..400_usize, broken in 0..400_usize, which in 0..20_u32) {
        for (protocol, sizes) in protocols() {
            let mut requests = Requests::new(protocol.clone(), sizes, 7);
            let mut request = Vec::new();
            let mut expected = requests.make(&mut request);
            for _ in 0..which {
                expected = requests.make(&mut request);
            }
            let answer = requests.answer(expected);
            let cut = cut % answer.len();
            let behind = [&answer[cut..], b"more"].concat();
            prop_assert_eq!(requests.check(expected, 0, &answer[..cut]), Checked::Partial);
            prop_assert_eq!(requests.check(expected, cut, &behind), Checked::Whole(answer.len() - cut));
            let mut wrong = answer.clone();
            wrong[broken % answer.len()] ^= 1;
            prop_assert_eq!(requests.check(expected, 0, &wrong), Checked::Wrong, "{:?}", protocol);
        }
    }
}

#[test]
fn what_is_sent_is_what_the_protocols_say() {
    let first = |protocol: Protocol, size: usize| {
        let mut requests = Requests::new(protocol, Sizes { least: size, most: size }, 7);
        let mut request = Vec::new();
        let expected = requests.make(&mut request);
        (request, requests.answer(expected))
    };
    let (request, answer) = first(Protocol::Echo, 33);
    assert_eq!((request.len(), &request), (33, &answer));
    let (request, answer) = first(Protocol::Lines, 33);
    assert_eq!((request.len(), &request), (33, &answer));
    assert!(request.ends_with(b"\n") && request[..32].iter().all(u8::is_ascii_graphic));
    let (request, answer) = first(Protocol::Prefixed("u16be".parse().unwrap()), 300);
    assert_eq!((&request[..2], request.len(), &request), (&[1, 44][..], 302, &answer));
    let (request, answer) = first(Protocol::Adder, 12);
    let number = |at: usize| i32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
    assert_eq!(number(8), 0);
    let sum = i64::from(number(0)) + i64::from(number(4));
    assert_eq!(answer, format!("Result = {sum}").into_bytes());
}

#[test]
fn neighbouring_requests_differ_and_the_same_seed_makes_the_same() {
    let make = |seed| {
        let mut requests = Requests::new(Protocol::Echo, Sizes { least: 16, most: 64 }, seed);
        let mut all = Vec::new();
        for _ in 0..100 {
            let mut request = Vec::new();
            requests.make(&mut request);
            all.push(request);
        }
        all
    };
    assert_eq!(make(1), make(1));
    assert_ne!(make(1), make(2));
    let mut texts: Vec<_> = make(1).iter().map(|request| request[8..16].to_vec()).collect();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 100);
}

#[test]
fn values_are_read_as_people_write_them() {
    assert_eq!(values::sizes("64..4k"), Ok(Sizes { least: 64, most: 4096 }));
    assert_eq!(values::sizes("1m"), Ok(Sizes { least: 1 << 20, most: 1 << 20 }));
    assert_eq!(values::rate("50k"), Ok(50_000.0));
    assert_eq!(values::rate("500/s"), Ok(500.0));
    assert_eq!(values::rate("1.5m/s"), Ok(1_500_000.0));
    for (text, nanos) in [
        ("30s", 30_000_000_000),
        ("100ms", 100_000_000),
        ("50us", 50_000),
        ("5m", 300_000_000_000),
        ("7ns", 7),
    ] {
        assert_eq!(values::duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
    }
    assert_eq!(values::bytes(r"PING\r\n\x00\\"), Ok(b"PING\r\n\0\\".to_vec()));
    assert_eq!(values::quantile("p99.9"), Ok(0.999));
    let objective = values::objective("p99.9=1ms").unwrap();
    assert_eq!((objective.quantile, objective.limit), (0.999, Duration::from_millis(1)));
    let wrong: [(&str, Result<(), String>); 9] = [
        ("sizes", values::sizes("4096..64").map(drop)),
        ("no size", values::sizes("0").map(drop)),
        ("overflow", values::sizes("99999999999999999999").map(drop)),
        ("rate", values::rate("-5").map(drop)),
        ("not a rate", values::rate("nan").map(drop)),
        ("unit", values::duration("30").map(drop)),
        ("escape", values::bytes(r"\q").map(drop)),
        ("percentile", values::quantile("p101").map(drop)),
        ("objective", values::objective("p99").map(drop)),
    ];
    for (what, result) in wrong {
        assert!(result.is_err(), "{what}");
    }
}
