//! Standard input in a reactor. It is left blocking: to be non-blocking is a property of the open file, and the shell has the same
//! one open.

use std::{
    io::{self, ErrorKind},
    os::fd::AsFd,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A read that asks first whether there is anything. `WouldBlock` when there is not.
pub(crate) fn read_announced(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now))? == 0 {
        return Err(ErrorKind::WouldBlock.into());
    }
    Ok(rustix::io::read(fd, buffer)?)
}
