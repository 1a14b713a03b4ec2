//! Signals, and the descriptor that reads them.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use libc::{EAGAIN, EPOLLIN, SIGABRT, SIGCHLD, SIGTERM, SIGUSR1};

use crate::kit::{End, Epoll, Forked, alone, check, check_len, errno, fork, own};

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: all-zero is an empty set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for &signal in signals {
        // SAFETY: the set outlives the call.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

fn mask(signals: &[i32]) -> io::Result<()> {
    let set = set_of(signals);
    // SAFETY: the set outlives the call; a null old one is not written.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

fn signalfd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = set_of(signals);
    // SAFETY: the set outlives the call.
    own(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })
}

/// Blocks the signals in this thread, and gives the descriptor that reads them.
pub(crate) fn block(signals: &[i32]) -> io::Result<OwnedFd> {
    mask(signals)?;
    signalfd(signals)
}

/// The next signal that a descriptor has, and all that came with it.
pub(crate) fn record(signalfd: &OwnedFd) -> io::Result<libc::signalfd_siginfo> {
    // SAFETY: all-zero is a `signalfd_siginfo`.
    let mut record: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    let len = size_of_val(&record);
    // SAFETY: pointer and length are the record's.
    check_len(unsafe { libc::read(signalfd.as_raw_fd(), (&raw mut record).cast(), len) })?;
    Ok(record)
}

/// The signals that a descriptor has now.
pub(crate) fn records(signalfd: &OwnedFd) -> io::Result<Vec<i32>> {
    let mut signals = Vec::new();
    loop {
        match record(signalfd) {
            Ok(record) => signals.push(record.ssi_signo.cast_signed()),
            Err(error) if error.raw_os_error() == Some(EAGAIN) => return Ok(signals),
            Err(error) => return Err(error),
        }
    }
}

/// Sends a signal to this process, not to this thread.
fn signal_self(signal: i32) -> io::Result<()> {
    let pid = std::process::id().cast_signed();
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// A signal that is pending already is not queued again: a hundred and one make one record, and one more if the
/// thread itself was sent some. So a signal is a level, and its handler looks for all the work there is.
#[test]
fn signals_coalesce() -> io::Result<()> {
    alone(|| {
        let signals = block(&[SIGUSR1])?;
        for _ in 0..101 {
            signal_self(SIGUSR1)?;
        }
        assert_eq!(records(&signals)?, [SIGUSR1]);
        for _ in 0..101 {
            signal_self(SIGUSR1)?;
            // SAFETY: no pointers.
            check(unsafe { libc::raise(SIGUSR1) })?;
        }
        assert_eq!(records(&signals)?, [SIGUSR1; 2], "one for the process, one for the thread");
        Ok(())
    })
}

/// Many children that end make one SIGCHLD. So children are reaped in a loop, without waiting, until none is left.
#[test]
fn exits_of_children_coalesce() -> io::Result<()> {
    alone(|| {
        let signals = block(&[SIGCHLD])?;
        let children = (0..20).map(|_| fork(|| Ok(()))).collect::<io::Result<Vec<Forked>>>()?;
        for child in &children {
            child.wait_zombie()?;
        }
        assert_eq!(records(&signals)?, [SIGCHLD]);
        for child in children {
            assert_eq!(child.wait()?, End::Exit(0));
        }
        Ok(())
    })
}

/// A child that ended before SIGCHLD was blocked makes no record, ever: by default the signal is thrown away. So
/// children are looked for once at the start.
#[test]
fn an_exit_before_the_mask_makes_no_record() -> io::Result<()> {
    alone(|| {
        let child = fork(|| Ok(()))?;
        child.wait_zombie()?;
        let signals = block(&[SIGCHLD])?;
        assert_eq!(records(&signals)?, []);
        assert_eq!(child.wait()?, End::Exit(0));
        Ok(())
    })
}

/// A signal that came blocked before there was a signalfd is read from it, with its sender. So: block first, open
/// then, and nothing is lost in between.
#[test]
fn a_signal_pending_before_the_signalfd_is_read_from_it() -> io::Result<()> {
    alone(|| {
        mask(&[SIGUSR1])?;
        signal_self(SIGUSR1)?;
        let (epoll, signals) = (Epoll::new()?, signalfd(&[SIGUSR1])?);
        epoll.add(&signals, EPOLLIN, 1)?;
        assert_eq!(epoll.one().data, 1);
        let record = record(&signals)?;
        assert_eq!(record.ssi_signo.cast_signed(), SIGUSR1);
        assert_eq!(record.ssi_pid, std::process::id());
        Ok(())
    })
}

/// What `Command` starts inherits the blocked signals, across `fork` and `exec`: SIGTERM would not end it. So the
/// crate's spawn helper empties the mask.
#[test]
fn a_child_of_command_inherits_the_blocked_mask() -> io::Result<()> {
    alone(|| {
        mask(&[SIGTERM])?;
        let status = Command::new("cat").arg("/proc/self/status").output()?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("SigBlk").trim();
        let blocked = u64::from_str_radix(blocked, 16).expect("a mask");
        assert_eq!(blocked, 1 << (SIGTERM - 1));
        Ok(())
    })
}

/// Starts a thread before the mask is set or after it, then sends SIGTERM to the process.
fn terminated_with_a_thread(made_before_the_mask: bool) -> io::Result<End> {
    let process = fork(|| {
        let (hold, held) = mpsc::channel::<()>();
        let thread = || thread::spawn(move || held.recv());
        let signals;
        let waiting = if made_before_the_mask {
            let waiting = thread();
            signals = block(&[SIGTERM])?;
            waiting
        } else {
            signals = block(&[SIGTERM])?;
            thread()
        };
        signal_self(SIGTERM)?;
        drop(hold);
        let _ = waiting.join();
        assert_eq!(records(&signals)?, [SIGTERM]);
        Ok(())
    })?;
    process.wait()
}

/// A mask belongs to a thread and is inherited by those it makes: a thread made before takes SIGTERM by its default
/// action, and the process with it. So signals are installed first, in `main`.
#[test]
fn a_thread_made_before_the_mask_takes_sigterm() -> io::Result<()> {
    alone(|| {
        assert_eq!(terminated_with_a_thread(true)?, End::Signal(SIGTERM));
        assert_eq!(terminated_with_a_thread(false)?, End::Exit(0));
        Ok(())
    })
}

/// SIGABRT from elsewhere can be blocked and read like any other; only SIGKILL and SIGSTOP cannot.
#[test]
fn sigabrt_can_be_blocked() -> io::Result<()> {
    alone(|| {
        let signals = block(&[SIGABRT])?;
        signal_self(SIGABRT)?;
        assert_eq!(records(&signals)?, [SIGABRT]);
        Ok(())
    })
}

/// SIGKILL and SIGSTOP stay unblocked, and the call that asks for it reports no error. So the crate refuses them by
/// name.
#[test]
fn sigkill_and_sigstop_are_never_blocked_and_nothing_says_so() -> io::Result<()> {
    alone(|| {
        mask(&[libc::SIGKILL, libc::SIGSTOP])?;
        let status = std::fs::read_to_string("/proc/thread-self/status")?;
        assert!(status.lines().any(|line| line == "SigBlk:\t0000000000000000"), "{status}");
        Ok(())
    })
}

/// A signalfd gives what is pending for the process that reads it: in a forked child, nothing of its parent's.
/// And its poll set still waits on the parent: the child's own signals make no event. So a signalfd is useless after
/// a fork, and the crate returns an error instead of waiting.
#[test]
fn a_signalfd_is_dead_in_a_forked_child() -> io::Result<()> {
    alone(|| {
        let (epoll, signals) = (Epoll::new()?, block(&[SIGUSR1])?);
        epoll.add(&signals, EPOLLIN, 1)?;
        signal_self(SIGUSR1)?;
        let child = fork(|| {
            assert_eq!(errno(record(&signals)), EAGAIN);
            assert_eq!(epoll.now(), []);
            signal_self(SIGUSR1)?;
            assert_eq!(epoll.now(), []);
            assert_eq!(records(&signals)?, [SIGUSR1], "only a read shows the child's own");
            Ok(())
        })?;
        assert_eq!(child.wait()?, End::Exit(0));
        assert_eq!(records(&signals)?, [SIGUSR1]);
        Ok(())
    })
}
