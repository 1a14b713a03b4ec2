//! The way into a reactor from other threads.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use std::{fs::File, io};

use crate::support::turns::{PATIENCE, run, settle, until};
use ipc_reactor::{Cause, Context, Framing, Reactor, Remote, Session, Turn};

const _: () = {
    const fn sendable<T: Send + Sync + Clone + 'static>() {}
    sendable::<Remote<u32>>();
    // The state itself stays in its thread.
    sendable::<Remote<Rc<u32>>>();
};

struct Echo;

impl<S> Session<S> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
        cx.reply(request)
    }
}

#[test]
fn each_threads_jobs_run_in_order() {
    const THREADS: usize = 4;
    const JOBS: u32 = 2_000;
    let mut reactor = Reactor::<Vec<Vec<u32>>>::new().unwrap();
    let mut heard = vec![Vec::new(); THREADS];
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let remote = reactor.remote();
            scope.spawn(move || {
                for number in 0..JOBS {
                    remote.run(move |_, heard| heard[thread].push(number)).unwrap();
                }
            });
        }
        until(&mut reactor, &mut heard, |heard| heard.iter().all(|numbers| numbers.len() == JOBS as usize));
    });
    assert!(heard.into_iter().all(|numbers| numbers.into_iter().eq(0..JOBS)));
}

#[test]
fn a_job_wakes_a_reactor_that_waits_for_ever() {
    let mut reactor = Reactor::<u32>::new().unwrap();
    let remote = reactor.remote();
    let (pong, ping) = std::sync::mpsc::channel();
    let other = thread::spawn(move || {
        for _ in 0..100 {
            let pong = pong.clone();
            remote
                .run(move |_, count| {
                    *count += 1;
                    pong.send(*count).unwrap();
                })
                .unwrap();
            // Only when the last has run, so that each must wake the loop anew.
            ping.recv_timeout(PATIENCE).unwrap();
        }
        remote.stop().unwrap();
    });
    let mut count = 0;
    run(&mut reactor, &mut count);
    other.join().unwrap();
    assert_eq!(count, 100);
}

#[test]
fn many_jobs_cost_one_wake_up() {
    const JOBS: u32 = 10_000;
    let mut reactor = Reactor::<u32>::new().unwrap();
    let remote = reactor.remote();
    for _ in 0..JOBS {
        remote.run(|_, count| *count += 1).unwrap();
    }
    let mut count = 0;
    assert_eq!(reactor.turn(Some(PATIENCE), &mut count).unwrap(), Turn::Idle);
    assert_eq!(count, JOBS);
    settle(&mut reactor, &mut count);
    assert_eq!(reactor.stats().events, 1, "one write to the eventfd for all of them");
}

#[test]
fn a_job_can_give_another_which_runs_in_a_later_round() {
    let mut reactor = Reactor::<Vec<u64>>::new().unwrap();
    let remote = reactor.remote();
    let inner = remote.clone();
    remote
        .run(move |cx, turns| {
            turns.push(cx.stats().turns);
            inner.run(|cx, turns| turns.push(cx.stats().turns)).unwrap();
        })
        .unwrap();
    let mut turns = Vec::new();
    until(&mut reactor, &mut turns, |turns| turns.len() == 2);
    assert_eq!(turns, [1, 2]);
}

#[test]
fn a_job_that_panics_is_lost_and_nothing_else() {
    let mut reactor = Reactor::<Vec<u32>>::new().unwrap();
    let remote = reactor.remote();
    remote.run(|_, heard| heard.push(1)).unwrap();
    remote.run(|_, _| panic!("this job panics")).unwrap();
    remote.run(|_, heard| heard.push(2)).unwrap();
    let mut heard = Vec::new();
    until(&mut reactor, &mut heard, |heard| heard.len() == 2);
    assert_eq!(reactor.stats().panics, 1);
    remote.run(|_, heard| heard.push(3)).unwrap();
    until(&mut reactor, &mut heard, |heard| heard.len() == 3);
    assert_eq!(heard, [1, 2, 3]);
}

#[test]
fn a_socket_from_another_thread_is_served_as_any_client() {
    let mut reactor = Reactor::<()>::new().unwrap();
    let remote = reactor.remote();
    let other = thread::spawn(move || {
        let mut answers = Vec::new();
        for _ in 0..10 {
            let (mut theirs, ours) = UnixStream::pair().unwrap();
            theirs.set_read_timeout(Some(PATIENCE)).unwrap();
            // It has sent something already.
            theirs.write_all(b"first,").unwrap();
            remote.adopt(ours, Framing::raw(), Echo).unwrap();
            theirs.write_all(b"second").unwrap();
            let mut answer = [0; 12];
            theirs.read_exact(&mut answer).unwrap();
            answers.push(answer);
        }
        remote.stop().unwrap();
        answers
    });
    run(&mut reactor, &mut ());
    assert_eq!(other.join().unwrap(), [*b"first,second"; 10]);
    assert_eq!(reactor.stats().closed, 10);
}

#[test]
fn what_is_no_connected_socket_is_closed_and_harms_nobody() {
    let mut reactor = Reactor::<u32>::new().unwrap();
    let remote = reactor.remote();
    remote.adopt(File::open("/dev/null").unwrap(), Framing::raw(), Echo).unwrap();
    remote.run(|_, count| *count += 1).unwrap();
    let mut count = 0;
    until(&mut reactor, &mut count, |&count| count == 1);
    assert_eq!(reactor.stats().clients, 0);
}

/// Reports how it was closed.
struct Mourner;

impl Session<Vec<String>> for Mourner {
    fn on_request(
        &mut self,
        _: &[u8],
        _: &mut Context<'_, Vec<String>>,
        _: &mut Vec<String>,
    ) -> io::Result<()> {
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Vec<String>>, causes: &mut Vec<String>) {
        causes.push(cause.to_string());
    }
}

#[test]
fn a_stop_closes_every_client_and_tells_it() {
    let mut reactor = Reactor::<Vec<String>>::new().unwrap();
    let clients: Vec<UnixStream> = (0..5)
        .map(|_| {
            let (theirs, ours) = UnixStream::pair().unwrap();
            reactor.adopt(ours, Framing::raw(), Mourner).unwrap();
            theirs
        })
        .collect();
    let remote = reactor.remote();
    let other = thread::spawn(move || remote.stop());
    let mut causes = Vec::new();
    run(&mut reactor, &mut causes);
    other.join().unwrap().unwrap();
    assert_eq!(causes, ["the reactor stopped"; 5]);
    for mut client in clients {
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }
}

#[test]
fn when_the_reactor_is_gone_all_is_handed_back() {
    let reactor = Reactor::<u32>::new().unwrap();
    let remote = reactor.remote();
    drop(reactor);

    let luggage = Arc::new(AtomicUsize::new(0));
    let carried = luggage.clone();
    let job = move |_: &mut Context<'_, u32>, _: &mut u32| {
        carried.fetch_add(1, Ordering::Relaxed);
    };
    let rejected = remote.run(job).unwrap_err();
    assert_eq!(rejected.error.kind(), ErrorKind::BrokenPipe);
    assert_eq!(rejected.error.to_string(), "the reactor was dropped");
    assert_eq!(Arc::strong_count(&luggage), 2, "the job is whole");
    let job = rejected.source;
    let mut second = Reactor::<u32>::new().unwrap();
    second.remote().run(job).unwrap();
    until(&mut second, &mut 0, |_| luggage.load(Ordering::Relaxed) == 1);

    let (mut theirs, ours) = UnixStream::pair().unwrap();
    let rejected = remote.adopt(ours, Framing::raw(), Echo).unwrap_err();
    assert_eq!(rejected.error.kind(), ErrorKind::BrokenPipe);
    let mut ours = UnixStream::from(rejected.source);
    ours.write_all(b"still open").unwrap();
    let mut heard = [0; 10];
    theirs.read_exact(&mut heard).unwrap();

    assert_eq!(remote.stop().unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn jobs_that_never_ran_are_dropped_with_the_reactor() {
    let reactor = Reactor::<()>::new().unwrap();
    let remote = reactor.remote();
    /// Uses a remote when it is dropped, as an embedder's own types may.
    struct Luggage(Remote<()>, Arc<AtomicUsize>);
    impl Drop for Luggage {
        fn drop(&mut self) {
            assert!(self.0.run(|_, ()| {}).is_err());
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        let luggage = Luggage(remote.clone(), dropped.clone());
        remote.run(move |_, ()| drop(luggage)).unwrap();
    }
    drop(reactor);
    assert_eq!(dropped.load(Ordering::Relaxed), 3);
}

#[test]
fn a_reactor_that_ends_while_others_give_jobs_keeps_none() {
    let mut reactor = Reactor::<usize>::new().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let others: Vec<_> = (0..3)
        .map(|_| {
            let (remote, taken) = (reactor.remote(), taken.clone());
            thread::spawn(move || {
                let luggage = Arc::new(());
                loop {
                    let carried = luggage.clone();
                    match remote.run(move |_, count| drop((carried, *count += 1))) {
                        Ok(()) => taken.fetch_add(1, Ordering::Relaxed),
                        Err(_) => break,
                    };
                }
                luggage
            })
        })
        .collect();
    reactor.after(Duration::from_millis(5), |cx, _| {
        cx.stop();
        Ok(())
    });
    let mut count = 0;
    run(&mut reactor, &mut count);
    drop(reactor);
    let luggage: Vec<Arc<()>> = others.into_iter().map(|other| other.join().unwrap()).collect();
    assert!(count > 0 && count <= taken.load(Ordering::Relaxed));
    // Each job was run, dropped with the reactor, or handed back.
    assert!(luggage.iter().all(|luggage| Arc::strong_count(luggage) == 1));
}
