//! Multiplexing with this crate's reactor: edge-triggered epoll, and the reactor remembers the edges.
//!
//! ```text
//! R = a reactor;  put signals and M into it, each with its handler
//! R.run:
//!     epoll_wait                        which sources have become ready: the reactor remembers them
//!     for each that is remembered:
//!         M       -> accept             a CIR: the factory makes that client's session
//!         client  -> recv, session      an SRM: one send for its answers
//! ```
//!
//! The reactor does what `epoll_edge` does by hand: the list of ready sources, the budget of a visit, unsent bytes,
//! the end of a connection in both directions. You write only the service: the session below.
//!
//! It makes one call less than `epoll_edge` for each message. It takes a short `recv` as proof that the socket is
//! empty, which saves the call that returns `EAGAIN`. That holds only where the peer cannot pass descriptors and no
//! out-of-band byte is pending; the reactor checks both.

use std::{
    io::{self, Write},
    time::Duration,
};

use ipc_reactor::{Context, Framing, Limits, Listener, Reactor, Session, Signal};

use crate::address::Address;

/// How long clients may take to receive their last answers when the server ends.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// One for each client handle, in the reactor's database. An echo keeps no state for its client.
struct Echo;

/// The reactor's callbacks. A C library would use a struct of function pointers.
impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(request)
    }
}

pub(crate) fn serve(address: &Address) -> io::Result<()> {
    let mut reactor = Reactor::<()>::builder().limits(Limits { idle: None, ..Limits::default() }).build()?;
    reactor.signals([Signal::INT, Signal::TERM], |_, cx, ()| cx.drain(LAST_WORDS))?;

    let master = Listener::bind(&address.to_string().parse()?)?;
    let announced = master.local_address()?;
    reactor.listen(master, Framing::raw(), |_, ()| Ok(Echo))?;

    let mut out = io::stdout().lock();
    writeln!(out, "listening on {announced}")?;
    out.flush()?;
    reactor.run(&mut ())
}
