//! Standard input in a reactor. It stays blocking: `O_NONBLOCK` belongs to the open file description, which the shell
//! shares.

use std::{
    io::{self, ErrorKind},
    os::fd::AsFd,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A read that polls first. Returns `WouldBlock` if there is nothing to read.
pub(crate) fn read_announced(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now))? == 0 {
        return Err(ErrorKind::WouldBlock.into());
    }
    Ok(rustix::io::read(fd, buffer)?)
}
