//! An eventfd and an epoll instance, for the doorbell of a shared-memory subscription.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use super::{check, check_len, own};

/// `eventfd(2)`, non-blocking and close-on-exec.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// `write(2)` of 1 to an eventfd. `WouldBlock`: its counter is at the maximum.
pub(crate) fn eventfd_add_one(fd: BorrowedFd<'_>) -> io::Result<()> {
    let one = 1u64;
    // SAFETY: the pointer is to eight readable bytes.
    check_len(unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), size_of_val(&one)) }).map(drop)
}

/// `epoll_create1(2)`, close-on-exec.
pub(crate) fn epoll_create() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

/// `epoll_ctl(2)` with `EPOLL_CTL_ADD`: registers `fd` for reading, edge-triggered.
pub(crate) fn epoll_add_edge(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    const EVENTS: u32 = (libc::EPOLLIN | libc::EPOLLET).cast_unsigned();
    let mut event = libc::epoll_event { events: EVENTS, u64: 0 };
    // SAFETY: `event` is a valid epoll_event and outlives the call.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) })
        .map(drop)
}

/// `epoll_wait(2)` for one event. Returns whether there was one. A negative timeout waits without a limit.
pub(crate) fn epoll_wait_one(epoll: BorrowedFd<'_>, timeout_ms: libc::c_int) -> io::Result<bool> {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: `event` has room for the one event that is asked for.
    check(unsafe { libc::epoll_wait(epoll.as_raw_fd(), &mut event, 1, timeout_ms) }).map(|count| count == 1)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn each_addition_is_one_edge() {
        let (event, epoll) = (eventfd().unwrap(), epoll_create().unwrap());
        epoll_add_edge(epoll.as_fd(), event.as_fd()).unwrap();
        assert!(!epoll_wait_one(epoll.as_fd(), 0).unwrap());
        for _ in 0..2 {
            eventfd_add_one(event.as_fd()).unwrap();
            assert!(epoll_wait_one(epoll.as_fd(), 0).unwrap());
            assert!(!epoll_wait_one(epoll.as_fd(), 0).unwrap());
        }
    }
}
