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
//! Three calls wait, and each waits for *one* thing. While the server sits in `recv` for the first
//! client it is deaf to everyone else: a second client connects (the kernel keeps its CIR in M's
//! backlog), sends its SRM (the kernel keeps that too), and hears nothing until the first one leaves.
//!
//! For a single client nothing is simpler, and nothing is cheaper: two system calls a message, none of
//! them to find out who has something to say. That is the price list the other styles are held against.

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
        // Here it waits for a CIR, deaf to all else.
        let handle = match master.accept() {
            Ok(Cir::Accepted(handle)) => handle,
            // The signal shut M down under us, which `accept` reports as an error.
            _ if signals.asked_to_end() => return Ok(()),
            Ok(Cir::Refused | Cir::None | Cir::TryLater) => continue,
            Err(error) => return Err(error),
        };
        let guard = signals.also(&handle);
        // Looked at after `also`: the signal either found this client there, or is found here.
        if signals.asked_to_end() {
            return Ok(());
        }
        // The client's error is the client's end; the next one is waiting.
        let _ = serve_to_the_end(&handle, &mut buffer);
        drop(guard);
        // Here `handle`'s life ends, and that closes it.
    }
}

fn serve_to_the_end(handle: &OwnedFd, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        // Here it waits for an SRM of this one client.
        let len = recv(handle.as_fd(), buffer)?;
        if len == 0 {
            return Ok(());
        }
        // Even a blocking `send` may take only a part, when a signal comes half-way.
        let mut unsent = &buffer[..len];
        while !unsent.is_empty() {
            let sent = send(handle.as_fd(), unsent)?;
            unsent = &unsent[sent..];
        }
    }
}
