//! Without multiplexing: one client at a time.
//!
//! ```text
//! M = socket, bind, listen
//! for ever:
//!     handle = accept(M)          waits for a CIR
//!     until the client is done:
//!         recv(handle)            waits for an SRM
//!         send(handle)            waits for room
//! ```
//!
//! Three calls block, and each waits for *one* event. While the server blocks in `recv` for the first
//! client, it serves no other: a second client connects (the kernel keeps its CIR in M's backlog),
//! sends its SRM (the kernel buffers that too), and gets no answer until the first client disconnects.
//!
//! For a single client nothing is simpler or cheaper: two system calls a message, and none to find out
//! which descriptor is ready. The other styles are compared with this cost.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::address::Address;
use crate::client::BUFFER;
use crate::net::{Cir, Master, Mode, recv, send};
use crate::signals::BreakBlockedCalls;

pub(crate) fn serve(address: &Address) -> io::Result<()> {
    let mut master = Master::listen(address, Mode::Blocking)?;
    let signals = BreakBlockedCalls::install(&master)?;
    let mut buffer = vec![0; BUFFER];
    master.announce()?;

    loop {
        // This call blocks until a CIR arrives.
        let handle = match master.accept() {
            Ok(Cir::Accepted(handle)) => handle,
            // The signal handler shut M down, which `accept` reports as an error.
            _ if signals.asked_to_end() => return Ok(()),
            Ok(Cir::Refused | Cir::None | Cir::TryLater) => continue,
            Err(error) => return Err(error),
        };
        let guard = signals.also(&handle);
        // Checked after `also`: a signal before `also` is seen here; one after it shuts this client down.
        if signals.asked_to_end() {
            return Ok(());
        }
        // An error ends this client only; the next one may be waiting.
        let _ = serve_to_the_end(&handle, &mut buffer);
        drop(guard);
        // `handle` goes out of scope here, which closes it.
    }
}

fn serve_to_the_end(handle: &OwnedFd, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        // This call blocks until this one client sends an SRM.
        let len = recv(handle.as_fd(), buffer)?;
        if len == 0 {
            return Ok(());
        }
        // Even a blocking `send` may send only a part, if a signal interrupts it.
        let mut unsent = &buffer[..len];
        while !unsent.is_empty() {
            let sent = send(handle.as_fd(), unsent)?;
            unsent = &unsent[sent..];
        }
    }
}
