//! Handlers that panic: their own client or call is lost, and nothing else.

use crate::support::names::QueueName;
use std::{
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use ipc_reactor::{Cause, FdSource, Framing, Interest, Limits, Listener, Progress, Ready, Turn};

use crate::hazards::{Actor, Cx, Stage, World};
use crate::support::turns;

type SetUp = fn(Actor) -> Actor;

#[test]
fn a_session_that_panics_loses_its_own_client() {
    fn panics(_: &str, _: &mut Cx<'_>, _: &mut World) -> io::Result<()> {
        panic!("its own fault")
    }
    let methods: [(&str, SetUp); 5] = [
        ("open", |actor| actor.on_open(panics)),
        ("request", |actor| actor.on_request(panics)),
        ("half close", |actor| actor.on_half_close(panics)),
        ("timer", |actor| {
            actor
                .on_request(|_, cx, _| {
                    cx.reply(b"sent before\n")?;
                    cx.wake_after(Duration::ZERO);
                    Ok(())
                })
                .on_timer(panics)
        }),
        ("close", |actor| actor.on_close(panics)),
    ];
    for (method, set_up) in methods {
        let mut stage = Stage::new();
        let beside = stage.enter(Actor::echo(1));
        let mut peer = stage.enter(set_up(Actor::new(0)));
        // The client of an on_open that panics is closed by now.
        let _ = peer.write_all(b"x\n");
        stage.settle();
        if matches!(method, "half close" | "close") {
            peer.shutdown(std::net::Shutdown::Write).unwrap();
        }
        turns::until(&mut stage.reactor, &mut stage.world, |world| !world.closed.is_empty());
        let cause = if method == "close" { "Peer" } else { "Panic(\"its own fault\")" };
        assert_eq!(stage.world.closed(), [(0, cause)], "{method}");
        assert_eq!(stage.reactor.stats().panics, 1, "{method}");
        assert!(stage.has_ended(&peer), "{method}");
        stage.echoes(&beside, "beside");
    }
}

#[test]
fn a_factory_that_panics_or_fails_refuses_one_newcomer() {
    let mut stage = Stage::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut seen = 0;
    stage
        .reactor
        .listen(Listener::unix(&path).unwrap(), Framing::lines(), move |_, _| {
            seen += 1;
            match seen {
                1 => panic!("not the first"),
                2 => Err(io::Error::other("nor the second")),
                _ => Ok(Actor::echo(seen)),
            }
        })
        .unwrap();
    let peers: Vec<_> = (0..4).map(|_| turns::patient(UnixStream::connect(&path).unwrap())).collect();
    stage.settle();
    assert!(stage.has_ended(&peers[0]) && stage.has_ended(&peers[1]));
    stage.echoes(&peers[2], "third");
    stage.echoes(&peers[3], "fourth");
    let stats = stage.reactor.stats();
    assert_eq!((stats.panics, stats.handler_errors, stats.refused, stats.accepted), (1, 1, 2, 2));
    assert_eq!(stage.world.closed(), []);
}

#[test]
fn a_queue_handler_that_panics_loses_one_message() {
    let mut stage = Stage::new();
    let name = QueueName::new();
    let sender = name.open(10);
    stage
        .reactor
        .queue(name.open(10), |message, _, world: &mut World| {
            match message.bytes {
                b"panic" => panic!("not this one"),
                b"fail" => return Err(io::Error::other("nor this one")),
                other => world.notes.push(String::from_utf8_lossy(other).into_owned()),
            }
            Ok(())
        })
        .unwrap();
    for message in ["a", "panic", "b", "fail", "c"] {
        sender.send(message.as_bytes(), 0).unwrap();
    }
    stage.settle();
    assert_eq!(stage.world.notes, ["a", "b", "c"]);
    sender.send(b"later", 0).unwrap();
    stage.settle();
    assert_eq!(stage.world.notes.last().unwrap(), "later");
    assert_eq!((stage.reactor.stats().panics, stage.reactor.stats().handler_errors), (1, 1));
}

#[test]
fn a_timer_that_panics_ends_no_other_and_repeats() {
    let mut stage = Stage::new();
    let mut calls = 0;
    stage.reactor.after(Duration::ZERO, |_, _| panic!("once"));
    stage.reactor.every(Duration::from_millis(1), move |_, world| {
        calls += 1;
        world.notes.push("called".into());
        assert!(calls != 2, "the second time");
        Ok(())
    });
    turns::until(&mut stage.reactor, &mut stage.world, |world| world.notes.len() >= 4);
    assert_eq!(stage.reactor.stats().panics, 2);
}

#[test]
fn a_remote_job_that_panics_leaves_the_next_to_run() {
    let mut stage = Stage::new();
    let remote = stage.reactor.remote();
    remote.run(|_, world: &mut World| world.notes.push("before".into())).unwrap();
    remote.run(|_, _: &mut World| panic!("its own fault")).unwrap();
    remote.run(|_, world: &mut World| world.notes.push("behind".into())).unwrap();
    stage.settle();
    remote.run(|_, world: &mut World| world.notes.push("later".into())).unwrap();
    stage.settle();
    assert_eq!(stage.world.notes, ["before", "behind", "later"]);
    assert_eq!(stage.reactor.stats().panics, 1);
}

/// A source that panics when it is ready, or when it is closed, or fails.
struct Faulty {
    stream: UnixStream,
    how: &'static str,
}

impl AsFd for Faulty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl FdSource<World> for Faulty {
    fn on_ready(&mut self, _: Ready, cx: &mut Cx<'_>, _: &mut World) -> io::Result<Progress> {
        match self.how {
            "panic" => panic!("its own fault"),
            "fail" => Err(io::Error::other("its own fault")),
            _ => {
                cx.finish();
                Ok(Progress::More)
            }
        }
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Cx<'_>, world: &mut World) {
        world.notes.push(format!("{cause}"));
        assert!(self.how != "panic at the end", "once more");
    }
}

#[test]
fn a_source_that_panics_or_fails_is_closed_alone() {
    for (how, cause, panics) in [
        ("panic", "the handler panicked: its own fault", 1),
        ("fail", "the handler failed: its own fault", 0),
        ("panic at the end", "closed by a handler", 1),
    ] {
        let mut stage = Stage::new();
        let beside = stage.enter(Actor::echo(1));
        let (mut peer, stream) = UnixStream::pair().unwrap();
        stage.reactor.fd_source(Faulty { stream, how }, Interest::READABLE).unwrap();
        peer.write_all(b"x").unwrap();
        stage.settle();
        assert_eq!(stage.world.notes, [cause]);
        assert_eq!(stage.reactor.stats().panics, panics, "{how}");
        assert!(stage.has_ended(&peer), "its descriptor is closed");
        stage.echoes(&beside, "beside");
    }
}

#[test]
fn a_panic_after_on_flushed_or_in_a_drain_is_the_clients_own() {
    let mut stage = Stage::with(Limits { output_high_water: 1_024, ..Limits::default() });
    let mut peer = stage.enter(
        Actor::new(0)
            .on_request(|_, cx, _| cx.reply(&vec![b'.'; 1 << 20]))
            .on_flushed(|_, _, _| panic!("flushed")),
    );
    let drained = stage.enter(Actor::new(1).on_drain(|_, _, _| panic!("drained")));
    let waiting = stage.enter(Actor::new(2));
    peer.write_all(b"x\n").unwrap();
    stage.settle();
    while stage.world.closed.is_empty() {
        assert!(!stage.received(&peer).is_empty(), "no end");
        stage.settle();
    }
    assert_eq!(stage.world.closed(), [(0, "Panic(\"flushed\")")]);
    stage.reactor.drain(Duration::from_secs(20)).unwrap();
    while stage.reactor.turn(None, &mut stage.world).unwrap() != Turn::Stopped {}
    let mut closed = stage.world.closed();
    closed.sort_unstable();
    assert_eq!(closed[1..], [(1, "Panic(\"drained\")"), (2, "Drain")]);
    assert_eq!(stage.reactor.stats().panics, 2);
    assert!(stage.has_ended(&drained) && stage.has_ended(&waiting));
}
