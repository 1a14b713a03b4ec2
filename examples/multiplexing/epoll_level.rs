//! Multiplexing with `epoll`, level-triggered: the kernel keeps the set.
//!
//! `select` and `poll` pass the whole set to the kernel with each wait, and get all of it back. Here the
//! process passes only changes, as clients connect and disconnect (`epoll_ctl`), and the set stays in the
//! kernel. The kernel puts a socket on a list when it becomes ready; `epoll_wait` reads that list.
//!
//! ```text
//! E = epoll_create;  add M to E
//! for ever:
//!     epoll_wait(E)                     waits for any source, returns only the ready ones
//!     for each of those:
//!         M       -> accept             a CIR: add the handle to E
//!         client  -> recv, send         an SRM
//! ```
//!
//! Neither the kernel nor the process scans the idle ones, so they cost nothing: a message costs the same
//! with ten clients and with fifteen thousand.
//!
//! **Level-triggered** (the default of epoll) means that a client is reported *for as long as* it is
//! ready. One `recv` a visit is enough: if there is more, the next `epoll_wait` reports it again. No event
//! can be missed, so this is the style to begin with.
//!
//! For the same reason a client is monitored for writing only while an answer is unsent: a socket with
//! room is always "writable", and every wait would report it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::address::Address;
use crate::client::{BUFFER, Client, Interest, Step};
use crate::epoll::Epoll;
use crate::net::{ACCEPTS_PER_VISIT, Cir, Master, Mode};
use crate::signals;

pub(crate) fn serve(address: &Address) -> io::Result<()> {
    let signals = signals::descriptor()?;
    let mut master = Master::listen(address, Mode::NonBlocking)?;
    let mut buffer = vec![0; BUFFER];

    let mut clients: HashMap<RawFd, Client> = HashMap::new();
    let mut monitored = Epoll::new(0)?; // no flag: level-triggered
    monitored.add(&signals, Interest::Srm)?;
    monitored.add(&master, Interest::Srm)?;
    let mut ready: Vec<RawFd> = Vec::new();
    master.announce()?;

    loop {
        // Copied, because `monitored` cannot be changed while `events` is read.
        ready.clear();
        ready.extend(monitored.wait(true)?);
        for &fd in &ready {
            if fd == signals.as_raw_fd() {
                return Ok(());
            }
            if fd == master.as_raw_fd() {
                on_cir(&mut master, &monitored, &mut clients)?;
                continue;
            }
            // A client is closed only by its own event, and has one event a wait: so `fd` never belongs to a
            // new client that got the number of a client closed earlier in this list.
            let Some(client) = clients.get_mut(&fd) else { continue };
            let before = client.interest();
            if client.step(&mut buffer) == Step::Finished {
                monitored.delete(client)?;
                clients.remove(&fd); // which closes its handle
            } else if client.interest() != before {
                monitored.modify(client, client.interest())?;
            }
        }
    }
}

fn on_cir(master: &mut Master, monitored: &Epoll, clients: &mut HashMap<RawFd, Client>) -> io::Result<()> {
    for _ in 0..ACCEPTS_PER_VISIT {
        match master.accept()? {
            Cir::Accepted(handle) => {
                let client = Client::new(handle);
                match monitored.add(&client, client.interest()) {
                    Ok(()) => drop(clients.insert(client.fd(), client)),
                    Err(error) => eprintln!("refused a client: cannot monitor it: {error}"),
                }
            }
            Cir::Refused => {}
            // Some CIRs may be left in the backlog: then M is still ready, and the next wait reports it again.
            Cir::None | Cir::TryLater => break,
        }
    }
    Ok(())
}
