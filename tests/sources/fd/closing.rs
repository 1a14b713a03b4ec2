//! How a descriptor leaves the poll set, and that its handler is not called afterwards.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use ipc_reactor::{Cause, Context, FdSource, Interest, Key, Progress, Reactor, Ready};
use mio::unix::pipe::{self, Receiver, Sender};

use crate::support::turns::{settle, until};

/// What each source reported: `a: x` for a byte, `a: (cause)` for its close.
type Heard = Vec<String>;

/// A pipe; each byte in it is an order to its handler.
struct Obedient {
    name: &'static str,
    pipe: Receiver,
    /// The source that `o` closes.
    other: Rc<Cell<Option<Key>>>,
}

impl AsFd for Obedient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl FdSource<Heard> for Obedient {
    fn on_ready(&mut self, _: Ready, cx: &mut Context<'_, Heard>, heard: &mut Heard) -> io::Result<Progress> {
        let mut order = [0; 1];
        self.pipe.read_exact(&mut order)?;
        heard.push(format!("{}: {}", self.name, char::from(order[0])));
        let own = cx.key();
        match &order {
            b"f" => cx.finish(),
            b"c" => assert!(cx.close(own)),
            b"a" => assert!(cx.abort(own)),
            b"o" => drop(cx.close(self.other.get().unwrap())),
            b"e" => return Err(io::Error::other("as told")),
            b"p" => panic!("as told"),
            b"r" => {
                // Closes the other source, and puts a new one into its slot.
                assert!(cx.abort(self.other.get().unwrap()));
                let (sender, pipe) = pipe::new()?;
                let newcomer = Obedient { name: "newcomer", pipe, other: self.other.clone() };
                self.other.set(Some(cx.fd_source(newcomer, Interest::READABLE)?));
                // Kept open for as long as the test runs, and silent.
                std::mem::forget(sender);
            }
            _ => {}
        }
        Ok(Progress::More)
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Heard>, heard: &mut Heard) {
        heard.push(format!("{}: ({cause})", self.name));
        let own = cx.key();
        assert!(!cx.close(own), "the key is void already");
    }
}

struct Pair {
    reactor: Reactor<Heard>,
    heard: Heard,
    a: Sender,
    b: Sender,
    a_key: Key,
    b_key: Key,
}

impl Pair {
    /// Two pipes, each of which can close the other.
    fn new() -> Pair {
        let mut reactor = Reactor::<Heard>::new().unwrap();
        let (a, a_end) = pipe::new().unwrap();
        let (b, b_end) = pipe::new().unwrap();
        let [a_other, b_other] = [(); 2].map(|()| Rc::new(Cell::new(None)));
        let first = Obedient { name: "a", pipe: a_end, other: a_other.clone() };
        let second = Obedient { name: "b", pipe: b_end, other: b_other.clone() };
        let a_key = reactor.fd_source(first, Interest::READABLE).unwrap();
        let b_key = reactor.fd_source(second, Interest::READABLE).unwrap();
        a_other.set(Some(b_key));
        b_other.set(Some(a_key));
        Pair { reactor, heard: Heard::new(), a, b, a_key, b_key }
    }

    fn settle(&mut self) -> &Heard {
        settle(&mut self.reactor, &mut self.heard);
        &self.heard
    }
}

#[test]
fn a_handler_can_close_its_own_source() {
    for order in ["f", "c", "a"] {
        let mut pair = Pair::new();
        // What comes after the order is not handled any more.
        pair.a.write_all(format!("{order}xyz").as_bytes()).unwrap();
        pair.settle();
        pair.b.write_all(b"x").unwrap();
        let expected = [format!("a: {order}"), "a: (closed by a handler)".into(), "b: x".into()];
        assert_eq!(*pair.settle(), expected);
        assert!(!pair.reactor.close(pair.a_key));
        assert_eq!(pair.a.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe, "it is closed");
    }
}

#[test]
fn a_handler_that_fails_or_panics_closes_its_own_source_only() {
    let mut pair = Pair::new();
    pair.a.write_all(b"e").unwrap();
    pair.b.write_all(b"x").unwrap();
    pair.settle();
    pair.b.write_all(b"p").unwrap();
    pair.settle();
    pair.heard.sort();
    assert_eq!(
        pair.heard,
        ["a: (the handler failed: as told)", "a: e", "b: (the handler panicked: as told)", "b: p", "b: x"]
    );
    let stats = pair.reactor.stats();
    assert_eq!((stats.handler_errors, stats.panics), (1, 1));
}

#[test]
fn one_that_another_closes_in_the_same_batch_is_not_called() {
    let mut pair = Pair::new();
    pair.a.write_all(b"o").unwrap();
    pair.b.write_all(b"x").unwrap();
    // Both events come in one batch, in the order of the writes.
    assert_eq!(*pair.settle(), ["a: o", "b: (closed by a handler)"]);
    assert!(!pair.reactor.close(pair.b_key));
}

#[test]
fn the_events_of_one_that_was_closed_do_not_reach_the_next_in_its_place() {
    let mut pair = Pair::new();
    pair.a.write_all(b"r").unwrap();
    pair.b.write_all(b"xyz").unwrap();
    assert_eq!(*pair.settle(), ["a: r", "b: (closed by a handler)"]);
    // The slot is that of b, with a serial of its own, so the old key closes nothing.
    assert!(!pair.reactor.close(pair.b_key));
    pair.a.write_all(b"o").unwrap();
    assert_eq!(pair.settle()[2..], ["a: o", "newcomer: (closed by a handler)"]);
}

#[test]
fn two_that_close_each_other_end_once_each() {
    let mut pair = Pair::new();
    pair.a.write_all(b"of").unwrap();
    pair.b.write_all(b"o").unwrap();
    assert_eq!(*pair.settle(), ["a: o", "a: f", "b: (closed by a handler)", "a: (closed by a handler)"]);
}

#[test]
fn from_outside_any_source_can_be_closed() {
    let mut pair = Pair::new();
    assert!(pair.reactor.close(pair.a_key));
    assert!(!pair.reactor.close(pair.a_key));
    assert!(pair.reactor.abort(pair.b_key));
    assert!(pair.heard.is_empty(), "on_close is a handler: it is called by a turn");
    assert_eq!(*pair.settle(), ["a: (closed by a handler)", "b: (closed by a handler)"]);
}

#[test]
fn a_duplicate_that_outlives_its_source_does_not_fire() {
    let mut reactor = Reactor::<u32>::new().unwrap();
    let (mut sender, receiver) = pipe::new().unwrap();
    let duplicate = receiver.as_fd().try_clone_to_owned().unwrap();
    let key = reactor
        .fd(receiver, Interest::READABLE, |pipe, _, _, count| {
            pipe.read_exact(&mut [0; 1])?;
            *count += 1;
            Ok(Progress::More)
        })
        .unwrap();
    let mut count = 0;
    sender.write_all(b"x").unwrap();
    until(&mut reactor, &mut count, |&count| count == 1);
    assert!(reactor.close(key));
    let events = reactor.stats().events;
    for _ in 0..3 {
        sender.write_all(b"x").unwrap();
        settle(&mut reactor, &mut count);
    }
    let stats = reactor.stats();
    assert_eq!((count, stats.events, stats.stale_events), (1, events, 0));
    drop(duplicate);
}

#[test]
fn a_source_that_is_put_in_by_a_handler_is_served_like_any_other() {
    fn link(cx: &mut Context<'_, Heard>, left: u32) -> io::Result<()> {
        let (mut sender, receiver) = pipe::new()?;
        sender.write_all(b"x")?;
        cx.fd(receiver, Interest::READABLE, move |_, _, cx, heard: &mut Heard| {
            let _open = &sender;
            heard.push(left.to_string());
            if left > 0 {
                link(cx, left - 1)?;
            }
            cx.finish();
            Ok(Progress::Drained)
        })?;
        Ok(())
    }
    let mut reactor = Reactor::<Heard>::new().unwrap();
    reactor.remote().run(|cx, _| link(cx, 99).unwrap()).unwrap();
    let mut heard = Heard::new();
    until(&mut reactor, &mut heard, |heard| heard.len() == 100);
    assert!(heard.into_iter().eq((0..100).rev().map(|number: u32| number.to_string())));
}

#[test]
fn a_hang_up_is_told_to_writer_and_reader() {
    let mut reactor = Reactor::<Heard>::new().unwrap();
    let (sender, receiver) = pipe::new().unwrap();
    reactor
        .fd(sender, Interest::WRITABLE, |pipe, ready, _, heard: &mut Heard| {
            let written = pipe.write(b"x");
            heard.push(format!("error {}, write closed {}", ready.is_error(), ready.is_write_closed()));
            written.map(|_| Progress::Drained)
        })
        .unwrap();
    let mut heard = Heard::new();
    settle(&mut reactor, &mut heard);
    drop(receiver);
    until(&mut reactor, &mut heard, |heard| heard.len() == 2);
    assert_eq!(heard, ["error false, write closed false", "error true, write closed true"]);
    // EPIPE came as an error of the handler's, not as a signal, and ended the source.
    assert_eq!(reactor.stats().handler_errors, 1);
}
