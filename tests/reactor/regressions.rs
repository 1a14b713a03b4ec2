//! Past bugs. Each test is named after its bug, and its comment says how the bug showed.

use crate::support::names::QueueName;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::support::turns::{PATIENCE, run, settle, until};
use ipc_reactor::{
    Cause, Context, Drain, FdSource, Framing, Interest, Limit, Limits, Listener, Progress, Queue, Reactor,
    Ready, Session, Turn, WhenFull,
};
use mio::unix::pipe;

/// Set with a zero duration by a handler that ran before the timers' visit, it fired in that visit, and
/// so in the round that had set it.
#[test]
fn a_timer_set_by_another_source_fired_in_the_same_round() {
    for messages_per_visit in [1, 1_024] {
        let limits = Limits { messages_per_visit, ..Limits::default() };
        let mut reactor = Reactor::<Vec<(u64, u64)>>::builder().limits(limits).build().unwrap();
        let (sender, _receiver) = pipe::new().unwrap();
        // Ready in every round, each time before the timers.
        reactor
            .fd(sender, Interest::WRITABLE, |_, _, cx, _| {
                let set_in = cx.stats().turns;
                cx.after(Duration::ZERO, move |cx, fired: &mut Vec<(u64, u64)>| {
                    fired.push((set_in, cx.stats().turns));
                    Ok(())
                });
                Ok(Progress::More)
            })
            .unwrap();
        let mut fired = Vec::new();
        until(&mut reactor, &mut fired, |fired| fired.len() >= 20);
        assert_eq!(fired.iter().find(|(set_in, fired_in)| fired_in <= set_in), None);
    }
}

fn note_time(_: &mut Context<'_, Option<Instant>>, fired: &mut Option<Instant>) -> io::Result<()> {
    *fired = Some(Instant::now());
    Ok(())
}

/// The clock of the last turn, or of the first timer before any turn, was still in use: the timer fired early by the
/// time that had passed since.
#[test]
fn a_timer_set_between_turns_counted_from_the_turn_before() {
    const AFTER: Duration = Duration::from_millis(10);
    let mut reactor = Reactor::<Option<Instant>>::new().unwrap();
    let mut fired = None;
    reactor.after(Duration::ZERO, note_time);
    until(&mut reactor, &mut fired, Option::is_some);
    fired = None;
    // The owner of the loop has been busy with something else since.
    std::thread::sleep(2 * AFTER);
    let set = Instant::now();
    let behind = set.saturating_duration_since(reactor.now());
    assert!(behind < AFTER, "its clock is {behind:?} behind");
    reactor.after(AFTER, note_time);
    until(&mut reactor, &mut fired, Option::is_some);
    assert!(fired.unwrap() - set >= AFTER, "after {:?}", fired.unwrap() - set);
}

/// `timers` answered 1 for a reactor in which the embedder had set none.
#[test]
fn the_reactors_own_timers_were_counted() {
    let name = QueueName::new();
    let mut reactor = Reactor::<()>::new().unwrap();
    reactor.queue(name.open(4), |_, _, ()| Ok(())).unwrap();
    assert_eq!(reactor.timers(), 0, "the check of the queue's name is not the embedder's");
    reactor.drain(PATIENCE).unwrap();
    assert_eq!(reactor.timers(), 0, "nor is the drain's deadline");
}

/// It was taken in, and closed with its descriptor at the first message.
#[test]
fn a_queue_that_is_not_open_for_reading_was_taken_in() {
    let name = QueueName::new();
    let reader = name.open(4);
    let writer = Queue::options().write(true).open(&name.0).unwrap();
    let mut reactor = Reactor::<()>::new().unwrap();
    let rejected = reactor.queue(writer, |_, _, ()| Ok(())).unwrap_err();
    assert_eq!(rejected.error.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(rejected.error.to_string(), "queue is not open for reading; open it with read(true)");
    // It is unharmed, and good for what it was opened for.
    assert!(!rejected.source.attributes().unwrap().nonblocking);
    let key = reactor.outbox(rejected.source).unwrap();
    reactor.post(key, b"hello", 0).unwrap();
    assert_eq!(reader.recv(&mut [0; 64]).unwrap().len, 5);
}

struct Watched(UnixStream);

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl FdSource<Vec<String>> for Watched {
    fn on_ready(
        &mut self,
        _: Ready,
        _: &mut Context<'_, Vec<String>>,
        _: &mut Vec<String>,
    ) -> io::Result<Progress> {
        Ok(Progress::Drained)
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Vec<String>>, causes: &mut Vec<String>) {
        causes.push(cause.to_string());
        cx.stop();
    }
}

/// The descriptor stayed open, and `on_close` was not called, until another source had an event: without another
/// source, for ever.
#[test]
fn what_was_closed_between_turns_waited_for_an_event() {
    let mut reactor = Reactor::<Vec<String>>::new().unwrap();
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    let key = reactor.fd_source(Watched(ours), Interest::READABLE).unwrap();
    let mut causes = Vec::new();
    settle(&mut reactor, &mut causes);
    assert!(reactor.close(key));
    assert_eq!(reactor.turn(Some(PATIENCE), &mut causes).unwrap(), Turn::Stopped);
    assert_eq!(causes, ["closed by a handler"]);
    assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0);
}

/// A missing client slot is one limit reached, but the first refused client was counted as two.
#[test]
fn the_first_newcomer_that_was_turned_away_counted_twice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let limits = Limits { clients: 0, when_full: WhenFull::Shed, ..Limits::default() };
    let mut reactor = Reactor::<()>::builder().limits(limits).build().unwrap();
    reactor.listen(Listener::unix(&path).unwrap(), Framing::raw(), |_, ()| Ok(Debtor)).unwrap();
    for newcomers in 1..=3 {
        let _newcomer = UnixStream::connect(&path).unwrap();
        settle(&mut reactor, &mut ());
        assert_eq!(reactor.stats().limit_count(Limit::Clients), newcomers);
    }
}

/// Keeps an answer pending for ever, so a drain waits.
struct Debtor;

impl Session<()> for Debtor {
    fn on_request(&mut self, _: &[u8], _: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        Ok(())
    }

    fn on_drain(&mut self, _: &mut Context<'_, ()>, (): &mut ()) -> io::Result<Drain> {
        Ok(Drain::Wait)
    }
}

/// The drain had marked all sources when it began, and never visited the new one: only the deadline ended it.
#[test]
fn a_master_socket_or_queue_put_in_during_a_drain_held_it_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let name = QueueName::new();
    let mut reactor = Reactor::<()>::new().unwrap();
    let (theirs, ours) = UnixStream::pair().unwrap();
    reactor.adopt(ours, Framing::raw(), Debtor).unwrap();
    reactor.drain(PATIENCE).unwrap();
    settle(&mut reactor, &mut ());
    let master = reactor.listen(Listener::unix(&path).unwrap(), Framing::raw(), |_, ()| Ok(Debtor)).unwrap();
    reactor.queue(name.open(4), |_, _, ()| Ok(())).unwrap();
    settle(&mut reactor, &mut ());
    assert!(UnixStream::connect(&path).is_err(), "nobody waits there, so it is closed");
    assert!(!reactor.close(master));
    // The queue stays open to the end, for handlers that post to it, and the drain does not wait for it.
    drop(theirs);
    run(&mut reactor, &mut ());
}
