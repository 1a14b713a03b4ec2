//! Writing to peers that have closed, under the default action of SIGPIPE, which ends the process.
//!
//! Rust's `main` ignores the signal; a reactor inside a C program, or behind a runtime that restores it, has no such
//! help. One process, one test: the action is the process's.

#![allow(unsafe_code)]

use std::{
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::Duration,
};

use ipc_reactor::{Cause, Context, Framing, Listener, Reactor, Session};

use crate::support::isolated::{Case, cases};

pub(crate) const CASES: &[Case] = cases![a_peer_that_left_kills_nobody];

static REPLY: [u8; 64 << 10] = [1; 64 << 10];

struct Loud;

impl Session<Vec<String>> for Loud {
    fn on_request(
        &mut self,
        _: &[u8],
        cx: &mut Context<'_, Vec<String>>,
        _: &mut Vec<String>,
    ) -> io::Result<()> {
        for _ in 0..3 {
            cx.reply(&REPLY)?;
        }
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Vec<String>>, closed: &mut Vec<String>) {
        closed.push(cause.to_string());
    }
}

fn a_peer_that_left_kills_nobody() {
    // SAFETY: the default action is no handler of ours; this process has one test.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let tcp = Listener::tcp("127.0.0.1:0").unwrap();
    let address = tcp.local_address().unwrap().resolve().unwrap()[0];
    let mut reactor = Reactor::<Vec<String>>::new().unwrap();
    for listener in [Listener::unix(&path).unwrap(), tcp] {
        reactor.listen(listener, Framing::raw(), |_, _| Ok(Loud)).unwrap();
    }
    let mut closed = Vec::new();
    for round in 0..20 {
        let mut peers: Vec<OwnedFd> = Vec::new();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"ask").unwrap();
        peers.push(stream.into());
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"ask").unwrap();
        peers.push(stream.into());
        // A pair, of which one end is ours to serve.
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        theirs.write_all(b"ask").unwrap();
        reactor.adopt(ours, Framing::raw(), Loud).unwrap();
        peers.push(theirs.into());
        drop(peers);
        while closed.len() < 3 * (round + 1) {
            let _ = reactor.turn(Some(Duration::from_millis(50)), &mut closed).unwrap();
        }
    }
    assert_eq!(closed.len(), 60, "{closed:?}");
    assert!(reactor.stats().requests > 0, "somebody's request was answered into the void");
}
