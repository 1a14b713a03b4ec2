//! Descriptors of the embedder's own: every kind that epoll accepts, and how their handlers end.

mod closing;
mod descriptors;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::support::turns::{settle, until};
use ipc_reactor::{Context, Interest, Limits, Progress, Reactor, Ready};
use mio::unix::pipe;

/// What the handlers recorded, in the order of their calls.
type Heard = Vec<String>;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into()
}

fn budget<S>(messages_per_visit: usize) -> Reactor<S> {
    Reactor::<S>::builder().limits(Limits { messages_per_visit, ..Limits::default() }).build().unwrap()
}

#[test]
fn a_pipe_is_read_to_its_end() {
    let mut reactor = Reactor::<Heard>::new().unwrap();
    let (mut sender, receiver) = pipe::new().unwrap();
    let key = reactor
        .fd(receiver, Interest::READABLE, |pipe, ready, cx, heard: &mut Heard| {
            let mut buffer = [0; 4];
            let count = pipe.read(&mut buffer)?;
            if count == 0 {
                assert!(ready.is_read_closed(), "{ready:?}");
                cx.finish();
            }
            heard.push(text(&buffer[..count]));
            Ok(Progress::More)
        })
        .unwrap();
    let mut heard = Heard::new();
    settle(&mut reactor, &mut heard);
    sender.write_all(b"a message longer than a read").unwrap();
    until(&mut reactor, &mut heard, |heard| heard.len() == 7);
    sender.write_all(b"end").unwrap();
    drop(sender);
    until(&mut reactor, &mut heard, |heard| heard.last().is_some_and(String::is_empty));
    assert_eq!(heard.concat(), "a message longer than a readend");
    assert!(!reactor.close(key));
}

#[test]
fn a_pipe_is_written_as_fast_as_it_is_read() {
    const BYTES: usize = 1 << 20;
    let mut reactor = Reactor::<usize>::new().unwrap();
    let (sender, mut receiver) = pipe::new().unwrap();
    receiver.set_nonblocking(false).unwrap();
    reactor
        .fd(sender, Interest::WRITABLE, |pipe, ready, cx, written| {
            assert!(ready.is_writable());
            // A write to a full pipe returns WouldBlock, which is not a failure.
            *written += pipe.write(&[7; 10_000][..(BYTES - *written).min(10_000)])?;
            if *written == BYTES {
                cx.finish();
            }
            Ok(Progress::More)
        })
        .unwrap();
    let reader = thread::spawn(move || {
        let mut read = Vec::new();
        receiver.read_to_end(&mut read).map(|_| read)
    });
    let mut written = 0;
    until(&mut reactor, &mut written, |&written| written == BYTES);
    assert_eq!(reader.join().unwrap().unwrap(), vec![7; BYTES]);
    assert_eq!(reactor.stats().handler_errors, 0);
}

#[test]
fn an_eventfd_need_never_be_read() {
    let mut reactor = Reactor::<u32>::new().unwrap();
    let bell = descriptors::eventfd().unwrap();
    let ringer = File::from(bell.try_clone().unwrap());
    reactor
        .fd(bell, Interest::READABLE, |_, _, _, rings| {
            *rings += 1;
            Ok(Progress::Drained)
        })
        .unwrap();
    let mut rings = 0;
    for expected in 1..=100 {
        (&ringer).write_all(&1_u64.to_ne_bytes()).unwrap();
        until(&mut reactor, &mut rings, |&rings| rings == expected);
    }
    settle(&mut reactor, &mut rings);
    assert_eq!(rings, 100, "one call for each ring");
    // Writes to the eventfd before it is read make one event.
    for _ in 0..10 {
        (&ringer).write_all(&1_u64.to_ne_bytes()).unwrap();
    }
    settle(&mut reactor, &mut rings);
    assert_eq!(rings, 101);
}

#[test]
fn a_timerfd_counts_its_expirations() {
    let mut reactor = Reactor::<u64>::new().unwrap();
    let timer = File::from(descriptors::timerfd(Duration::from_micros(500)).unwrap());
    reactor
        .fd(timer, Interest::READABLE, |timer, _, _, ticks| {
            let mut count = [0; 8];
            timer.read_exact(&mut count)?;
            *ticks += u64::from_ne_bytes(count);
            Ok(Progress::More)
        })
        .unwrap();
    let mut ticks = 0;
    until(&mut reactor, &mut ticks, |&ticks| ticks >= 10);
}

#[test]
fn an_inotify_descriptor_tells_of_new_files() {
    let mut reactor = Reactor::<Heard>::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let inotify = File::from(descriptors::inotify(directory.path()).unwrap());
    reactor
        .fd(inotify, Interest::READABLE, |inotify, _, _, heard: &mut Heard| {
            let mut events = [0; 4096];
            let count = inotify.read(&mut events)?;
            heard.extend(descriptors::names(&events[..count]));
            Ok(Progress::More)
        })
        .unwrap();
    let names = ["one", "two", "a longer name"];
    for name in names {
        fs::write(directory.path().join(name), name).unwrap();
    }
    let mut heard = Heard::new();
    until(&mut reactor, &mut heard, |heard| heard.len() == 3);
    assert_eq!(heard, names);
}

#[test]
fn a_terminal_gives_lines_and_a_hang_up() {
    let mut reactor = Reactor::<Heard>::new().unwrap();
    let (master, slave) = descriptors::pty().unwrap();
    reactor
        .fd(File::from(slave), Interest::READABLE, |terminal, ready, cx, heard: &mut Heard| {
            let mut line = [0; 64];
            let count = terminal.read(&mut line)?;
            heard.push(text(&line[..count]));
            if count == 0 {
                assert!(ready.is_read_closed(), "{ready:?}");
                cx.finish();
            }
            Ok(Progress::More)
        })
        .unwrap();
    let mut heard = Heard::new();
    let mut keyboard = File::from(master);
    keyboard.write_all(b"half a li").unwrap();
    settle(&mut reactor, &mut heard);
    assert!(heard.is_empty(), "a line is not there until it is whole: {heard:?}");
    keyboard.write_all(b"ne\nand another\n").unwrap();
    until(&mut reactor, &mut heard, |heard| heard.len() == 2);
    drop(keyboard);
    until(&mut reactor, &mut heard, |heard| heard.len() == 3);
    assert_eq!(heard, ["half a line\n", "and another\n", ""]);
}

#[test]
fn what_epoll_does_not_watch_is_handed_back_with_the_reason() {
    let mut reactor = Reactor::<()>::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "contents").unwrap();
    for path in [path.as_path(), directory.path()] {
        let rejected = reactor
            .fd(File::open(path).unwrap(), Interest::READABLE, |_, _, _, ()| Ok(Progress::Drained))
            .unwrap_err();
        assert_eq!(rejected.error.kind(), ErrorKind::PermissionDenied);
        let why = rejected.to_string();
        assert!(why.contains("a regular file or a directory is always ready"), "{why}");
        let mut file = rejected.source;
        if file.metadata().unwrap().is_file() {
            let mut contents = String::new();
            file.read_to_string(&mut contents).unwrap();
            assert_eq!(contents, "contents");
        }
    }
}

#[test]
fn the_same_descriptor_is_watched_once() {
    let mut reactor = Reactor::<u32>::new().unwrap();
    let (theirs, ours) = UnixStream::pair().unwrap();
    let ours = Rc::new(ours);
    fn count<T>(_: &mut T, _: Ready, _: &mut Context<'_, u32>, count: &mut u32) -> io::Result<Progress> {
        *count += 1;
        Ok(Progress::Drained)
    }
    reactor.fd(ours.clone(), Interest::READABLE, count).unwrap();
    let rejected = reactor.fd(ours.clone(), Interest::READABLE, count).unwrap_err();
    assert_eq!(rejected.error.kind(), ErrorKind::AlreadyExists);
    assert!(rejected.to_string().starts_with("this descriptor is in the poll set already"), "{rejected}");
    // The first is not affected.
    (&theirs).write_all(b"x").unwrap();
    let mut calls = 0;
    until(&mut reactor, &mut calls, |&calls| calls == 1);
    // A second descriptor of the same file can be registered, too.
    reactor.fd(ours.try_clone().unwrap(), Interest::READABLE, count).unwrap();
    until(&mut reactor, &mut calls, |&calls| calls == 2);
}

#[test]
fn the_interest_can_be_changed_from_outside_and_by_others() {
    let mut reactor = Reactor::<Heard>::new().unwrap();
    let (theirs, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let key = reactor
        .fd(ours, Interest::READABLE, |_, ready, _, heard: &mut Heard| {
            heard.push(format!("r{} w{}", ready.is_readable(), ready.is_writable()));
            Ok(Progress::Drained)
        })
        .unwrap();
    let mut heard = Heard::new();
    settle(&mut reactor, &mut heard);
    assert!(heard.is_empty());
    reactor.set_interest(key, Interest::WRITABLE).unwrap();
    until(&mut reactor, &mut heard, |heard| heard.len() == 1);
    (&theirs).write_all(b"unread").unwrap();
    settle(&mut reactor, &mut heard);
    assert_eq!(heard, ["rfalse wtrue"]);
    // What is ready already is reported again, also when a handler asks for it.
    reactor.remote().run(move |cx, _| cx.set_interest(key, Interest::READABLE).unwrap()).unwrap();
    until(&mut reactor, &mut heard, |heard| heard.len() == 2);
    assert_eq!(heard[1], "rtrue wfalse");
    reactor.close(key);
    let error = reactor.set_interest(key, Interest::READABLE).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (
            ErrorKind::NotFound,
            format!("{key} names no descriptor that was given to fd or fd_source, or it is closed")
        )
    );
}

#[test]
fn two_busy_pipes_take_turns_within_their_budgets() {
    const BUDGET: usize = 4;
    let mut reactor = budget::<Heard>(BUDGET);
    let senders = ["a", "b"].map(|name| {
        let (mut sender, receiver) = pipe::new().unwrap();
        sender.write_all(&[0; 101]).unwrap();
        reactor
            .fd(receiver, Interest::READABLE, move |pipe, _, _, heard: &mut Heard| {
                pipe.read_exact(&mut [0; 1])?;
                heard.push(name.into());
                Ok(Progress::More)
            })
            .unwrap();
        sender
    });
    let mut heard = Heard::new();
    until(&mut reactor, &mut heard, |heard| heard.len() == 202);
    // While both have unread bytes, each gets its budget in turn.
    for (index, four) in heard.chunks(BUDGET).take(50).enumerate() {
        assert!(four.iter().all(|name| *name == four[0]), "{index}: {four:?}");
        assert_eq!(*four[0] == *heard[0], index % 2 == 0, "{index}: {four:?}");
    }
    drop(senders);
}

#[test]
fn interrupted_means_again_and_would_block_means_drained() {
    let mut reactor = budget::<Heard>(100);
    let (mut sender, receiver) = pipe::new().unwrap();
    reactor
        .fd(receiver, Interest::READABLE, |_, _, _, heard: &mut Heard| {
            heard.push("call".into());
            Err(io::Error::from(match heard.len() % 3 {
                0 => ErrorKind::WouldBlock,
                _ => ErrorKind::Interrupted,
            }))
        })
        .unwrap();
    let mut heard = Heard::new();
    for calls in [3, 6, 9] {
        sender.write_all(b"x").unwrap();
        until(&mut reactor, &mut heard, |heard| heard.len() == calls);
        settle(&mut reactor, &mut heard);
        assert_eq!(heard.len(), calls, "no call without an event");
    }
    assert_eq!(reactor.stats().handler_errors, 0);
}

#[test]
fn a_handler_that_always_wants_more_does_not_keep_others_from_their_turn() {
    let mut reactor = budget::<u32>(8);
    let (_greedy_end, greedy) = UnixStream::pair().unwrap();
    reactor.fd(greedy, Interest::WRITABLE, |_, _, _, _| Ok(Progress::More)).unwrap();
    let (theirs, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    reactor
        .fd(ours, Interest::READABLE, |socket, _, cx, count| {
            socket.read_exact(&mut [0; 1])?;
            *count += 1;
            if *count == 100 {
                cx.stop();
            }
            Ok(Progress::More)
        })
        .unwrap();
    let writer = thread::spawn(move || {
        for _ in 0..100 {
            (&theirs).write_all(b"x").unwrap();
        }
        theirs
    });
    let mut count = 0;
    crate::support::turns::run(&mut reactor, &mut count);
    writer.join().unwrap();
    assert_eq!(count, 100);
}
