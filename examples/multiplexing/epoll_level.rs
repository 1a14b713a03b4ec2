//! Multiplexing with `epoll`, level-triggered: the kernel keeps the set.
//!
//! `select` and `poll` hand the whole set over with each wait, and get the whole of it back. Here it is
//! handed over bit by bit, as clients come and go (`epoll_ctl`), and stays in the kernel. A socket on which
//! something happens puts itself on a list; `epoll_wait` reads that list.
//!
//! ```text
//! E = epoll_create;  add M to E
//! for ever:
//!     epoll_wait(E)                     waits for anyone, answers only with who is ready
//!     for each of those:
//!         M       -> accept             a CIR: add the handle to E
//!         client  -> recv, send         an SRM
//! ```
//!
//! Nobody walks over the idle ones any more, so they cost nothing: the price of a message is the same
//! beside ten clients and beside fifteen thousand.
//!
//! **Level-triggered** (what epoll does unasked) means that a client is reported *for as long as* it is
//! ready. One `recv` a visit is enough: if there was more, the next `epoll_wait` says so again. Nothing can be
//! forgotten, which makes this the style to begin with.
//!
//! The same insistence is why a client is monitored for writing only while an answer is stuck: a
//! socket with room is always "writable", and would be reported without end.

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
        // A list of our own, because the set cannot be changed while its answer is being read.
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
            // A client is closed only by its own event, and has one a wait: `fd` is never a newcomer's
            // who got the number of somebody closed earlier in this list.
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
            // Some may be left at the door: then M is still ready, and the kernel will say so again.
            Cir::None | Cir::TryLater => break,
        }
    }
    Ok(())
}
