//! Message queues as sources: what is received, in which order, and what cannot stop it.

mod post;

use crate::support::have;
use crate::support::names::QueueName;
use std::collections::HashMap;
use std::io::{self};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::turns::{PATIENCE, run, settle, until};
use ipc_reactor::{Cause, Context, Limit, Limits, Message, Queue, QueueHandler, Reactor, Turn};

fn reactor<S>(limits: Limits) -> Reactor<S> {
    Reactor::<S>::builder().limits(limits).build().unwrap()
}

/// What was received, as text with its priority.
type Heard = Vec<(String, u32)>;

fn hear(message: Message<'_>, heard: &mut Heard) {
    heard.push((String::from_utf8(message.bytes.to_vec()).unwrap(), message.priority));
}

fn texts(heard: &Heard) -> Vec<&str> {
    heard.iter().map(|(text, _)| text.as_str()).collect()
}

#[test]
fn messages_come_by_priority_and_oldest_first() {
    let name = QueueName::new();
    let sender = name.open(8);
    let highest = Queue::PRIORITY_MAX;
    for (text, priority) in [("a", 0), ("b", 5), ("c", 5), ("d", 0), ("e", highest)] {
        sender.send(text.as_bytes(), priority).unwrap();
    }
    let mut reactor = Reactor::<Heard>::new().unwrap();
    reactor
        .queue(name.open(8), |message, _, heard| {
            hear(message, heard);
            Ok(())
        })
        .unwrap();
    let mut heard = Heard::new();
    until(&mut reactor, &mut heard, |heard| heard.len() == 5);
    let expected = [("e", highest), ("b", 5), ("c", 5), ("a", 0), ("d", 0)];
    assert_eq!(heard, expected.map(|(text, priority)| (text.to_string(), priority)));
    assert_eq!(reactor.stats().queue_messages, 5);
    assert_eq!(reactor.stats().turns, 1, "one visit drains them all");
}

#[test]
fn many_queues_and_many_senders_at_once() {
    const QUEUES: usize = 6;
    const SENDERS: u32 = 4;
    const EACH: u32 = 150;
    let names: Vec<QueueName> = (0..QUEUES).map(|_| QueueName::new()).collect();
    let mut reactor = Reactor::<HashMap<(usize, u32), Vec<u32>>>::new().unwrap();
    for (index, name) in names.iter().enumerate() {
        reactor
            .queue(name.open(3), move |message, _, heard: &mut HashMap<_, Vec<u32>>| {
                let (sender, number) = message.bytes.split_at(4);
                let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
                heard.entry((index, word(sender))).or_default().push(word(number));
                Ok(())
            })
            .unwrap();
    }
    let mut heard = HashMap::new();
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let queues: Vec<Queue> = names.iter().map(|name| name.open(3)).collect();
            scope.spawn(move || {
                for number in 0..EACH {
                    let message = [sender.to_ne_bytes(), number.to_ne_bytes()].concat();
                    for queue in &queues {
                        queue.send_timeout(&message, 0, PATIENCE).unwrap();
                    }
                }
            });
        }
        let all = QUEUES * (SENDERS * EACH) as usize;
        until(&mut reactor, &mut heard, |heard| heard.values().map(Vec::len).sum::<usize>() == all);
    });
    assert_eq!(heard.len(), QUEUES * SENDERS as usize);
    for ((queue, sender), numbers) in heard {
        assert!(numbers.iter().copied().eq(0..EACH), "queue {queue}, sender {sender}: {numbers:?}");
    }
}

#[test]
fn a_budget_smaller_than_the_backlog_loses_no_edge_to_a_blocked_sender() {
    const MESSAGES: u32 = 300;
    let name = QueueName::new();
    // Full from the start, so the sender is blocked whenever a visit ends at its budget.
    let sender = name.open(4);
    for number in 0..4_u32 {
        sender.send(&number.to_ne_bytes(), 0).unwrap();
    }
    let mut reactor = reactor::<Vec<u32>>(Limits { messages_per_visit: 2, ..Limits::default() });
    reactor
        .queue(name.open(4), |message, _, numbers: &mut Vec<u32>| {
            numbers.push(u32::from_ne_bytes(message.bytes.try_into().unwrap()));
            Ok(())
        })
        .unwrap();
    let mut numbers = Vec::new();
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 4..MESSAGES {
                sender.send_timeout(&number.to_ne_bytes(), 0, PATIENCE).unwrap();
            }
        });
        until(&mut reactor, &mut numbers, |numbers| numbers.len() == MESSAGES as usize);
    });
    assert!(numbers.into_iter().eq(0..MESSAGES));
    assert!(reactor.stats().limit_count(Limit::Messages) >= 2);
}

#[test]
fn a_visit_ends_at_its_budget_and_the_next_goes_on_without_an_event() {
    let name = QueueName::new();
    let sender = name.open(8);
    for _ in 0..8 {
        sender.send(b"x", 0).unwrap();
    }
    let mut reactor = reactor::<u32>(Limits { messages_per_visit: 3, ..Limits::default() });
    reactor
        .queue(name.open(8), |_, _, count| {
            *count += 1;
            Ok(())
        })
        .unwrap();
    let mut count = 0;
    for (expected, turn) in [(3, Turn::Pending), (6, Turn::Pending), (8, Turn::Idle)] {
        assert_eq!(reactor.turn(Some(Duration::ZERO), &mut count).unwrap(), turn);
        assert_eq!(count, expected);
    }
}

#[test]
fn a_competing_receiver_is_neither_an_error_nor_a_reason_to_spin() {
    const MESSAGES: usize = 500;
    let name = QueueName::new();
    let mut reactor = Reactor::<usize>::new().unwrap();
    reactor
        .queue(name.open(4), |_, _, ours| {
            *ours += 1;
            Ok(())
        })
        .unwrap();
    let (theirs, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut ours = 0;
    thread::scope(|scope| {
        let (sender, rival) = (name.open(4), name.open(4));
        let remote = reactor.remote();
        let (theirs, done) = (&theirs, &done);
        scope.spawn(move || {
            for number in 0..MESSAGES {
                sender.send_timeout(&number.to_ne_bytes(), 0, PATIENCE).unwrap();
            }
        });
        scope.spawn(move || {
            let mut buffer = [0; 64];
            while !done.load(Ordering::Acquire) {
                if rival.recv_timeout(&mut buffer, Duration::from_millis(20)).is_ok() {
                    theirs.fetch_add(1, Ordering::AcqRel);
                    remote.run(|_, _| {}).unwrap();
                }
            }
        });
        until(&mut reactor, &mut ours, |ours| ours + theirs.load(Ordering::Acquire) == MESSAGES);
        done.store(true, Ordering::Release);
    });
    let stats = reactor.stats();
    assert_eq!(stats.errors().count(), 0, "{stats}");
    assert_eq!(stats.queue_messages, ours as u64);
    // A turn for each send and receive, and for each job of the rival's, at the very most.
    assert!(stats.turns <= 3 * MESSAGES as u64 + 10, "{stats}");
    let before = ours;
    name.open(4).send(b"still there", 0).unwrap();
    until(&mut reactor, &mut ours, |&ours| ours > before);
}

#[test]
fn an_empty_message_is_a_message() {
    let name = QueueName::new();
    let sender = name.open(4);
    for message in [&b""[..], b"x", b""] {
        sender.send(message, 3).unwrap();
    }
    let mut reactor = Reactor::<Heard>::new().unwrap();
    reactor
        .queue(name.open(4), |message, _, heard| {
            hear(message, heard);
            Ok(())
        })
        .unwrap();
    let mut heard = Heard::new();
    until(&mut reactor, &mut heard, |heard| heard.len() == 3);
    assert_eq!(texts(&heard), ["", "x", ""]);
    sender.send(b"", 0).unwrap();
    until(&mut reactor, &mut heard, |heard| heard.len() == 4);
}

#[test]
fn a_handler_that_fails_or_panics_loses_its_message_only() {
    let name = QueueName::new();
    let sender = name.open(8);
    let mut reactor = Reactor::<Heard>::new().unwrap();
    reactor
        .queue(name.open(8), |message, _, heard| {
            hear(message, heard);
            match message.bytes {
                b"fail" => Err(io::Error::other("no such job")),
                b"panic" => panic!("a job that cannot be"),
                _ => Ok(()),
            }
        })
        .unwrap();
    let mut heard = Heard::new();
    for round in 1..=3 {
        for message in ["one", "fail", "two", "panic", "three"] {
            sender.send(message.as_bytes(), 0).unwrap();
        }
        until(&mut reactor, &mut heard, |heard| heard.len() == 5 * round);
        assert_eq!(texts(&heard)[5 * (round - 1)..], ["one", "fail", "two", "panic", "three"]);
    }
    assert_eq!((reactor.stats().handler_errors, reactor.stats().panics), (3, 3));
}

#[test]
fn inserting_a_queue_takes_no_message_from_it() {
    let name = QueueName::new();
    let peer = name.open(4);
    peer.send(b"here before", 0).unwrap();
    let mut reactor = Reactor::<Heard>::new().unwrap();
    let key = reactor.queue(name.open(4), |_, _, _: &mut Heard| Ok(())).unwrap();
    assert!(reactor.close(key));
    assert_eq!(peer.attributes().unwrap().queued, 1);
}

/// A handler that records all its calls.
struct Told {
    close_when_unlinked: bool,
}

impl QueueHandler<Vec<String>> for Told {
    fn on_message(
        &mut self,
        message: Message<'_>,
        _: &mut Context<'_, Vec<String>>,
        told: &mut Vec<String>,
    ) -> io::Result<()> {
        told.push(String::from_utf8_lossy(message.bytes).into());
        Ok(())
    }

    fn on_unlinked(&mut self, cx: &mut Context<'_, Vec<String>>, told: &mut Vec<String>) -> io::Result<()> {
        told.push("unlinked".into());
        if self.close_when_unlinked {
            cx.finish();
        }
        Err(io::Error::other("an error here ends nothing"))
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Vec<String>>, told: &mut Vec<String>) {
        told.push(cause.to_string());
    }
}

fn checked_soon() -> Limits {
    Limits { queue_check: Some(Duration::from_millis(2)), ..Limits::default() }
}

#[test]
fn a_queue_unlinked_under_us_is_told_of_once_and_still_serves_those_who_hold_it() {
    let name = QueueName::new();
    let sender = name.open(4);
    let mut reactor = reactor(checked_soon());
    reactor.queue_handler(name.open(4), Told { close_when_unlinked: false }).unwrap();
    let mut told = Vec::new();
    settle(&mut reactor, &mut told);
    assert!(told.is_empty(), "{told:?}");

    Queue::unlink(&name.0).unwrap();
    until(&mut reactor, &mut told, |told| !told.is_empty());
    sender.send(b"through the old handle", 0).unwrap();
    until(&mut reactor, &mut told, |told| told.len() > 1);
    // Ten periods later: no further call.
    reactor.after(Duration::from_millis(20), |cx, _| {
        cx.stop();
        Ok(())
    });
    run(&mut reactor, &mut told);
    assert_eq!(told, ["unlinked", "through the old handle", "the reactor stopped"]);
    assert_eq!(reactor.stats().handler_errors, 1);
}

#[test]
fn a_queue_can_be_closed_by_the_news_that_it_was_unlinked() {
    let name = QueueName::new();
    let mut reactor = reactor(checked_soon());
    let key = reactor.queue_handler(name.open(4), Told { close_when_unlinked: true }).unwrap();
    Queue::unlink(&name.0).unwrap();
    let mut told = Vec::new();
    until(&mut reactor, &mut told, |told| told.len() >= 2);
    assert_eq!(told, ["unlinked", "closed by a handler"]);
    assert!(!reactor.close(key), "it is gone");
}

#[test]
fn a_drain_handles_what_was_queued_and_leaves_the_rest_to_a_successor() {
    let name = QueueName::new();
    let sender = name.open(10);
    for number in 0..6_u8 {
        sender.send(&[number], 0).unwrap();
    }
    // A budget of two, so the drain takes several visits.
    let mut reactor = reactor::<Vec<u8>>(Limits { messages_per_visit: 2, ..Limits::default() });
    reactor
        .queue(name.open(10), move |message, _, heard: &mut Vec<u8>| {
            heard.extend(message.bytes);
            // Meanwhile other senders continue.
            sender.try_send(&[100], 0).map_err(Into::into)
        })
        .unwrap();
    reactor.drain(PATIENCE).unwrap();
    let mut heard = Vec::new();
    run(&mut reactor, &mut heard);
    assert_eq!(heard, [0, 1, 2, 3, 4, 5]);
    assert_eq!(reactor.stats().handler_errors, 0);

    drop(reactor);
    let successor = name.open(10);
    assert_eq!(successor.attributes().unwrap().queued, 6);
}

#[test]
fn a_drain_begun_by_a_message_handles_those_behind_it() {
    let name = QueueName::new();
    let sender = name.open(8);
    for message in ["drain", "first", "second"] {
        sender.send(message.as_bytes(), 0).unwrap();
    }
    let mut reactor = Reactor::<Heard>::new().unwrap();
    reactor
        .queue(name.open(8), |message, cx, heard| {
            hear(message, heard);
            if message.bytes == b"drain" { cx.drain(PATIENCE) } else { Ok(()) }
        })
        .unwrap();
    let mut heard = Heard::new();
    run(&mut reactor, &mut heard);
    assert_eq!(texts(&heard), ["drain", "first", "second"]);
}

#[test]
fn a_program_that_knows_only_c_sends() {
    const SENDER: &str = r#"
import ctypes, sys
lib = ctypes.CDLL(None, use_errno=True)
lib.mq_send.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint]
queue = lib.mq_open(sys.argv[1].encode(), 1)
assert queue >= 0, ctypes.get_errno()
for number in range(40):
    text = b"job %d" % number
    assert lib.mq_send(queue, text, len(text), 0) == 0, ctypes.get_errno()
assert lib.mq_send(queue, b"", 0, 7) == 0, ctypes.get_errno()
"#;
    let name = QueueName::new();
    let mut reactor = Reactor::<Heard>::new().unwrap();
    reactor
        .queue(name.open(4), |message, _, heard| {
            hear(message, heard);
            Ok(())
        })
        .unwrap();
    if !have("python3") {
        return;
    }
    let mut sender = Command::new("python3").args(["-c", SENDER, &name.0]).spawn().unwrap();
    let mut heard = Heard::new();
    until(&mut reactor, &mut heard, |heard| heard.len() == 41);
    assert!(sender.wait().unwrap().success());
    let jobs: Vec<_> = heard.iter().filter(|(_, priority)| *priority == 0).collect();
    assert!(jobs.iter().enumerate().all(|(number, (text, _))| *text == format!("job {number}")), "{heard:?}");
    assert!(heard.contains(&(String::new(), 7)));
}
