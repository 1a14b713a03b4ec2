//! Multiplexing with `poll`: an array in place of the bits.
//!
//! The monitored set is an array of `pollfd`: a descriptor, the requested events (`events`), and the
//! returned ones (`revents`).
//!
//! ```text
//! for ever:
//!     poll(array)                       waits for any descriptor
//!     for each entry whose revents is not 0:
//!         M       -> accept             a CIR: append an entry
//!         client  -> recv, send         an SRM
//! ```
//!
//! Compared with `select`: any descriptor number is allowed, so there is no limit of 1,024; and `events` and
//! `revents` are separate fields, so nothing is copied before each wait.
//!
//! The scan remains. Each call passes the whole array to the kernel, the kernel checks every descriptor in
//! it, and the process searches all of it for the few ready ones. The cost of one message still grows with
//! the number of idle clients.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::address::Address;
use crate::client::{BUFFER, Client, Interest, Step};
use crate::net::{ACCEPTS_PER_VISIT, Cir, Master, Mode, check};
use crate::signals;

const SIGNALS: usize = 0;
const MASTER: usize = 1;
const CLIENTS: usize = 2;

pub(crate) fn serve(address: &Address) -> io::Result<()> {
    let signals = signals::descriptor()?;
    let mut master = Master::listen(address, Mode::NonBlocking)?;
    let mut buffer = vec![0; BUFFER];

    // The client handles: `monitored[CLIENTS + i]` monitors `clients[i]`.
    let mut clients: Vec<Client> = Vec::new();
    let mut monitored =
        vec![watch(signals.as_raw_fd(), Interest::Srm), watch(master.as_raw_fd(), Interest::Srm)];
    master.announce()?;

    loop {
        match poll(&mut monitored) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if monitored[SIGNALS].revents != 0 {
            return Ok(());
        }

        // Backwards, because `swap_remove` fills the gap with the last entry: one that was visited already.
        for i in (0..clients.len()).rev() {
            // Not only POLLIN: `poll` always reports a hang-up (POLLHUP) or an error (POLLERR), and repeats it
            // until a `recv` or a `send` returns it and the client is closed.
            if monitored[CLIENTS + i].revents == 0 {
                continue;
            }
            if clients[i].step(&mut buffer) == Step::Finished {
                clients.swap_remove(i); // which closes its handle
                monitored.swap_remove(CLIENTS + i);
            } else {
                monitored[CLIENTS + i].events = events(clients[i].interest());
            }
        }

        if monitored[MASTER].revents != 0 {
            for _ in 0..ACCEPTS_PER_VISIT {
                match master.accept()? {
                    Cir::Accepted(handle) => {
                        let client = Client::new(handle);
                        monitored.push(watch(client.fd(), client.interest()));
                        clients.push(client);
                    }
                    Cir::Refused => {}
                    Cir::None | Cir::TryLater => break,
                }
            }
        }
    }
}

fn watch(fd: RawFd, interest: Interest) -> libc::pollfd {
    libc::pollfd { fd, events: events(interest), revents: 0 }
}

fn events(interest: Interest) -> libc::c_short {
    match interest {
        Interest::Srm => libc::POLLIN,
        Interest::Room => libc::POLLOUT,
    }
}

/// Waits until a descriptor is ready, and notes in each entry whether it is.
fn poll(monitored: &mut [libc::pollfd]) -> io::Result<()> {
    let wait_for_ever = -1;
    // SAFETY: the pointer and the length are those of `monitored`, which we hold mutably.
    check(unsafe { libc::poll(monitored.as_mut_ptr(), monitored.len() as libc::nfds_t, wait_for_ever) })
        .map(drop)
}
