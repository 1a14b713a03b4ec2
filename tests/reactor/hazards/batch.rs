//! One batch of events, and handlers that close the sources of later events in it.

use std::{io::Write, os::unix::net::UnixStream};

use ipc_reactor::{Framing, Listener};

use crate::hazards::{Actor, Stage, slot};
use crate::support::turns;

/// Aborts the other of the first two actors.
fn rival(id: u32) -> Actor {
    Actor::new(id).on_request(move |_, cx, world| {
        assert!(cx.abort(world.keys[1 - id as usize]));
        Ok(())
    })
}

#[test]
fn of_two_in_one_batch_the_first_closes_the_second() {
    let mut stage = Stage::new();
    let mut peers = [stage.enter(rival(0)), stage.enter(rival(1))];
    for peer in &mut peers {
        peer.write_all(b"x\n").unwrap();
    }
    stage.settle();
    let (winner, _) = stage.world.heard[0];
    let loser = 1 - winner;
    assert_eq!(stage.world.heard.len(), 1, "{:?}", stage.world.heard);
    assert_eq!(stage.world.closed(), [(loser, "Closed")]);
    assert!(stage.has_ended(&peers[loser as usize]) && !stage.has_ended(&peers[winner as usize]));
    assert_eq!(stage.reactor.stats().stale_events, 1);
    assert_eq!(stage.reactor.stats().clients, 1);
}

#[test]
fn an_event_for_the_one_before_does_not_reach_the_one_adopted_in_its_slot() {
    let mut stage = Stage::new();
    let first = Actor::new(0).on_request(|_, cx, world| {
        cx.abort(world.keys[1]);
        let key = cx.adopt(world.spare.pop_front().unwrap(), Framing::lines(), Actor::echo(2))?;
        world.keys.push(key);
        Ok(())
    });
    let mut peers = [stage.enter(first), stage.enter(Actor::echo(1))];
    let (newcomer, ours) = UnixStream::pair().unwrap();
    stage.world.spare.push_back(ours.into());
    for peer in &mut peers {
        peer.write_all(b"for the old\n").unwrap();
    }
    stage.settle();
    let (old, new) = (stage.world.keys[1], stage.world.keys[2]);
    assert_eq!(slot(old), slot(new), "the slot is used again, or this tests nothing");
    assert_ne!(old, new);
    assert_eq!(stage.world.heard_by(2), [""; 0]);
    assert_eq!(stage.world.closed(), [(1, "Closed")]);
    assert_eq!(stage.reactor.stats().stale_events, 1);
    stage.echoes(&newcomer, "for the new");
    assert_eq!(stage.world.heard_by(2), ["for the new"]);
    assert!(stage.reactor.client(old).is_none());
}

#[test]
fn an_event_for_the_one_before_does_not_reach_the_one_accepted_in_its_slot() {
    let mut stage = Stage::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let first = Actor::new(0).on_request(|_, cx, world| {
        cx.abort(world.keys[1]);
        Ok(())
    });
    let mut peers = [stage.enter(first), stage.enter(Actor::echo(1))];
    stage
        .reactor
        .listen(Listener::unix(&path).unwrap(), Framing::lines(), |_, _| {
            Ok(Actor::echo(2).on_open(|_, cx, world| {
                world.keys.push(cx.key());
                Ok(())
            }))
        })
        .unwrap();
    stage.settle();
    // In this order: the close, the CIR, the event for the closed one.
    peers[0].write_all(b"close the other\n").unwrap();
    let newcomer = turns::patient(UnixStream::connect(&path).unwrap());
    peers[1].write_all(b"for the old\n").unwrap();
    stage.settle();
    assert_eq!(slot(stage.world.keys[1]), slot(stage.world.keys[2]), "the slot is used again");
    assert_eq!(stage.world.heard_by(1), [""; 0]);
    assert_eq!(stage.world.heard_by(2), [""; 0]);
    stage.echoes(&newcomer, "for the new");
    assert_eq!(stage.world.closed(), [(1, "Closed")]);
}

#[test]
fn a_newcomer_that_has_sent_already_is_heard_once() {
    let mut stage = Stage::new();
    let first = Actor::new(0).on_request(|_, cx, world| {
        cx.abort(world.keys[1]);
        cx.adopt(world.spare.pop_front().unwrap(), Framing::lines(), Actor::echo(2)).map(drop)
    });
    let mut peers = [stage.enter(first), stage.enter(Actor::echo(1))];
    let (mut newcomer, ours) = UnixStream::pair().unwrap();
    newcomer.write_all(b"early\n").unwrap();
    stage.world.spare.push_back(ours.into());
    for peer in &mut peers {
        peer.write_all(b"for the old\n").unwrap();
    }
    stage.settle();
    assert_eq!(stage.world.heard_by(2), ["early"]);
    assert_eq!(stage.received(&newcomer), "early\n");
}

#[test]
fn the_rest_of_the_batch_runs_when_one_fails() {
    let mut stage = Stage::new();
    let mut peers: Vec<_> = (0..10)
        .map(|id| {
            stage.enter(Actor::new(id).on_request(move |_, cx, _| match id % 3 {
                0 => Err(std::io::Error::other("its own fault")),
                1 => panic!("its own fault"),
                _ => cx.reply(b"served\n"),
            }))
        })
        .collect();
    for peer in &mut peers {
        peer.write_all(b"x\n").unwrap();
    }
    let _ = stage.reactor.turn(None, &mut stage.world).unwrap();
    assert_eq!(stage.world.heard.len(), 10);
    for (id, peer) in peers.iter().enumerate() {
        let served = id % 3 == 2;
        assert_eq!(stage.received(peer), if served { "served\n" } else { "" });
        assert_eq!(stage.has_ended(peer), !served, "{id}");
    }
    assert_eq!((stage.reactor.stats().panics, stage.reactor.stats().handler_errors), (3, 4));
    let mut closed = stage.world.ids_closed();
    closed.sort_unstable();
    assert_eq!(closed, [0, 1, 3, 4, 6, 7, 9]);
}
