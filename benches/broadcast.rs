//! Broadcast: one message to every client.
//!
//! ```text
//! cargo bench --bench broadcast
//! ```
//!
//! It times the `send` to each client, and not the clients' reads.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput};
use ipc_reactor::{Context, Framing, Reactor, Session};

struct Listening;

impl Session<()> for Listening {
    fn on_request(&mut self, _: &[u8], _: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        Ok(())
    }
}

fn broadcast(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("broadcast");
    for count in [1, 64, 400] {
        let mut reactor = Reactor::<()>::new().expect("a reactor");
        let mut clients: Vec<UnixStream> = (0..count)
            .map(|_| {
                let (client, theirs) = UnixStream::pair().expect("a pair of sockets");
                reactor.adopt(theirs, Framing::fixed(64), Listening).expect("a socket can be watched");
                client
            })
            .collect();
        let message = [7; 64];
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..rounds {
                    let target = reactor.stats().bytes_out + 64 * count;
                    let start = Instant::now();
                    assert_eq!(reactor.broadcast(&message) as u64, count);
                    while reactor.stats().bytes_out < target {
                        let _ = reactor.turn(Some(Duration::ZERO), &mut ()).expect("a turn");
                    }
                    elapsed += start.elapsed();
                    for client in &mut clients {
                        let mut got = [0; 64];
                        client.read_exact(&mut got).expect("the message");
                        assert_eq!(got, message);
                    }
                }
                elapsed
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    broadcast(&mut criterion);
    criterion.final_summary();
}
