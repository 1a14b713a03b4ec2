//! Closing what other processes have passed, on threads of its own.
//!
//! The close of a descriptor that another process made can block for as long as that process likes, whatever its flags:
//! the last close of a TCP socket with `SO_LINGER` and unsent data waits for the linger time (`socket(7)`), and the
//! close of a file of a FUSE mount waits for the server of that mount, also against SIGKILL. So the loop never closes
//! one: it hands it to these threads. The same holds for a Unix socket in which messages with descriptors may be
//! unread, because the kernel closes them with it.
//!
//! Nor may many of these threads be stuck for long. So before the close the linger time is taken from the descriptor,
//! and from all that its unread messages hold ([`lingering`](super::lingering)).

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicPtr, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use super::{fork, lingering, signal};

/// Threads at most. Descriptors wait only when so many are stuck in a close.
const THREADS_MAX: usize = 128;
/// A thread makes system calls only.
const STACK: usize = 128 << 10;
/// How long a drop waits for the close: far longer than it takes, unless another process delays it.
const SOON: Duration = Duration::from_millis(100);
/// How long no drop waits after one has waited in vain: who can delay a close can do so again.
const HURRY: Duration = Duration::from_secs(60);

struct Queue {
    waiting: VecDeque<Work>,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    /// No close is waited for until then.
    hurries_until: Option<Instant>,
}

struct Work {
    descriptor: OwnedFd,
    /// Hangs up when the descriptor is closed.
    done: Option<Sender<()>>,
}

struct Closer {
    /// A forked child has none of these threads, and the lock may be held for ever there: it makes a closer of its own.
    made_in: u32,
    queue: Mutex<Queue>,
    work: Condvar,
}

static CLOSER: AtomicPtr<Closer> = AtomicPtr::new(ptr::null_mut());

impl Closer {
    fn new() -> Closer {
        let queue = Queue { waiting: VecDeque::new(), threads: 0, idle: 0, hurries_until: None };
        Closer { made_in: fork::generation(), queue: Mutex::new(queue), work: Condvar::new() }
    }

    /// This process's closer, which lives as long as the process.
    fn get() -> &'static Closer {
        let now = CLOSER.load(Ordering::Acquire);
        // SAFETY: a pointer that was stored is that of a leaked box: it is valid for ever, and never written again.
        if let Some(closer) = unsafe { now.as_ref() }
            && closer.made_in == fork::generation()
        {
            return closer;
        }
        let new = Box::into_raw(Box::new(Closer::new()));
        match CLOSER.compare_exchange(now, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: `new` was leaked by `into_raw`, so it is valid for ever.
            Ok(_) => unsafe { &*new },
            Err(_) => {
                // SAFETY: nothing else has seen `new`.
                drop(unsafe { Box::from_raw(new) });
                Closer::get()
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&'static self, work: impl Iterator<Item = Work>) {
        let mut queue = self.lock();
        queue.waiting.extend(work);
        if queue.waiting.is_empty() {
            return;
        }
        if queue.idle > 0 {
            self.work.notify_one();
        }
        if queue.waiting.len() > queue.idle && queue.threads < THREADS_MAX {
            queue.threads += 1;
            drop(queue);
            self.start();
        }
    }

    /// Starts a thread with every signal blocked: signals are for the threads of the program.
    fn start(&'static self) {
        let before = signal::block(u64::MAX);
        let started = thread::Builder::new().name("ipc-closer".into()).stack_size(STACK).spawn(|| self.run());
        if let Ok(before) = before {
            let _ = signal::unblock(!before);
        }
        if let Err(error) = started {
            // They wait until the next is to be closed. To close them here could block.
            self.lock().threads -= 1;
            log::error!(target: "ipc_reactor", "starting the thread that closes passed descriptors: {error}");
        }
    }

    fn run(&self) {
        let mut queue = self.lock();
        loop {
            match queue.waiting.pop_front() {
                Some(Work { descriptor, done }) => {
                    drop(queue);
                    lingering::disarm(descriptor.as_fd());
                    drop(descriptor);
                    drop(done);
                    queue = self.lock();
                }
                None => {
                    queue.idle += 1;
                    queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                    queue.idle -= 1;
                }
            }
        }
    }
}

/// Closes a descriptor off this thread.
pub(crate) fn close(descriptor: OwnedFd) {
    Closer::get().add([Work { descriptor, done: None }].into_iter());
}

/// Closes descriptors off this thread, if there are any. How many there were.
pub(crate) fn close_all(descriptors: &mut VecDeque<OwnedFd>) -> u64 {
    let count = descriptors.len();
    if count > 0 {
        Closer::get().add(descriptors.drain(..).map(|descriptor| Work { descriptor, done: None }));
    }
    count as u64
}

/// Closes a descriptor off this thread, and waits for that, but not long: when this returns, its name is free, and its
/// peer sees the end, unless another process delays the close.
pub(crate) fn close_soon(descriptor: OwnedFd) {
    let closer = Closer::get();
    if closer.lock().hurries_until.is_some_and(|until| Instant::now() < until) {
        closer.add([Work { descriptor, done: None }].into_iter());
        return;
    }
    let (done, closed) = mpsc::channel();
    closer.add([Work { descriptor, done: Some(done) }].into_iter());
    if let Err(RecvTimeoutError::Timeout) = closed.recv_timeout(SOON) {
        closer.lock().hurries_until = Some(Instant::now() + HURRY);
    }
}

/// A descriptor that is closed off this thread when it is dropped, if that was asked for.
#[derive(Debug)]
pub(crate) struct ClosedElsewhere {
    descriptor: Option<OwnedFd>,
    elsewhere: bool,
}

impl ClosedElsewhere {
    pub(crate) fn when(elsewhere: bool, descriptor: OwnedFd) -> ClosedElsewhere {
        ClosedElsewhere { descriptor: Some(descriptor), elsewhere }
    }

    pub(crate) fn set_elsewhere(&mut self, elsewhere: bool) {
        self.elsewhere = elsewhere;
    }

    pub(crate) fn into_inner(mut self) -> OwnedFd {
        self.descriptor.take().expect("it is taken once, by value")
    }
}

impl AsFd for ClosedElsewhere {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_ref().expect("it is taken by value only").as_fd()
    }
}

impl Drop for ClosedElsewhere {
    fn drop(&mut self) {
        if self.elsewhere
            && let Some(descriptor) = self.descriptor.take()
        {
            close_soon(descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket;
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
    };

    #[test]
    fn what_is_given_is_closed() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        close_all(&mut [far.into()].into());
        assert_eq!(near.read(&mut [0; 1]).unwrap(), 0, "the other end is closed");
        let (mut near, far) = UnixStream::pair().unwrap();
        near.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let far = ClosedElsewhere::when(true, far.into());
        assert_eq!(near.write(b"1").unwrap(), 1);
        drop(far);
        assert!(matches!(near.read(&mut [0; 1]), Ok(0) | Err(_)), "closed with a byte unread");
    }

    #[test]
    fn a_socket_with_a_linger_time_holds_up_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut lingering = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_peer, _) = listener.accept().unwrap();
        lingering.set_nonblocking(true).unwrap();
        while lingering.write(&[0; 1 << 16]).is_ok() {}
        socket::set_linger(lingering.as_fd(), 600).unwrap();
        let begun = Instant::now();
        close_all(&mut [lingering.into()].into());
        let (mut near, far) = UnixStream::pair().unwrap();
        near.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        close_all(&mut [far.into()].into());
        assert_eq!(near.read(&mut [0; 1]).unwrap(), 0, "closed after it, or by another thread");
        assert!(begun.elapsed() < Duration::from_secs(60), "no close waits for the linger time");
    }
}
