//! Timers: set and cancel one among many pending ones, and let many fire.
//!
//! ```text
//! cargo bench --bench timers
//! ```
//!
//! They fire after a wait for the timerfd, so a timer that fires alone shows the time of waking a thread.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use ipc_reactor::Reactor;

/// Longer than any bench runs.
const NEVER: Duration = Duration::from_secs(1 << 20);

fn set_and_cancel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers/set_and_cancel");
    for standing in [0, 1_000, 100_000] {
        let mut reactor = Reactor::<()>::new().expect("a reactor");
        for i in 0..standing {
            reactor.after(NEVER + Duration::from_micros(i * 7919 % 100_000), |_, ()| Ok(()));
        }
        let mut i = 0;
        group.bench_function(BenchmarkId::new("standing", standing), |bencher| {
            bencher.iter(|| {
                // A random position among the others.
                i = (i + 7919) % 100_000;
                let timer = reactor.after(NEVER + Duration::from_micros(i), |_, ()| Ok(()));
                assert!(reactor.cancel(timer));
            });
        });
        assert_eq!(reactor.timers() as u64, standing);
    }
    group.finish();
}

fn fire(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers/set_and_fire");
    for count in [1, 1_000] {
        let mut reactor = Reactor::<u64>::new().expect("a reactor");
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                for _ in 0..count {
                    reactor.after(Duration::ZERO, |_, fired: &mut u64| {
                        *fired += 1;
                        Ok(())
                    });
                }
                let mut fired = 0;
                while fired < count {
                    let _ = reactor.turn(None, &mut fired).expect("a turn");
                }
            });
        });
        assert_eq!(reactor.timers(), 0);
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    set_and_cancel(&mut criterion);
    fire(&mut criterion);
    criterion.final_summary();
}
