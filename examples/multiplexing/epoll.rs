//! The calls of epoll(7), for the two styles that use it.
//!
//! They differ in one flag, `EPOLLET`, and in what follows from it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::client::Interest;
use crate::net::check;

/// How many events one wait can report. The next wait reports the rest.
const EVENTS_PER_WAIT: usize = 256;

/// A monitored set that lives in the kernel.
pub(crate) struct Epoll {
    set: OwnedFd,
    trigger: u32,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// `trigger` is 0 for level-triggered, `EPOLLET` for edge-triggered; every registration includes it.
    pub(crate) fn new(trigger: libc::c_int) -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `epoll_create1` has just made it, and it has no other owner.
        let set = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            set,
            trigger: trigger as u32,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_PER_WAIT],
        })
    }

    /// Adds a descriptor to the set. If it is ready already, the next wait reports it, also when edge-triggered.
    pub(crate) fn add(&self, source: &impl AsFd, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, source, interest)
    }

    /// Changes the interest. Like [`Epoll::add`], it checks readiness again.
    pub(crate) fn modify(&self, source: &impl AsFd, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, source, interest)
    }

    /// Removes a descriptor from the set. `close` does that only if no other descriptor (a `dup`, a child's copy)
    /// keeps the socket open: epoll monitors the open file description, not the descriptor number.
    pub(crate) fn delete(&self, source: &impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, source, Interest::Srm)
    }

    fn control(&self, what: libc::c_int, source: &impl AsFd, interest: Interest) -> io::Result<()> {
        let fd = source.as_fd().as_raw_fd();
        let wanted = match interest {
            Interest::Srm => libc::EPOLLIN,
            Interest::Room => libc::EPOLLOUT,
        };
        // The kernel returns `u64` with each event; here it is the descriptor.
        let mut event = libc::epoll_event { events: wanted as u32 | self.trigger, u64: fd as u64 };
        // SAFETY: `event` is valid and outlives the call.
        check(unsafe { libc::epoll_ctl(self.set.as_raw_fd(), what, fd, &mut event) }).map(drop)
    }

    /// Waits until a descriptor is ready (with `wait` false, only polls), and returns an iterator over the ready
    /// descriptors in `events`.
    pub(crate) fn wait(&mut self, wait: bool) -> io::Result<impl Iterator<Item = RawFd> + use<'_>> {
        let timeout = if wait { -1 } else { 0 };
        let (room, len) = (self.events.as_mut_ptr(), self.events.len() as libc::c_int);
        // SAFETY: `room` and `len` are those of `events`, which we hold mutably.
        let count = match check(unsafe { libc::epoll_wait(self.set.as_raw_fd(), room, len, timeout) }) {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(self.events[..count].iter().map(|event| event.u64 as RawFd))
    }
}
