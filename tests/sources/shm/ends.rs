//! How subscriptions end, which side caused it, and that each end is reported once, on both sides.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use ipc_reactor::SubscriberSession;
use ipc_reactor::shm::{Access, Mapping, Memfd, PublisherOptions, Subscriber, Ticket, Update};
use ipc_reactor::{
    Address, Cause, Context, Delivery, Drain, Framing, Limit, Limits, Listener, Reactor, Session,
    SubscriptionHandler,
};

use crate::support::names::unique;
use crate::support::shm::refused;
use crate::support::skip;
use crate::support::sockets::as_user;
use crate::support::turns::{PATIENCE, run, settle, until};
use crate::support::world::{Ear, Heard, World, address, numbers, publishing_at, subscribed, value};

fn end(cause: &str) -> Heard {
    Heard::End(cause.into())
}

/// Asserts that neither side keeps the subscription.
#[track_caller]
fn is_over(reactor: &mut Reactor<World>, world: &mut World) {
    // The socket that takes descriptors is closed on a thread of its own.
    until(reactor, world, |world| world.publisher.subscribers() == 0);
    settle(reactor, world);
    world.publish([9]);
    // The subscriber's end of the connection is closed on another thread.
    until(reactor, world, |world| world.publisher.subscribers() == 0);
    settle(reactor, world);
    assert_eq!((world.publisher.subscribers(), reactor.clients().count()), (0, 0));
    assert_eq!(world.heard.iter().filter(|heard| matches!(heard, Heard::End(_))).count(), 1);
}

#[test]
fn closing_the_connection_ends_the_subscription() {
    let (mut reactor, mut world, connection) = subscribed(numbers(7), Delivery::Every, Limits::default());
    assert_eq!(world.publisher.subscribers(), 1);
    assert!(reactor.close(connection));
    is_over(&mut reactor, &mut world);
    assert_eq!(world.heard, [end("closed by a handler")]);
}

#[test]
fn closing_the_subscription_ends_the_connection() {
    let (mut reactor, mut world, connection) = subscribed(numbers(7), Delivery::Every, Limits::default());
    assert!(reactor.close(world.open[0]));
    is_over(&mut reactor, &mut world);
    assert_eq!(world.heard, [end("closed by a handler")]);
    assert!(!reactor.close(connection));
}

/// What a handler does with each value.
type Deed = fn(&mut Context<'_, World>) -> io::Result<()>;

struct Hand(Deed);

impl SubscriptionHandler<World> for Hand {
    fn on_update(
        &mut self,
        update: Update<&[u8]>,
        cx: &mut Context<'_, World>,
        world: &mut World,
    ) -> io::Result<()> {
        Ear.on_update(update, cx, world)?;
        (self.0)(cx)
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, World>, world: &mut World) {
        Ear.on_close(cause, cx, world);
    }
}

fn finish(cx: &mut Context<'_, World>) -> io::Result<()> {
    cx.finish();
    Ok(())
}

#[test]
fn a_handler_that_finishes_fails_or_panics_ends_its_own_subscription_alone() {
    let hands: [(Deed, &str); 3] = [
        (finish, "closed by a handler"),
        (|_| Err(io::Error::other("enough")), "the handler failed: enough"),
        (|_| panic!("ouch"), "the handler panicked: ouch"),
    ];
    for (hand, cause) in hands {
        let (_folder, address) = address();
        let mut reactor = publishing_at(&address, Limits::default());
        let mut world = World::new(numbers(7));
        reactor.connect_subscriber(&address, Delivery::Every, Hand(hand)).unwrap();
        let (_, other) = world.publisher.subscribe().unwrap();
        let other = reactor.subscribe(Subscriber::open(other).unwrap(), Delivery::Every, |_, _, _| Ok(()));
        until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 2);
        settle(&mut reactor, &mut world);
        world.publish([1, 2]);
        settle(&mut reactor, &mut world);
        assert_eq!(world.heard, [value(1), end(cause)]);
        // The publisher sees the hang-up when the connection is closed.
        until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 1);
        assert_eq!(reactor.clients().count(), 0);
        assert!(reactor.close(other.unwrap()), "the other one stands");
    }
}

#[test]
fn a_handler_can_refuse_what_it_has_subscribed_to() {
    struct Picky;

    impl SubscriptionHandler<World> for Picky {
        fn on_open(
            &mut self,
            subscriber: &Subscriber,
            _: &mut Context<'_, World>,
            _: &mut World,
        ) -> io::Result<()> {
            Err(io::Error::other(format!("tag {} is not mine", subscriber.tag())))
        }

        fn on_update(
            &mut self,
            _: Update<&[u8]>,
            _: &mut Context<'_, World>,
            _: &mut World,
        ) -> io::Result<()> {
            unreachable!("it was refused");
        }

        fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, World>, world: &mut World) {
            Ear.on_close(cause, cx, world);
        }
    }

    let (_folder, address) = address();
    let mut reactor = publishing_at(&address, Limits::default());
    let mut world = World::new(PublisherOptions::latest(8).tag(5).create().unwrap());
    world.publish([1]);
    reactor.connect_subscriber(&address, Delivery::Latest, Picky).unwrap();
    until(&mut reactor, &mut world, World::has_ended);
    is_over(&mut reactor, &mut world);
    assert_eq!(world.heard, [end("the handler failed: tag 5 is not mine")]);
}

#[test]
fn what_was_published_before_the_hang_up_is_told_before_the_end() {
    // With the smallest budget, so that the end has to wait for several visits.
    let limits = Limits { messages_per_visit: 1, ..Limits::default() };
    let (mut reactor, mut world, connection) = subscribed(numbers(7), Delivery::Every, limits);
    let handed_out = reactor.clients().find(|&key| key != connection).unwrap();
    world.publish(1..=20);
    reactor.client(handed_out).unwrap().abort();
    until(&mut reactor, &mut world, World::has_ended);
    let mut expected = vec![Heard::Lost(13)];
    expected.extend((14..=20).map(value));
    expected.push(end("closed by the peer"));
    assert_eq!(world.heard, expected);
    is_over(&mut reactor, &mut world);
}

#[test]
fn a_publisher_that_hung_up_and_goes_on_publishing_holds_up_no_end() {
    let limits = Limits { messages_per_visit: 1, ..Limits::default() };
    let (mut reactor, mut world, connection) = subscribed(numbers(7), Delivery::Every, limits);
    let handed_out = reactor.clients().find(|&key| key != connection).unwrap();
    reactor.client(handed_out).unwrap().abort();
    for number in 0.. {
        world.publish([number]);
        let _ = reactor.turn(Some(Duration::ZERO), &mut world).unwrap();
        if world.has_ended() {
            break;
        }
        assert!(number < 1000, "it does not end");
    }
}

#[test]
fn stopping_and_draining_end_each_once() {
    for drain in [false, true] {
        let (mut reactor, mut world, _) = subscribed(numbers(7), Delivery::Every, Limits::default());
        if drain {
            reactor.drain(Duration::from_secs(20)).unwrap();
        } else {
            reactor.stop();
        }
        run(&mut reactor, &mut world);
        assert_eq!(world.publisher.subscribers(), 0);
        assert_eq!(world.heard.len(), 1);
        assert!(world.has_ended());
    }
}

#[test]
fn no_publisher_is_an_end_as_well() {
    let (_folder, address) = address();
    let mut reactor = Reactor::<World>::new().unwrap();
    let mut world = World::new(numbers(7));
    reactor.connect_subscriber(&address, Delivery::Every, Ear).unwrap();
    until(&mut reactor, &mut world, World::has_ended);
    let heard = world.take();
    assert!(matches!(&heard[..], [Heard::End(cause)] if cause.starts_with("connecting failed")), "{heard:?}");

    let tcp = Address::Tcp("127.0.0.1:1".into());
    refused(
        reactor.connect_subscriber(&tcp, Delivery::Every, Ear),
        io::ErrorKind::InvalidInput,
        "use a Unix socket",
    );
}

/// A server that is no publisher: sends this, and nothing more.
struct Says(&'static [u8]);

impl Session<World> for Says {
    fn on_open(&mut self, cx: &mut Context<'_, World>, _: &mut World) -> io::Result<()> {
        cx.reply(self.0)
    }

    fn on_request(&mut self, _: &[u8], _: &mut Context<'_, World>, _: &mut World) -> io::Result<()> {
        Ok(())
    }

    fn on_drain(&mut self, _: &mut Context<'_, World>, _: &mut World) -> io::Result<Drain> {
        Ok(Drain::Wait)
    }
}

#[track_caller]
fn heard_from(says: &'static [u8]) -> String {
    let (_folder, address) = address();
    let limits = Limits { connect: Duration::from_millis(50), ..Limits::default() };
    let mut reactor = Reactor::<World>::builder().limits(limits).build().unwrap();
    reactor.listen(Listener::bind(&address).unwrap(), Framing::raw(), move |_, _| Ok(Says(says))).unwrap();
    let mut world = World::new(numbers(7));
    reactor.connect_subscriber(&address, Delivery::Every, Ear).unwrap();
    until(&mut reactor, &mut world, World::has_ended);
    match &world.heard[..] {
        [Heard::End(cause)] => cause.clone(),
        heard => panic!("{heard:?}"),
    }
}

#[test]
fn a_server_that_is_no_publisher_is_found_out() {
    assert!(heard_from(b"").contains("no ticket came within 50ms"));
    assert!(heard_from(b"220 smtp ready\r\n").contains("not a ticket: its magic number is missing"));
    let (bytes, _) = numbers(7).subscribe().unwrap().1.into_fds();
    let without_descriptors = heard_from(Box::leak(Box::new(bytes)));
    assert!(without_descriptors.contains("it names 3 descriptors, 0 came"), "{without_descriptors}");
}

#[test]
fn who_says_anything_else_is_closed_on_either_side() {
    let (_folder, address) = address();
    let mut reactor = publishing_at(&address, Limits::default());
    let mut world = World::new(numbers(7));
    let Address::UnixStream(path) = &address else { unreachable!() };
    let client = UnixStream::connect(path).unwrap();
    until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 1);
    io::Write::write_all(&mut &client, b"0123456789abcdef").unwrap();
    until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 0);
    assert_eq!(reactor.stats().handler_errors, 1);

    let (mut reactor, mut world, connection) = subscribed(numbers(7), Delivery::Every, Limits::default());
    let handed_out = reactor.clients().find(|&key| key != connection).unwrap();
    reactor.client(handed_out).unwrap().send(b"0123456789abcdef").unwrap();
    until(&mut reactor, &mut world, World::has_ended);
    let said = format!("{:?}", world.heard);
    assert!(
        said.contains("not a message of the publisher's protocol (UPDATED was expected): 0123456789abcdef"),
        "{said}"
    );
}

#[test]
fn a_factory_that_refuses_and_a_publisher_that_is_full() {
    let (_folder, address) = address();
    let mut reactor = Reactor::<World>::new().unwrap();
    let mut refusals = 1;
    reactor
        .listen(Listener::bind(&address).unwrap(), SubscriberSession::framing(), move |peer, _| {
            peer.credentials()?;
            if refusals > 0 {
                refusals -= 1;
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            Ok(SubscriberSession::new(|world: &mut World| &mut world.publisher))
        })
        .unwrap();
    let mut world = World::new(PublisherOptions::latest(8).subscribers_max(1).create().unwrap());
    for expected in [vec![end("closed by the peer")], vec![Heard::Open], vec![end("closed by the peer")]] {
        reactor.connect_subscriber(&address, Delivery::Every, Ear).unwrap();
        until(&mut reactor, &mut world, |world| !world.heard.is_empty());
        settle(&mut reactor, &mut world);
        assert_eq!(world.take(), expected);
    }
    assert_eq!(world.publisher.subscribers(), 1);
}

#[test]
fn a_ticket_does_not_go_over_tcp() {
    let mut reactor = Reactor::<World>::new().unwrap();
    let listener = Listener::tcp("127.0.0.1:0").unwrap();
    let Address::Tcp(address) = listener.local_address().unwrap() else { unreachable!() };
    reactor
        .listen(listener, SubscriberSession::framing(), |_, _| {
            Ok(SubscriberSession::new(|world: &mut World| &mut world.publisher))
        })
        .unwrap();
    let mut world = World::new(numbers(7));
    let _client = std::net::TcpStream::connect(address).unwrap();
    while reactor.stats().closed == 0 {
        let _ = reactor.turn(Some(Duration::from_secs(20)), &mut world).unwrap();
    }
    assert_eq!((world.publisher.subscribers(), reactor.stats().handler_errors), (0, 1));
}

#[test]
fn values_that_change_seldom_end_no_subscription() {
    for idle in (0..8).map(|attempt| Duration::from_millis(40 << attempt)) {
        // A keepalive comes after each half of the idle time. Only a loop that was blocked for the other half may
        // miss it.
        let (mut before, mut held_up) = (Instant::now(), false);
        let limits = Limits { idle: Some(idle), ..Limits::default() };
        let (mut reactor, mut world, _) = subscribed(numbers(7), Delivery::Every, limits);
        while reactor.stats().timers < 20 && !held_up {
            let _ = reactor.turn(Some(PATIENCE), &mut world).unwrap();
            held_up = before.elapsed() >= idle * 3 / 4;
            before = Instant::now();
            assert!(reactor.stats().limit_count(Limit::Idle) == 0 || held_up, "idle after {idle:?}");
        }
        if held_up {
            continue;
        }
        world.publish([1]);
        settle(&mut reactor, &mut world);
        assert_eq!(world.take(), [value(1)]);
        reactor.stop();
        run(&mut reactor, &mut world);
        assert_eq!(reactor.timers(), 0);
        return;
    }
    panic!("the machine never lets the loop run in time");
}

#[test]
fn a_ticket_can_be_handed_out_by_a_session_of_ones_own() {
    struct Own;

    impl Session<World> for Own {
        fn on_request(
            &mut self,
            wish: &[u8],
            cx: &mut Context<'_, World>,
            world: &mut World,
        ) -> io::Result<()> {
            assert_eq!(wish, b"rates");
            cx.reply_ticket(world.publisher.subscribe()?.1)
        }
    }

    let mut reactor = Reactor::<World>::new().unwrap();
    let mut world = World::new(numbers(7));
    let (client, ours) = UnixStream::pair().unwrap();
    reactor.adopt(ours, Framing::lines(), Own).unwrap();
    io::Write::write_all(&mut &client, b"rates\n").unwrap();
    settle(&mut reactor, &mut world);
    let mut bytes = [0; Ticket::BYTES];
    io::Read::read_exact(&mut &client, &mut bytes).unwrap();
    assert_eq!(&bytes[..4], b"shmT");
}

/// The class: an error of the publisher is reported as an error of the subscriber's handler.
#[test]
fn a_publisher_that_lies_is_not_its_handlers_fault() {
    let (bytes, _) = numbers(7).subscribe().unwrap().1.into_fds();
    let tickets: [&[u8]; 2] = [b"220 smtp ready\r\n", &bytes];
    for says in tickets {
        let (_folder, address) = address();
        let says: &'static [u8] = Box::leak(says.to_vec().into_boxed_slice());
        let mut reactor = Reactor::<World>::new().unwrap();
        reactor
            .listen(Listener::bind(&address).unwrap(), Framing::raw(), move |_, _| Ok(Says(says)))
            .unwrap();
        let mut world = World::new(numbers(7));
        reactor.connect_subscriber(&address, Delivery::Every, Ear).unwrap();
        until(&mut reactor, &mut world, World::has_ended);
        settle(&mut reactor, &mut world);
        let said = format!("{:?}", world.heard);
        assert!(said.contains("malformed frame: from the publisher: not a ticket"), "{said}");
        assert_eq!(reactor.stats().handler_errors, 0);
    }

    // Invalid bytes after the ticket.
    let (mut reactor, mut world, connection) = subscribed(numbers(7), Delivery::Every, Limits::default());
    let handed_out = reactor.clients().find(|&key| key != connection).unwrap();
    reactor.client(handed_out).unwrap().send(b"0123456789abcdef").unwrap();
    until(&mut reactor, &mut world, World::has_ended);
    let said = format!("{:?}", world.heard);
    assert!(said.contains("malformed frame: from the publisher: not a message of"), "{said}");
    assert_eq!(reactor.stats().handler_errors, 0);

    // A value that is longer than its segment allows, at the documented place.
    let (bytes, mut fds) = numbers(7).subscribe().unwrap().1.into_fds();
    let original = std::fs::File::from(fds.remove(0));
    let mut segment = vec![0; original.metadata().unwrap().len() as usize];
    std::os::unix::fs::FileExt::read_exact_at(&original, &mut segment, 0).unwrap();
    let forged = Memfd::create("forged", segment.len() as u64).unwrap();
    segment[16 * 8] = 1;
    segment[(32 + 2 * 8 - 1) * 8..][..8].fill(0xff);
    Mapping::of(&forged, 0, segment.len(), Access::ReadWrite).unwrap().write(0, &segment).unwrap();
    forged.seal_published().unwrap();
    fds.insert(0, forged.into());
    let subscriber = Subscriber::open(Ticket::from_fds(&bytes, fds).unwrap()).unwrap();
    let mut reactor = Reactor::<World>::new().unwrap();
    let mut world = World::new(numbers(7));
    reactor.subscribe_handler(subscriber, Delivery::Latest, Ear).unwrap();
    until(&mut reactor, &mut world, World::has_ended);
    let said = format!("{:?}", world.heard);
    assert!(said.contains("malformed frame: from the publisher: a value of"), "{said}");
    assert_eq!(reactor.stats().handler_errors, 0);
}

/// What the publisher sends does not count as a keepalive of its client.
#[test]
fn a_client_that_never_answers_is_closed() {
    let (_folder, address) = address();
    let limits = Limits { idle: Some(Duration::from_millis(10)), ..Limits::default() };
    let mut reactor = publishing_at(&address, limits);
    let mut world = World::new(numbers(7));
    let Address::UnixStream(path) = &address else { unreachable!() };
    let silent = UnixStream::connect(path).unwrap();
    until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 1);
    until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 0);
    assert_eq!(reactor.stats().limit_count(Limit::Idle), 1);
    drop(silent);
}

/// A subscriber without an idle limit answers the keepalives of a publisher that has one.
#[test]
fn a_client_that_answers_stays() {
    for idle in [40, 400, 4_000].map(Duration::from_millis) {
        let (_folder, address) = address();
        let limits = Limits { idle: Some(idle), ..Limits::default() };
        let mut publishing = publishing_at(&address, limits);
        let limits = Limits { idle: None, ..Limits::default() };
        let mut reactor = Reactor::<World>::builder().limits(limits).build().unwrap();
        let (mut world, mut listening) = (World::new(numbers(7)), World::new(numbers(7)));
        reactor.connect_subscriber(&address, Delivery::Every, Ear).unwrap();
        let mut longest = Duration::ZERO;
        while publishing.stats().timers < 8 && !listening.has_ended() {
            let start = Instant::now();
            let _ = publishing.turn(Some(Duration::from_millis(1)), &mut world).unwrap();
            let _ = reactor.turn(Some(Duration::ZERO), &mut listening).unwrap();
            longest = longest.max(start.elapsed());
        }
        if longest < idle / 4 {
            assert_eq!(publishing.stats().limit_count(Limit::Idle), 0);
            assert_eq!((world.publisher.subscribers(), &listening.heard[..]), (1, &[Heard::Open][..]));
            return;
        }
    }
}

/// Without a connection the doorbell reports the end, and what was published before comes first.
#[test]
fn a_subscription_without_a_connection_ends_with_its_publisher() {
    let mut world = World::new(numbers(7));
    let mut reactor = Reactor::<World>::new().unwrap();
    for is_dropped in [false, true] {
        let (id, ticket) = world.publisher.subscribe().unwrap();
        let subscriber = Subscriber::open(ticket).unwrap();
        reactor.subscribe_handler(subscriber, Delivery::Every, Ear).unwrap();
        settle(&mut reactor, &mut world);
        world.publish([1, 2]);
        if is_dropped {
            world.publisher = numbers(7);
        } else {
            assert!(world.publisher.unsubscribe(id));
        }
        until(&mut reactor, &mut world, World::has_ended);
        assert_eq!(world.take(), [Heard::Open, value(1), value(2), end("closed by the peer")]);
    }
}

/// The class: one user takes all subscriptions.
#[test]
fn no_other_user_takes_all_subscriptions() {
    let name = unique();
    let mut reactor = Reactor::<World>::new().unwrap();
    reactor
        .listen(Listener::unix_abstract(&name).unwrap(), SubscriberSession::framing(), |_, _| {
            Ok(SubscriberSession::new(|world: &mut World| &mut world.publisher))
        })
        .unwrap();
    let mut world = World::new(PublisherOptions::latest(8).subscribers_max(8).create().unwrap());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let connect = || UnixStream::connect_addr(&address).unwrap();
    let many = || (0..20).map(|_| connect()).collect::<Vec<_>>();
    let Some(others) = as_user(65534, many) else { return skip("another user's connections take root") };
    settle(&mut reactor, &mut world);
    assert_eq!((world.publisher.subscribers(), reactor.clients().count()), (7, 7));
    let own = [connect(), connect()];
    settle(&mut reactor, &mut world);
    assert_eq!(world.publisher.subscribers(), 8);
    drop((others, own));
    settle(&mut reactor, &mut world);
    let own: Vec<_> = many();
    settle(&mut reactor, &mut world);
    assert_eq!(world.publisher.subscribers(), 8, "this user's own may be all");
    drop(own);
}
