//! A datagram socket as a source.

use std::{io, mem, os::fd::AsFd, rc::Rc};

use mio::Interest;

use crate::{
    net::datagram::{Datagram, address::SocketAddress},
    observe::{event::What, throttle::Kind},
    set::{
        asked::Asked,
        call::call,
        context::Context,
        endpoints::{DatagramBatch, DatagramPort},
        handlers::{Closure, DatagramHandler, Incoming},
        lifecycle::Phase,
        poll_set::PollSet,
        source::{Source, Visited},
    },
    sys::datagram::{self, BATCH},
    types::{
        cause::{Cause, Limit},
        key::Key,
        ready::Ready,
        rejected::Rejected,
    },
};

/// How many datagrams a visit receives one by one before it receives [`BATCH`] per call: for single datagrams a batch
/// costs more. `cargo test --release --lib batch_prices -- --ignored --nocapture` measures it.
///
/// Measured on Linux 6.18 with 64 bytes each, the time of `recvfrom` until `EAGAIN`, divided by that of `recvmmsg` of
/// 16 until a short count: 0.88 for 1 datagram, 1.0 for 2, 1.1 to 1.2 for 4, 1.2 to 1.3 for 10 and 16.
const SINGLES: usize = 2;

/// How many datagrams a drain handles at most, so that a sender that does not stop cannot prolong it. A receive buffer
/// of usual size has room for fewer.
const DRAIN_MAX: usize = 4_096;

impl<S> PollSet<S> {
    /// Puts a datagram socket into the poll set: `handler` gets every datagram, empty ones too, at most
    /// [`Limits::messages_per_visit`](crate::Limits::messages_per_visit) in a visit.
    ///
    /// Datagrams are received in batches. If a handler closes the socket or stops the reactor, the rest of the batch is
    /// lost. A drain handles the datagrams that have arrived, and closes the socket.
    ///
    /// ```
    /// use ipc_reactor::{Datagram, Reactor};
    ///
    /// let mut reactor = Reactor::<()>::new()?;
    /// let socket = Datagram::udp("127.0.0.1:0")?;
    /// let client = Datagram::connected(&socket.local_address()?)?;
    /// reactor.datagram(socket, |datagram, cx, ()| {
    ///     cx.stop();
    ///     datagram.reply(datagram.bytes)
    /// })?;
    /// client.send(b"hello")?;
    /// reactor.run(&mut ())?;
    /// assert_eq!(client.recv_from(&mut [0; 64])?.len, 5);
    /// # std::io::Result::Ok(())
    /// ```
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`. The error returns the socket.
    pub fn datagram(
        &mut self,
        socket: Datagram,
        handler: impl FnMut(Incoming<'_>, &mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
    ) -> Result<Key, Rejected<Datagram>> {
        self.datagram_handler(socket, Closure(handler))
    }

    /// [`datagram`](PollSet::datagram) with a handler that also has methods for errors and for the end.
    ///
    /// # Errors
    /// As for [`datagram`](PollSet::datagram).
    pub fn datagram_handler(
        &mut self,
        socket: Datagram,
        handler: impl DatagramHandler<S> + 'static,
    ) -> Result<Key, Rejected<Datagram>> {
        if let Err(error) = self.register(socket.as_fd(), Interest::READABLE) {
            return Err(Rejected { error, source: socket });
        }
        let batch = Some(Box::new(DatagramBatch::new(socket.message_size())));
        let port = DatagramPort { socket: Rc::new(socket), batch, to_drain: None };
        Ok(self.place(Source::Datagram { port: Box::new(port), handler: Some(Box::new(handler)) }))
    }

    /// The datagram socket of this key, to send with it or to connect it, the running handler's included. `None` once
    /// it is closed.
    pub fn datagram_socket(&self, key: Key) -> Option<&Datagram> {
        match self.registry.get(key)? {
            Source::Datagram { port, .. } => Some(&port.socket),
            _ => None,
        }
    }

    /// Sends a datagram from a socket of the poll set, without waiting. Nothing is buffered: the kernel does not report
    /// when one of a Unix socket's many receivers has room again.
    ///
    /// # Errors
    /// `NotFound`: the key names no datagram socket. Those of [`Datagram::send_to`]; `WouldBlock` where the receiver's
    /// queue is full.
    pub fn send_to(&self, key: Key, bytes: &[u8], to: &SocketAddress) -> io::Result<()> {
        match self.datagram_socket(key) {
            Some(socket) => socket.send_to(bytes, to),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("{key} names no datagram socket"))),
        }
    }
}

/// The endpoint of the socket that is visited.
fn port<S>(set: &mut PollSet<S>, key: Key) -> &mut DatagramPort {
    match set.registry.get_mut(key) {
        Some(Source::Datagram { port, .. }) => port,
        _ => unreachable!("a datagram socket is not removed while it is visited"),
    }
}

/// One visit: receives until the socket is empty or the budget is spent.
pub(crate) fn visit<S>(set: &mut PollSet<S>, key: Key, ready: Ready, state: &mut S) -> Visited {
    let draining = set.lifecycle.phase() == Phase::Draining;
    let port_ = port(set, key);
    if draining {
        port_.to_drain.get_or_insert(DRAIN_MAX);
    }
    // Out of its slot while handlers borrow its bytes.
    let Some(mut batch) = port_.batch.take() else { unreachable!("it is there between visits") };
    let visited = receive(set, key, &mut batch, ready, state);
    set.stats.descriptors_discarded += mem::take(&mut batch.discarded);
    port(set, key).batch = Some(batch);
    visited
}

fn receive<S>(
    set: &mut PollSet<S>,
    key: Key,
    batch: &mut DatagramBatch,
    ready: Ready,
    state: &mut S,
) -> Visited {
    let socket = port(set, key).socket.clone();
    let budget = set.limits.messages_per_visit.max(1);
    let mut handled = 0;
    while handled < budget {
        let to_drain = port(set, key).to_drain;
        if to_drain == Some(0) {
            return Visited::closed(Cause::Drain);
        }
        let most = if handled < SINGLES { 1 } else { BATCH.min(budget - handled) };
        let most = most.min(to_drain.unwrap_or(most));
        let received = match recv(&socket, batch, most) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return drained(to_drain),
            Err(error) => {
                handled += 1;
                match failed(set, key, error, state).map(|asked| asked.ends_visit(ready)) {
                    Err(cause) => return Visited::closed(cause),
                    Ok(Some(visited)) => return visited,
                    Ok(None) => continue,
                }
            }
        };
        if let Some(visited) = handle(set, key, &socket, batch.received(received), state).ends_visit(ready) {
            return visited;
        }
        handled += received;
        // A short batch ended at EAGAIN, or at an error, which the kernel puts back without an edge.
        if received < most && !ready.has(Ready::ERROR) {
            return drained(port(set, key).to_drain);
        }
    }
    // No limit is reached if nothing is left.
    if crate::sys::socket::is_drained(socket.as_fd()) {
        return drained(port(set, key).to_drain);
    }
    set.count_limit(Limit::Messages);
    Visited::Again(ready)
}

fn recv(socket: &Datagram, batch: &mut DatagramBatch, most: usize) -> io::Result<usize> {
    let (fd, each) = (socket.as_fd(), socket.message_size());
    let discarded = socket.takes_rights().then_some(&mut batch.discarded);
    if most == 1 {
        datagram::recv_from(fd, &mut batch.bytes[..each], &mut batch.arrivals[0], discarded).map(|()| 1)
    } else {
        datagram::recv_batch(fd, &mut batch.bytes, each, &mut batch.arrivals[..most], discarded)
    }
}

fn drained(to_drain: Option<usize>) -> Visited {
    if to_drain.is_some() { Visited::closed(Cause::Drain) } else { Visited::Drained }
}

/// Calls the handler with each datagram, until it asks for something.
fn handle<'a, S>(
    set: &mut PollSet<S>,
    key: Key,
    socket: &'a Datagram,
    received: impl ExactSizeIterator<Item = (&'a [u8], Option<usize>, SocketAddress)>,
    state: &mut S,
) -> Asked {
    set.stats.datagrams += received.len() as u64;
    if set.observes_messages() {
        set.lap();
    }
    for (bytes, truncated, from) in received {
        let datagram = Incoming { bytes, truncated, from, socket };
        let asked = call(set, key, |handler: &mut Box<dyn DatagramHandler<S>>, cx| {
            handler.on_datagram(datagram, cx, state)
        })
        .or_report(set, key, "datagram socket");
        if set.observes_messages() {
            set.emit_timed(|handler_ns, source| What::Message { source, bytes, priority: None, handler_ns });
        }
        if let Some(left) = &mut port(set, key).to_drain {
            *left -= 1;
        }
        if asked.ends() {
            return asked;
        }
    }
    Asked::Nothing
}

/// A receive has failed: with a pending error of an earlier send, which the call has cleared; or because the descriptor
/// is no socket any more, which closes the source.
fn failed<S>(set: &mut PollSet<S>, key: Key, error: io::Error, state: &mut S) -> Result<Asked, Cause> {
    if error.kind() == io::ErrorKind::Interrupted {
        return Ok(Asked::Nothing);
    }
    set.stats.failed(error.kind());
    set.warn(Kind::Source, format_args!("datagram socket {key}: {error}"));
    if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT)) {
        return Err(Cause::Io(error));
    }
    Ok(call(set, key, |handler: &mut Box<dyn DatagramHandler<S>>, cx| handler.on_error(&error, cx, state))
        .or_report(set, key, "datagram socket"))
}
