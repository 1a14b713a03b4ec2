//! Timers of sessions: they call their own client's session, or none.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::turns::{PATIENCE, settle, until};
use ipc_reactor::{Cause, Context, Framing, Key, Reactor, Session, TimerKey};

const MILLISECOND: Duration = Duration::from_millis(1);

/// The calls of the sessions, by the names of their clients.
#[derive(Default)]
struct Told {
    lines: Vec<String>,
    keys: Vec<Key>,
}

/// A session whose requests are lines: what it shall do, now or when its timer is due.
struct Sleeper {
    name: &'static str,
    set: Option<TimerKey>,
    order: Vec<u8>,
}

impl Session<Told> for Sleeper {
    fn on_open(&mut self, cx: &mut Context<'_, Told>, told: &mut Told) -> io::Result<()> {
        told.keys.push(cx.key());
        Ok(())
    }

    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, Told>, _: &mut Told) -> io::Result<()> {
        match request {
            b"cancel" => assert!(cx.cancel(self.set.unwrap())),
            b"leave" => cx.finish(),
            _ => self.set = Some(cx.wake_after(MILLISECOND)),
        }
        self.order = request.to_vec();
        Ok(())
    }

    fn on_timer(&mut self, timer: TimerKey, cx: &mut Context<'_, Told>, told: &mut Told) -> io::Result<()> {
        assert_eq!(Some(timer), self.set, "the key is the one that was given");
        assert!(!cx.cancel(timer), "and it is void by now");
        told.lines.push(format!("{} woke", self.name));
        match &self.order[..] {
            b"answer" => cx.reply(b"late answer"),
            b"finish" => {
                cx.reply(b"last words")?;
                cx.finish();
                Ok(())
            }
            b"abort" => {
                cx.reply(b"unheard")?;
                let own = cx.key();
                assert!(cx.abort(own));
                Ok(())
            }
            b"fail" => Err(io::Error::other("it went wrong")),
            b"panic" => panic!("it went very wrong"),
            b"again" => {
                self.set = Some(cx.wake_after(Duration::ZERO));
                self.order = b"answer".to_vec();
                Ok(())
            }
            order => unreachable!("{order:?}"),
        }
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Told>, told: &mut Told) {
        told.lines.push(format!("{}: {cause}", self.name));
    }
}

fn connect(reactor: &mut Reactor<Told>, name: &'static str) -> UnixStream {
    let (theirs, ours) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let session = Sleeper { name, set: None, order: Vec::new() };
    reactor.adopt(ours, Framing::lines(), session).unwrap();
    theirs
}

/// Sends all orders at once, to be handled in one visit.
fn order(client: &mut UnixStream, orders: &[&str]) {
    client.write_all((orders.join("\n") + "\n").as_bytes()).unwrap();
}

/// What has come, with all that is yet to come if the connection has ended.
fn heard(client: &mut UnixStream) -> String {
    let mut buffer = [0; 64];
    let count = client.read(&mut buffer).unwrap();
    String::from_utf8(buffer[..count].to_vec()).unwrap()
}

/// One client with that order; returns what was recorded, once that is `lines` lines.
fn one(orders: &[&str], lines: usize) -> (UnixStream, Reactor<Told>, Told) {
    let mut reactor = Reactor::<Told>::new().unwrap();
    let mut told = Told::default();
    let mut client = connect(&mut reactor, "a");
    order(&mut client, orders);
    until(&mut reactor, &mut told, |told| told.lines.len() == lines);
    settle(&mut reactor, &mut told);
    assert_eq!(told.lines.len(), lines, "{:?}", told.lines);
    (client, reactor, told)
}

#[test]
fn an_answer_can_come_by_a_timer() {
    let (mut client, reactor, told) = one(&["answer"], 1);
    assert_eq!(heard(&mut client), "late answer");
    assert_eq!(told.lines, ["a woke"]);
    assert_eq!((reactor.timers(), reactor.stats().clients, reactor.stats().timers), (0, 1, 1));
}

#[test]
fn a_timer_can_set_the_next() {
    let (mut client, _reactor, told) = one(&["again"], 2);
    assert_eq!(heard(&mut client), "late answer");
    assert_eq!(told.lines, ["a woke", "a woke"]);
}

#[test]
fn a_session_that_ends_by_its_timer_sends_its_last_words() {
    let (mut client, reactor, told) = one(&["finish"], 2);
    assert_eq!([heard(&mut client), heard(&mut client)], ["last words", ""]);
    assert_eq!(told.lines, ["a woke", "a: closed by a handler"]);
    assert_eq!(reactor.stats().clients, 0);
}

#[test]
fn a_session_that_aborts_by_its_timer_sends_nothing() {
    let (mut client, _reactor, told) = one(&["abort"], 2);
    assert_eq!(heard(&mut client), "");
    assert_eq!(told.lines, ["a woke", "a: closed by a handler"]);
}

#[test]
fn a_timer_that_fails_or_panics_closes_its_own_client_only() {
    for (last, cause) in
        [("fail", "the handler failed: it went wrong"), ("panic", "the handler panicked: it went very wrong")]
    {
        let mut reactor = Reactor::<Told>::new().unwrap();
        let mut told = Told::default();
        let [mut a, mut b] = ["a", "b"].map(|name| connect(&mut reactor, name));
        order(&mut a, &[last]);
        order(&mut b, &["answer"]);
        until(&mut reactor, &mut told, |told| told.lines.len() == 3);
        told.lines.sort();
        assert_eq!(told.lines, ["a woke", &format!("a: {cause}"), "b woke"]);
        assert_eq!(heard(&mut a), "");
        assert_eq!(heard(&mut b), "late answer");
        let stats = reactor.stats();
        assert_eq!((stats.clients, stats.handler_errors + stats.panics), (1, 1));
    }
}

#[test]
fn a_cancelled_timer_does_not_wake_its_session() {
    let mut reactor = Reactor::<Told>::new().unwrap();
    let mut told = Told::default();
    let mut client = connect(&mut reactor, "a");
    order(&mut client, &["answer", "cancel"]);
    drop(client);
    until(&mut reactor, &mut told, |told| !told.lines.is_empty());
    assert_eq!(told.lines, ["a: closed by the peer"]);
    assert_eq!(reactor.timers(), 0);
}

#[test]
fn the_timer_of_a_client_that_is_gone_wakes_nobody_not_even_the_next_in_its_place() {
    let mut reactor = Reactor::<Told>::new().unwrap();
    let mut told = Told::default();
    let mut client = connect(&mut reactor, "a");
    order(&mut client, &["answer", "leave"]);
    until(&mut reactor, &mut told, |told| !told.lines.is_empty());
    let mut successor = connect(&mut reactor, "b");
    order(&mut successor, &["answer"]);
    until(&mut reactor, &mut told, |told| told.lines.len() == 2);
    while reactor.timers() > 0 {
        let _ = reactor.turn(Some(PATIENCE), &mut told).unwrap();
    }
    assert_eq!(told.lines, ["a: closed by a handler", "b woke"]);
    assert_eq!(heard(&mut successor), "late answer");
    let slot = |key: Key| key.to_string().split(':').next().unwrap().to_string();
    assert_eq!(slot(told.keys[0]), slot(told.keys[1]), "the place was used again");
}

#[test]
fn a_client_that_is_only_kept_for_its_last_bytes_is_not_woken() {
    const LAST_BYTES: usize = 4 << 20;
    let mut reactor = Reactor::<Told>::new().unwrap();
    let mut told = Told::default();
    let mut client = connect(&mut reactor, "a");
    order(&mut client, &["answer"]);
    until(&mut reactor, &mut told, |told| !told.keys.is_empty());
    // More than the socket takes at once, so the client outlives its timer.
    let key = told.keys[0];
    reactor.client(key).unwrap().send(&vec![b'x'; LAST_BYTES]).unwrap();
    assert!(reactor.close(key));
    assert!(reactor.client(key).is_none(), "no handle to one that is being closed");
    while reactor.timers() > 0 {
        let _ = reactor.turn(Some(PATIENCE), &mut told).unwrap();
    }
    assert!(told.lines.is_empty(), "{:?}", told.lines);
    let reader = std::thread::spawn(move || client.read_to_end(&mut Vec::new()));
    until(&mut reactor, &mut told, |told| !told.lines.is_empty());
    assert_eq!(told.lines, ["a: closed by a handler"]);
    assert_eq!(reader.join().unwrap().unwrap(), LAST_BYTES);
}

#[test]
fn outside_a_session_nobody_is_woken() {
    let mut reactor = Reactor::<Told>::new().unwrap();
    let mut told = Told::default();
    reactor
        .remote()
        .run(|cx, _| {
            cx.wake_after(Duration::ZERO);
        })
        .unwrap();
    until(&mut reactor, &mut told, |_| true);
    settle(&mut reactor, &mut told);
    while reactor.timers() > 0 {
        let _ = reactor.turn(Some(PATIENCE), &mut told).unwrap();
    }
    assert!(told.lines.is_empty());
}
