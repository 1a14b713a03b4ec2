//! Raw mio, used as its documentation says: a slab of clients, each read until `WouldBlock`.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use peers::{BUFFER_BYTES, Server, end_signals, say_ready};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX - 1);
const SIGNALS: Token = Token(usize::MAX - 2);

struct Client {
    stream: UnixStream,
    unsent: Vec<u8>,
}

impl Client {
    /// Returns whether the client stays connected.
    fn ready(&mut self, poll: &Poll, token: Token, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.unsent.is_empty() {
            let sent = write_some(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..sent);
            if !self.unsent.is_empty() {
                return Ok(true);
            }
            self.unsent = Vec::new();
            poll.registry().reregister(&mut self.stream, token, Interest::READABLE)?;
        }
        loop {
            let got = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(got) => got,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let sent = write_some(&mut self.stream, &buffer[..got])?;
            if sent < got {
                self.unsent.extend_from_slice(&buffer[sent..got]);
                let both = Interest::READABLE | Interest::WRITABLE;
                poll.registry().reregister(&mut self.stream, token, both)?;
                return Ok(true);
            }
        }
    }
}

fn write_some(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

fn main() -> io::Result<()> {
    let server = Server::from_args()?;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(256);
    let mut listener = UnixListener::from_std(server.listener.try_clone()?);
    let mut signals = UnixStream::from_std(end_signals()?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
    let mut clients: Slab<Client> = Slab::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    say_ready();

    loop {
        match poll.poll(&mut events, None) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            match event.token() {
                SIGNALS => return Ok(()),
                LISTENER => {
                    while let Ok((mut stream, _)) = listener.accept() {
                        let entry = clients.vacant_entry();
                        poll.registry().register(&mut stream, Token(entry.key()), Interest::READABLE)?;
                        entry.insert(Client { stream, unsent: Vec::new() });
                    }
                }
                token => {
                    let Some(client) = clients.get_mut(token.0) else { continue };
                    if !client.ready(&poll, token, &mut buffer).unwrap_or(false) {
                        poll.registry().deregister(&mut client.stream)?;
                        clients.remove(token.0);
                    }
                }
            }
        }
    }
}
