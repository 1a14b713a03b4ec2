//! Multiplexing with `epoll`, edge-triggered: one report for each change.
//!
//! With the flag `EPOLLET` the kernel reports not that a client *is* ready but that it has *become* so:
//! the change, the edge. It reports each edge once.
//!
//! ```text
//! E = epoll_create;  add M to E, with EPOLLET
//! for ever:
//!     epoll_wait(E)                     which sources have become ready: remember them
//!     for each that is remembered:
//!         M       -> accept             until EAGAIN: then forget M
//!         client  -> recv, send         until EAGAIN: then forget it
//! ```
//!
//! So the process has to remember. A server that gets an event, receives once and waits again may wait for
//! ever: the rest of that message stays in the socket, no *new* byte arrives, and no edge follows. The same
//! holds for M: two CIRs may make one edge. Hence the two rules of this style:
//!
//! 1. **A source is drained only when a call on it returns `EAGAIN`** ("would block"). Nothing less proves it empty.
//! 2. **A source that is left before that stays on the process's own list**, here `ready`. The server must leave some
//!    early: a client that sends without a pause never yields `EAGAIN`, and would starve the others.
//!
//! Edge-triggered does not save calls. The `recv` that returns `EAGAIN` is a call too: a ping-pong client costs four
//! calls a message, three when level-triggered. It saves work in the kernel, which does not put every source that is
//! still ready back on its list at each wait. And the *process* keeps the readiness: a reactor can stop in the middle
//! of a client's input, serve another client and continue, without a system call in between.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::address::Address;
use crate::client::{BUFFER, Client, Interest, Step};
use crate::epoll::Epoll;
use crate::net::{ACCEPTS_PER_VISIT, Cir, Master, Mode};
use crate::signals;

/// How many steps a client that never blocks gets before the others are served.
const STEPS_PER_VISIT: usize = 16;

/// Whether a call on a source returned `EAGAIN`, or the source has more.
#[derive(PartialEq, Eq)]
enum Visit {
    Drained,
    MoreToDo,
}

pub(crate) fn serve(address: &Address) -> io::Result<()> {
    let signals = signals::descriptor()?;
    let mut master = Master::listen(address, Mode::NonBlocking)?;
    let mut buffer = vec![0; BUFFER];

    let mut clients: HashMap<RawFd, Client> = HashMap::new();
    let mut monitored = Epoll::new(libc::EPOLLET)?;
    monitored.add(&signals, Interest::Srm)?;
    monitored.add(&master, Interest::Srm)?;
    // Every source that became ready, and has not returned `EAGAIN` since.
    let mut ready: BTreeSet<RawFd> = BTreeSet::new();
    master.announce()?;

    loop {
        // While our list is not empty, only poll for new events.
        ready.extend(monitored.wait(ready.is_empty())?);
        if ready.contains(&signals.as_raw_fd()) {
            return Ok(());
        }
        // One visit to each, then `epoll_wait` again: no source is starved.
        // (`take` returns the list and leaves an empty one, for the sources that have more.)
        for fd in std::mem::take(&mut ready) {
            let visit = if fd == master.as_raw_fd() {
                on_cirs(&mut master, &monitored, &mut clients)?
            } else {
                on_srms(fd, &monitored, &mut clients, &mut buffer)?
            };
            if visit == Visit::MoreToDo {
                ready.insert(fd);
            }
        }
    }
}

fn on_cirs(
    master: &mut Master,
    monitored: &Epoll,
    clients: &mut HashMap<RawFd, Client>,
) -> io::Result<Visit> {
    for _ in 0..ACCEPTS_PER_VISIT {
        match master.accept()? {
            Cir::Accepted(handle) => {
                let client = Client::new(handle);
                // If its first SRM has arrived already, adding the handle makes the edge: it is not lost.
                match monitored.add(&client, client.interest()) {
                    Ok(()) => drop(clients.insert(client.fd(), client)),
                    Err(error) => eprintln!("refused a client: cannot monitor it: {error}"),
                }
            }
            Cir::Refused => {}
            Cir::None => return Ok(Visit::Drained),
            // No further edge reports the client that waits: M must stay on the list.
            Cir::TryLater => return Ok(Visit::MoreToDo),
        }
    }
    Ok(Visit::MoreToDo)
}

fn on_srms(
    fd: RawFd,
    monitored: &Epoll,
    clients: &mut HashMap<RawFd, Client>,
    buffer: &mut [u8],
) -> io::Result<Visit> {
    let Some(client) = clients.get_mut(&fd) else { return Ok(Visit::Drained) };
    let before = client.interest();
    let mut visit = Visit::MoreToDo;
    for _ in 0..STEPS_PER_VISIT {
        match client.step(buffer) {
            Step::Moved => {}
            Step::Blocked => {
                visit = Visit::Drained;
                break;
            }
            Step::Finished => {
                monitored.delete(client)?;
                clients.remove(&fd); // which closes its handle
                return Ok(Visit::Drained);
            }
        }
    }
    // Monitored for writing only while an answer is unsent: on a Unix socket each `recv` of the peer would
    // make an edge otherwise.
    if client.interest() != before {
        monitored.modify(client, client.interest())?;
    }
    Ok(visit)
}
