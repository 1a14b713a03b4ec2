//! A reactor inside another loop, and driven by an embedder who owns the loop.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::support::turns::{PATIENCE, run, settle, until};
use ipc_reactor::{
    Cause, Context, FdSource, Framing, Interest, Limits, Progress, Reactor, Ready, Session, Turn,
};
use mio::unix::pipe;

/// What the inner reactor has done.
type Done = Vec<String>;

/// A reactor as a source of another: one turn for each time that its descriptor is readable.
struct Inner {
    reactor: Reactor<Done>,
}

impl AsFd for Inner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reactor.as_fd()
    }
}

impl FdSource<Done> for Inner {
    fn on_ready(&mut self, _: Ready, cx: &mut Context<'_, Done>, done: &mut Done) -> io::Result<Progress> {
        if self.reactor.turn(Some(Duration::ZERO), done)? == Turn::Stopped {
            cx.finish();
        }
        Ok(Progress::Drained)
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Done>, done: &mut Done) {
        done.push(format!("inner: {cause}"));
    }
}

/// An outer reactor around `inner`.
fn around(mut inner: Reactor<Done>) -> Reactor<Done> {
    let mut outer = Reactor::new().unwrap();
    // Sources that were added before the outer loop watched it.
    settle(&mut inner, &mut Done::new());
    outer.fd_source(Inner { reactor: inner }, Interest::READABLE).unwrap();
    outer
}

struct Echo;

impl Session<Done> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, Done>, done: &mut Done) -> io::Result<()> {
        done.push(String::from_utf8_lossy(request).into());
        cx.reply(request)
    }
}

#[test]
fn a_client_of_the_inner_reactor_is_served_by_the_outer_loop() {
    let mut inner = Reactor::<Done>::new().unwrap();
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    inner.adopt(ours, Framing::raw(), Echo).unwrap();
    let mut outer = around(inner);
    let mut done = Done::new();
    for (number, word) in ["one", "two", "three"].into_iter().enumerate() {
        theirs.write_all(word.as_bytes()).unwrap();
        until(&mut outer, &mut done, |done| done.len() == number + 1);
        let mut answer = [0; 8];
        let count = theirs.read(&mut answer).unwrap();
        assert_eq!(&answer[..count], word.as_bytes());
    }
    assert_eq!(done, ["one", "two", "three"]);
}

#[test]
fn what_a_budget_of_the_inner_reactor_leaves_wakes_the_outer_loop_again() {
    let limits = Limits { messages_per_visit: 2, ..Limits::default() };
    let mut inner = Reactor::<Done>::builder().limits(limits).build().unwrap();
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    inner.adopt(ours, Framing::fixed(1), Echo).unwrap();
    let mut outer = around(inner);
    // One event of the kernel's for fifty messages, and two of them a turn.
    theirs.write_all(&[b'x'; 50]).unwrap();
    let mut done = Done::new();
    until(&mut outer, &mut done, |done| done.len() == 50);
    assert!(outer.stats().turns >= 25, "{}", outer.stats());
    settle(&mut outer, &mut done);
    assert!(outer.stats().turns <= 35, "no more turns than needed: {}", outer.stats());
}

#[test]
fn timers_of_the_inner_reactor_wake_the_outer_loop() {
    fn chain(left: u32) -> impl FnOnce(&mut Context<'_, Done>, &mut Done) -> io::Result<()> {
        move |cx, done| {
            done.push(left.to_string());
            match left {
                0 => cx.stop(),
                _ => drop(cx.after(Duration::from_micros(300), chain_boxed(left - 1))),
            }
            Ok(())
        }
    }
    type Task = Box<dyn FnOnce(&mut Context<'_, Done>, &mut Done) -> io::Result<()>>;
    fn chain_boxed(left: u32) -> Task {
        Box::new(chain(left))
    }
    let mut inner = Reactor::<Done>::new().unwrap();
    inner.after(Duration::from_millis(1), chain(3));
    // An earlier one, set when the timerfd had been armed already.
    let mut early = Done::new();
    assert_eq!(inner.turn(Some(Duration::ZERO), &mut early).unwrap(), Turn::Idle);
    let mut outer = Reactor::<Done>::new().unwrap();
    outer.fd_source(Inner { reactor: inner }, Interest::READABLE).unwrap();
    let mut done = Done::new();
    until(&mut outer, &mut done, |done| done.len() == 5);
    assert_eq!(done, ["3", "2", "1", "0", "inner: closed by a handler"]);
}

#[test]
fn a_repeating_timer_goes_on_inside() {
    let mut inner = Reactor::<Done>::new().unwrap();
    inner.every(Duration::from_micros(200), |_, done: &mut Done| {
        done.push("tick".into());
        Ok(())
    });
    let mut outer = around(inner);
    let mut done = Done::new();
    until(&mut outer, &mut done, |done| done.len() >= 20);
}

#[test]
fn a_job_for_the_inner_reactor_wakes_the_outer_loop() {
    let inner = Reactor::<Done>::new().unwrap();
    let remote = inner.remote();
    let mut outer = around(inner);
    let other = std::thread::spawn(move || {
        remote.run(|_, done| done.push("job".into())).unwrap();
        remote.stop().unwrap();
    });
    let mut done = Done::new();
    until(&mut outer, &mut done, |done| done.len() == 2);
    other.join().unwrap();
    assert_eq!(done, ["job", "inner: closed by a handler"]);
}

#[test]
fn three_reactors_deep() {
    let mut innermost = Reactor::<Done>::new().unwrap();
    let (mut sender, receiver) = pipe::new().unwrap();
    innermost
        .fd(receiver, Interest::READABLE, |pipe, _, _, done: &mut Done| {
            let mut buffer = [0; 1];
            pipe.read_exact(&mut buffer)?;
            done.push(String::from_utf8_lossy(&buffer).into());
            Ok(Progress::More)
        })
        .unwrap();
    let mut outer = around(around(innermost));
    let mut done = Done::new();
    settle(&mut outer, &mut done);
    for letter in b"abc" {
        sender.write_all(&[*letter]).unwrap();
        until(&mut outer, &mut done, |done| done.last().is_some_and(|last| last.as_bytes() == [*letter]));
    }
    assert_eq!(done, ["a", "b", "c"]);
}

#[test]
fn a_turn_without_a_timeout_of_its_own_never_waits() {
    let mut reactor = Reactor::<()>::new().unwrap();
    for _ in 0..100 {
        assert_eq!(reactor.turn(Some(Duration::ZERO), &mut ()).unwrap(), Turn::Idle);
    }
    assert_eq!((reactor.stats().turns, reactor.stats().events), (100, 0));
}

#[test]
fn a_turn_waits_as_long_as_it_may_and_no_event_is_needed() {
    const WAIT: Duration = Duration::from_millis(3);
    let mut reactor = Reactor::<()>::new().unwrap();
    let before = Instant::now();
    assert_eq!(reactor.turn(Some(WAIT), &mut ()).unwrap(), Turn::Idle);
    assert!(before.elapsed() >= WAIT);
    assert_eq!(reactor.stats().turns, 1);
}

#[test]
fn a_turn_with_work_left_does_not_wait_for_more() {
    let limits = Limits { messages_per_visit: 1, ..Limits::default() };
    let mut reactor = Reactor::<u32>::builder().limits(limits).build().unwrap();
    let (mut sender, receiver) = pipe::new().unwrap();
    sender.write_all(&[0; 3]).unwrap();
    reactor
        .fd(receiver, Interest::READABLE, |pipe, _, _, count| {
            pipe.read_exact(&mut [0; 1])?;
            *count += 1;
            Ok(Progress::More)
        })
        .unwrap();
    let mut count = 0;
    // It would wait for ever, if it waited at all.
    for expected in 1..=3 {
        assert_eq!(reactor.turn(None, &mut count).unwrap(), Turn::Pending);
        assert_eq!(count, expected);
    }
    assert_eq!(reactor.turn(None, &mut count).unwrap(), Turn::Idle, "the read that says so");
}

#[test]
fn a_stop_in_a_turn_ends_it_and_closes_all() {
    let mut reactor = Reactor::<Done>::new().unwrap();
    let (theirs, ours) = UnixStream::pair().unwrap();
    reactor.adopt(ours, Framing::raw(), Echo).unwrap();
    reactor
        .remote()
        .run(|cx, done| {
            done.push("stop".into());
            cx.stop();
            cx.stop();
        })
        .unwrap();
    let mut done = Done::new();
    until(&mut reactor, &mut done, |done| !done.is_empty());
    assert_eq!(reactor.turn(None, &mut done).unwrap(), Turn::Stopped);
    assert_eq!((&theirs).read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(reactor.stats().clients, 0);
}

#[test]
fn a_stopped_reactor_stays_stopped_and_serves_nobody_new() {
    struct Late(UnixStream);
    impl AsFd for Late {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
    impl FdSource<Done> for Late {
        fn on_ready(&mut self, _: Ready, _: &mut Context<'_, Done>, _: &mut Done) -> io::Result<Progress> {
            unreachable!("nothing is served any more")
        }
        fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Done>, done: &mut Done) {
            done.push(cause.to_string());
        }
    }
    let mut reactor = Reactor::<Done>::new().unwrap();
    reactor.stop();
    let mut done = Done::new();
    run(&mut reactor, &mut done);
    let turns = reactor.stats().turns;
    for number in 1..=3 {
        let (theirs, ours) = UnixStream::pair().unwrap();
        (&theirs).write_all(b"hello?").unwrap();
        reactor.fd_source(Late(ours), Interest::READABLE).unwrap();
        reactor.run(&mut done).unwrap();
        assert_eq!(done.len(), number);
        assert_eq!(reactor.turn(None, &mut done).unwrap(), Turn::Stopped);
    }
    assert_eq!(done, ["the reactor stopped"; 3]);
    assert_eq!(reactor.stats().turns, turns, "the kernel is not asked any more");
}

#[test]
fn an_on_close_that_inserts_anew_does_not_keep_a_stopped_reactor_alive() {
    struct Phoenix {
        socket: UnixStream,
        lives: u32,
    }
    impl AsFd for Phoenix {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.socket.as_fd()
        }
    }
    impl FdSource<Done> for Phoenix {
        fn on_ready(&mut self, _: Ready, _: &mut Context<'_, Done>, _: &mut Done) -> io::Result<Progress> {
            Ok(Progress::Drained)
        }
        fn on_close(&mut self, _: &Cause, cx: &mut Context<'_, Done>, done: &mut Done) {
            done.push(format!("{} lives left", self.lives));
            if self.lives > 0 {
                let socket = self.socket.try_clone().unwrap();
                let risen = Phoenix { socket, lives: self.lives - 1 };
                cx.fd_source(risen, Interest::READABLE).unwrap();
            }
        }
    }
    let mut reactor = Reactor::<Done>::new().unwrap();
    let (_theirs, socket) = UnixStream::pair().unwrap();
    reactor.fd_source(Phoenix { socket, lives: 2 }, Interest::READABLE).unwrap();
    reactor.stop();
    let mut done = Done::new();
    run(&mut reactor, &mut done);
    assert_eq!(done, ["2 lives left", "1 lives left", "0 lives left"]);
}

#[test]
fn a_turn_inside_a_handler_of_the_same_reactor_is_impossible_and_of_another_is_not() {
    // The first half is the type's: a Context has no turn. The second half, with a plain closure:
    let other = RefCell::new(Reactor::<u32>::new().unwrap());
    other.borrow().remote().run(|_, count| *count += 1).unwrap();
    let mut reactor = Reactor::<u32>::new().unwrap();
    reactor.after(Duration::ZERO, move |cx, count| {
        while *count == 0 {
            let _ = other.borrow_mut().turn(Some(PATIENCE), count)?;
        }
        cx.stop();
        Ok(())
    });
    let mut count = 0;
    run(&mut reactor, &mut count);
    assert_eq!(count, 1);
}
