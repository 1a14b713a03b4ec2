//! Multiplexing with `epoll`, edge-triggered: told once.
//!
//! With the flag `EPOLLET` the kernel reports not that a client *is* ready but that it has *become* so:
//! the change, the edge. It does not repeat itself.
//!
//! ```text
//! E = epoll_create;  add M to E, with EPOLLET
//! for ever:
//!     epoll_wait(E)                     who has become ready: remember them
//!     for each that is remembered:
//!         M       -> accept             until EAGAIN: then forget M
//!         client  -> recv, send         until EAGAIN: then forget it
//! ```
//!
//! So the process has to remember. A server that is told of a client, receives once and waits again may
//! wait for ever: the rest of that message lies in the socket, no *new* byte arrives, no edge comes. The
//! same goes for M: two CIRs may make one edge. Hence the two rules of this style:
//!
//! 1. **A source is done only when it has said "would block"** (`EAGAIN`). Nothing less proves it empty.
//! 2. **Who was left before that stays on a list of one's own**, here `ready`. And left they must be: a client that sends
//!    without a pause never says "would block", and would keep the server to itself.
//!
//! What it buys is not fewer calls. An `EAGAIN` is a call too, and a ping-pong client pays four a message where
//! level-triggered pays three. It buys that the kernel need not put everyone who is still ready back on its list at each wait,
//! and that the readiness is *ours*: a reactor can stop half-way through a client, turn to another and come back,
//! with no call to the kernel in between.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::address::Address;
use crate::client::{BUFFER, Client, Interest, Step};
use crate::epoll::Epoll;
use crate::net::{ACCEPTS_PER_VISIT, Cir, Master, Mode};
use crate::signals;

/// How often a client that never blocks is served before the others have their turn.
const STEPS_PER_VISIT: usize = 16;

/// Whether a source has said "would block", or has more.
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
    // Everyone who became ready, and has not said "would block" since.
    let mut ready: BTreeSet<RawFd> = BTreeSet::new();
    master.announce()?;

    loop {
        // While somebody is left on our list, only look at who else has come.
        ready.extend(monitored.wait(ready.is_empty())?);
        if ready.contains(&signals.as_raw_fd()) {
            return Ok(());
        }
        // One visit to each, then the kernel is asked again: nobody is starved.
        // (`take` gives us the list and leaves an empty one, for those who will have more.)
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
                // If its first SRM is here already, adding it makes the edge: it is not lost.
                match monitored.add(&client, client.interest()) {
                    Ok(()) => drop(clients.insert(client.fd(), client)),
                    Err(error) => eprintln!("refused a client: cannot monitor it: {error}"),
                }
            }
            Cir::Refused => {}
            Cir::None => return Ok(Visit::Drained),
            // No edge will ever remind us of the client who waits: M must stay on the list.
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
    // Room is watched for only while an answer is stuck: on a Unix socket each `recv` of the peer would
    // make an edge of it.
    if client.interest() != before {
        monitored.modify(client, client.interest())?;
    }
    Ok(visit)
}
