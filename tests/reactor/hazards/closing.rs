//! Handlers that close their own connection or others', and which `on_close` calls follow.

use std::{
    io::{ErrorKind, Read, Write},
    time::Duration,
};

use ipc_reactor::Turn;

use crate::hazards::{Actor, Stage};

#[test]
fn a_handler_closes_itself_twice() {
    let mut stage = Stage::new();
    let mut peer = stage.enter(Actor::new(0).on_request(|_, cx, _| {
        let key = cx.key();
        cx.reply(b"before\n")?;
        cx.finish();
        assert!(cx.close(key), "it runs still");
        cx.finish();
        cx.reply(b"after\n")
    }));
    peer.write_all(b"one\ntwo\n").unwrap();
    stage.settle();
    assert_eq!(stage.world.heard_by(0), ["one"]);
    assert_eq!(stage.received(&peer), "before\nafter\n");
    assert!(stage.has_ended(&peer));
    assert_eq!(stage.world.closed(), [(0, "Closed")]);
    assert_eq!((stage.reactor.stats().clients, stage.reactor.stats().closed), (0, 1));
    assert!(!stage.reactor.close(stage.world.keys[0]) && !stage.reactor.abort(stage.world.keys[0]));
}

#[test]
fn an_abort_is_not_taken_back_by_a_close() {
    for close_first in [true, false] {
        let mut stage = Stage::new();
        let mut peer = stage.enter(Actor::new(0).on_request(move |_, cx, _| {
            let key = cx.key();
            cx.reply(b"lost\n")?;
            if close_first {
                cx.close(key);
            }
            cx.abort(key);
            cx.close(key);
            Ok(())
        }));
        peer.write_all(b"x\n").unwrap();
        stage.settle();
        assert_eq!(stage.received(&peer), "");
        assert_eq!(stage.world.closed(), [(0, "Closed")]);
    }
}

/// More than a socket takes at once.
const LARGE: usize = 2 << 20;

#[test]
fn one_that_finishes_is_closed_when_its_replies_are_sent() {
    let mut stage = Stage::new();
    let mut peer = stage.enter(Actor::new(0).on_request(|_, cx, _| {
        cx.reply(&vec![b'.'; LARGE])?;
        cx.finish();
        Ok(())
    }));
    let other = stage.enter(Actor::echo(1));
    peer.write_all(b"x\nnot this\n").unwrap();
    stage.settle();
    let key = stage.world.keys[0];
    assert_eq!(stage.world.closed(), []);
    assert!(stage.reactor.client(key).is_none(), "it is on its way out");
    assert!(!stage.reactor.close(key), "it is being closed already");
    assert_eq!(stage.reactor.clients().collect::<Vec<_>>(), [stage.world.keys[1]]);
    stage.echoes(&other, "meanwhile");
    let mut received = 0;
    while stage.world.closed.is_empty() {
        received += stage.received(&peer).len();
        stage.settle();
    }
    received += stage.received(&peer).len();
    assert_eq!(received, LARGE);
    assert!(stage.has_ended(&peer));
    assert_eq!(stage.world.closed(), [(0, "Closed")]);
    assert_eq!(stage.world.heard_by(0), ["x"]);
}

#[test]
fn one_that_aborts_while_replies_wait_loses_them() {
    for from_another in [false, true] {
        let mut stage = Stage::new();
        let mut peer = stage.enter(Actor::new(0).on_request(|request, cx, _| {
            if request == "abort" {
                let key = cx.key();
                cx.abort(key);
                return Ok(());
            }
            cx.reply(&vec![b'.'; LARGE])?;
            if request == "finish" {
                cx.finish();
            }
            Ok(())
        }));
        if from_another {
            // Also one that is being closed already.
            peer.write_all(b"finish\n").unwrap();
            stage.settle();
            assert!(stage.reactor.abort(stage.world.keys[0]));
        } else {
            peer.write_all(b"stay\nabort\n").unwrap();
        }
        stage.settle();
        let received = stage.received(&peer).len();
        assert!(received < LARGE, "{received}");
        if from_another {
            assert!(stage.has_ended(&peer));
            assert_eq!(stage.world.closed(), [(0, "Closed")]);
        } else {
            // The abort waits behind replies that the peer is to take first.
            while stage.world.closed.is_empty() {
                stage.settle();
                assert!(!stage.received(&peer).is_empty(), "no end");
            }
        }
        assert_eq!(stage.reactor.stats().clients, 0);
    }
}

#[test]
fn a_client_reaches_itself_and_others_by_key() {
    let mut stage = Stage::new();
    let mut peer = stage.enter(Actor::new(0).on_request(|_, cx, world| {
        let key = cx.key();
        assert_eq!(world.keys[0], key);
        cx.reply(b"1\n")?;
        cx.client(key).expect("itself").send(b"2\n")?;
        cx.reply(b"3\n")?;
        assert_eq!(cx.client(key).unwrap().unsent(), 6);
        assert_eq!(cx.client(key).unwrap().key(), key);
        cx.client(world.keys[1]).expect("the other").send(b"from 0\n")?;
        assert_eq!(cx.client(world.keys[1]).unwrap().unsent(), 7);
        assert!(cx.client(world.keys[2]).is_none(), "the one that was closed");
        assert!(!cx.close(world.keys[2]) && !cx.abort(world.keys[2]));
        assert_eq!(cx.clients().count(), 2);
        Ok(())
    }));
    let other = stage.enter(Actor::new(1));
    let gone = stage.enter(Actor::new(2));
    drop(gone);
    stage.settle();
    peer.write_all(b"x\n").unwrap();
    stage.settle();
    assert_eq!(stage.received(&peer), "1\n2\n3\n");
    assert_eq!(stage.received(&other), "from 0\n");
    assert_eq!(stage.world.closed(), [(2, "Peer")]);
    assert_eq!(stage.reactor.stats().panics, 0);
}

#[test]
fn a_broadcast_reaches_all_and_the_sender_in_order() {
    let mut stage = Stage::new();
    let mut peer = stage.enter(Actor::new(0).on_request(|_, cx, world| {
        cx.reply(b"before\n")?;
        cx.close(world.keys[1]);
        let reached = cx.broadcast(b"to all\n");
        world.notes.push(reached.to_string());
        cx.reply(b"after\n")
    }));
    let others: Vec<_> = (1..5).map(|id| stage.enter(Actor::new(id))).collect();
    peer.write_all(b"x\n").unwrap();
    stage.settle();
    assert_eq!(stage.received(&peer), "before\nto all\nafter\n");
    assert_eq!(stage.received(&others[0]), "");
    assert!(others[1..].iter().all(|other| stage.received(other) == "to all\n"));
    assert_eq!(stage.world.notes, ["4"]);
}

#[test]
fn each_client_may_close_them_all() {
    let mut stage = Stage::new();
    let mut peer = stage.enter(Actor::new(0).on_request(|_, cx, _| {
        cx.each_client(|client| client.abort());
        assert_eq!(cx.clients().count(), 1, "the one that runs is there until it returns");
        Ok(())
    }));
    let _others: Vec<_> = (1..50).map(|id| stage.enter(Actor::new(id))).collect();
    peer.write_all(b"x\n").unwrap();
    stage.settle();
    let mut closed = stage.world.ids_closed();
    closed.sort_unstable();
    assert!(closed.into_iter().eq(0..50));
    assert_eq!(stage.reactor.stats().clients, 0);
}

#[test]
fn an_on_close_may_close_others_and_send() {
    let mut stage = Stage::new();
    // Each closes the next one, up to the last but one, which sends instead.
    let mut peers: Vec<_> = (0..6)
        .map(|id| {
            stage.enter(Actor::new(id).on_close(move |_, cx, world| {
                let own = world.keys[id as usize];
                assert_eq!(cx.key(), own);
                assert!(cx.client(own).is_none() && !cx.close(own) && !cx.abort(own));
                assert_eq!(cx.reply(b"too late").unwrap_err().kind(), ErrorKind::NotConnected);
                let next = world.keys[id as usize + 1];
                match id {
                    4 => cx.client(next).unwrap().send(b"the last\n")?,
                    _ => assert!(cx.client(next).map(|client| client.close()).is_some()),
                }
                Ok(())
            }))
        })
        .collect();
    drop(peers.remove(0));
    let _ = stage.reactor.turn(Some(Duration::ZERO), &mut stage.world).unwrap();
    let closed = [(0, "Peer"), (1, "Closed"), (2, "Closed"), (3, "Closed"), (4, "Closed")];
    assert_eq!(stage.world.closed(), closed, "all in one turn");
    stage.settle();
    assert_eq!(stage.received(&peers[4]), "the last\n");
    assert_eq!(stage.reactor.stats().panics, 0);
}

#[test]
fn on_close_of_what_was_closed_between_turns_is_called_by_the_next_turn() {
    let mut stage = Stage::new();
    let mut peer = stage.enter(Actor::new(0));
    assert!(stage.reactor.abort(stage.world.keys[0]));
    // Nothing else is ready, or becomes so.
    assert_eq!(stage.reactor.turn(Some(Duration::ZERO), &mut stage.world).unwrap(), Turn::Idle);
    assert_eq!(stage.world.closed(), [(0, "Closed")]);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_stop_closes_everything_once_also_what_on_close_inserts() {
    let mut stage = Stage::new();
    let (inner, ours) = std::os::unix::net::UnixStream::pair().unwrap();
    stage.world.spare.push_back(ours.into());
    let mut peer = stage.enter(Actor::new(0).on_request(|_, cx, _| {
        cx.reply(b"sent\n")?;
        cx.stop();
        Ok(())
    }));
    let other = stage.enter(Actor::new(1).on_close(|_, cx, world| {
        cx.adopt(world.spare.pop_front().unwrap(), ipc_reactor::Framing::lines(), Actor::new(2)).map(drop)
    }));
    peer.write_all(b"x\ny\n").unwrap();
    stage.reactor.run(&mut stage.world).unwrap();
    let mut closed = stage.world.closed();
    closed.sort_unstable();
    assert_eq!(closed, [(0, "Stop"), (1, "Stop"), (2, "Stop")]);
    assert!([&peer, &other, &inner].into_iter().all(|peer| stage.has_ended(peer)));
    assert_eq!(stage.reactor.turn(None, &mut stage.world).unwrap(), Turn::Stopped);
}

#[test]
fn a_sessions_timer_may_close_it_and_means_nothing_to_its_successor() {
    let mut stage = Stage::new();
    let timed = |id| {
        Actor::new(id)
            .on_request(|_, cx, _| {
                for _ in 0..3 {
                    cx.wake_after(Duration::ZERO);
                }
                Ok(())
            })
            .on_timer(|_, cx, world| {
                world.notes.push("timer".into());
                cx.reply(b"bye\n")?;
                cx.finish();
                Ok(())
            })
    };
    let mut peer = stage.enter(timed(0));
    peer.write_all(b"x\n").unwrap();
    crate::support::turns::until(&mut stage.reactor, &mut stage.world, |world| !world.closed.is_empty());
    assert_eq!(stage.received(&peer), "bye\n");
    let successor = stage.enter(timed(1));
    assert_eq!(crate::hazards::slot(stage.world.keys[0]), crate::hazards::slot(stage.world.keys[1]));
    crate::support::turns::settle(&mut stage.reactor, &mut stage.world);
    assert_eq!(stage.world.notes, ["timer"]);
    assert_eq!(stage.reactor.timers(), 0);
    assert_eq!(stage.world.closed(), [(0, "Closed")]);
    assert_eq!(stage.received(&successor), "");
}
