//! POSIX message queues.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libc::{EAGAIN, EBUSY, EMFILE, EMSGSIZE, ENOENT, EPOLLIN, EPOLLOUT};

use crate::kit::{Edge, Epoll, Limit, alone, check, check_len, errno, own, set_limit};

const MESSAGE_BYTES_MAX: usize = 64;
const WHOLE_MASK: Edge = Edge { data: 0, mask: EPOLLIN | EPOLLOUT };

/// A name that no other test has; the queue there, if any, is unlinked at the end.
pub(crate) struct Name(pub(crate) CString);

impl Name {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        Self(CString::new(format!("/kernel-contract-{}-{n}", std::process::id())).expect("no NUL"))
    }

    pub(crate) fn create(&self, messages_max: i64) -> io::Result<OwnedFd> {
        // SAFETY: all-zero is a `mq_attr`.
        let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
        attributes.mq_maxmsg = messages_max;
        attributes.mq_msgsize = MESSAGE_BYTES_MAX as i64;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NONBLOCK | libc::O_CLOEXEC;
        // SAFETY: the name is a C string, and name and attributes outlive the call.
        own(unsafe { libc::mq_open(self.0.as_ptr(), flags, 0o600, &raw const attributes) })
    }

    pub(crate) fn open(&self, flags: i32) -> io::Result<OwnedFd> {
        // SAFETY: the name is a C string that outlives the call.
        own(unsafe { libc::mq_open(self.0.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC | flags) })
    }

    pub(crate) fn unlink(&self) -> io::Result<()> {
        // SAFETY: the name is a C string that outlives the call.
        check(unsafe { libc::mq_unlink(self.0.as_ptr()) }).map(drop)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = self.unlink();
    }
}

pub(crate) fn send(queue: &OwnedFd, message: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are the slice's.
    check(unsafe { libc::mq_send(queue.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) }).map(drop)
}

/// Sends on a descriptor that may block, and gives up after ten seconds.
fn send_patiently(queue: &OwnedFd, message: &[u8]) -> io::Result<()> {
    let mut until = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time outlives the call.
    check(unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut until) })?;
    until.tv_sec += 10;
    let (bytes, len) = (message.as_ptr().cast(), message.len());
    // SAFETY: pointer and length are the slice's, and the time outlives the call.
    check(unsafe { libc::mq_timedsend(queue.as_raw_fd(), bytes, len, 0, &raw const until) }).map(drop)
}

fn receive_into(queue: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (bytes, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: pointer and length are the slice's; a null priority is not written.
    check_len(unsafe { libc::mq_receive(queue.as_raw_fd(), bytes, len, std::ptr::null_mut()) })
}

pub(crate) fn receive(queue: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    let len = receive_into(queue, &mut buffer)?;
    Ok(buffer[..len].to_vec())
}

fn messages_in(queue: &OwnedFd) -> io::Result<i64> {
    // SAFETY: all-zero is a `mq_attr`.
    let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the attributes outlive the call.
    check(unsafe { libc::mq_getattr(queue.as_raw_fd(), &raw mut attributes) })?;
    Ok(attributes.mq_curmsgs)
}

/// Asks for `signal` when a message comes to the empty queue.
fn notify(queue: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: all-zero is a `sigevent`.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = signal;
    // SAFETY: the event outlives the call.
    check_len(unsafe { libc::syscall(libc::SYS_mq_notify, queue.as_raw_fd(), &raw const event) } as isize)
        .map(drop)
}

/// Every send makes an edge, and so does every receive, each with the whole mask that holds at that moment. So a
/// process is woken by its own sends and receives, and an event on a queue guarantees nothing.
#[test]
fn every_send_and_every_receive_makes_an_edge_with_the_whole_mask() -> io::Result<()> {
    let (epoll, name) = (Epoll::new()?, Name::new());
    let queue = name.create(4)?;
    epoll.add(&queue, EPOLLIN | EPOLLOUT, 0)?;
    assert_eq!(epoll.one(), Edge { data: 0, mask: EPOLLOUT });
    for message in [b"one", b"two"] {
        send(&queue, message)?;
        assert_eq!(epoll.one(), WHOLE_MASK);
        assert_eq!(epoll.now(), []);
    }
    receive(&queue)?;
    assert_eq!(epoll.one(), WHOLE_MASK, "our own receive, with one message left");
    receive(&queue)?;
    assert_eq!(epoll.one(), Edge { data: 0, mask: EPOLLOUT });
    assert_eq!(errno(receive(&queue)), EAGAIN);
    assert_eq!(epoll.now(), [], "a receive that got nothing makes no edge");
    Ok(())
}

/// Where two receive from one queue, an event may find nothing. So EAGAIN after an event is normal.
#[test]
fn a_competing_receiver_leaves_an_edge_and_no_message() -> io::Result<()> {
    let (epoll, name) = (Epoll::new()?, Name::new());
    let (queue, competitor) = (name.create(4)?, name.open(libc::O_NONBLOCK)?);
    epoll.add(&queue, EPOLLIN, 0)?;
    send(&competitor, b"job")?;
    let edge = epoll.one();
    assert!(edge.has(EPOLLIN));
    assert_eq!(receive(&competitor)?, b"job");
    assert_eq!(errno(receive(&queue)), EAGAIN);
    Ok(())
}

/// A receive that lets a blocked sender go on makes no edge, though a message is there again: a receiver that stops
/// at its budget then waits for ever. So the crate remembers readiness until EAGAIN, and does not wait for epoll to
/// report it again.
#[test]
fn a_receiver_that_stops_while_a_sender_is_blocked_gets_no_further_edge() -> io::Result<()> {
    let (epoll, name) = (Epoll::new()?, Name::new());
    let (queue, blocking) = (name.create(1)?, name.open(0)?);
    epoll.add(&queue, EPOLLIN, 0)?;
    send(&queue, b"first")?;
    assert_eq!(epoll.one(), Edge { data: 0, mask: EPOLLIN });
    let tid = AtomicU32::new(0);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            // SAFETY: no pointers.
            tid.store(unsafe { libc::gettid() }.cast_unsigned(), Ordering::Release);
            send_patiently(&blocking, b"second")
        });
        wait_until_blocked(&tid)?;
        assert_eq!(receive(&queue)?, b"first");
        sender.join().expect("the sender")?;
        assert_eq!(messages_in(&queue)?, 1);
        assert_eq!(epoll.now(), [], "a message is there, and no edge");
        assert_eq!(receive(&queue)?, b"second");
        Ok(())
    })
}

/// The thread passes its id on just before the call that blocks: if it sleeps after that, it is in that call.
fn wait_until_blocked(tid: &AtomicU32) -> io::Result<()> {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < Duration::from_secs(10), "the sender does not block");
        thread::yield_now();
        let tid = tid.load(Ordering::Acquire);
        if tid == 0 {
            continue;
        }
        let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat"))?;
        if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S')) {
            return Ok(());
        }
    }
}

/// A queue with its messages outlives its last close; only unlinking ends it. So one process can leave its queue to
/// the next, and a queue that is not unlinked stays.
#[test]
fn a_queue_outlives_its_last_close() -> io::Result<()> {
    let name = Name::new();
    let queue = name.create(4)?;
    send(&queue, b"kept")?;
    drop(queue);
    assert_eq!(receive(&name.open(libc::O_NONBLOCK)?)?, b"kept");
    name.unlink()?;
    assert_eq!(errno(name.open(0)), ENOENT);
    Ok(())
}

/// Sends to an unlinked queue succeed, while a queue created at its name is another one; only the link count shows
/// it. So the crate looks at the link count from time to time.
#[test]
fn sends_to_an_unlinked_queue_succeed() -> io::Result<()> {
    let name = Name::new();
    let queue = File::from(name.create(4)?);
    assert_eq!(queue.metadata()?.nlink(), 1);
    name.unlink()?;
    assert_eq!(queue.metadata()?.nlink(), 0);
    let ghost = OwnedFd::from(queue);
    send(&ghost, b"into the void")?;
    let successor = name.create(4)?;
    assert_eq!(messages_in(&successor)?, 0);
    assert_eq!(messages_in(&ghost)?, 1);
    Ok(())
}

/// An empty message is a message: it makes an edge, counts, and is received with length 0. So a length of 0 is
/// never the end of a queue.
#[test]
fn an_empty_message_is_a_message() -> io::Result<()> {
    let (epoll, name) = (Epoll::new()?, Name::new());
    let queue = name.create(4)?;
    epoll.add(&queue, EPOLLIN, 0)?;
    send(&queue, b"")?;
    assert!(epoll.one().has(EPOLLIN));
    assert_eq!(messages_in(&queue)?, 1);
    assert_eq!(receive(&queue)?, b"");
    assert_eq!(errno(receive(&queue)), EAGAIN);
    Ok(())
}

/// A receive needs room for the largest message that the queue allows, however short the next one is. So the
/// buffer's size comes from the attributes.
#[test]
fn a_receive_buffer_smaller_than_the_queues_limit_is_refused() -> io::Result<()> {
    let name = Name::new();
    let queue = name.create(4)?;
    send(&queue, b"x")?;
    assert_eq!(errno(receive_into(&queue, &mut [0; MESSAGE_BYTES_MAX - 1])), EMSGSIZE);
    assert_eq!(errno(send(&queue, &[0; MESSAGE_BYTES_MAX + 1])), EMSGSIZE);
    assert_eq!(receive(&queue)?, b"x", "a refused receive takes nothing");
    Ok(())
}

/// A full queue refuses with EAGAIN, and the receive that makes room makes a writable edge. So the crate never
/// blocks on a queue, and need not poll one.
#[test]
fn a_full_queue_refuses_and_tells_when_there_is_room() -> io::Result<()> {
    let (epoll, name) = (Epoll::new()?, Name::new());
    let (queue, receiver) = (name.create(1)?, name.open(libc::O_NONBLOCK)?);
    send(&queue, b"first")?;
    epoll.add(&queue, EPOLLOUT, 0)?;
    assert_eq!(errno(send(&queue, b"second")), EAGAIN);
    assert_eq!(epoll.now(), []);
    receive(&receiver)?;
    assert_eq!(epoll.one(), Edge { data: 0, mask: EPOLLOUT });
    Ok(())
}

/// A queue beyond `RLIMIT_MSGQUEUE` is refused with EMFILE, though descriptors are to be had. So the crate's error
/// names the limit.
#[test]
fn rlimit_msgqueue_shows_as_emfile() -> io::Result<()> {
    alone(|| {
        let name = Name::new();
        let before = set_limit(Limit::QueueBytes, 0)?;
        assert_eq!(errno(name.create(1)), EMFILE);
        File::open("/dev/null")?;
        set_limit(Limit::QueueBytes, before)?;
        name.create(1).map(drop)
    })
}

/// `mq_notify` notifies once, of a message to an empty queue, and not for a queue that holds one when it is called
/// again; and only one process may register. So the crate polls the descriptor instead.
#[test]
fn mq_notify_does_not_re_arm_on_a_queue_that_is_not_empty() -> io::Result<()> {
    alone(|| {
        let signals = crate::signals::block(&[libc::SIGUSR1])?;
        let name = Name::new();
        let queue = name.create(4)?;
        notify(&queue, libc::SIGUSR1)?;
        assert_eq!(errno(notify(&queue, libc::SIGUSR1)), EBUSY);
        send(&queue, b"one")?;
        assert_eq!(crate::signals::records(&signals)?, [libc::SIGUSR1]);
        send(&queue, b"two")?;
        assert_eq!(crate::signals::records(&signals)?, [], "one-shot");
        notify(&queue, libc::SIGUSR1)?;
        send(&queue, b"three")?;
        assert_eq!(crate::signals::records(&signals)?, [], "asked again, and the queue is not empty");
        while receive(&queue).is_ok() {}
        send(&queue, b"four")?;
        assert_eq!(crate::signals::records(&signals)?, [libc::SIGUSR1], "only once it was empty");
        Ok(())
    })
}
