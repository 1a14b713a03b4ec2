//! A datagram socket in the poll set: drained within a budget, and answered without ever waiting.

use std::{io, os::fd::AsFd, rc::Rc};

use log::Level;
use mio::Interest;

use crate::{
    net::datagram::{Datagram, address::SocketAddress},
    observe::{event::What, throttle::Kind},
    set::{
        call::{guarded, report},
        context::Context,
        poll_set::{Phase, PollSet},
        source::{Ready, Source, Visited},
    },
    sys::datagram::{self, Arrival, BATCH},
    types::{
        cause::{Cause, Limit},
        key::Key,
        rejected::Rejected,
    },
};

/// The datagrams that a visit receives one by one before it takes [`BATCH`] a call: for a datagram at a time a batch
/// is dearer. `cargo test --release --lib batch_prices -- --ignored --nocapture` measures it.
///
/// On Linux 6.18, `recvfrom` to `EAGAIN` over `recvmmsg` of 16 to the short count, 64 bytes each: 0.88 for 1 datagram, 1.0 for 2, 1.1 to 1.2
/// for 4, 1.2 to 1.3 for 10 and 16.
const SINGLES: usize = 2;

/// Datagrams that a drain still handles. More than wait in a socket, but for a receive buffer enlarged past all need; a
/// sender that does not stop must not keep a drain going.
const DRAIN_MAX: usize = 4_096;

/// A datagram as a socket gives it, and the way to answer it.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Its bytes; there may be none. They are valid for this call.
    pub bytes: &'a [u8],
    /// `Some` if it was longer than [`Datagram::message_size`]: the bytes that it had. The rest is lost.
    pub truncated: Option<usize>,
    /// Who sent it: as the sender's kernel says on a Unix socket, as anybody can write on UDP.
    pub from: SocketAddress,
    socket: &'a Datagram,
}

impl Incoming<'_> {
    /// Sends a datagram back to the sender, at once and without waiting.
    ///
    /// # Errors
    /// `NotConnected`: the sender is unnamed. Those of [`Datagram::send_to`]; `WouldBlock` means that the sender has not
    /// received what it was sent before.
    pub fn reply(&self, bytes: &[u8]) -> io::Result<()> {
        if !self.from.is_unnamed() {
            return self.socket.send_to(bytes, &self.from);
        }
        // The other end of a pair is unnamed, and connected.
        self.socket.send(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::NotConnected => io::Error::new(
                io::ErrorKind::NotConnected,
                "the sender is unnamed: it must bind its socket to be answered (autobind will do)",
            ),
            _ => error,
        })
    }
}

/// What happens to a socket's datagrams. A closure given to [`PollSet::datagram`] is one that only handles datagrams.
///
/// A datagram socket is shared by all who send to it, so a handler that fails or panics loses the datagram and nothing
/// else.
pub trait DatagramHandler<S> {
    /// A datagram has been received.
    ///
    /// # Errors
    /// Counted, and logged. The socket stays.
    fn on_datagram(
        &mut self,
        datagram: Incoming<'_>,
        cx: &mut Context<'_, S>,
        state: &mut S,
    ) -> io::Result<()>;

    /// The kernel reports an error on the socket: `ConnectionRefused` and its like tell a connected socket that an earlier
    /// datagram of its own found nobody (`udp(7)`), `ConnectionReset` that the peer left without reading it
    /// (`unix(7)`). It is counted and logged already.
    ///
    /// # Errors
    /// Counted, and logged. The socket stays.
    fn on_error(&mut self, error: &io::Error, cx: &mut Context<'_, S>, state: &mut S) -> io::Result<()> {
        let _ = (error, cx, state);
        Ok(())
    }

    /// The socket is out of the poll set.
    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, S>, state: &mut S) {
        let _ = (cause, cx, state);
    }
}

struct Closure<F>(F);

impl<S, F> DatagramHandler<S> for Closure<F>
where
    F: FnMut(Incoming<'_>, &mut Context<'_, S>, &mut S) -> io::Result<()>,
{
    fn on_datagram(
        &mut self,
        datagram: Incoming<'_>,
        cx: &mut Context<'_, S>,
        state: &mut S,
    ) -> io::Result<()> {
        (self.0)(datagram, cx, state)
    }
}

pub(crate) struct DatagramSource<S> {
    /// Shared with the poll set while the handler runs.
    pub(crate) socket: Rc<Datagram>,
    pub(crate) handler: Box<dyn DatagramHandler<S>>,
    /// [`BATCH`] pieces of the socket's message size.
    bytes: Vec<u8>,
    arrivals: [Arrival; BATCH],
    /// How many datagrams a drain handles at most.
    to_drain: Option<usize>,
}

impl<S> PollSet<S> {
    /// Receives from a datagram socket: `handler` gets every datagram, empty ones too, at most
    /// [`Limits::messages_per_visit`](crate::Limits::messages_per_visit) in a visit.
    ///
    /// Datagrams are received in batches; those of a batch that are not handled yet when a handler closes the socket
    /// or stops the reactor are lost with it. A drain handles those that have arrived, and closes the socket.
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
    /// The kernel refuses to watch it; it is handed back.
    pub fn datagram(
        &mut self,
        socket: Datagram,
        handler: impl FnMut(Incoming<'_>, &mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
    ) -> Result<Key, Rejected<Datagram>> {
        self.datagram_handler(socket, Closure(handler))
    }

    /// Receives from a datagram socket, with a handler that is also told of errors and of the end.
    ///
    /// # Errors
    /// As for [`datagram`](PollSet::datagram).
    pub fn datagram_handler(
        &mut self,
        socket: Datagram,
        handler: impl DatagramHandler<S> + 'static,
    ) -> Result<Key, Rejected<Datagram>> {
        let key = match self.register(socket.as_fd(), Interest::READABLE) {
            Ok(key) => key,
            Err(error) => return Err(Rejected { error, source: socket }),
        };
        let source = DatagramSource {
            bytes: vec![0; BATCH * socket.message_size()],
            socket: Rc::new(socket),
            handler: Box::new(handler),
            arrivals: [Arrival::to_fill(); BATCH],
            to_drain: None,
        };
        Ok(self.place(key, Source::Datagram(Box::new(source))))
    }

    /// The datagram socket of this key, to send with it or to connect it; that of the running handler, too. `None` once
    /// it is closed.
    pub fn datagram_socket(&self, key: Key) -> Option<&Datagram> {
        match (self.source(key)?, &self.receiving) {
            (Source::Datagram(source), _) => Some(&source.socket),
            (Source::Running, Some((receiving, socket))) if *receiving == key => Some(socket),
            _ => None,
        }
    }

    /// Sends a datagram from a socket of the poll set, at once and without waiting. Nothing is kept for later: a Unix socket
    /// is not told when one of its many receivers has room again.
    ///
    /// # Errors
    /// `NotFound`: the key names no datagram socket. Those of [`Datagram::send_to`]; `WouldBlock` where the receiver's queue
    /// is full.
    pub fn send_to(&self, key: Key, bytes: &[u8], to: &SocketAddress) -> io::Result<()> {
        match self.datagram_socket(key) {
            Some(socket) => socket.send_to(bytes, to),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("{key} is no datagram socket"))),
        }
    }
}

impl<S> DatagramSource<S> {
    fn recv(&mut self, most: usize) -> io::Result<usize> {
        let (fd, each) = (self.socket.as_fd(), self.socket.message_size());
        if most == 1 {
            datagram::recv_from(fd, &mut self.bytes[..each], &mut self.arrivals[0]).map(|()| 1)
        } else {
            datagram::recv_batch(fd, &mut self.bytes, each, &mut self.arrivals[..most])
        }
    }
}

/// One visit: empties the socket as far as the budget reaches.
pub(crate) fn visit<S>(
    set: &mut PollSet<S>,
    key: Key,
    source: &mut DatagramSource<S>,
    ready: Ready,
    state: &mut S,
) -> Visited {
    set.receiving = Some((key, source.socket.clone()));
    let visited = receive(set, key, source, ready, state);
    set.receiving = None;
    visited
}

fn receive<S>(
    set: &mut PollSet<S>,
    key: Key,
    source: &mut DatagramSource<S>,
    ready: Ready,
    state: &mut S,
) -> Visited {
    if set.phase == Phase::Draining {
        source.to_drain.get_or_insert(DRAIN_MAX);
    }
    let budget = set.limits.messages_per_visit.max(1);
    let mut handled = 0;
    while handled < budget {
        if source.to_drain == Some(0) {
            return Visited::closed(Cause::Drain);
        }
        let most = if handled < SINGLES { 1 } else { BATCH.min(budget - handled) };
        let most = most.min(source.to_drain.unwrap_or(most));
        let received = match source.recv(most) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return drained(source),
            Err(error) => {
                handled += 1;
                if let Err(cause) = failed(set, key, source, error, state) {
                    return Visited::closed(cause);
                }
                if set.take_halt() {
                    return Visited::closed(Cause::Closed);
                }
                continue;
            }
        };
        if let Err(cause) = handle(set, key, source, received, state) {
            return Visited::closed(cause);
        }
        if set.phase == Phase::Stopped {
            return Visited::Drained;
        }
        handled += received;
        // A short batch has met EAGAIN, or an error, which is put back without an edge.
        if received < most && !ready.has(Ready::ERROR) {
            return drained(source);
        }
    }
    set.tripped(Limit::Messages);
    Visited::Again(ready)
}

fn drained<S>(source: &DatagramSource<S>) -> Visited {
    if source.to_drain.is_some() { Visited::closed(Cause::Drain) } else { Visited::Drained }
}

/// Hands the first `received` datagrams of the batch to the handler, as long as the socket stays.
fn handle<S>(
    set: &mut PollSet<S>,
    key: Key,
    source: &mut DatagramSource<S>,
    received: usize,
    state: &mut S,
) -> Result<(), Cause> {
    let each = source.socket.message_size();
    set.stats.datagrams += received as u64;
    if set.tells_messages() {
        set.lap();
    }
    for (arrival, bytes) in source.arrivals[..received].iter().zip(source.bytes.chunks_exact(each)) {
        let datagram = Incoming {
            bytes: &bytes[..arrival.len.min(each)],
            truncated: (arrival.len > each).then_some(arrival.len),
            from: SocketAddress(arrival.from),
            socket: &source.socket,
        };
        let handler = &mut source.handler;
        if let Err(cause) = guarded(set, key, |cx| handler.on_datagram(datagram, cx, state)) {
            report(set, key, "datagram socket", &cause);
        }
        if set.tells_messages() {
            let bytes = datagram.bytes;
            set.tell_lap(|handler_ns, who| What::Message { who, bytes, priority: None, handler_ns });
        }
        if let Some(left) = &mut source.to_drain {
            *left -= 1;
        }
        if set.take_halt() {
            return Err(Cause::Closed);
        }
        if set.phase == Phase::Stopped {
            break;
        }
    }
    Ok(())
}

/// A receive that failed: the network's word on what was sent before, which the call has taken off the socket; or proof
/// that the descriptor is no socket any more, which alone closes the source.
fn failed<S>(
    set: &mut PollSet<S>,
    key: Key,
    source: &mut DatagramSource<S>,
    error: io::Error,
    state: &mut S,
) -> Result<(), Cause> {
    if error.kind() == io::ErrorKind::Interrupted {
        return Ok(());
    }
    set.stats.failed(error.kind());
    set.complain(Kind::Source, Level::Warn, format_args!("datagram socket {key}: {error}"));
    if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT)) {
        return Err(Cause::Io(error));
    }
    if let Err(cause) = guarded(set, key, |cx| source.handler.on_error(&error, cx, state)) {
        report(set, key, "datagram socket", &cause);
    }
    Ok(())
}
