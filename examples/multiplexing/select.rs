//! Multiplexing with `select`, the oldest way.
//!
//! The monitored set is a bit set, with one bit for each descriptor number: bit 7 set means "monitor
//! descriptor 7". There is a set for "readable" and one for "writable" (and a third, for out-of-band data, which an
//! echo does not use).
//!
//! ```text
//! for ever:
//!     copy both sets                    select overwrites them with the result
//!     select(highest + 1, copies)       waits for any descriptor
//!     for each descriptor up to the highest, if its bit is still set:
//!         M       -> accept             a CIR: set the new client's bit
//!         client  -> recv, send         an SRM
//! ```
//!
//! Two things follow from those bits.
//!
//! * **Each wait scans all of them.** The kernel scans all bits up to the highest, and so does the process.
//!   With one active client, each of its messages also costs a scan over a thousand idle ones.
//! * **Their number is limited.** The C library's `fd_set` has 1,024 bits (`FD_SETSIZE`). In C,
//!   `FD_SET(1024, &set)` writes past the end of the set, over other data. The limit is on the *number* of the
//!   descriptor, not on how many are in the set, and raising `ulimit -n` does not raise it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::address::Address;
use crate::client::{BUFFER, Client, Interest, Step};
use crate::net::{ACCEPTS_PER_VISIT, Cir, Master, Mode, check};
use crate::signals;

pub(crate) fn serve(address: &Address) -> io::Result<()> {
    let signals = signals::descriptor()?;
    let mut master = Master::listen(address, Mode::NonBlocking)?;
    let mut buffer = vec![0; BUFFER];

    // The client handles, each at the index that is its descriptor.
    let mut clients: Vec<Option<Client>> = (0..libc::FD_SETSIZE).map(|_| None).collect();
    let mut to_read = FdSet::new();
    let mut to_write = FdSet::new();
    to_read.insert(signals.as_raw_fd())?;
    to_read.insert(master.as_raw_fd())?;
    // It only grows: scanning a few empty bits is cheaper than keeping the exact highest number.
    let mut highest = signals.as_raw_fd().max(master.as_raw_fd());
    master.announce()?;

    loop {
        // Each of the two assignments copies 128 bytes, as in C.
        let (mut readable, mut writable) = (to_read, to_write);
        match select(highest, &mut readable, &mut writable) {
            Ok(()) => {}
            // Interrupted: the copies have undefined contents. Copy and wait again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if readable.contains(signals.as_raw_fd()) {
            return Ok(());
        }

        for fd in 0..=highest {
            if !readable.contains(fd) && !writable.contains(fd) {
                continue;
            }
            let Some(client) = &mut clients[fd as usize] else { continue };
            let step = client.step(&mut buffer);
            let interest = client.interest();
            to_read.remove(fd);
            to_write.remove(fd);
            match (step, interest) {
                (Step::Finished, _) => clients[fd as usize] = None, // which closes its handle
                (_, Interest::Srm) => to_read.insert(fd)?,
                (_, Interest::Room) => to_write.insert(fd)?,
            }
        }

        // M comes last: a new client may get the number of one just closed, whose bit is still in `readable`.
        if readable.contains(master.as_raw_fd()) {
            for _ in 0..ACCEPTS_PER_VISIT {
                match master.accept()? {
                    Cir::Accepted(handle) => match to_read.insert(handle.as_raw_fd()) {
                        Ok(()) => {
                            highest = highest.max(handle.as_raw_fd());
                            let client = Client::new(handle);
                            let slot = client.fd() as usize;
                            clients[slot] = Some(client);
                        }
                        Err(error) => eprintln!("refused a client: {error}"),
                    },
                    Cir::Refused => {}
                    Cir::None | Cir::TryLater => break,
                }
            }
        }
    }
}

/// `fd_set`, which checks what C's `FD_SET` does not.
#[derive(Clone, Copy)]
struct FdSet(libc::fd_set);

impl FdSet {
    fn new() -> Self {
        // SAFETY: an fd_set is an array of integers, and all zeros is the empty set (what FD_ZERO does).
        Self(unsafe { std::mem::zeroed() })
    }

    fn insert(&mut self, fd: RawFd) -> io::Result<()> {
        if fd as usize >= libc::FD_SETSIZE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "descriptor {fd} is not below FD_SETSIZE ({}), and select(2) can monitor no other; \
                     use poll or epoll for so many clients",
                    libc::FD_SETSIZE
                ),
            ));
        }
        // SAFETY: `fd` is within the set, as just checked.
        unsafe { libc::FD_SET(fd, &mut self.0) };
        Ok(())
    }

    fn remove(&mut self, fd: RawFd) {
        assert!((fd as usize) < libc::FD_SETSIZE);
        // SAFETY: `fd` is within the set, as just checked.
        unsafe { libc::FD_CLR(fd, &mut self.0) };
    }

    fn contains(&self, fd: RawFd) -> bool {
        assert!((fd as usize) < libc::FD_SETSIZE);
        // SAFETY: `fd` is within the set, as just checked.
        unsafe { libc::FD_ISSET(fd, &self.0) }
    }
}

/// Waits until a descriptor is ready, and leaves only the ready ones in the sets.
fn select(highest: RawFd, readable: &mut FdSet, writable: &mut FdSet) -> io::Result<()> {
    let none = std::ptr::null_mut();
    // SAFETY: both sets are valid and hold `highest`; null is no third set, and no timeout.
    check(unsafe { libc::select(highest + 1, &mut readable.0, &mut writable.0, none, std::ptr::null_mut()) })
        .map(drop)
}
