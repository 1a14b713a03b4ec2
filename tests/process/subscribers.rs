//! Publisher and subscribers in processes of their own, and what the others do when one of them dies.

use std::io::{self, BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{ChildStdout, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use ipc_reactor::SubscriberSession;
use ipc_reactor::shm::{Publisher, Update};
use ipc_reactor::{
    Address, Cause, Context, Delivery, Limits, Listener, Reactor, Signal, SubscriptionHandler, signals,
};

use crate::support::child::{KillOnDrop, again};
use crate::support::turns::{PATIENCE, settle, until};
use crate::support::world::{Ear, World, address, numbers, publishing_at};

use crate::support::isolated::{Case, cases};

pub(crate) const CASES: &[Case] = cases![
    a_publisher_killed_in_the_middle_of_a_value_is_an_end_to_each_subscriber,
    a_publisher_killed_at_any_moment_is_an_end_to_each_subscriber,
    a_stopped_subscriber_holds_up_nobody_and_is_told_how_many_it_lost,
    a_killed_subscriber_is_unsubscribed,
    nothing_is_left_of_many_subscriptions
];

pub(crate) const ROLES: &[Case] =
    cases![child_subscriber, child_publisher, child_that_counts_its_descriptors];

const ADDRESS: &str = "IPC_REACTOR_TEST_ADDRESS";
const WORDS: usize = 4096;

/// A child of this test that prints lines; cargo's own lines are skipped.
struct Talking {
    child: KillOnDrop,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Talking {
    fn start(role: &str, address: &Address) -> Talking {
        let mut command = again(&format!("subscribers::{role}"));
        command.env(ADDRESS, address.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = KillOnDrop(command.spawn().unwrap());
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        Talking { child, lines }
    }

    fn next(&mut self) -> String {
        loop {
            let line = self.lines.next().expect("the child has ended").unwrap();
            if let Some((_, said)) = line.split_once("@ ") {
                return said.to_owned();
            }
        }
    }

    #[track_caller]
    fn says(&mut self, expected: &str) {
        assert_eq!(self.next(), expected);
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

fn say(what: &str) {
    let mut out = io::stdout().lock();
    // The test runner has begun a line of its own.
    writeln!(out, "\n@ {what}").unwrap();
    out.flush().unwrap();
}

fn given_address() -> Address {
    env::var(ADDRESS).expect("this is a child of another test").parse().unwrap()
}

/// As long as `WORDS` allows, of one number over and over: a torn one shows.
fn large(number: u64) -> Vec<u8> {
    number.to_ne_bytes().repeat(WORDS - number as usize % 3)
}

/// Sums up what it receives, and checks that each value is whole.
#[derive(Default)]
struct Tally {
    newest: u64,
    values: u64,
    lost: u64,
}

impl SubscriptionHandler<()> for Tally {
    fn on_open(
        &mut self,
        _: &ipc_reactor::shm::Subscriber,
        _: &mut Context<'_, ()>,
        (): &mut (),
    ) -> io::Result<()> {
        say("open");
        Ok(())
    }

    fn on_update(&mut self, update: Update<&[u8]>, _: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        match update {
            Update::Value(value) => {
                let number = u64::from_ne_bytes(value[..8].try_into().unwrap());
                assert!(value.len() == 8 || value == large(number), "value {number} is torn");
                assert!(number > self.newest);
                self.newest = number;
                self.values += 1;
                if self.values == 1 {
                    say("first");
                }
            }
            Update::Lost(count) => self.lost += count,
        }
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, ()>, (): &mut ()) {
        say(&format!("{} values, {} lost, newest {}: {cause}", self.values, self.lost, self.newest));
        cx.stop();
    }
}

fn child_subscriber() {
    let mut reactor = Reactor::<()>::new().unwrap();
    reactor.connect_subscriber(&given_address(), Delivery::Every, Tally::default()).unwrap();
    reactor.run(&mut ()).unwrap();
}

fn child_publisher() {
    struct Service {
        publisher: Publisher,
        number: u64,
    }
    let mut reactor = Reactor::<Service>::new().unwrap();
    reactor
        .listen(Listener::bind(&given_address()).unwrap(), SubscriberSession::framing(), |_, _| {
            Ok(SubscriberSession::new(|service: &mut Service| &mut service.publisher))
        })
        .unwrap();
    let remote = reactor.remote();
    thread::spawn(move || {
        for line in io::stdin().lines() {
            let line = line.unwrap();
            let told = remote.run(move |cx, service| match line.as_str() {
                "for ever" => {
                    cx.every(Duration::from_micros(50), |_, service: &mut Service| {
                        service.number += 1;
                        service.publisher.publish(&large(service.number))
                    });
                }
                // Never finished: the process is killed in the middle.
                "half" => {
                    let mut loan = service.publisher.loan();
                    loan.write_all(&large(service.number + 1)[..WORDS * 4]).unwrap();
                    say("half");
                    thread::sleep(PATIENCE);
                }
                count => {
                    for _ in 0..count.parse().unwrap() {
                        service.number += 1;
                        service.publisher.publish(&large(service.number)).unwrap();
                    }
                }
            });
            told.unwrap();
        }
        // The test is over, however it went.
        let _ = remote.stop();
    });
    say("ready");
    let publisher = Publisher::every(WORDS * 8, 127).unwrap();
    reactor.run(&mut Service { publisher, number: 0 }).unwrap();
}

fn publisher_with_three() -> (tempfile::TempDir, Talking, [Talking; 3]) {
    let (folder, address) = address();
    let mut publisher = Talking::start("child_publisher", &address);
    publisher.says("ready");
    let mut subscribers = [(); 3].map(|()| Talking::start("child_subscriber", &address));
    for subscriber in &mut subscribers {
        subscriber.says("open");
    }
    (folder, publisher, subscribers)
}

fn a_publisher_killed_in_the_middle_of_a_value_is_an_end_to_each_subscriber() {
    let (_folder, mut publisher, subscribers) = publisher_with_three();
    publisher.tell("100");
    publisher.tell("half");
    publisher.says("half");
    publisher.child.0.kill().unwrap();
    for mut subscriber in subscribers {
        subscriber.says("first");
        subscriber.says("100 values, 0 lost, newest 100: closed by the peer");
        assert!(subscriber.child.0.wait().unwrap().success());
    }
}

fn a_publisher_killed_at_any_moment_is_an_end_to_each_subscriber() {
    for _ in 0..5 {
        let (_folder, mut publisher, mut subscribers) = publisher_with_three();
        publisher.tell("for ever");
        for subscriber in &mut subscribers {
            subscriber.says("first");
        }
        publisher.child.0.kill().unwrap();
        let mut newest = Vec::new();
        for mut subscriber in subscribers {
            let last = subscriber.next();
            let (told, cause) = last.split_once(": ").unwrap();
            assert_eq!(cause, "closed by the peer", "{last}");
            newest.push(told.rsplit(' ').next().unwrap().to_owned());
            assert!(subscriber.child.0.wait().unwrap().success());
        }
        assert!(newest.iter().all(|number| *number == newest[0]), "all have come as far: {newest:?}");
    }
}

fn a_stopped_subscriber_holds_up_nobody_and_is_told_how_many_it_lost() {
    let (_folder, address) = address();
    let mut reactor = publishing_at(&address, Limits::default());
    let mut world = World::new(numbers(63));
    let mut slow = Talking::start("child_subscriber", &address);
    until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 1);
    let mut quick = Talking::start("child_subscriber", &address);
    until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 2);
    settle(&mut reactor, &mut world);
    slow.says("open");
    quick.says("open");
    signals::kill(slow.child.0.id(), Signal::STOP).unwrap();
    world.publish(1..=10_000);
    quick.says("first");
    world.publish(10_001..=20_000);
    signals::kill(slow.child.0.id(), Signal::CONT).unwrap();
    slow.says("first");
    drop(reactor);
    for (subscriber, is_slow) in [(&mut slow, true), (&mut quick, false)] {
        let last = subscriber.next();
        let words: Vec<&str> = last.split([' ', ',', ':']).collect();
        let (values, lost): (u64, u64) = (words[0].parse().unwrap(), words[3].parse().unwrap());
        assert_eq!(values + lost, 20_000, "{last}");
        assert!(last.contains("newest 20000"), "{last}");
        assert!(lost > 0 || !is_slow, "{last}");
    }
}

fn a_killed_subscriber_is_unsubscribed() {
    let (_folder, address) = address();
    let mut reactor = publishing_at(&address, Limits::default());
    let mut world = World::new(numbers(7));
    let mut subscribers = [(); 3].map(|()| Talking::start("child_subscriber", &address));
    until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 3);
    settle(&mut reactor, &mut world);
    subscribers[1].says("open");
    subscribers[1].child.0.kill().unwrap();
    until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 2);
    world.publish([1]);
    for at in [0, 2] {
        subscribers[at].says("open");
        subscribers[at].says("first");
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn nothing_is_left_of_many_subscriptions() {
    let output = again("subscribers::child_that_counts_its_descriptors").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Alone in its process: other tests' descriptors would be counted, too.
fn child_that_counts_its_descriptors() {
    let (_folder, address) = address();
    let mut reactor = publishing_at(&address, Limits::default());
    let mut world = World::new(numbers(7));
    let mut before = 0;
    for round in 0..500 {
        let key = reactor.connect_subscriber(&address, Delivery::Every, Ear).unwrap();
        until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 1);
        world.publish([round]);
        settle(&mut reactor, &mut world);
        match round % 3 {
            0 => reactor.close(key),
            1 => reactor.abort(world.open[round as usize]),
            // The publisher's side.
            _ => {
                let other = reactor.clients().find(|&client| client != key).unwrap();
                reactor.close(other)
            }
        };
        until(&mut reactor, &mut world, |world| world.publisher.subscribers() == 0 && world.has_ended());
        settle(&mut reactor, &mut world);
        if round == 0 {
            before = descriptors();
        }
    }
    assert_eq!(descriptors(), before);
    assert_eq!((reactor.clients().count(), reactor.timers()), (0, 0));
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert_eq!(maps.lines().filter(|line| line.contains("/memfd:ipc-")).count(), 1, "the segment itself");
    assert!(!maps.contains("/dev/shm/"), "there is no name that could be left behind");
    assert!(!Path::new("/dev/shm/ipc-segment").exists());
}
