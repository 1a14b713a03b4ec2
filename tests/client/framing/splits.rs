//! Every way in which a stream may come in pieces.

use std::io::Write;

use ipc_reactor::{Framing, Limits, Prefix, Reactor};
use proptest::prelude::*;

use crate::framing::{Heard, KINDS, Kind, Listen};
use crate::support::turns::{client, reactor, settle};

/// Sends the pieces one by one, each handled before the next, then ends the stream.
fn hears(mut reactor: Reactor<Heard>, framing: Framing, pieces: &[&[u8]]) -> Heard {
    let mut heard = Heard::default();
    let (mut peer, _) = client(&mut reactor, framing, Listen);
    for piece in pieces {
        peer.write_all(piece).unwrap();
        settle(&mut reactor, &mut heard);
    }
    drop(peer);
    settle(&mut reactor, &mut heard);
    assert_eq!(reactor.stats().clients, 0);
    assert_eq!(reactor.stats().requests, heard.messages.len() as u64);
    heard
}

#[test]
fn whole_and_byte_by_byte() {
    for kind in KINDS {
        let (messages, wire) = kind.conversation();
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        for pieces in [&[&wire[..]][..], &bytes] {
            let heard = hears(reactor(Limits::default()), kind.framing(), pieces);
            assert_eq!(heard.messages, messages, "{kind:?}");
            assert_eq!(heard.closed, ["Peer"], "{kind:?}");
        }
    }
}

#[test]
fn cut_in_two_at_every_place() {
    for kind in KINDS {
        let (messages, wire) = kind.conversation();
        for cut in 1..wire.len() {
            let heard = hears(reactor(Limits::default()), kind.framing(), &[&wire[..cut], &wire[cut..]]);
            assert_eq!(heard.messages, messages, "{kind:?} cut at {cut}");
            assert_eq!(heard.closed, ["Peer"], "{kind:?} cut at {cut}");
        }
    }
}

#[test]
fn raw_hands_on_what_has_come() {
    let heard = hears(reactor(Limits::default()), Framing::raw(), &[b"he", b"l", b"lo\n"]);
    assert_eq!(heard.messages, [&b"he"[..], b"l", b"lo\n"]);
    assert_eq!(heard.closed, ["Peer"]);
}

#[test]
fn a_stream_that_ends_in_the_middle_of_a_message() {
    for kind in KINDS {
        let message = kind.message(b"hello".to_vec());
        let wire = [kind.wire(&message), kind.wire(&message)].concat();
        // At least one byte of the second message is there, and its last is not.
        for end in wire.len() / 2 + 1..wire.len() {
            let heard = hears(reactor(Limits::default()), kind.framing(), &[&wire[..end]]);
            let (messages, cause) = match kind {
                // A last line needs no line feed. Of "\r\n" the first half alone belongs to the line.
                Kind::Lines | Kind::CrLines => {
                    (vec![message.clone(), wire[wire.len() / 2..end].to_vec()], "Peer")
                }
                _ => (vec![message.clone()], "PartialFrame"),
            };
            assert_eq!(heard.messages, messages, "{kind:?} ended at {end}");
            assert_eq!(heard.closed, [cause], "{kind:?} ended at {end}");
        }
    }
}

#[test]
fn a_carriage_return_within_a_line_belongs_to_it() {
    let pieces: [&[u8]; 4] = [b"a\rb\n", b"\r\r\n", b"\r", b"\n"];
    let heard = hears(reactor(Limits::default()), Framing::lines(), &pieces);
    assert_eq!(heard.messages, [&b"a\rb"[..], b"\r", b""]);
}

#[test]
fn frames_far_larger_than_the_read_buffer() {
    let message: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    for kind in [Kind::Fixed(300_000), Kind::Prefixed(Prefix::U32Le), Kind::Netstring] {
        let small = Reactor::<Heard>::builder().read_buffer(64).build().unwrap();
        let wire = [kind.wire(&message), kind.wire(&message), kind.wire(&message)].concat();
        let pieces: Vec<&[u8]> = wire.chunks(50_000).collect();
        let heard = hears(small, kind.framing(), &pieces);
        assert_eq!(heard.messages.len(), 3, "{kind:?}");
        assert!(heard.messages.iter().all(|received| *received == message), "{kind:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any messages, in any framing, cut anywhere, under any read buffer and budget.
    #[test]
    fn messages_do_not_depend_on_how_they_came(
        kind in proptest::sample::select(&KINDS[..]),
        bytes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        read_buffer in 64usize..512,
        messages_per_visit in 1usize..6,
        bytes_per_visit in 1usize..1_000,
    ) {
        let messages: Vec<Vec<u8>> = bytes.into_iter().map(|bytes| kind.message(bytes)).collect();
        let wire: Vec<u8> = messages.iter().flat_map(|message| kind.wire(message)).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
        cuts.extend([0, wire.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &wire[cut[0]..cut[1]]).collect();
        let limits = Limits { messages_per_visit, bytes_per_visit, ..Limits::default() };
        let reactor = Reactor::<Heard>::builder().limits(limits).read_buffer(read_buffer).build().unwrap();
        let heard = hears(reactor, kind.framing(), &pieces);
        prop_assert_eq!(heard.messages, messages);
        prop_assert_eq!(heard.closed, ["Peer"]);
    }
}
