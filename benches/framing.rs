//! Framing: one read returns 64 messages of 64 bytes, and each rule splits them; none is answered.
//!
//! ```text
//! cargo bench --bench framing
//! ```
//!
//! The bench times the `epoll_wait` and the `recv`, which are the same for all rules, and not the client's write.

use std::{
    hint::black_box,
    io::{self, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput};
use ipc_reactor::{Context, Decode, Decoded, Framing, Prefix, Reactor, Session};

const MESSAGES: usize = 64;
const SIZE: usize = 64;

/// Counts payload.
struct Sink;

impl Session<usize> for Sink {
    fn on_request(
        &mut self,
        request: &[u8],
        _: &mut Context<'_, usize>,
        bytes: &mut usize,
    ) -> io::Result<()> {
        *bytes += black_box(request).len();
        Ok(())
    }
}

/// A user-defined rule that does the same as `fixed`, to show the cost of a user-defined rule.
struct Own;

impl Decode for Own {
    fn decode(&self, bytes: &[u8]) -> io::Result<Decoded> {
        Ok(if bytes.len() < SIZE {
            Decoded::Partial { needed: SIZE }
        } else {
            Decoded::Frame { payload: 0..SIZE, consumed: SIZE }
        })
    }
}

fn framing(criterion: &mut Criterion) {
    let mut prefixed = vec![7; SIZE];
    prefixed[..4].copy_from_slice(&(SIZE as u32 - 4).to_be_bytes());
    let mut line = vec![b'7'; SIZE];
    line[SIZE - 1] = b'\n';
    let rules: [(&str, Framing, Vec<u8>, usize); 5] = [
        ("raw", Framing::raw(), vec![7; SIZE], SIZE),
        ("fixed", Framing::fixed(SIZE), vec![7; SIZE], SIZE),
        ("lines", Framing::lines(), line, SIZE - 1),
        ("prefixed", Framing::prefixed(Prefix::U32Be), prefixed, SIZE - 4),
        ("custom", Framing::custom(Own), vec![7; SIZE], SIZE),
    ];
    let mut group = criterion.benchmark_group("framing");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    for (name, rule, message, payload) in rules {
        let mut reactor = Reactor::<usize>::new().expect("a reactor");
        let (mut client, theirs) = UnixStream::pair().expect("a pair of sockets");
        reactor.adopt(theirs, rule, Sink).expect("a socket can be watched");
        let batch = message.repeat(MESSAGES);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..rounds {
                    client.write_all(&batch).expect("the reactor reads");
                    let (start, mut bytes) = (Instant::now(), 0);
                    while bytes < payload * MESSAGES {
                        let _ = reactor.turn(None, &mut bytes).expect("a turn");
                    }
                    elapsed += start.elapsed();
                    assert_eq!(bytes, payload * MESSAGES);
                }
                elapsed
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    framing(&mut criterion);
    criterion.final_summary();
}
