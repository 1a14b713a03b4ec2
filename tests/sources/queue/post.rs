//! Posting to queues from the loop: what is sent, what waits, in which order, and what it costs.

use crate::support::names::QueueName;
use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::support::turns::{PATIENCE, run, settle, until};
use ipc_reactor::{Cause, Context, Key, Limit, Limits, Message, Posted, Queue, QueueHandler, Reactor};

fn next(queue: &Queue) -> String {
    let mut buffer = [0; 64];
    let received = queue.recv_timeout(&mut buffer, PATIENCE).unwrap();
    String::from_utf8(buffer[..received.len].to_vec()).unwrap()
}

fn small_outbox(outbox: usize) -> Reactor<()> {
    Reactor::<()>::builder().limits(Limits { outbox, ..Limits::default() }).build().unwrap()
}

#[test]
fn what_there_is_room_for_is_sent_at_once() {
    let name = QueueName::new();
    let receiver = name.open(4);
    let mut reactor = Reactor::<()>::new().unwrap();
    let key = reactor.outbox(name.open(4)).unwrap();
    for text in ["one", "two", ""] {
        assert_eq!(reactor.post(key, text.as_bytes(), 0).unwrap(), Posted::Sent);
    }
    assert_eq!(reactor.outbox_len(key), 0);
    assert_eq!([(); 3].map(|()| next(&receiver)), ["one", "two", ""]);
}

#[test]
fn what_waits_keeps_its_order_and_priorities_and_goes_out_as_the_receiver_drains() {
    let name = QueueName::new();
    let receiver = name.open(2);
    let mut reactor = Reactor::<()>::new().unwrap();
    let key = reactor.outbox(name.open(2)).unwrap();
    let mut post = |text: &str, priority| reactor.post(key, text.as_bytes(), priority).unwrap();
    assert_eq!([post("queued 1", 9), post("queued 2", 9)], [Posted::Sent; 2]);
    let waits = [("low 1", 1), ("high 1", 5), ("low 2", 1), ("high 2", 5), ("highest", 7), ("lowest", 0)];
    for (text, priority) in waits {
        assert_eq!(post(text, priority), Posted::Buffered);
    }
    assert_eq!(reactor.outbox_len(key), 6);
    settle(&mut reactor, &mut ());
    assert_eq!(reactor.outbox_len(key), 6, "there is no room yet");

    let mut received = Vec::new();
    for _ in 0..8 {
        received.push(next(&receiver));
        let still = (8 - received.len()).saturating_sub(2);
        while reactor.outbox_len(key) > still {
            let _ = reactor.turn(Some(PATIENCE), &mut ()).unwrap();
        }
        assert_eq!(reactor.outbox_len(key), still, "one goes out for one that is taken");
    }
    assert_eq!(received, ["queued 1", "queued 2", "highest", "high 1", "high 2", "low 1", "low 2", "lowest"]);
    assert_eq!(reactor.post(key, b"again", 0).unwrap(), Posted::Sent);
}

#[test]
fn a_newcomer_of_high_priority_does_not_overtake_what_waits_with_as_high_a_one() {
    let name = QueueName::new();
    let receiver = name.open(1);
    let mut reactor = Reactor::<()>::new().unwrap();
    let key = reactor.outbox(name.open(1)).unwrap();
    assert_eq!(reactor.post(key, b"first", 3).unwrap(), Posted::Sent);
    assert_eq!(reactor.post(key, b"second", 3).unwrap(), Posted::Buffered);
    assert_eq!(next(&receiver), "first");
    // There is room now, but the loop has not run a turn yet.
    assert_eq!(reactor.post(key, b"third", 3).unwrap(), Posted::Buffered);
    while reactor.outbox_len(key) > 1 {
        let _ = reactor.turn(Some(PATIENCE), &mut ()).unwrap();
    }
    assert_eq!(next(&receiver), "second");
    while reactor.outbox_len(key) > 0 {
        let _ = reactor.turn(Some(PATIENCE), &mut ()).unwrap();
    }
    assert_eq!(next(&receiver), "third");
}

#[test]
fn a_full_outbox_refuses_and_counts() {
    let name = QueueName::new();
    let receiver = name.open(1);
    let mut reactor = small_outbox(2);
    let key = reactor.outbox(name.open(1)).unwrap();
    for expected in [Posted::Sent, Posted::Buffered, Posted::Buffered] {
        assert_eq!(reactor.post(key, b"job", 0).unwrap(), expected);
    }
    for trips in 1..=3 {
        let error = reactor.post(key, b"too many", 9).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let expected =
            format!("queue {key} is full, and 2 messages are buffered for it; raise Limits::outbox");
        assert_eq!(error.to_string(), expected);
        assert_eq!((reactor.outbox_len(key), reactor.stats().limit_count(Limit::Outbox)), (2, trips));
    }
    next(&receiver);
    while reactor.outbox_len(key) > 1 {
        let _ = reactor.turn(Some(PATIENCE), &mut ()).unwrap();
    }
    assert_eq!(reactor.post(key, b"one more", 0).unwrap(), Posted::Buffered);
}

#[test]
fn what_can_never_be_sent_is_refused_at_once_also_while_others_wait() {
    let name = QueueName::new();
    let _receiver = name.open(1);
    let mut reactor = Reactor::<()>::new().unwrap();
    let key = reactor.outbox(name.open(1)).unwrap();
    let refused = |reactor: &mut Reactor<()>, length: usize, priority| {
        reactor.post(key, &vec![0; length], priority).unwrap_err().to_string()
    };
    let mut complaints = Vec::new();
    for _ in 0..2 {
        complaints.push([refused(&mut reactor, 65, 0), refused(&mut reactor, 1, Queue::PRIORITY_MAX + 1)]);
        reactor.post(key, b"fills the queue", 0).unwrap();
        reactor.post(key, b"waits", 0).unwrap();
    }
    assert!(complaints[0][0].contains("65 bytes exceeds the queue's message size 64"), "{complaints:?}");
    assert!(complaints[0][1].contains("priority 32768 exceeds the highest, 32767"), "{complaints:?}");
    assert_eq!(complaints[0], complaints[1]);
    assert_eq!(reactor.outbox_len(key), 3);
}

/// The class: an operation on the running source's own key is refused (C5).
#[test]
fn a_handler_posts_to_its_own_queue() {
    let name = QueueName::new();
    let mut reactor = Reactor::<Vec<Vec<u8>>>::new().unwrap();
    let inserted = reactor
        .queue(name.open(1), move |message, cx, received: &mut Vec<Vec<u8>>| {
            received.push(message.bytes.to_vec());
            let own = cx.key();
            match received.len() {
                1 => {
                    assert_eq!(cx.post(own, b"sent", 0).unwrap(), Posted::Sent);
                    assert_eq!(cx.post(own, b"waits", 0).unwrap(), Posted::Buffered);
                    assert_eq!(cx.outbox_len(own), 1);
                }
                3 => cx.finish(),
                _ => {}
            }
            Ok(())
        })
        .unwrap();
    reactor.post(inserted, b"from outside", 0).unwrap();
    let mut received = Vec::new();
    until(&mut reactor, &mut received, |received| received.len() == 3);
    assert_eq!(received, [&b"from outside"[..], b"sent", b"waits"]);
    let gone = reactor.post(inserted, b"it is closed", 0).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(reactor.outbox_len(inserted), 0);
}

/// Posts one message in each turn, by a timer that sets itself anew.
fn post_each_turn(cx: &mut Context<'_, u32>, key: Key, left: u32) {
    cx.after(Duration::ZERO, move |cx, posted| {
        cx.post(key, &left.to_ne_bytes(), 0)?;
        *posted += 1;
        if left > 1 {
            post_each_turn(cx, key, left - 1);
        }
        Ok(())
    });
}

#[test]
fn ones_own_sends_do_not_spin_the_loop() {
    const POSTS: u32 = 200;
    for (reads, turns_per_post) in [(false, 1), (true, 2)] {
        let name = QueueName::new();
        let receiver = name.open(10);
        let mut reactor = Reactor::<u32>::new().unwrap();
        let received = Rc::new(Cell::new(0));
        let key = if reads {
            let received = received.clone();
            let handler = move |_: Message<'_>, _: &mut Context<'_, u32>, _: &mut u32| {
                received.set(received.get() + 1);
                Ok(())
            };
            reactor.queue(name.open(10), handler).unwrap()
        } else {
            reactor.outbox(name.open(10)).unwrap()
        };
        // In a job, as only handlers have a Context.
        reactor.remote().run(move |cx, _| post_each_turn(cx, key, POSTS)).unwrap();
        let mut posted = 0;
        while posted < POSTS || received.get() < if reads { POSTS } else { 0 } {
            let _ = reactor.turn(Some(PATIENCE), &mut posted).unwrap();
            if !reads {
                while receiver.try_recv(&mut [0; 64]).unwrap().is_some() {}
            }
        }
        settle(&mut reactor, &mut posted);
        let turns = reactor.stats().turns;
        assert!(turns <= u64::from(POSTS * turns_per_post) + 10, "{turns} turns, reads: {reads}");
    }
}

#[test]
fn a_post_to_ones_own_full_queue_is_received_in_the_end() {
    let name = QueueName::new();
    let mut reactor = Reactor::<Vec<u8>>::new().unwrap();
    let key = reactor
        .queue(name.open(2), |message, _, heard: &mut Vec<u8>| {
            heard.extend(message.bytes);
            Ok(())
        })
        .unwrap();
    let posted: Vec<_> = (0..20_u8).map(|number| reactor.post(key, &[number], 0).unwrap()).collect();
    assert_eq!(posted.iter().filter(|&&posted| posted == Posted::Sent).count(), 2);
    let mut heard = Vec::new();
    until(&mut reactor, &mut heard, |heard| heard.len() == 20);
    assert!(heard.into_iter().eq(0..20));
    settle(&mut reactor, &mut Vec::new());
    assert!(reactor.stats().turns < 60, "{}", reactor.stats());
}

#[test]
fn what_waits_goes_out_to_a_receiver_in_another_thread() {
    const MESSAGES: u32 = 400;
    let name = QueueName::new();
    let receiver = name.open(3);
    let mut reactor = small_outbox(MESSAGES as usize);
    let key = reactor.outbox(name.open(3)).unwrap();
    for number in 0..MESSAGES {
        reactor.post(key, &number.to_ne_bytes(), 0).unwrap();
    }
    thread::scope(|scope| {
        let remote = reactor.remote();
        scope.spawn(move || {
            let mut buffer = [0; 64];
            for number in 0..MESSAGES {
                receiver.recv_timeout(&mut buffer, PATIENCE).unwrap();
                assert_eq!(buffer[..4], number.to_ne_bytes());
            }
            remote.stop().unwrap();
        });
        run(&mut reactor, &mut ());
    });
    assert_eq!(reactor.outbox_len(key), 0);
}

struct TellsTheCause;

impl QueueHandler<Vec<String>> for TellsTheCause {
    fn on_message(
        &mut self,
        _: Message<'_>,
        _: &mut Context<'_, Vec<String>>,
        _: &mut Vec<String>,
    ) -> io::Result<()> {
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Vec<String>>, causes: &mut Vec<String>) {
        causes.push(cause.to_string());
    }
}

#[test]
fn a_drain_sends_what_waits_before_it_ends() {
    let (name, ours) = (QueueName::new(), QueueName::new());
    let receiver = name.open(1);
    let mut reactor = Reactor::<Vec<String>>::new().unwrap();
    let key = reactor.outbox(name.open(1)).unwrap();
    reactor.queue_handler(ours.open(1), TellsTheCause).unwrap();
    for number in 0..10_u8 {
        reactor.post(key, &[number], 0).unwrap();
    }
    reactor.drain(PATIENCE).unwrap();
    let mut causes = Vec::new();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = [0; 64];
            for number in 0..10 {
                receiver.recv_timeout(&mut buffer, PATIENCE).unwrap();
                assert_eq!(buffer[0], number);
            }
        });
        run(&mut reactor, &mut causes);
    });
    assert_eq!(causes, ["drained"]);
}

#[test]
fn a_drain_does_not_wait_for_a_receiver_past_its_deadline() {
    let name = QueueName::new();
    let receiver = name.open(1);
    let mut reactor = Reactor::<Vec<String>>::new().unwrap();
    let key = reactor.queue_handler(name.open(1), TellsTheCause).unwrap();
    // Sent by the queue's owner to itself, and never received: a drain takes what is there when it begins.
    receiver.send(b"fills it", 0).unwrap();
    let blocked = reactor.outbox(name.open(1)).unwrap();
    assert_eq!(reactor.post(blocked, b"waits", 0).unwrap(), Posted::Buffered);
    assert!(reactor.abort(key));
    reactor.drain(Duration::from_millis(5)).unwrap();
    let mut causes = Vec::new();
    run(&mut reactor, &mut causes);
    assert_eq!(causes, ["closed by a handler"]);
    assert_eq!(next(&receiver), "fills it");
}
