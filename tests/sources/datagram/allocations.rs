//! A datagram needs no allocation when it is received, answered or passed on. A program of its own, for its allocator
//! counts.

use std::time::Duration;

use ipc_reactor::{Datagram, Reactor, SocketAddress};

use crate::support::allocations::allocations;

// One test: another would allocate meanwhile.
#[test]
fn a_datagram_costs_no_allocation() {
    for (server, client) in [
        (Datagram::unix_autobind().unwrap(), Datagram::unix_autobind().unwrap()),
        (Datagram::udp("127.0.0.1:0").unwrap(), Datagram::udp("127.0.0.1:0").unwrap()),
    ] {
        let mut reactor = Reactor::<u64>::new().unwrap();
        let to = SocketAddress::try_from(&server.local_address().unwrap()).unwrap();
        reactor
            .datagram(server, |datagram, cx, count| {
                *count += 1;
                datagram.reply(datagram.bytes)?;
                cx.send_to(cx.key(), b"and that", &datagram.from)
            })
            .unwrap();
        let (mut buffer, mut count) = ([0; 64], 0);
        let mut rounds = |rounds: u64| {
            for round in 0..rounds {
                let burst = 1 + round % 4;
                (0..burst).for_each(|_| client.send_to(b"hello", &to).unwrap());
                let expected = count + burst;
                while count < expected {
                    let _ = reactor.turn(Some(Duration::from_secs(20)), &mut count).unwrap();
                }
                let mut answers = 0;
                while answers < 2 * burst {
                    answers += u64::from(client.recv_from(&mut buffer).is_ok());
                }
            }
        };
        rounds(100);
        let before = allocations();
        rounds(1_000);
        assert_eq!(allocations() - before, 0);
    }
}
