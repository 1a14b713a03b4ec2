//! The drain: what has arrived is answered, and pending answers are waited for, but no longer than allowed.

use crate::support::names::unique;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use crate::support::turns::{PATIENCE, run, settle, until};
use ipc_reactor::{
    Cause, Context, Drain, Framing, Key, Limits, Listener, Posted, Queue, Reactor, Session, TimerKey, Turn,
};

const SOON: Duration = Duration::from_millis(5);

/// Why each client was closed.
type Causes = Vec<String>;

/// Answers each line: at once, after a while ("later"), or never ("never").
#[derive(Default)]
struct Answers {
    owed: u32,
}

impl Session<Causes> for Answers {
    fn on_request(&mut self, line: &[u8], cx: &mut Context<'_, Causes>, _: &mut Causes) -> io::Result<()> {
        match line {
            b"later" => drop(cx.wake_after(Duration::from_millis(2))),
            b"never" => {}
            _ => return cx.reply_frame(line),
        }
        self.owed += 1;
        Ok(())
    }

    fn on_timer(&mut self, _: TimerKey, cx: &mut Context<'_, Causes>, _: &mut Causes) -> io::Result<()> {
        self.owed -= 1;
        if self.owed == 0 {
            cx.finish();
        }
        cx.reply_frame(b"late")
    }

    fn on_drain(&mut self, _: &mut Context<'_, Causes>, _: &mut Causes) -> io::Result<Drain> {
        Ok(if self.owed > 0 { Drain::Wait } else { Drain::Close })
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Causes>, causes: &mut Causes) {
        causes.push(cause.to_string());
    }
}

fn connect(reactor: &mut Reactor<Causes>) -> UnixStream {
    let (theirs, ours) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    reactor.adopt(ours, Framing::lines(), Answers::default()).unwrap();
    theirs
}

fn all_that_came(mut client: impl Read) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_reactor_with_nothing_to_drain_ends_at_once() {
    let mut reactor = Reactor::<Causes>::new().unwrap();
    reactor.every(PATIENCE, |_, _| Ok(()));
    reactor.drain(PATIENCE).unwrap();
    assert_eq!(reactor.turn(None, &mut Causes::new()).unwrap(), Turn::Stopped);
}

#[test]
fn every_request_that_has_arrived_is_answered() {
    const CLIENTS: usize = 100;
    let limits = Limits { messages_per_visit: 2, ..Limits::default() };
    let mut reactor = Reactor::<Causes>::builder().limits(limits).build().unwrap();
    let clients: Vec<UnixStream> = (0..CLIENTS)
        .map(|number| {
            let mut client = connect(&mut reactor);
            // Some have sent nothing, some more than a visit handles.
            client.write_all("request\n".repeat(number % 6).as_bytes()).unwrap();
            client
        })
        .collect();
    reactor.drain(PATIENCE).unwrap();
    let mut causes = Causes::new();
    run(&mut reactor, &mut causes);
    assert_eq!(causes, vec!["drained"; CLIENTS]);
    for (number, client) in clients.into_iter().enumerate() {
        assert_eq!(all_that_came(client), "request\n".repeat(number % 6));
    }
    let stats = reactor.stats();
    assert_eq!((stats.drained, stats.drain_cut, stats.clients), (CLIENTS as u64, 0, 0));
}

#[test]
fn a_session_that_owes_an_answer_is_waited_for() {
    let mut reactor = Reactor::<Causes>::new().unwrap();
    let mut patient = connect(&mut reactor);
    let mut quick = connect(&mut reactor);
    patient.write_all(b"later\nat once\nlater\n").unwrap();
    quick.write_all(b"at once\n").unwrap();
    reactor.drain(PATIENCE).unwrap();
    let mut causes = Causes::new();
    run(&mut reactor, &mut causes);
    assert_eq!(causes, ["drained", "closed by a handler"]);
    assert_eq!(all_that_came(patient), "at once\nlate\nlate\n");
    assert_eq!(all_that_came(quick), "at once\n");
    assert_eq!((reactor.stats().drained, reactor.stats().drain_cut), (1, 0));
}

#[test]
fn past_the_deadline_the_rest_is_cut_off_and_counted() {
    let mut reactor = Reactor::<Causes>::new().unwrap();
    let mut clients: Vec<UnixStream> = (0..10).map(|_| connect(&mut reactor)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_all(if number < 4 { b"never\n" } else { b"hello\n" }).unwrap();
    }
    reactor.drain(SOON).unwrap();
    let mut causes = Causes::new();
    run(&mut reactor, &mut causes);
    assert_eq!(causes[..6], ["drained"; 6]);
    assert_eq!(causes[6..], ["the drain's deadline passed"; 4]);
    let stats = reactor.stats();
    assert_eq!((stats.drained, stats.drain_cut, stats.closed), (6, 4, 10));
    for (number, client) in clients.into_iter().enumerate() {
        assert_eq!(all_that_came(client), if number < 4 { "" } else { "hello\n" });
    }
}

#[test]
fn a_drain_lasts_no_longer_than_the_limit_whatever_its_caller_allows() {
    let limits = Limits { drain: SOON, ..Limits::default() };
    let mut reactor = Reactor::<Causes>::builder().limits(limits).build().unwrap();
    let mut client = connect(&mut reactor);
    client.write_all(b"never\n").unwrap();
    reactor.drain(Duration::MAX).unwrap();
    let mut causes = Causes::new();
    run(&mut reactor, &mut causes);
    assert_eq!(causes, ["the drain's deadline passed"]);
}

#[test]
fn another_drain_can_only_bring_the_end_forward() {
    for within in [[PATIENCE, SOON], [SOON, PATIENCE]] {
        let mut reactor = Reactor::<Causes>::new().unwrap();
        let mut client = connect(&mut reactor);
        client.write_all(b"never\n").unwrap();
        let mut causes = Causes::new();
        for within in within {
            reactor.drain(within).unwrap();
            settle(&mut reactor, &mut causes);
        }
        run(&mut reactor, &mut causes);
        assert_eq!(causes, ["the drain's deadline passed"]);
    }
}

#[test]
fn half_a_request_is_not_waited_for() {
    let mut reactor = Reactor::<Causes>::new().unwrap();
    let mut before = connect(&mut reactor);
    before.write_all(b"whole\nhal").unwrap();
    let mut causes = Causes::new();
    settle(&mut reactor, &mut causes);
    // One half was read before the drain, the other is yet to be read.
    let mut after = connect(&mut reactor);
    after.write_all(b"whole\nhal").unwrap();
    reactor.drain(PATIENCE).unwrap();
    run(&mut reactor, &mut causes);
    assert_eq!(causes, ["drained", "drained"]);
    for mut client in [before, after] {
        assert_eq!(client.write_all(b"f\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(all_that_came(client), "whole\n");
    }
}

#[test]
fn those_in_the_backlog_are_served_and_nobody_after_them() {
    const CLIENTS: usize = 100;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let limits = Limits { accepts_per_visit: 3, ..Limits::default() };
    let mut reactor = Reactor::<Causes>::builder().limits(limits).build().unwrap();
    let unix = Listener::unix(&path).unwrap();
    let tcp = Listener::tcp("127.0.0.1:0").unwrap();
    let port = tcp.local_address().unwrap().to_string().rsplit(':').next().unwrap().parse().unwrap();
    reactor.listen(unix, Framing::lines(), |_, _| Ok(Answers::default())).unwrap();
    reactor.listen(tcp, Framing::lines(), |_, _| Ok(Answers::default())).unwrap();
    let mut unix_clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"one\nlater\n").unwrap();
        unix_clients.push(client);
    }
    let mut tcp_clients = Vec::new();
    for _ in 0..5 {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"one\nlater\n").unwrap();
        tcp_clients.push(client);
    }
    reactor.drain(PATIENCE).unwrap();
    run(&mut reactor, &mut Causes::new());
    for client in unix_clients {
        assert_eq!(all_that_came(client), "one\nlate\n");
    }
    for client in tcp_clients {
        assert_eq!(all_that_came(client), "one\nlate\n");
    }
    assert_eq!((reactor.stats().accepted, reactor.stats().drain_cut), (105, 0));
    assert!(UnixStream::connect(&path).is_err());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn replies_that_are_taken_slowly_are_waited_for() {
    const BYTES: usize = 4 << 20;
    let limits = Limits { output_high_water: 2 * BYTES, ..Limits::default() };
    let mut reactor = Reactor::<Causes>::builder().limits(limits).build().unwrap();
    let client = connect(&mut reactor);
    let mut causes = Causes::new();
    settle(&mut reactor, &mut causes);
    assert_eq!(reactor.broadcast(&vec![b'x'; BYTES]), 1);
    reactor.drain(PATIENCE).unwrap();
    settle(&mut reactor, &mut causes);
    assert!(causes.is_empty(), "the client has not taken all yet");
    let reader = thread::spawn(move || all_that_came(client).len());
    run(&mut reactor, &mut causes);
    assert_eq!(causes, ["drained"]);
    assert_eq!(reader.join().unwrap(), BYTES);
}

#[test]
fn one_who_leaves_in_a_drain_is_not_waited_for() {
    let mut reactor = Reactor::<Causes>::new().unwrap();
    let mut client = connect(&mut reactor);
    client.write_all(b"never\n").unwrap();
    let mut causes = Causes::new();
    settle(&mut reactor, &mut causes);
    reactor.drain(PATIENCE).unwrap();
    settle(&mut reactor, &mut causes);
    assert!(causes.is_empty());
    drop(client);
    run(&mut reactor, &mut causes);
    assert_eq!(causes, ["closed by the peer"]);
}

#[test]
fn whoever_comes_in_during_a_drain_is_drained_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let mut reactor = Reactor::<Causes>::new().unwrap();
    let mut first = connect(&mut reactor);
    first.write_all(b"later\n").unwrap();
    reactor.drain(PATIENCE).unwrap();
    let mut causes = Causes::new();
    settle(&mut reactor, &mut causes);
    let mut adopted = connect(&mut reactor);
    adopted.write_all(b"me too\n").unwrap();
    let listener = Listener::unix(&path).unwrap();
    let mut accepted = UnixStream::connect(&path).unwrap();
    accepted.write_all(b"and me\n").unwrap();
    reactor.listen(listener, Framing::lines(), |_, _| Ok(Answers::default())).unwrap();
    run(&mut reactor, &mut causes);
    assert_eq!(all_that_came(first), "late\n");
    assert_eq!(all_that_came(adopted), "me too\n");
    assert_eq!(all_that_came(accepted), "and me\n");
    assert_eq!(reactor.stats().drain_cut, 0);
}

/// Sends a last message in `on_drain`, and returns what the function gives.
struct Stubborn(fn() -> io::Result<Drain>);

impl Session<Causes> for Stubborn {
    fn on_request(&mut self, _: &[u8], _: &mut Context<'_, Causes>, _: &mut Causes) -> io::Result<()> {
        Ok(())
    }

    fn on_drain(&mut self, cx: &mut Context<'_, Causes>, _: &mut Causes) -> io::Result<Drain> {
        cx.reply(b"good bye")?;
        self.0()
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Causes>, causes: &mut Causes) {
        causes.push(cause.to_string());
    }
}

#[test]
fn last_words_in_a_drain_are_sent_and_a_fault_there_ends_its_client_only() {
    let mut reactor = Reactor::<Causes>::new().unwrap();
    let answers: [fn() -> io::Result<Drain>; 3] =
        [|| Ok(Drain::Close), || Err(io::Error::other("no")), || panic!("never")];
    let clients = answers.map(|answer| {
        let (theirs, ours) = UnixStream::pair().unwrap();
        reactor.adopt(ours, Framing::raw(), Stubborn(answer)).unwrap();
        theirs
    });
    let mut causes = Causes::new();
    settle(&mut reactor, &mut causes);
    reactor.drain(PATIENCE).unwrap();
    run(&mut reactor, &mut causes);
    causes.sort();
    assert_eq!(causes, ["drained", "the handler failed: no", "the handler panicked: never"]);
    assert_eq!(clients.map(all_that_came), ["good bye", "", ""]);
}

#[test]
fn a_stop_ends_a_drain_at_once() {
    let mut reactor = Reactor::<Causes>::new().unwrap();
    let mut client = connect(&mut reactor);
    client.write_all(b"never\n").unwrap();
    reactor.drain(PATIENCE).unwrap();
    let mut causes = Causes::new();
    settle(&mut reactor, &mut causes);
    reactor.remote().stop().unwrap();
    until(&mut reactor, &mut causes, |causes| !causes.is_empty());
    assert_eq!(causes, ["the reactor stopped"]);
    assert_eq!((reactor.stats().drained, reactor.stats().drain_cut), (0, 0));
}

/// It was closed as soon as it was empty: messages from a client's last request were refused.
#[test]
fn an_outbox_takes_messages_to_the_end_of_a_drain() {
    struct Reporter(Key);

    impl Session<Vec<Posted>> for Reporter {
        fn on_request(
            &mut self,
            _: &[u8],
            _: &mut Context<'_, Vec<Posted>>,
            _: &mut Vec<Posted>,
        ) -> io::Result<()> {
            Ok(())
        }

        fn on_drain(&mut self, cx: &mut Context<'_, Vec<Posted>>, _: &mut Vec<Posted>) -> io::Result<Drain> {
            cx.wake_after(Duration::from_millis(5));
            Ok(Drain::Wait)
        }

        fn on_timer(
            &mut self,
            _: TimerKey,
            cx: &mut Context<'_, Vec<Posted>>,
            posted: &mut Vec<Posted>,
        ) -> io::Result<()> {
            posted.push(cx.post(self.0, b"first", 0)?);
            posted.push(cx.post(self.0, b"second", 0)?);
            cx.finish();
            Ok(())
        }
    }

    let name = format!("/{}", unique());
    let theirs = Queue::options().create_new(true).capacity(1).message_size(16).open(&name).unwrap();
    let ours = Queue::options().write(true).open(&name).unwrap();
    Queue::unlink(&name).unwrap();
    let mut reactor = Reactor::<Vec<Posted>>::new().unwrap();
    let outbox = reactor.outbox(ours).unwrap();
    let (_peer, socket) = UnixStream::pair().unwrap();
    reactor.adopt(socket, Framing::raw(), Reporter(outbox)).unwrap();
    reactor.drain(Duration::from_secs(60)).unwrap();
    let (mut posted, mut heard, mut buffer) = (Vec::new(), Vec::new(), [0; 16]);
    while reactor.turn(Some(Duration::from_millis(50)), &mut posted).unwrap() != Turn::Stopped {
        // Only when both have been posted: the second has to wait for room.
        if posted.len() == 2 {
            while let Some(received) = theirs.try_recv(&mut buffer).unwrap() {
                heard.push(buffer[..received.len].to_vec());
            }
        }
    }
    while let Some(received) = theirs.try_recv(&mut buffer).unwrap() {
        heard.push(buffer[..received.len].to_vec());
    }
    assert_eq!(posted, [Posted::Sent, Posted::Buffered]);
    assert_eq!(heard, [b"first".to_vec(), b"second".to_vec()]);
}
