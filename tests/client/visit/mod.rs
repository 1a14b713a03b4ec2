//! Clients that are served at once, on the event of their request: what holds for a visit in its turn holds for them.

mod crowd;
mod either_way;

use std::{
    cell::Cell,
    io::{self, Write},
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    rc::Rc,
    time::{Duration, Instant},
};

use crate::support::turns::{self, available, settle};
use ipc_reactor::{Cause, Context, Framing, Key, Limits, Observer, Reactor, Seen, Session, TimerKey, What};

#[derive(Debug, Default)]
struct Log {
    /// Each client's requests, in the order of the calls.
    asked: Vec<(u32, String)>,
    closed: Vec<(u32, String)>,
}

impl Log {
    fn count(&self, id: u32) -> usize {
        self.asked.iter().filter(|(who, _)| *who == id).count()
    }

    fn closed(&self) -> Vec<(u32, &str)> {
        self.closed.iter().map(|(who, why)| (*who, why.as_str())).collect()
    }
}

type Cx<'a> = Context<'a, Log>;

/// Does the same for a request and for a timer, which is a request without bytes.
struct By<F> {
    id: u32,
    act: F,
}

impl<F: FnMut(&[u8], &mut Cx<'_>) -> io::Result<()>> Session<Log> for By<F> {
    fn on_request(&mut self, request: &[u8], cx: &mut Cx<'_>, log: &mut Log) -> io::Result<()> {
        log.asked.push((self.id, String::from_utf8_lossy(request).into_owned()));
        (self.act)(request, cx)
    }

    fn on_timer(&mut self, _: TimerKey, cx: &mut Cx<'_>, _: &mut Log) -> io::Result<()> {
        (self.act)(b"", cx)
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Cx<'_>, log: &mut Log) {
        log.closed.push((self.id, format!("{cause:?}")));
    }
}

/// A reactor that the test turns, and what its sessions noted.
struct Scene {
    reactor: Reactor<Log>,
    log: Log,
}

impl Scene {
    fn new(limits: Limits) -> Scene {
        Scene { reactor: turns::reactor(limits), log: Log::default() }
    }

    /// A client that has been opened, and is idle: its next request is served at once.
    #[track_caller]
    fn enter(
        &mut self,
        id: u32,
        framing: Framing,
        act: impl FnMut(&[u8], &mut Cx<'_>) -> io::Result<()> + 'static,
    ) -> (UnixStream, Key) {
        let client = turns::client(&mut self.reactor, framing, By { id, act });
        self.settle();
        client
    }

    #[track_caller]
    fn turn(&mut self) {
        let _ = self.reactor.turn(Some(Duration::ZERO), &mut self.log).unwrap();
    }

    #[track_caller]
    fn settle(&mut self) {
        settle(&mut self.reactor, &mut self.log);
    }
}

#[track_caller]
fn until(scene: &mut Scene, done: impl Fn(&Scene) -> bool) {
    let deadline = Instant::now() + turns::PATIENCE;
    while !done(scene) {
        assert!(Instant::now() < deadline, "waited in vain: {:?}", scene.log);
        let _ = scene.reactor.turn(Some(Duration::from_millis(100)), &mut scene.log).unwrap();
    }
}

#[track_caller]
fn ask(mut peer: &UnixStream, request: impl AsRef<[u8]>) {
    peer.write_all(request.as_ref()).unwrap();
}

/// Two ends of a connection that keeps records.
#[allow(unsafe_code, reason = "std has no seqpacket sockets")]
fn seqpacket_pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: there is room for two descriptors.
    assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }, 0);
    // SAFETY: both are new, and owned by nothing else.
    fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into()
}

fn received(peer: &UnixStream) -> String {
    String::from_utf8(available(peer).0).unwrap()
}

fn echo(request: &[u8], cx: &mut Cx<'_>) -> io::Result<()> {
    cx.reply(request)
}

// ---- Turns and budgets ----

#[test]
fn a_stop_ends_the_round_before_it_has_begun() {
    let mut scene = Scene::new(Limits { messages_per_visit: 1, ..Limits::default() });
    let (busy, _) = scene.enter(0, Framing::fixed(1), echo);
    let (stopper, _) = scene.enter(1, Framing::raw(), |_, cx| {
        cx.stop();
        Ok(())
    });
    ask(&busy, "abc");
    scene.turn();
    assert_eq!(scene.log.count(0), 1, "and the rest of its requests waits in the ready list");
    ask(&stopper, "stop");
    scene.settle();
    assert_eq!(scene.log.asked.last().unwrap().1, "stop", "{:?}", scene.log.asked);
    assert_eq!(scene.log.closed().len(), 2);
}

#[test]
fn a_client_in_the_ready_list_has_one_share_of_a_round_also_when_more_comes() {
    let limits = Limits { bytes_per_visit: 64, ..Limits::default() };
    let reactor = Reactor::<Log>::builder().limits(limits).read_buffer(64).build().unwrap();
    let mut scene = Scene { reactor, log: Log::default() };
    let (peer, _) = scene.enter(0, Framing::fixed(64), echo);
    ask(&peer, [7; 64 * 10]);
    for turn in 1..=10 {
        scene.turn();
        assert_eq!(scene.log.count(0), turn);
        ask(&peer, [7; 64]);
    }
    scene.settle();
    assert_eq!(scene.log.count(0), 20);
}

#[test]
fn a_client_that_begins_a_drain_keeps_its_one_share_of_a_round() {
    let mut scene = Scene::new(Limits { messages_per_visit: 1, ..Limits::default() });
    let (peer, _) = scene.enter(0, Framing::fixed(1), |request, cx| {
        if request == b"d" { cx.drain(Duration::from_secs(60)) } else { cx.reply(request) }
    });
    ask(&peer, "dabc");
    for turn in 1..=4 {
        scene.turn();
        assert_eq!(scene.log.count(0), turn);
    }
    scene.settle();
    assert_eq!((received(&peer).as_str(), scene.log.closed()), ("abc", vec![(0, "Drain")]));
}

#[test]
fn replies_that_are_flushed_halfway_renew_no_budget() {
    for read_buffer in [64, 128 << 10] {
        let limits = Limits { messages_per_visit: 4, output_high_water: 10, ..Limits::default() };
        let reactor = Reactor::<Log>::builder().limits(limits).read_buffer(read_buffer).build().unwrap();
        let mut scene = Scene { reactor, log: Log::default() };
        let (peer, _) = scene.enter(0, Framing::fixed(8), |_, cx| cx.reply(&[b'.'; 8]));
        ask(&peer, [7; 8 * 40]);
        let mut before = 0;
        while scene.log.count(0) < 40 {
            scene.turn();
            let handled = scene.log.count(0) - before;
            assert!((1..=4).contains(&handled), "{handled} in one turn, read buffer {read_buffer}");
            before += handled;
        }
        assert_eq!(received(&peer).len(), 8 * 40);
    }
}

// ---- Replies ----

#[test]
fn an_echo_and_other_replies_together_stay_below_the_largest_output() {
    let mut scene = Scene::new(Limits { output_high_water: 100, output_max: 100, ..Limits::default() });
    let (peer, _) = scene.enter(0, Framing::raw(), |request, cx| {
        cx.reply(request)?;
        assert_eq!(cx.reply(&[b'x'; 30]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let key = cx.key();
        assert_eq!(cx.client(key).unwrap().unsent(), 80);
        cx.reply(&[b'y'; 20])
    });
    // The second time there is a buffer with room.
    for _ in 0..2 {
        ask(&peer, [b'e'; 80]);
        scene.settle();
        assert_eq!(received(&peer), "e".repeat(80) + &"y".repeat(20));
    }
}

// ---- Deadlines ----

#[test]
fn a_client_whose_timer_sets_an_idle_deadline_begins_to_idle_then() {
    let idle = Duration::from_secs(1);
    let mut scene = Scene::new(Limits { idle: None, ..Limits::default() });
    let (peer, _) = scene.enter(0, Framing::fixed(5), move |request, cx| {
        match request {
            b"timer" => drop(cx.wake_after(Duration::ZERO)),
            b"" => {
                let limits = Limits { idle: Some(idle), ..cx.limits().clone() };
                cx.set_limits(limits);
            }
            _ => {}
        }
        Ok(())
    });
    let came = Instant::now();
    while came.elapsed() < idle + idle / 10 {
        let _ = scene.reactor.turn(Some(idle / 10), &mut scene.log).unwrap();
    }
    // The partial frame has a deadline, too, so both are checked.
    ask(&peer, "timerhal");
    until(&mut scene, |scene| scene.reactor.limits().idle.is_some());
    scene.settle();
    assert_eq!(scene.log.closed(), []);
}

#[test]
fn an_idle_deadline_that_is_set_later_holds_for_those_who_are_there() {
    let limits = |idle| Limits { idle, ..Limits::default() };
    // Those whose first deadline has come and gone while there was none, and those who never had one.
    for first in [Some(Duration::from_millis(1)), None] {
        let mut scene = Scene::new(limits(first));
        let session = By { id: 0, act: echo };
        let (peer, _) = turns::client(&mut scene.reactor, Framing::raw(), session);
        scene.reactor.set_limits(limits(None));
        scene.settle();
        ask(&peer, "hello");
        let passed = Rc::new(Cell::new(false));
        let pass = passed.clone();
        scene.reactor.after(Duration::from_millis(10), move |_, _| {
            pass.set(true);
            Ok(())
        });
        until(&mut scene, |_| passed.get());
        assert_eq!(scene.log.closed(), []);
        scene.reactor.set_limits(limits(Some(Duration::from_millis(10))));
        until(&mut scene, |scene| !scene.log.closed.is_empty());
        assert_eq!(scene.log.closed(), [(0, "Limit(Idle)")]);
    }
}

// ---- What else a handler may do ----

/// Counts the visits that are reported to it.
struct Visits(Rc<Cell<usize>>);

impl Observer for Visits {
    fn observe(&mut self, seen: &Seen<'_>) {
        self.0.set(self.0.get() + usize::from(matches!(seen.what, What::Visit { .. })));
    }
}

#[test]
fn an_observer_that_a_handler_puts_in_is_told_of_the_rest_of_the_turn() {
    let mut scene = Scene::new(Limits::default());
    let visits = Rc::new(Cell::new(0));
    let counted = visits.clone();
    let (first, _) = scene.enter(0, Framing::raw(), move |_, cx| {
        cx.observe(Visits(counted.clone()));
        Ok(())
    });
    let (second, _) = scene.enter(1, Framing::raw(), echo);
    ask(&first, "watch");
    ask(&second, "hello");
    scene.turn();
    assert_eq!((scene.log.asked.len(), visits.get()), (2, 1));
}

#[test]
fn a_record_is_read_whole_by_one_that_was_taken_in_by_a_served_handler() {
    let reactor = Reactor::<Log>::builder().read_buffer(64).build().unwrap();
    let mut scene = Scene { reactor, log: Log::default() };
    let (records, ours) = seqpacket_pair();
    let mut ours = Some(ours);
    let (peer, _) = scene.enter(0, Framing::raw(), move |_, cx| {
        let session = By { id: 1, act: echo };
        cx.adopt(ours.take().unwrap(), Framing::raw().max(100_000), session).map(drop)
    });
    let records = UnixStream::from(records);
    ask(&records, [b'.'; 100_000]);
    ask(&peer, "adopt");
    scene.settle();
    assert_eq!(scene.log.asked[1].1.len(), 100_000);
    assert_eq!(scene.log.closed(), []);
}

#[test]
fn a_request_that_comes_while_its_client_begins_a_drain_is_handled() {
    let cases = [(Framing::raw(), "drain", "later"), (Framing::fixed(5), "drainhal", "f!")];
    for (framing, request, behind) in cases {
        let mut scene = Scene::new(Limits::default());
        let (theirs, ours) = UnixStream::pair().unwrap();
        let late = theirs.try_clone().unwrap();
        let act = move |request: &[u8], cx: &mut Cx<'_>| {
            if request != b"drain" {
                return cx.reply(request);
            }
            ask(&late, behind);
            cx.drain(Duration::from_secs(60))
        };
        scene.reactor.adopt(ours, framing, By { id: 0, act }).unwrap();
        scene.settle();
        ask(&theirs, request);
        scene.settle();
        assert_eq!(received(&theirs), format!("{}{behind}", &request["drain".len()..]));
        assert_eq!(scene.log.closed(), [(0, "Drain")]);
    }
}
