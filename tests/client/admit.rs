//! Clients that send a request when they connect: they are served before they are registered with epoll, if the last
//! clients did so.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use ipc_reactor::{Cause, Context, Framing, Key, Limits, Listener, Reactor, Session, Turn};

#[derive(Default)]
struct Seen {
    master: Option<Key>,
    opened: Vec<Key>,
    closed: Vec<String>,
}

/// Follows an order of five letters.
#[derive(Default)]
struct Obedient;

impl Session<Seen> for Obedient {
    fn on_open(&mut self, cx: &mut Context<'_, Seen>, seen: &mut Seen) -> io::Result<()> {
        seen.opened.push(cx.key());
        Ok(())
    }

    fn on_request(&mut self, word: &[u8], cx: &mut Context<'_, Seen>, seen: &mut Seen) -> io::Result<()> {
        match word {
            b"large" => cx.reply(&vec![b'x'; 3_000_000]),
            b"leave" => {
                cx.reply(b"bye")?;
                cx.finish();
                Ok(())
            }
            b"panic" => panic!("asked to"),
            b"shut!" => {
                cx.close(seen.master.expect("there is one"));
                cx.reply(b"shut!")
            }
            b"rally" => {
                cx.broadcast(b"rally");
                Ok(())
            }
            b"stop!" => {
                cx.stop();
                cx.reply(word)
            }
            b"alone" => {
                let own = cx.key();
                let others: Vec<Key> = cx.clients().filter(|&key| key != own).collect();
                others.into_iter().for_each(|key| assert!(cx.abort(key)));
                cx.reply(b"alone")
            }
            b"drain" => {
                cx.drain(Duration::from_secs(60))?;
                cx.reply(b"drain")
            }
            _ => cx.reply(word),
        }
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Seen>, seen: &mut Seen) {
        seen.closed.push(cause.to_string());
    }
}

struct Server {
    _folder: tempfile::TempDir,
    path: PathBuf,
    reactor: Reactor<Seen>,
    seen: Seen,
}

impl Server {
    fn new() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let limits = Limits { idle: None, frame_timeout: None, ..Limits::default() };
        let mut reactor = Reactor::<Seen>::builder().limits(limits).build().unwrap();
        let listener = Listener::unix(&path).unwrap();
        let master = reactor.listen(listener, Framing::fixed(5), |_, _| Ok(Obedient)).unwrap();
        Server { _folder: folder, path, reactor, seen: Seen { master: Some(master), ..Seen::default() } }
    }

    /// One that expects a request from clients when they connect.
    fn taught() -> Server {
        let mut server = Server::new();
        for _ in 0..4 {
            let mut client = server.ask(b"hello");
            while server.turn() == Turn::Pending {}
            expect(&mut client, b"hello");
            drop(client);
            assert_eq!(server.turn(), Turn::Idle);
        }
        server.seen.closed.clear();
        server.seen.opened.clear();
        server
    }

    fn turn(&mut self) -> Turn {
        self.reactor.turn(Some(Duration::ZERO), &mut self.seen).unwrap()
    }

    fn settle(&mut self) {
        while self.turn() == Turn::Pending {}
    }

    /// A client that sends a request before it is accepted.
    fn ask(&self, words: &[u8]) -> UnixStream {
        let mut client = UnixStream::connect(&self.path).unwrap();
        client.write_all(words).unwrap();
        client
    }
}

fn expect(client: &mut UnixStream, answer: &[u8]) {
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut received = vec![0; answer.len()];
    client.read_exact(&mut received).unwrap();
    assert_eq!(received, answer);
}

#[test]
fn once_that_is_learned_a_newcomer_is_answered_in_the_turn_in_which_it_is_accepted() {
    let mut server = Server::taught();
    let mut client = server.ask(b"hello");
    assert_eq!(server.turn(), Turn::Idle);
    expect(&mut client, b"hello");
    assert_eq!(server.seen.opened.len(), 1, "opened once");
    // It is registered from then on.
    client.write_all(b"again").unwrap();
    assert_eq!(server.turn(), Turn::Idle);
    expect(&mut client, b"again");
    assert_eq!(server.reactor.stats().errors().count(), 0);
}

#[test]
fn newcomers_that_are_silent_are_heard_later_and_teach_it_otherwise() {
    let mut server = Server::taught();
    let mut clients: Vec<_> = (0..6).map(|_| UnixStream::connect(&server.path).unwrap()).collect();
    server.settle();
    assert_eq!(server.seen.opened.len(), 6);
    for client in &mut clients {
        client.write_all(b"hel").unwrap();
        server.settle();
        client.write_all(b"lo").unwrap();
        server.settle();
        expect(client, b"hello");
    }
    // It does not expect a request any more: the next client is registered first, and served in a turn of its own.
    let mut client = server.ask(b"hello");
    assert_eq!(server.turn(), Turn::Pending);
    server.settle();
    expect(&mut client, b"hello");
}

#[test]
fn half_a_frame_at_first_is_kept() {
    let mut server = Server::taught();
    let mut client = server.ask(b"hellohel");
    assert_eq!(server.turn(), Turn::Idle);
    client.write_all(b"lo").unwrap();
    assert_eq!(server.turn(), Turn::Idle);
    expect(&mut client, b"hellohello");
}

#[test]
fn an_answer_that_the_socket_does_not_take_at_once_follows() {
    let mut server = Server::taught();
    let mut client = server.ask(b"large");
    client.set_nonblocking(true).unwrap();
    let (mut received, mut piece) = (0, vec![0; 1 << 20]);
    while received < 3_000_000 {
        let _ = server.turn();
        match client.read(&mut piece) {
            Ok(count) => received += count,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    client.set_nonblocking(false).unwrap();
    client.write_all(b"hello").unwrap();
    server.settle();
    expect(&mut client, b"hello");
}

#[test]
fn a_newcomer_that_ends_in_its_first_visit_is_closed_once_and_in_order() {
    for (words, close, left) in [
        (&b"leave"[..], false, "closed by a handler"),
        (b"panic", false, "the handler panicked: asked to"),
        (b"hello", true, "closed by the peer"),
        (b"hel", true, "closed by the peer in the middle of a frame"),
    ] {
        let mut server = Server::taught();
        let mut client = server.ask(words);
        if close {
            client.shutdown(Shutdown::Write).unwrap();
        }
        while server.seen.closed.is_empty() {
            let _ = server.reactor.turn(None, &mut server.seen).unwrap();
        }
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(server.seen.closed, [left]);
        assert_eq!(server.reactor.clients().count(), 0);
        assert_eq!(server.reactor.stats().errors().count(), 0, "{}", server.reactor.stats());
        // Others come in as before.
        let mut client = server.ask(b"hello");
        server.settle();
        expect(&mut client, b"hello");
    }
}

#[test]
fn a_newcomer_can_close_its_master_socket_and_other_newcomers() {
    let mut server = Server::taught();
    let mut first = server.ask(b"alone");
    let mut second = server.ask(b"hello");
    server.settle();
    expect(&mut first, b"alone");
    assert_eq!(second.read(&mut [0; 5]).unwrap_or(0), 0, "closed before it was heard");
    assert_eq!(server.seen.closed, ["closed by a handler"]);

    let mut third = server.ask(b"shut!");
    server.settle();
    expect(&mut third, b"shut!");
    assert!(UnixStream::connect(&server.path).is_err(), "nobody listens any more");
    assert_eq!(server.reactor.stats().errors().count(), 0, "{}", server.reactor.stats());
}

#[test]
fn a_newcomer_that_another_has_put_into_the_ready_list_is_visited_once() {
    let mut server = Server::taught();
    let mut first = server.ask(b"rally");
    let mut second = server.ask(b"hello");
    server.settle();
    expect(&mut first, b"rally");
    expect(&mut second, b"rallyhello");
    assert_eq!(server.seen.opened.len(), 2);
    second.write_all(b"again").unwrap();
    server.settle();
    expect(&mut second, b"again");
}

#[test]
fn a_stop_from_a_newcomers_first_request_leaves_the_others_unheard() {
    let mut server = Server::taught();
    let mut first = server.ask(b"stop!");
    let second = server.ask(b"hello");
    while server.turn() != Turn::Stopped {}
    expect(&mut first, b"stop!");
    assert_eq!(server.reactor.stats().requests, 4 + 1, "four have taught it");
    drop(second);
    assert_eq!(server.reactor.stats().errors().count(), 0, "{}", server.reactor.stats());
}

#[test]
fn a_drain_from_a_newcomers_first_request_answers_all_that_have_come() {
    let mut server = Server::taught();
    let mut clients: Vec<_> = [b"hello", b"drain", b"hello"].iter().map(|word| server.ask(*word)).collect();
    while server.turn() != Turn::Stopped {}
    for (client, answer) in clients.iter_mut().zip([b"hello", b"drain", b"hello"]) {
        expect(client, answer);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }
    assert_eq!(server.seen.closed, ["drained"; 3]);
}
