//! Multiplexing with this crate's reactor: the same edges, which the reactor remembers.
//!
//! ```text
//! R = a reactor;  put signals and M into it, each with its handler
//! R.run:
//!     epoll_wait                        who has become ready: the reactor remembers them
//!     for each that is remembered:
//!         M       -> accept             a CIR: the factory makes that client's session
//!         client  -> recv, session      an SRM: its answers leave in one send
//! ```
//!
//! What `epoll_edge` does by hand is done once here: the list of who is ready, the budget of a visit, the bytes that a
//! client does not take yet, the end of a connection in both directions. What is left to write is what this server is
//! *for*: the session below.
//!
//! It costs a call less than `epoll_edge` for each message. A short `recv` is taken as a proof that nothing is left,
//! which saves the `EAGAIN`; it is a proof only where descriptors cannot be passed and no out-of-band byte is
//! announced, and seeing to that is the reactor's affair, too.

use std::{
    io::{self, Write},
    time::Duration,
};

use ipc_reactor::{Context, Framing, Limits, Listener, Reactor, Session, Signal};

use crate::address::Address;

/// How long clients may take over their last answers when the server ends.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// One for each client handle, in the reactor's database. An echo has nothing to remember of its client.
struct Echo;

/// What the reactor calls back, as a C library would through a struct of function pointers.
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
