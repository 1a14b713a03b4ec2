//! Dispatch of events: descriptors that are all ready at once, and handlers that do nothing.
//!
//! ```text
//! cargo bench --bench dispatch
//! ```
//!
//! Each write to an eventfd makes an edge, and needs no read, so the handlers make no system call. The bench times the
//! `epoll_wait`, and not the writes.

use std::{
    hint::black_box,
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput};
use ipc_reactor::{Progress, Reactor};
use mio::Interest;
use rustix::{
    event::{EventfdFlags, eventfd},
    io::write,
};

fn ready_descriptors(reactor: &mut Reactor<u64>, count: usize) -> Vec<Rc<OwnedFd>> {
    (0..count)
        .map(|_| {
            let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("an eventfd");
            let fd = Rc::new(fd);
            reactor
                .fd(Rc::clone(&fd), Interest::READABLE, |_, ready, _, visits: &mut u64| {
                    black_box(ready);
                    *visits += 1;
                    Ok(Progress::Drained)
                })
                .expect("an eventfd can be watched");
            fd
        })
        .collect()
}

fn dispatch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dispatch");
    for count in [1, 64, 512] {
        let mut reactor = Reactor::<u64>::new().expect("a reactor");
        let descriptors = ready_descriptors(&mut reactor, count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter_custom(|rounds| {
                let (mut elapsed, mut visits) = (Duration::ZERO, 0);
                for _ in 0..rounds {
                    for fd in &descriptors {
                        write(fd, &1_u64.to_ne_bytes()).expect("room in the counter");
                    }
                    let start = Instant::now();
                    let _ = reactor.turn(Some(Duration::ZERO), &mut visits).expect("a turn");
                    elapsed += start.elapsed();
                }
                assert_eq!(visits, rounds * count as u64, "each descriptor once a round");
                elapsed
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    dispatch(&mut criterion);
    criterion.final_summary();
}
