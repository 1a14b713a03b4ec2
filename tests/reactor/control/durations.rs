//! The class C7: durations saturate. One beyond the range of the clock means for ever: nothing fires or closes at
//! once, and no turn spins.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    time::Duration,
};

use ipc_reactor::{
    Address, Cause, Clock, Context, Delivery, Drain, Framing, Limits, Listener, QueueHandler, Reactor,
    Session, SubscriberSession, SubscriptionHandler, TimerKey, Turn, WhenFull,
    shm::{Publisher, Update},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    control::{
        QueueName, SECOND, Transport,
        members::{connect, pair, send},
    },
    support::{PATIENCE, turns::settle},
};

/// In nanoseconds, none of them fits into 64 bits, but for the last, which does not when it is added to a clock's
/// time. A cast of the first would give a time that is due at once.
const LONG: [Duration; 5] = [
    Duration::from_secs(1 << 55),
    Duration::from_secs(1 << 63),
    Duration::from_secs(u64::MAX),
    Duration::MAX,
    Duration::from_nanos(u64::MAX - 1),
];

const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Every duration that a limit can be.
fn limits(long: Duration) -> Limits {
    // A new limit that is a duration must be added here.
    let Limits {
        clients,
        clients_per_uid,
        buffered_max,
        buffered_per_uid,
        when_full: _,
        accepts_per_visit,
        bytes_per_visit,
        messages_per_visit,
        frame_max,
        output_high_water,
        slow_consumer,
        output_max,
        idle: _,
        frame_timeout: _,
        connect: _,
        flush: _,
        drain: _,
        accept_retry: _,
        queue_check: _,
        outbox,
    } = Limits::default();
    Limits {
        clients,
        clients_per_uid,
        buffered_max,
        buffered_per_uid,
        when_full: WhenFull::Wait,
        accepts_per_visit,
        bytes_per_visit,
        messages_per_visit,
        frame_max,
        output_high_water,
        slow_consumer,
        output_max,
        idle: Some(long),
        frame_timeout: Some(long),
        connect: long,
        flush: long,
        drain: long,
        accept_retry: long,
        queue_check: Some(long),
        outbox,
    }
}

#[derive(Default)]
struct World {
    /// Calls that were made because time has passed.
    calls: Vec<String>,
    publisher: Option<Publisher>,
}

struct Patient(&'static str);

impl Session<World> for Patient {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, World>, _: &mut World) -> io::Result<()> {
        match request {
            b"finish" => {
                cx.reply(&vec![b'.'; 4 << 20])?;
                cx.finish();
            }
            b"timers" => {
                for long in LONG {
                    cx.wake_after(long);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn on_timer(&mut self, _: TimerKey, _: &mut Context<'_, World>, world: &mut World) -> io::Result<()> {
        world.calls.push(format!("{}: on_timer", self.0));
        Ok(())
    }

    fn on_drain(&mut self, _: &mut Context<'_, World>, _: &mut World) -> io::Result<Drain> {
        Ok(Drain::Wait)
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, World>, world: &mut World) {
        world.calls.push(format!("{}: {cause:?}", self.0));
    }
}

impl QueueHandler<World> for Patient {
    fn on_message(
        &mut self,
        _: ipc_reactor::Message<'_>,
        _: &mut Context<'_, World>,
        _: &mut World,
    ) -> io::Result<()> {
        Ok(())
    }

    fn on_unlinked(&mut self, _: &mut Context<'_, World>, world: &mut World) -> io::Result<()> {
        world.calls.push(format!("{}: on_unlinked", self.0));
        Ok(())
    }
}

impl SubscriptionHandler<World> for Patient {
    fn on_update(&mut self, _: Update<&[u8]>, _: &mut Context<'_, World>, _: &mut World) -> io::Result<()> {
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, World>, world: &mut World) {
        world.calls.push(format!("{}: {cause:?}", self.0));
    }
}

/// Time passes: nothing happens, and the reactor comes to rest.
#[track_caller]
fn nothing_happens(
    reactor: &mut Reactor<World>,
    world: &mut World,
    clock: &Clock,
    by: &[Duration],
    case: &str,
) {
    for &by in by {
        clock.advance(by);
        settle(reactor, world);
        settle(reactor, world);
        assert!(world.calls.is_empty(), "{case}, after {by:?}: {:?}", world.calls);
        let turn = reactor.turn(Some(Duration::ZERO), world).unwrap();
        assert_eq!(turn, Turn::Idle, "{case}, after {by:?}");
    }
}

/// C7: each limit that is a duration, on what it limits; given at the start, and later.
#[test]
fn limits_that_no_clock_reaches_close_nothing() {
    for long in LONG {
        for is_later in [false, true] {
            let case = format!("{long:?}, later: {is_later}");
            let clock = Clock::manual();
            let mut world = World { publisher: Some(Publisher::every(8, 7).unwrap()), ..World::default() };
            let first = if is_later { Limits { idle: None, ..Limits::default() } } else { limits(long) };
            let mut reactor = Reactor::<World>::builder().limits(first).clock(clock.clone()).build().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let mut peers = Vec::new();
            let mut client = |reactor: &mut Reactor<World>, name, bytes: &[u8]| {
                for transport in [Transport::Unix, Transport::Tcp] {
                    let (peer, ours) = pair(transport);
                    reactor.adopt(ours, Framing::lines(), Patient(name)).unwrap();
                    send(&peer, &[bytes]);
                    peers.push(peer);
                }
            };
            client(&mut reactor, "idle", b"a\n");
            if is_later {
                settle(&mut reactor, &mut world);
                reactor.set_limits(limits(long));
            }
            client(&mut reactor, "half a frame", b"half");
            client(&mut reactor, "flush", b"finish\n");
            let name = QueueName::new();
            reactor.queue_handler(name.open(), Patient("queue")).unwrap();
            ipc_reactor::Queue::unlink(&name.0).unwrap();
            // One whose publisher is another client of this reactor: each sends keepalives to the other.
            let address = Address::UnixStream(folder.path().join("publisher"));
            let handout = |_: &ipc_reactor::Peer<'_>, _: &mut World| {
                Ok(SubscriberSession::new(|world: &mut World| world.publisher.as_mut().unwrap()))
            };
            reactor.listen(Listener::bind(&address).unwrap(), SubscriberSession::framing(), handout).unwrap();
            reactor.connect_subscriber(&address, Delivery::Every, Patient("subscription")).unwrap();
            // A backlog that stays full.
            let path = folder.path().join("full");
            let full =
                rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None)
                    .unwrap();
            rustix::net::bind(&full, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
            rustix::net::listen(&full, 0).unwrap();
            let _first = UnixStream::connect(&path).unwrap();
            reactor.connect(&Address::UnixStream(path), Framing::lines(), Patient("connecting")).unwrap();
            settle(&mut reactor, &mut world);
            nothing_happens(&mut reactor, &mut world, &clock, &[SECOND, CENTURY, CENTURY], &case);
            reactor.drain(long).unwrap();
            settle(&mut reactor, &mut world);
            assert_eq!(world.calls, ["subscription: Drain"], "{case}: it had nothing left to do");
            world.calls.clear();
            nothing_happens(
                &mut reactor,
                &mut world,
                &clock,
                &[SECOND, CENTURY, CENTURY, Duration::MAX],
                &case,
            );
        }
    }
}

/// C7: connections that wait for a free client slot are accepted when a client has left, and not before.
#[test]
fn a_listener_that_never_tries_again_accepts_when_there_is_a_place() {
    for long in LONG {
        let clock = Clock::manual();
        let mut reactor = Reactor::<World>::builder()
            .limits(Limits { clients: 1, ..limits(long) })
            .clock(clock.clone())
            .build()
            .unwrap();
        let mut world = World::default();
        let (_peer, ours) = pair(Transport::Unix);
        let key = reactor.adopt(ours, Framing::lines(), Patient("first")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let address = Address::UnixStream(folder.path().join("listener"));
        let listener = Listener::bind(&address).unwrap();
        reactor.listen(listener, Framing::lines(), |_, _| Ok(Patient("second"))).unwrap();
        let _waits = connect(&address);
        let case = format!("{long:?}");
        nothing_happens(&mut reactor, &mut world, &clock, &[SECOND, CENTURY, CENTURY, Duration::MAX], &case);
        assert_eq!(reactor.stats().accepted, 0, "{case}");
        assert!(reactor.abort(key));
        settle(&mut reactor, &mut world);
        assert_eq!(reactor.stats().accepted, 1, "{case}");
        assert_eq!(world.calls, ["first: Closed"], "{case}");
    }
}

/// C7: a drain without an end is bounded by the limit, as any other is.
#[test]
fn a_drain_for_ever_is_bounded_by_the_limit() {
    for long in LONG {
        let clock = Clock::manual();
        let mut reactor = Reactor::<World>::builder().clock(clock.clone()).build().unwrap();
        let (_peer, ours) = pair(Transport::Unix);
        reactor.adopt(ours, Framing::lines(), Patient("client")).unwrap();
        let mut world = World::default();
        settle(&mut reactor, &mut world);
        reactor.drain(long).unwrap();
        let limit = reactor.limits().drain;
        nothing_happens(&mut reactor, &mut world, &clock, &[Duration::ZERO, limit - SECOND], "a drain");
        clock.advance(SECOND);
        assert_eq!(reactor.turn(Some(PATIENCE), &mut world).unwrap(), Turn::Stopped);
        assert_eq!(world.calls, ["client: DrainDeadline"]);
    }
}

/// C7: timers of each kind, until the clock is at its end, and set there.
#[test]
fn timers_that_no_clock_reaches_never_fire() {
    for end in LONG {
        let clock = Clock::manual();
        let mut reactor =
            Reactor::<World>::builder().limits(limits(end)).clock(clock.clone()).build().unwrap();
        let mut world = World::default();
        let (peer, ours) = pair(Transport::Unix);
        reactor.adopt(ours, Framing::lines(), Patient("client")).unwrap();
        let set = |reactor: &mut Reactor<World>, world: &mut World| {
            for long in LONG {
                reactor.after(long, |_, world| {
                    world.calls.push("after".into());
                    Ok(())
                });
                reactor.every(long, |_, world| {
                    world.calls.push("every".into());
                    Ok(())
                });
            }
            send(&peer, &[b"timers\n"]);
            settle(reactor, world);
        };
        set(&mut reactor, &mut world);
        nothing_happens(&mut reactor, &mut world, &clock, &[SECOND, CENTURY, CENTURY, end, end], "timers");
        set(&mut reactor, &mut world);
        nothing_happens(&mut reactor, &mut world, &clock, &[SECOND, end], "set at the end of time");
        let now = reactor.now();
        clock.advance(end);
        assert!(reactor.now() >= now);
    }
}

/// C7: a repeating timer fires once for all missed periods when a clock is moved to its end, and then never again.
#[test]
fn a_clock_at_its_end_makes_no_timer_fire_for_ever() {
    for end in LONG {
        let clock = Clock::manual();
        let mut reactor = Reactor::<World>::builder().clock(clock.clone()).build().unwrap();
        let mut world = World::default();
        let period = Duration::from_nanos(1);
        reactor.every(period, |_, world: &mut World| {
            world.calls.push("every".into());
            Ok(())
        });
        clock.advance(end);
        settle(&mut reactor, &mut world);
        assert_eq!(world.calls, ["every"], "{end:?}");
        world.calls.clear();
        // Two steps short of its end, a clock is not at its end.
        clock.advance(Duration::MAX);
        settle(&mut reactor, &mut world);
        world.calls.clear();
        nothing_happens(&mut reactor, &mut world, &clock, &[SECOND, Duration::MAX], "every");
    }
}

/// C7: the longest wait ends by an event alone: with the kernel's clock, with timers that are far away, with and without
/// spinning, on its own and inside another loop.
#[test]
fn a_turn_for_ever_ends_by_an_event_alone() {
    for long in LONG.into_iter().map(Some).chain([None]) {
        for spin in [Duration::ZERO, Duration::from_micros(1), Duration::from_secs(1 << 55), Duration::MAX] {
            for is_nested in [false, true] {
                let case = format!("{long:?}, spin {spin:?}, nested: {is_nested}");
                let mut reactor = Reactor::<World>::builder()
                    .spin(spin)
                    .limits(limits(long.unwrap_or(Duration::MAX)))
                    .build()
                    .unwrap();
                let mut world = World::default();
                let (peer, ours) = pair(Transport::Unix);
                reactor.adopt(ours, Framing::lines(), Patient("client")).unwrap();
                send(&peer, &[b"timers\nhalf"]);
                for timer in LONG {
                    reactor.after(timer, |_, world| {
                        world.calls.push("after".into());
                        Ok(())
                    });
                }
                settle(&mut reactor, &mut world);
                for _ in 0..6 {
                    let before = reactor.stats().turns;
                    reactor.after(Duration::from_millis(2), |_, world| {
                        world.calls.push("soon".into());
                        Ok(())
                    });
                    while world.calls.is_empty() {
                        let _ = reactor.turn(long, &mut world).unwrap();
                    }
                    assert_eq!(world.calls, ["soon"], "{case}");
                    world.calls.clear();
                    let turns = reactor.stats().turns - before;
                    assert!(turns <= 2, "{case}: {turns} turns for one event");
                    // A wait that has an end has it also where the spinning has none.
                    assert_eq!(reactor.turn(Some(Duration::ZERO), &mut world).unwrap(), Turn::Idle, "{case}");
                    if is_nested {
                        let mut fds = [PollFd::from_borrowed_fd(reactor.as_fd(), PollFlags::IN)];
                        assert_eq!(poll(&mut fds, Some(&Timespec::default())).unwrap(), 0, "{case}");
                    }
                }
                let start = std::time::Instant::now();
                let wait = Duration::from_millis(2);
                assert_eq!(reactor.turn(Some(wait), &mut world).unwrap(), Turn::Idle, "{case}");
                assert!(start.elapsed() >= wait, "{case}");
                assert!(world.calls.is_empty(), "{case}: {:?}", world.calls);
            }
        }
    }
}
