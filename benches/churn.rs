//! Churn: clients that connect, send one request and disconnect. Times a whole connection, with the client in the same
//! thread.
//!
//! ```text
//! cargo bench --bench churn
//! ```

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use criterion::{BenchmarkId, Criterion, Throughput};
use ipc_reactor::{Context, Framing, Listener, Reactor, Session};

struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(request)
    }
}

fn churn(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("churn");
    let mut reactor = Reactor::<()>::new().expect("a reactor");
    let listener = Listener::unix(&path).expect("a master socket");
    reactor.listen(listener, Framing::fixed(8), |_, ()| Ok(Echo)).expect("it can be watched");
    let turn = |reactor: &mut Reactor<()>| {
        let _ = reactor.turn(None, &mut ()).expect("a turn");
    };

    let mut group = criterion.benchmark_group("churn");
    for at_once in [1, 64] {
        group.throughput(Throughput::Elements(at_once));
        group.bench_function(BenchmarkId::from_parameter(at_once), |bencher| {
            bencher.iter(|| {
                let mut clients: Vec<_> =
                    (0..at_once).map(|_| UnixStream::connect(&path).expect("room in the backlog")).collect();
                for client in &mut clients {
                    client.write_all(b"question").expect("room in the socket");
                }
                let target = reactor.stats().bytes_out + 8 * at_once;
                while reactor.stats().bytes_out < target {
                    turn(&mut reactor);
                }
                for client in &mut clients {
                    client.read_exact(&mut [0; 8]).expect("an answer");
                }
                drop(clients);
                while reactor.clients().next().is_some() {
                    turn(&mut reactor);
                }
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    churn(&mut criterion);
    criterion.final_summary();
}
