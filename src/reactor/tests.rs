//! Tests of private parts that need a whole reactor.

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, TcpListener},
    os::{fd::AsFd, unix::net::UnixStream},
    time::Duration,
};

use crate::{
    bytes::framing::Framing,
    client::connect::target,
    net::{listener::Listener, peer::PeerAddress, transport::Transport},
    reactor::event_loop::{Reactor, Turn},
    set::{context::Context, session::Session},
    sys::socket,
    types::{
        cause::{Cause, Limit},
        limits::Limits,
    },
};

struct Silent;

impl Session<()> for Silent {
    fn on_request(&mut self, _: &[u8], _: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        Ok(())
    }
}

/// A listener that is paused again must not add a second retry timer to one that a closed client left behind.
#[test]
fn a_paused_listener_has_one_retry_timer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let never = Duration::from_secs(3_600);
    let limits = Limits { clients: 1, accept_retry: never, idle: None, ..Limits::default() };
    let mut reactor = Reactor::<()>::builder().limits(limits).build().unwrap();
    reactor.listen(Listener::unix(&path).unwrap(), Framing::lines(), |_, ()| Ok(Silent)).unwrap();
    for accepted in 1..=20 {
        // At the end of the loop's body it leaves, and makes room for the next.
        let _one = UnixStream::connect(&path).unwrap();
        while reactor.stats().accepted < accepted {
            assert_ne!(reactor.turn(None, &mut ()).unwrap(), Turn::Stopped);
        }
        // A second look at the listener finds no place.
        let _next = UnixStream::connect(&path).unwrap();
        while reactor.stats().limit_count(Limit::Clients) < accepted {
            assert_ne!(reactor.turn(None, &mut ()).unwrap(), Turn::Stopped);
        }
        assert_eq!(reactor.timers.deadlines(), 1, "at connection {accepted}");
    }
}

struct Calls;

impl Session<Vec<String>> for Calls {
    fn on_open(&mut self, cx: &mut Context<'_, Vec<String>>, calls: &mut Vec<String>) -> io::Result<()> {
        calls.push("open".into());
        cx.finish();
        Ok(())
    }

    fn on_request(
        &mut self,
        _: &[u8],
        _: &mut Context<'_, Vec<String>>,
        _: &mut Vec<String>,
    ) -> io::Result<()> {
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Vec<String>>, calls: &mut Vec<String>) {
        calls.push(cause.to_string());
        cx.stop();
    }
}

/// Connects to a host with these addresses.
fn calls(addresses: &[SocketAddr]) -> Vec<String> {
    let targets: VecDeque<_> = addresses.iter().map(|ip| target(*ip)).collect();
    let mut reactor = Reactor::<Vec<String>>::new().unwrap();
    reactor.connect_to(Transport::Tcp, targets, Framing::raw(), Box::new(Calls)).unwrap();
    let mut calls = Vec::new();
    reactor.run(&mut calls).unwrap();
    calls
}

#[test]
fn a_host_is_reached_at_whichever_address_serves() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let serves = server.local_addr().unwrap();
    // Bound and not listening: nothing else gets the port, and it refuses.
    let deaf = |address: &str| {
        let (domain, address) = target(address.parse().unwrap());
        let socket = socket::socket(domain, libc::SOCK_STREAM)?;
        socket::bind(socket.as_fd(), &address)?;
        match PeerAddress::from(socket::getsockname(socket.as_fd())?) {
            PeerAddress::Inet(ip) => Ok((socket, ip)),
            other => Err(io::Error::other(other.to_string())),
        }
    };
    let (_v4, refuses) = deaf("127.0.0.1:0").unwrap();
    let (_v6, v6) = deaf("[::1]:0").or_else(|_| deaf("127.0.0.1:0")).unwrap();
    for addresses in [&[serves][..], &[refuses, serves], &[v6, refuses, refuses, serves], &[serves, refuses]]
    {
        assert_eq!(calls(addresses), ["open", "closed by a handler"], "{addresses:?}");
    }
    let refused = calls(&[v6, refuses]);
    assert!(refused.len() == 1 && refused[0].contains("Connection refused"), "{refused:?}");
}
