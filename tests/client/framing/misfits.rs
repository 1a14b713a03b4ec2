//! Bytes that are no message, or too large a message: their own client is closed, and no other client is affected.

use std::{
    fs,
    io::{self, Write},
};

use ipc_reactor::{Decode, Decoded, Framing, Limit, Limits, Prefix, Reactor};

use crate::framing::{Heard, KINDS, Kind, Listen, prefixed};
use crate::support::turns::{client, reactor, settle};

/// Sends the bytes beside another client, which must not notice.
#[track_caller]
fn hears(reactor: &mut Reactor<Heard>, framing: Framing, bytes: &[u8]) -> Heard {
    let mut heard = Heard::default();
    let (mut beside, other) = client(reactor, Framing::lines(), Listen);
    let (mut peer, _) = client(reactor, framing, Listen);
    peer.write_all(bytes).unwrap();
    settle(reactor, &mut heard);
    beside.write_all(b"beside\n").unwrap();
    settle(reactor, &mut heard);
    assert_eq!(heard.messages.pop().as_deref(), Some(&b"beside"[..]));
    assert!(reactor.abort(other));
    drop((beside, peer));
    settle(reactor, &mut heard);
    let of_the_other = heard.closed.iter().position(|cause| cause == "Closed").unwrap();
    heard.closed.remove(of_the_other);
    heard
}

#[test]
fn a_message_of_the_largest_size_passes_and_one_byte_more_does_not() {
    for kind in KINDS.into_iter().filter(|kind| !matches!(kind, Kind::Fixed(_))) {
        for by_limits in [true, false] {
            let frame_max = if by_limits { 100 } else { 1 << 20 };
            let framing = if by_limits { kind.framing() } else { kind.framing().max(100) };
            let mut reactor = reactor(Limits { frame_max, ..Limits::default() });
            let wire = [kind.wire(&[b'x'; 100]), kind.wire(&[b'y'; 101]), kind.wire(b"z")].concat();
            let heard = hears(&mut reactor, framing, &wire);
            assert_eq!(heard.messages, [[b'x'; 100]], "{kind:?}");
            assert_eq!(heard.closed, ["Limit(Frame)"], "{kind:?}");
            assert_eq!(reactor.stats().limit_count(Limit::Frame), 1, "{kind:?}");
        }
    }
}

#[test]
fn a_line_without_an_end_is_refused_when_it_has_grown_too_long() {
    let mut reactor = reactor(Limits { frame_max: 100, ..Limits::default() });
    let mut heard = Heard::default();
    let (mut peer, _) = client(&mut reactor, Framing::lines(), Listen);
    // The hundred-and-first may still be a carriage return.
    for sent in 1..=102 {
        assert!(heard.closed.is_empty(), "after {sent}");
        peer.write_all(b"x").unwrap();
        settle(&mut reactor, &mut heard);
    }
    assert_eq!(heard.closed, ["Limit(Frame)"]);
    assert!(heard.messages.is_empty());
}

#[test]
fn a_last_line_that_is_too_long_is_refused_at_the_end_too() {
    let mut reactor = reactor(Limits { frame_max: 100, ..Limits::default() });
    for (length, messages, cause) in [(100, 1, "Peer"), (101, 0, "Limit(Frame)")] {
        let mut heard = Heard::default();
        let (mut peer, _) = client(&mut reactor, Framing::lines(), Listen);
        peer.write_all(&vec![b'x'; length]).unwrap();
        drop(peer);
        settle(&mut reactor, &mut heard);
        assert_eq!(heard.messages.len(), messages, "{length}");
        assert_eq!(heard.closed, [cause], "{length}");
    }
    assert_eq!(reactor.stats().limit_count(Limit::Frame), 1);
}

/// The most address space that this process has ever had, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_length_is_believed_when_its_bytes_have_come() {
    let before = peak();
    for prefix in [Prefix::U32Be, Prefix::U32Le] {
        let wire = [&[0xff; 4][..], b"and a little more"].concat();
        let mut modest = reactor(Limits::default());
        assert_eq!(hears(&mut modest, Framing::prefixed(prefix), &wire).closed, ["Limit(Frame)"]);
        // Where anything is allowed, the client may go on; but it has four gigabytes to send first.
        let mut boundless = reactor(Limits { frame_max: usize::MAX, ..Limits::default() });
        assert_eq!(hears(&mut boundless, Framing::prefixed(prefix), &wire).closed, ["PartialFrame"]);
    }
    let grown = peak() - before;
    assert!(grown < 1 << 20, "{grown} KiB more");
}

/// Returns the result that the test has set.
struct Nonsense(Decoded);

impl Decode for Nonsense {
    fn decode(&self, _: &[u8]) -> io::Result<Decoded> {
        Ok(self.0.clone())
    }
}

#[test]
fn a_decoder_that_answers_nonsense_loses_its_client() {
    let answers = [
        (0..0, 0),
        (0..4, 0),
        (0..5, 4),
        (0..9, 9),
        (9..9, 4),
        #[allow(clippy::reversed_empty_ranges)]
        (3..1, 4),
        (0..1, usize::MAX),
        (usize::MAX..usize::MAX, usize::MAX),
    ];
    for (payload, consumed) in answers {
        let mut reactor = reactor(Limits::default());
        let nonsense = Decoded::Frame { payload, consumed };
        let heard = hears(&mut reactor, Framing::custom(Nonsense(nonsense.clone())), b"four");
        assert!(heard.messages.is_empty(), "{nonsense:?}");
        assert!(heard.closed[0].starts_with("Malformed"), "{nonsense:?}: {:?}", heard.closed);
    }
    let mut reactor = reactor(Limits::default());
    let endless = Framing::custom(Nonsense(Decoded::Partial { needed: usize::MAX }));
    assert_eq!(hears(&mut reactor, endless, b"four").closed, ["Limit(Frame)"]);
}

#[test]
fn a_decoder_that_needs_less_than_it_has_is_asked_again_when_more_has_come() {
    struct Vague;
    impl Decode for Vague {
        fn decode(&self, bytes: &[u8]) -> io::Result<Decoded> {
            Ok(match bytes.len() {
                0..6 => Decoded::Partial { needed: 1 },
                all => Decoded::Frame { payload: 0..all, consumed: all },
            })
        }
    }
    let mut reactor = reactor(Limits::default());
    let mut heard = Heard::default();
    let (mut peer, _) = client(&mut reactor, Framing::custom(Vague), Listen);
    for byte in b"sixsix" {
        assert!(heard.messages.is_empty());
        peer.write_all(&[*byte]).unwrap();
        settle(&mut reactor, &mut heard);
    }
    assert_eq!(heard.messages, [b"sixsix"]);
}

#[test]
fn malformed_bytes_and_a_panicking_decoder_lose_one_client() {
    struct Panics;
    impl Decode for Panics {
        fn decode(&self, _: &[u8]) -> io::Result<Decoded> {
            panic!("a decoder's own fault")
        }
    }
    let mut reactor = reactor(Limits::default());
    let netstring = [Kind::Netstring.wire(b"fine"), b"4:fine;".to_vec()].concat();
    let heard = hears(&mut reactor, Kind::Netstring.framing(), &netstring);
    assert_eq!(heard.messages, [b"fine"]);
    assert!(heard.closed[0].contains("no comma"), "{:?}", heard.closed);
    let heard = hears(&mut reactor, Framing::custom(Panics), b"x");
    assert_eq!(heard.closed, ["Panic(\"a decoder's own fault\")"]);
    assert_eq!(reactor.stats().panics, 1);
}

#[test]
fn messages_before_a_fault_are_handled_and_counted() {
    let mut reactor = reactor(Limits { frame_max: 100, ..Limits::default() });
    let wire = [prefixed(Prefix::U8, b"one"), prefixed(Prefix::U8, b""), vec![101]].concat();
    let heard = hears(&mut reactor, Framing::prefixed(Prefix::U8), &wire);
    assert_eq!(heard.messages, [&b"one"[..], b""]);
    // Together with the other client's.
    assert_eq!(reactor.stats().requests, 3);
}
