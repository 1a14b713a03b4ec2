//! What a `Queue` does within one process, and together with a program that knows only C's calls.

use crate::support::{have, names::QueueName};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipc_reactor::queue::{Queue, QueueOptions, Received, TrySendError};

const LONG: Duration = Duration::from_secs(30);

fn small() -> QueueOptions {
    Queue::options().create(true).capacity(4).message_size(64).clone()
}

fn next(queue: &Queue) -> (Vec<u8>, u32) {
    let mut buffer = vec![0xee; queue.message_size()];
    let Received { len, priority } = queue.recv_timeout(&mut buffer, LONG).unwrap();
    buffer.truncate(len);
    (buffer, priority)
}

fn fill(queue: &Queue) {
    for _ in 0..queue.attributes().unwrap().capacity {
        queue.try_send(b"filler", 0).unwrap();
    }
}

#[test]
fn create_and_create_new_do_as_for_files() {
    for (create, create_new, exists, expected) in [
        (false, false, false, Err(ErrorKind::NotFound)),
        (false, false, true, Ok(())),
        (true, false, false, Ok(())),
        (true, false, true, Ok(())),
        (false, true, false, Ok(())),
        (false, true, true, Err(ErrorKind::AlreadyExists)),
        (true, true, false, Ok(())),
        (true, true, true, Err(ErrorKind::AlreadyExists)),
    ] {
        let name = QueueName::new();
        let _existing = exists.then(|| name.open(4));
        let opened = small().create(create).create_new(create_new).open(&name.0);
        assert_eq!(opened.map(drop).map_err(|e| e.kind()), expected, "{create} {create_new} {exists}");
    }
}

#[test]
fn access_is_as_asked_and_both_by_default() {
    let name = QueueName::new();
    let keeper = name.open(4);
    for (read, write) in [(false, false), (true, true), (true, false), (false, true)] {
        let queue = Queue::options().read(read).write(write).open(&name.0).unwrap();
        let (may_read, may_write) = (read || !write, write || !read);

        let sent = queue.send(b"x", 0);
        assert_eq!(sent.is_ok(), may_write);
        if let Err(error) = sent {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("write(true)"), "{error}");
            keeper.send(b"x", 0).unwrap();
        }
        let received = queue.recv(&mut [0; 64]);
        assert_eq!(received.is_ok(), may_read);
        if let Err(error) = received {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("read(true)"), "{error}");
            next(&keeper);
        }
    }
}

#[test]
fn sizes_are_the_asked_or_the_systems_or_those_of_the_existing() {
    let system = |file: &str| -> usize {
        fs::read_to_string(format!("/proc/sys/fs/mqueue/{file}")).unwrap().trim().parse().unwrap()
    };
    let default = |kind: &str| system(&format!("{kind}_default")).min(system(&format!("{kind}_max")));
    let sizes = |queue: &Queue| {
        let attributes = queue.attributes().unwrap();
        assert_eq!(attributes.message_size, queue.message_size());
        (attributes.capacity, attributes.message_size)
    };
    let (both, capacity, message_size, neither) =
        (QueueName::new(), QueueName::new(), QueueName::new(), QueueName::new());
    let mut options = Queue::options();
    options.create(true);
    assert_eq!(sizes(&options.open(&neither.0).unwrap()), (default("msg"), default("msgsize")));
    assert_eq!(sizes(&options.clone().capacity(2).open(&capacity.0).unwrap()), (2, default("msgsize")));
    assert_eq!(sizes(&options.clone().message_size(9).open(&message_size.0).unwrap()), (default("msg"), 9));
    assert_eq!(sizes(&small().open(&both.0).unwrap()), (4, 64));
    assert_eq!(sizes(&small().capacity(2).message_size(9).open(&both.0).unwrap()), (4, 64));
    assert_eq!(sizes(&Queue::open(&both.0).unwrap()), (4, 64));
}

#[test]
fn names_are_checked_and_the_fix_is_told() {
    let longest = QueueName(format!("/{:x<255}", std::process::id()));
    drop(longest.open(4));

    for (name, fix) in [
        ("jobs".to_string(), "use \"/jobs\""),
        (String::new(), "does not begin with a slash"),
        ("/".into(), "is empty"),
        ("/..".into(), "is a directory's"),
        ("/a/b".into(), "second slash"),
        ("//a".into(), "second slash"),
        (format!("/{:x<256}", ""), "at most 255"),
        ("/a\0b".into(), "NUL"),
    ] {
        for error in [small().open(&name).unwrap_err(), Queue::unlink(&name).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}");
            assert!(error.to_string().contains(fix), "{name:?}: {error}");
        }
    }
}

#[test]
fn impossible_sizes_and_modes_are_named() {
    let name = QueueName::new();
    for (mut options, complaint) in [
        (small().capacity(0).clone(), "queue capacity 0 is too small"),
        (small().message_size(0).clone(), "queue message size 0 is too small"),
        (small().capacity(65_537).clone(), "queue capacity 65537 exceeds the kernel's hard limit 65536"),
        (small().capacity(usize::MAX).clone(), "exceeds the kernel's hard limit 65536"),
        // An ordinary user may use neither value, and no process at all may exceed this one.
        (small().capacity(64).message_size((16 << 20) + 1).clone(), "message size 16777217 exceeds"),
        (small().mode(0o1600).clone(), "queue mode 0o1600"),
    ] {
        let error = options.create_new(true).open(&name.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(complaint), "{error}");
    }
    assert_eq!(Queue::open(&name.0).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn higher_priority_first_and_older_first_within_one() {
    let name = QueueName::new();
    let queue = name.open(4);
    for (message, priority) in [("low", 0), ("high 1", 7), ("top", Queue::PRIORITY_MAX), ("high 2", 7)] {
        queue.send(message.as_bytes(), priority).unwrap();
    }
    for (message, priority) in [("top", Queue::PRIORITY_MAX), ("high 1", 7), ("high 2", 7), ("low", 0)] {
        assert_eq!(next(&queue), (message.into(), priority));
    }
    let error = queue.send(b"", Queue::PRIORITY_MAX + 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("priority 32768 exceeds the highest, 32767"), "{error}");
}

#[test]
fn an_empty_message_is_a_message() {
    let name = QueueName::new();
    let queue = name.open(4);
    queue.send(b"", 3).unwrap();
    assert_eq!(queue.attributes().unwrap().queued, 1);
    assert_eq!(queue.try_recv(&mut [0; 64]).unwrap(), Some(Received { len: 0, priority: 3 }));
    assert_eq!(queue.try_recv(&mut [0; 64]).unwrap(), None);
}

#[test]
fn messages_and_buffers_of_the_wrong_size_are_told_by_how_much() {
    let name = QueueName::new();
    let queue = name.open(4);
    let TrySendError::Failed(tried) = queue.try_send(&[0; 65], 0).unwrap_err() else { panic!("not full") };
    for error in [queue.send(&[0; 65], 0).unwrap_err(), tried] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(
            error.to_string().contains("message of 65 bytes exceeds the queue's message size 64"),
            "{error}"
        );
    }
    queue.send(b"short", 0).unwrap();
    for error in [queue.recv(&mut [0; 63]).unwrap_err(), queue.try_recv(&mut [0; 63]).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let complaint = "buffer of 63 bytes is shorter than the queue's message size 64";
        assert!(error.to_string().contains(complaint), "{error}");
    }
    assert_eq!(next(&queue), (b"short".to_vec(), 0));
}

#[test]
fn a_non_blocking_handle_never_waits_and_says_so_with_the_plain_errno() {
    let name = QueueName::new();
    let queue = small().nonblocking(true).open(&name.0).unwrap();
    let (full, empty) = (|| queue.send(b"", 0).unwrap_err(), || queue.recv(&mut [0; 64]).unwrap_err());
    assert_eq!((empty().kind(), empty().raw_os_error()), (ErrorKind::WouldBlock, Some(libc::EAGAIN)));
    assert_eq!(queue.recv_timeout(&mut [0; 64], LONG).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(queue.try_recv(&mut [0; 64]).unwrap(), None);
    fill(&queue);
    assert_eq!((full().kind(), full().raw_os_error()), (ErrorKind::WouldBlock, Some(libc::EAGAIN)));
    assert!(matches!(queue.try_send(b"", 0), Err(TrySendError::Full)));
}

#[test]
fn trying_never_waits_on_a_blocking_handle() {
    let name = QueueName::new();
    let queue = name.open(4);
    assert_eq!(queue.try_recv(&mut [0; 64]).unwrap(), None);
    fill(&queue);
    let full = queue.try_send(b"", 0).unwrap_err();
    assert!(matches!(full, TrySendError::Full));
    assert_eq!(std::io::Error::from(full).kind(), ErrorKind::WouldBlock);
    assert_eq!(queue.attributes().unwrap().queued, 4);
}

#[test]
fn timeouts_run_out_and_not_before_time() {
    let name = QueueName::new();
    let queue = name.open(4);
    // Less than the wait, as the kernel's clock for it may be slewed against the one that we read.
    let (wait, at_least) = (Duration::from_millis(60), Duration::from_millis(50));

    let start = Instant::now();
    let error = queue.recv_timeout(&mut [0; 64], wait).unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::TimedOut, Some(libc::ETIMEDOUT)));
    assert!(start.elapsed() >= at_least);
    assert_eq!(queue.recv_timeout(&mut [0; 64], Duration::ZERO).unwrap_err().kind(), ErrorKind::TimedOut);

    fill(&queue);
    let start = Instant::now();
    assert_eq!(queue.send_timeout(b"", 0, wait).unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(start.elapsed() >= at_least);
    assert_eq!(queue.send_timeout(b"", 0, Duration::ZERO).unwrap_err().kind(), ErrorKind::TimedOut);

    queue.recv_timeout(&mut [0; 64], Duration::MAX).unwrap();
    queue.send_timeout(b"", 0, Duration::MAX).unwrap();
}

#[test]
fn waiting_ends_when_the_other_side_acts() {
    let name = QueueName::new();
    let (queue, other) = (name.open(4), Queue::open(&name.0).unwrap());
    thread::scope(|scope| {
        let receiver = scope.spawn(|| next(&queue));
        other.send(b"here", 1).unwrap();
        assert_eq!(receiver.join().unwrap(), (b"here".to_vec(), 1));

        fill(&queue);
        let sender = scope.spawn(|| queue.send_timeout(b"last", 0, LONG));
        for _ in 0..4 {
            assert_eq!(next(&other).0, b"filler");
        }
        assert_eq!(next(&other).0, b"last");
        sender.join().unwrap().unwrap();
    });
}

#[test]
fn each_message_goes_to_one_of_two_receivers() {
    const MESSAGES: u32 = 1_000;
    let name = QueueName::new();
    let queue = name.open(4);
    let receive = || {
        let queue = Queue::open(&name.0).unwrap();
        let messages = std::iter::from_fn(|| Some(next(&queue).0).filter(|message| !message.is_empty()));
        messages.map(|m| u32::from_ne_bytes(m.try_into().unwrap())).collect::<Vec<_>>()
    };
    let mut received = thread::scope(|scope| {
        let receivers = [scope.spawn(receive), scope.spawn(receive)];
        for n in 0..MESSAGES {
            queue.send_timeout(&n.to_ne_bytes(), 0, LONG).unwrap();
        }
        for _ in &receivers {
            queue.send_timeout(b"", 0, LONG).unwrap();
        }
        receivers.map(|receiver| receiver.join().unwrap())
    });
    for each in &received {
        assert!(each.is_sorted(), "the order holds for each receiver");
    }
    let all: BTreeSet<u32> = received.iter_mut().flat_map(|each| each.drain(..)).collect();
    assert_eq!(all, (0..MESSAGES).collect());
}

#[test]
fn non_blocking_is_a_property_of_the_opening() {
    let name = QueueName::new();
    let (queue, other) = (name.open(4), Queue::open(&name.0).unwrap());
    let duplicate = Queue::try_from(queue.as_fd().try_clone_to_owned().unwrap()).unwrap();
    for nonblocking in [true, false] {
        queue.set_nonblocking(nonblocking).unwrap();
        let state = |queue: &Queue| queue.attributes().unwrap().nonblocking;
        assert_eq!((state(&queue), state(&duplicate), state(&other)), (nonblocking, nonblocking, false));
    }
}

#[test]
fn a_queue_outlives_its_last_close_and_its_name() {
    let name = QueueName::new();
    name.open(4).send(b"kept", 0).unwrap();
    let queue = Queue::open(&name.0).unwrap();
    assert_eq!(next(&queue).0, b"kept");
    assert!(!queue.is_unlinked().unwrap());

    Queue::unlink(&name.0).unwrap();
    assert!(queue.is_unlinked().unwrap());
    let successor = name.open(4);
    queue.send(b"to a ghost", 0).unwrap();
    assert_eq!(successor.try_recv(&mut [0; 64]).unwrap(), None);
    assert!(!successor.is_unlinked().unwrap());
    assert_eq!(next(&queue).0, b"to a ghost");

    let gone = name.0.clone();
    drop(name);
    assert_eq!(Queue::open(&gone).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(Queue::unlink(&gone).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn an_existing_queue_looser_than_asked_is_refused() {
    let name = QueueName::new();
    let queue = small().mode(0o620).open(&name.0).unwrap();
    assert_eq!(queue.owner().unwrap().mode, 0o620);

    let error = small().mode(0o600).open(&name.0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("mode 0o620, looser than 0o600"), "{error}");
    small().mode(0o660).open(&name.0).unwrap();
    Queue::open(&name.0).unwrap();
}

#[test]
fn descriptors_convert_both_ways_and_others_are_refused() {
    let name = QueueName::new();
    let queue = name.open(4);
    queue.send(b"through", 5).unwrap();
    let queue = Queue::try_from(OwnedFd::from(queue)).unwrap();
    assert_eq!(queue.message_size(), 64);
    assert_eq!(next(&queue), (b"through".to_vec(), 5));
    assert!(format!("{queue:?}").contains("message_size: 64"));

    let error = Queue::try_from(OwnedFd::from(File::open("/dev/null").unwrap())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("not a message queue's"), "{error}");
}

#[test]
fn children_do_not_inherit_the_descriptor() {
    let name = QueueName::new();
    let (made, opened) = (name.open(4), Queue::open(&name.0).unwrap());
    for queue in [&made, &opened] {
        let link = fs::read_link(format!("/proc/self/fd/{}", queue.as_fd().as_raw_fd())).unwrap();
        assert_eq!(link.to_str(), Some(&*name.0));
    }
    let listing = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    assert!(listing.status.success());
    assert!(!String::from_utf8_lossy(&listing.stdout).contains(&name.0));
}

/// `send NAME` sends three messages; `recv NAME N` prints the N that come first.
const FOREIGNER: &str = r#"
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    alarm(30);
    mqd_t q = mq_open(argv[2], strcmp(argv[1], "send") ? O_RDONLY : O_WRONLY);
    if (q == (mqd_t)-1) { perror("mq_open"); return 1; }
    if (!strcmp(argv[1], "send"))
        return mq_send(q, "routine", 7, 1) || mq_send(q, "", 0, 0) || mq_send(q, "urgent", 6, 30);
    for (int n = argc > 3 ? atoi(argv[3]) : 0; n > 0; n--) {
        char message[64];
        unsigned priority;
        ssize_t len = mq_receive(q, message, sizeof message, &priority);
        if (len < 0) { perror("mq_receive"); return 1; }
        printf("%u:%.*s\n", priority, (int)len, message);
    }
    return 0;
}
"#;

#[test]
fn a_foreign_program_sends_to_us_and_receives_from_us() {
    if !have("cc") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("foreigner");
    let mut compiler = Command::new("cc")
        .args(["-Wall", "-Werror", "-x", "c", "-", "-o"])
        .arg(&program)
        .arg("-lrt")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    compiler.stdin.take().unwrap().write_all(FOREIGNER.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success());

    let name = QueueName::new();
    let queue = name.open(4);
    assert!(Command::new(&program).args(["send", &name.0]).status().unwrap().success());
    let received = [next(&queue), next(&queue), next(&queue)];
    assert_eq!(received, [(b"urgent".to_vec(), 30), (b"routine".to_vec(), 1), (vec![], 0)]);

    queue.send(b"later", 2).unwrap();
    queue.send(b"first", 9).unwrap();
    queue.send(b"", 0).unwrap();
    let output = Command::new(&program).args(["recv", &name.0, "3"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "9:first\n2:later\n0:\n");
}
