//! The class C1: after a stop no handler runs but `on_close`, which is called once for each source, with `Cause::Stop`.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
};

use ipc_reactor::{
    Cause, Clock, Context, Drain, Framing, HalfClose, Limits, Reactor, Session, TimerKey, Turn,
};

use crate::{
    control::{
        Act, BUDGETS, Bytes, SECOND, Scene, Transport,
        members::{pair, send, shut_down},
    },
    support::{
        PATIENCE,
        turns::{available, patient, run, settle},
    },
};

/// Each source is told of its end once, with the stop as the cause, except for these.
#[track_caller]
fn all_are_told(scene: &Scene, but: &[(&str, &str)], case: &str) {
    let mut expected: Vec<(&str, &str)> = scene
        .members
        .iter()
        .filter(|member| member.is_told && !but.iter().any(|(name, _)| *name == member.name))
        // Those that come with the round may not have come.
        .filter(|member| !member.name.starts_with("newcomer"))
        .map(|member| (member.name.as_str(), "Stop"))
        .chain(but.iter().copied())
        .collect();
    expected.sort_unstable();
    let closed: Vec<_> =
        scene.closed().into_iter().filter(|(name, _)| !name.starts_with("newcomer")).collect();
    assert_eq!(closed, expected, "{case}");
    let newcomers: Vec<_> =
        scene.closed().into_iter().filter(|(name, _)| name.starts_with("newcomer")).collect();
    assert!(newcomers.iter().all(|(_, how)| *how == "Stop"), "{case}: {newcomers:?}");
    assert!(newcomers.windows(2).all(|pair| pair[0] != pair[1]), "{case}: {newcomers:?}");
}

/// C1: each kind of handler stops the loop at its first and at its second call, while all others are ready.
#[test]
fn after_a_stop_by_any_handler_only_on_close_runs() {
    for actor in Scene::names(|_| true) {
        for (budget, at) in [(1_024, 1), (1_024, 2), (1, 2), (2, 1)] {
            let mut scene = Scene::new(budget);
            let member = scene.members.iter().find(|member| member.name == actor).unwrap();
            let at = at.min(member.calls);
            let case = format!("{actor}, call {at}, {budget} messages a visit");
            scene.begin(&actor, Act::Stop, at);
            scene.make_ready();
            run(&mut scene.reactor, &mut scene.world);
            assert!(scene.world.has_acted, "{case}");
            assert!(scene.world.after.is_empty(), "{case}: {:?}", scene.world.after);
            all_are_told(&scene, &[], &case);
            assert_eq!(scene.reactor.turn(Some(PATIENCE), &mut scene.world).unwrap(), Turn::Stopped);
            assert!(scene.world.after.is_empty(), "{case}: {:?}", scene.world.after);
        }
    }
}

/// C1: `on_close` stops the loop, of a source that was closed between turns, and of one that a job closes in the round.
#[test]
fn after_a_stop_by_an_on_close_no_other_handler_runs() {
    for name in Scene::names(|member| member.is_told) {
        for between_turns in [true, false] {
            let case = format!("{name}, closed between turns: {between_turns}");
            let mut scene = Scene::new(BUDGETS[0]);
            let Some(&key) = scene.world.keys.get(&name).filter(|_| !name.starts_with("newcomer")) else {
                continue;
            };
            scene.begin(&format!("on_close of {name}"), Act::Stop, 1);
            if !between_turns {
                scene.reactor.remote().run(move |cx, _| assert!(cx.abort(key))).unwrap();
            }
            scene.make_ready();
            if between_turns {
                assert!(scene.reactor.abort(key), "{case}");
            }
            run(&mut scene.reactor, &mut scene.world);
            assert!(scene.world.has_acted, "{case}");
            assert!(scene.world.after.is_empty(), "{case}: {:?}", scene.world.after);
            assert!(!between_turns || scene.world.before.is_empty(), "{case}: {:?}", scene.world.before);
            all_are_told(&scene, &[(&name, "Closed")], &case);
        }
    }
}

/// C1: a stop between turns, before and after the sources have become ready.
#[test]
fn after_a_stop_between_turns_no_handler_runs() {
    for is_ready_first in [true, false] {
        let mut scene = Scene::new(BUDGETS[0]);
        scene.begin("nobody", Act::Stop, 1);
        if is_ready_first {
            scene.make_ready();
        }
        scene.reactor.stop();
        if !is_ready_first {
            scene.make_ready();
        }
        assert_eq!(scene.reactor.turn(None, &mut scene.world).unwrap(), Turn::Stopped);
        assert!(scene.world.before.is_empty(), "{:?}", scene.world.before);
        all_are_told(&scene, &[], "between turns");
        assert_eq!(scene.reactor.turn(None, &mut scene.world).unwrap(), Turn::Stopped);
    }
}

/// C1: a timer that is due with an `on_unlinked` that stops does not fire, and does not count as one that has.
#[test]
fn timers_that_a_stop_keeps_from_firing_are_not_counted() {
    for actor in ["on_unlinked", "after", "every", "on_timer"] {
        let mut scene = Scene::new(BUDGETS[0]);
        scene.begin(actor, Act::Stop, 1);
        scene.make_ready();
        run(&mut scene.reactor, &mut scene.world);
        let timers = ["after", "every", "on_timer", "requests, then on_timer"];
        let fired = scene.world.before.iter().filter(|who| timers.contains(&who.as_str())).count();
        // Two of the calls of a client that has timers as well are requests.
        let requests =
            scene.world.before.iter().filter(|who| *who == "requests, then on_timer").count().min(2);
        assert_eq!(
            scene.reactor.stats().timers,
            (fired - requests) as u64,
            "{actor}: {:?}",
            scene.world.before
        );
    }
}

/// Stops in the method of this name, and wherever it is called replies before and after that.
struct Stopper(&'static str);

impl Stopper {
    fn in_method(
        &mut self,
        name: &str,
        cx: &mut Context<'_, Vec<String>>,
        calls: &mut Vec<String>,
    ) -> io::Result<()> {
        calls.push(name.to_owned());
        if self.0 == name {
            cx.reply(b"before ")?;
            cx.stop();
            let key = cx.key();
            cx.client(key).expect("it runs").send(b"after")?;
        }
        Ok(())
    }
}

impl Session<Vec<String>> for Stopper {
    fn on_open(&mut self, cx: &mut Context<'_, Vec<String>>, calls: &mut Vec<String>) -> io::Result<()> {
        cx.wake_after(SECOND);
        self.in_method("on_open", cx, calls)
    }

    fn on_request(
        &mut self,
        _: &[u8],
        cx: &mut Context<'_, Vec<String>>,
        calls: &mut Vec<String>,
    ) -> io::Result<()> {
        self.in_method("on_request", cx, calls)
    }

    fn on_half_close(
        &mut self,
        cx: &mut Context<'_, Vec<String>>,
        calls: &mut Vec<String>,
    ) -> io::Result<HalfClose> {
        self.in_method("on_half_close", cx, calls).map(|()| HalfClose::Close)
    }

    fn on_timer(
        &mut self,
        _: TimerKey,
        cx: &mut Context<'_, Vec<String>>,
        calls: &mut Vec<String>,
    ) -> io::Result<()> {
        self.in_method("on_timer", cx, calls)
    }

    fn on_drain(&mut self, cx: &mut Context<'_, Vec<String>>, calls: &mut Vec<String>) -> io::Result<Drain> {
        self.in_method("on_drain", cx, calls).map(|()| Drain::Close)
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Vec<String>>, calls: &mut Vec<String>) {
        calls.push(format!("{cause:?}"));
    }
}

/// C1: what a session replies in the call that stops the loop is sent, in each of its methods, framing and transport;
/// then `on_close` is called for the stop, and nothing else, whatever other events there are.
#[test]
fn replies_of_the_call_that_stops_are_sent() {
    for method in ["on_open", "on_request", "on_half_close", "on_timer", "on_drain"] {
        for transport in [Transport::Unix, Transport::Tcp, Transport::Seqpacket] {
            // A seqpacket socket keeps its own boundaries.
            let framings = [Framing::raw(), Framing::fixed(1), Framing::lines(), Framing::custom(Bytes)];
            let count = if transport == Transport::Seqpacket { 1 } else { framings.len() };
            for framing in &framings[..count] {
                for messages_per_visit in BUDGETS {
                    let case = format!("{method}, {transport:?}, {framing:?}, {messages_per_visit}");
                    let clock = Clock::manual();
                    let limits = Limits { messages_per_visit, ..Limits::default() };
                    let mut reactor = Reactor::<Vec<String>>::builder()
                        .limits(limits)
                        .clock(clock.clone())
                        .build()
                        .unwrap();
                    let (peer, ours) = pair(transport);
                    reactor.adopt(ours, framing.clone(), Stopper(method)).unwrap();
                    let mut calls = Vec::<String>::new();
                    if method != "on_open" {
                        settle(&mut reactor, &mut calls);
                    }
                    if matches!(method, "on_open" | "on_request") {
                        send(&peer, &[b"a\nb\n", b"c\nd\n"]);
                    }
                    if matches!(method, "on_open" | "on_request" | "on_half_close") {
                        shut_down(&peer);
                    }
                    if method == "on_drain" {
                        reactor.drain(SECOND).unwrap();
                    }
                    // Else the timer would come first.
                    if matches!(method, "on_open" | "on_timer") {
                        clock.advance(SECOND);
                    }
                    calls.clear();
                    run(&mut reactor, &mut calls);
                    assert_eq!(calls, [method, "Stop"], "{case}");
                    let mut received = Vec::new();
                    let mut piece = [0; 64];
                    loop {
                        match rustix::io::read(&peer, &mut piece) {
                            Ok(0) => break,
                            Ok(count) => received.extend_from_slice(&piece[..count]),
                            // Once, where requests were left unread; it overtakes records.
                            Err(error) => assert_eq!(error, rustix::io::Errno::CONNRESET, "{case}"),
                        }
                    }
                    assert_eq!(received, b"before after", "{case}");
                }
            }
        }
    }
}

/// C1: a large reply of the call that stops is sent as far as the socket takes it, and delays no other source.
#[test]
fn a_large_reply_of_the_call_that_stops_does_not_hold_up_the_end() {
    struct Large;
    impl Session<()> for Large {
        fn on_request(&mut self, _: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
            cx.reply(&vec![b'.'; 4 << 20])?;
            cx.stop();
            Ok(())
        }
    }
    let mut reactor = Reactor::<()>::new().unwrap();
    let (peer, ours) = UnixStream::pair().unwrap();
    reactor.adopt(ours, Framing::raw(), Large).unwrap();
    send(&peer, &[b"a"]);
    run(&mut reactor, &mut ());
    // The socket may be closed a little later, in another thread.
    let mut received = Vec::new();
    patient(peer).read_to_end(&mut received).unwrap();
    assert!(!received.is_empty() && received.len() < 4 << 20, "{}", received.len());
}

/// C1: the frames of several reads of one visit, where the first read stops the loop.
#[test]
fn the_next_read_of_a_visit_is_not_handled_after_a_stop() {
    let mut reactor = Reactor::<Vec<String>>::builder().read_buffer(64).build().unwrap();
    let (peer, ours) = UnixStream::pair().unwrap();
    reactor.adopt(ours, Framing::raw(), Stopper("on_request")).unwrap();
    let mut calls = Vec::new();
    settle(&mut reactor, &mut calls);
    send(&peer, &[[0; 200]]);
    run(&mut reactor, &mut calls);
    assert_eq!(calls, ["on_open", "on_request", "Stop"]);
    assert_eq!(available(&peer).0, b"before after");
}

/// C1: where `on_drain` is called for several clients, the first of them stops the loop.
#[test]
fn after_a_stop_in_on_drain_no_other_is_asked() {
    let mut reactor = Reactor::<Vec<String>>::new().unwrap();
    let mut calls = Vec::new();
    let mut peers = Vec::new();
    for transport in [Transport::Unix, Transport::Tcp, Transport::Seqpacket, Transport::Unix] {
        let (peer, ours) = pair(transport);
        reactor.adopt(ours, Framing::lines(), Stopper("on_drain")).unwrap();
        peers.push(peer);
    }
    settle(&mut reactor, &mut calls);
    calls.clear();
    reactor.drain(SECOND).unwrap();
    run(&mut reactor, &mut calls);
    assert_eq!(calls, ["on_drain", "Stop", "Stop", "Stop", "Stop"]);
}
