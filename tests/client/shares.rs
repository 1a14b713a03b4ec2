//! One client's share of a round.

use std::io::{ErrorKind, Write};

use ipc_reactor::{Framing, Limits};

use crate::obedient::{Obedient, Seen, ask, received};
use crate::support::turns::{client, reactor, settle};

#[test]
fn a_flooder_leaves_every_other_its_share_of_each_round() {
    let mut reactor = reactor(Limits { messages_per_visit: 10, ..Limits::default() });
    let mut seen = Seen::default();
    let (mut flooder, _) = client(&mut reactor, Framing::lines(), Obedient::new(0));
    let pingers: Vec<_> =
        (1..=100).map(|id| client(&mut reactor, Framing::lines(), Obedient::new(id)).0).collect();
    settle(&mut reactor, &mut seen);
    flooder.set_nonblocking(true).unwrap();
    for round in 0..50 {
        // Always more than it can send.
        match flooder.write(&b"1\n".repeat(10_000)) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        for pinger in &pingers {
            ask(pinger, "4");
        }
        seen.requests.clear();
        let _ = reactor.turn(None, &mut seen).unwrap();
        assert_eq!(seen.requests_of(0), 10, "round {round}: the flooder's share");
        for (id, pinger) in (1..).zip(&pingers) {
            assert_eq!(seen.requests_of(id), 1, "round {round}: pinger {id}");
            assert_eq!(received(pinger).len(), 4, "round {round}: pinger {id}");
        }
    }
    assert_eq!(seen.closed(), []);
}
