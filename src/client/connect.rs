//! Outgoing connections: clients that this process connects.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use crate::{
    bytes::framing::Framing,
    client::{
        admit::{Registration, admit},
        visit_state::{Flow, Visit, io_of},
    },
    net::{address::Address, transport::Transport},
    set::{
        client::{ClientIo, Connecting, ConnectionConfig, Flags, Rights, Target},
        driver::Driver,
        poll_set::PollSet,
        session::Session,
    },
    sys::{sockaddr::SockAddr, socket, time::nanos},
    types::{cause::Cause, key::Key, ready::Ready},
};

/// The pause before a full backlog is tried again: no event comes when there is room. It doubles with each failure.
const BACKLOG_RETRY: Duration = Duration::from_millis(1);
const BACKLOG_RETRY_MAX: Duration = Duration::from_millis(64);

impl<S> PollSet<S> {
    /// Connects to a Unix stream, Unix seqpacket or TCP address without waiting for it. The session's
    /// [`on_open`](Session::on_open) is called once the connection is established; what is sent to it before waits.
    ///
    /// If the connection cannot be made, [`on_close`](Session::on_close) is called once, with [`Cause::Connect`], or
    /// with [`Limit::Connect`](crate::Limit::Connect) after [`Limits::connect`](crate::Limits::connect). If the
    /// listener's backlog is full, the reactor tries again until then.
    ///
    /// Host names are resolved with `getaddrinfo(3)`, which blocks: use numeric addresses where that matters. The
    /// addresses of a host are tried in order, all within the one limit; `on_close` gets the error of the last one.
    ///
    /// ```no_run
    /// # use ipc_reactor::{Context, Framing, Reactor, Session};
    /// # use std::io;
    /// struct Asker;
    ///
    /// impl Session<()> for Asker {
    ///     fn on_open(&mut self, cx: &mut Context<'_, ()>, _: &mut ()) -> io::Result<()> {
    ///         cx.reply(b"7\n")
    ///     }
    ///
    ///     fn on_request(&mut self, answer: &[u8], cx: &mut Context<'_, ()>, _: &mut ()) -> io::Result<()> {
    ///         println!("{}", String::from_utf8_lossy(answer));
    ///         cx.finish();
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let mut reactor = Reactor::<()>::new()?;
    /// reactor.connect(&"unix:/run/adder.sock".parse()?, Framing::lines(), Asker)?;
    /// # io::Result::Ok(())
    /// ```
    ///
    /// # Errors
    /// `InvalidInput`: the address is not that of a stream or seqpacket socket. Those of `getaddrinfo(3)`, `socket(2)`
    /// and `epoll_ctl(2)`. Errors of `connect(2)` go to `on_close`.
    pub fn connect(
        &mut self,
        address: &Address,
        framing: Framing,
        session: impl Session<S> + 'static,
    ) -> io::Result<Key> {
        let (transport, targets) = targets(address)?;
        self.connect_to(transport, targets, framing, Box::new(session))
    }

    pub(crate) fn connect_to(
        &mut self,
        transport: Transport,
        mut targets: VecDeque<Target>,
        framing: Framing,
        session: Box<dyn Driver<S>>,
    ) -> io::Result<Key> {
        let (socket, failure) = begin(transport, &framing, &mut targets)?;
        let unwanted = match socket::passes_rights(socket.as_fd()) {
            Ok(false) => Rights::Refused,
            _ => Rights::EndClient,
        };
        let config = Rc::new(ConnectionConfig::new(transport, framing, unwanted));
        let connecting = Connecting { transport, targets, failure, retry_ns: 0, pause: BACKLOG_RETRY };
        let key = admit(self, socket, config, session, Registration::Connecting(Box::new(connecting)))?;
        // If it is established, or has failed, already, the first visit finds that.
        self.mark_ready(key, Ready::NONE);
        Ok(key)
    }
}

fn targets(address: &Address) -> io::Result<(Transport, VecDeque<Target>)> {
    let unix = |transport, address| Ok((transport, VecDeque::from([(libc::AF_UNIX, address)])));
    match address {
        Address::UnixStream(path) => unix(Transport::UnixStream, SockAddr::unix_path(path)?),
        Address::UnixSeqpacket(path) => unix(Transport::UnixSeqpacket, SockAddr::unix_path(path)?),
        Address::AbstractStream(name) => unix(Transport::UnixStream, SockAddr::unix_abstract(name)?),
        Address::AbstractSeqpacket(name) => unix(Transport::UnixSeqpacket, SockAddr::unix_abstract(name)?),
        Address::Tcp(_) => Ok((Transport::Tcp, address.resolve()?.into_iter().map(target).collect())),
        _ => {
            let why = format!(
                "{address} cannot be connected to; unix:, unix-seq:, abstract:, abstract-seq: and tcp: can"
            );
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
    }
}

pub(crate) fn target(ip: std::net::SocketAddr) -> Target {
    (if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }, SockAddr::inet(ip))
}

/// Begins to connect to the first address that does not fail at once. If all do, also returns the error of the last.
fn begin(
    transport: Transport,
    framing: &Framing,
    targets: &mut VecDeque<Target>,
) -> io::Result<(OwnedFd, Option<io::Error>)> {
    loop {
        let (domain, target) = targets[0];
        let last = targets.len() == 1;
        match prepare(transport, domain, framing) {
            Ok(socket) => match socket::connect_nonblocking(socket.as_fd(), &target) {
                Err(error) if is_under_way(&error) => return Ok((socket, None)),
                Err(error) if last => return Ok((socket, Some(error))),
                Err(_) => {}
                Ok(()) => return Ok((socket, None)),
            },
            Err(error) if last => return Err(error),
            // IPv4 or IPv6 may be missing on this machine.
            Err(_) => {}
        }
        targets.pop_front();
    }
}

/// A socket with all options that an accepted client inherits from its listener.
fn prepare(transport: Transport, domain: libc::c_int, framing: &Framing) -> io::Result<OwnedFd> {
    let socket = socket::socket(domain, transport.socket_type())?;
    if transport.is_tcp() {
        socket::set_nodelay(socket.as_fd(), true)?;
    } else {
        // Linux before 6.16 has no such option.
        let _ = socket::set_passes_rights(socket.as_fd(), framing.descriptors_max() > 0);
    }
    if transport.is_seqpacket() {
        socket::set_passes_credentials(socket.as_fd(), true)?;
    }
    Ok(socket)
}

fn is_under_way(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EAGAIN | libc::EINTR))
}

/// Whether the connection is established. If it is not, continues to connect.
#[cold]
pub(super) fn poll_connect<S>(visit: &mut Visit<'_, S>) -> Flow<bool> {
    let (key, now_ns) = (visit.key, visit.set.now_ns());
    let io = io_of(&mut visit.set.registry, key);
    let Some(connecting) = io.extra().and_then(|extra| extra.connecting.as_mut()) else { return Ok(true) };
    if let Some(error) = connecting.failure.take() {
        return Err(Cause::Connect(error).into());
    }
    if now_ns < connecting.retry_ns {
        return Ok(false);
    }
    let target = connecting.targets[0].1;
    // A second connect reports the state of the first, on every transport. Not after it is established: on a Unix
    // socket, connect looks for the listener first, which may be closed or full by now.
    let polled = match socket::getpeername(io.fd()) {
        Ok(_) => Ok(()),
        Err(_) => socket::connect_nonblocking(io.fd(), &target),
    };
    let Some(connecting) = io.extra().and_then(|extra| extra.connecting.as_mut()) else { return Ok(true) };
    if let Err(error) = polled {
        match error.raw_os_error() {
            Some(libc::EISCONN) => {}
            Some(libc::EAGAIN) => {
                let pause = connecting.pause;
                connecting.retry_ns = now_ns.saturating_add(nanos(pause));
                connecting.pause = (pause * 2).min(BACKLOG_RETRY_MAX);
                visit.set.resume_after(key, pause);
                return Ok(false);
            }
            Some(libc::EALREADY | libc::EINPROGRESS | libc::EINTR) => return Ok(false),
            _ if connecting.targets.len() > 1 => {
                try_next(visit)?;
                return Ok(false);
            }
            _ => return Err(Cause::Connect(error).into()),
        }
    }
    connecting_is_over(io);
    io.flags.set(Flags::WRITABLE, true);
    io.active_ns = now_ns;
    // Earlier edges are out of date (an unconnected socket reports a hang-up). The new registration reports the present
    // state. The connect deadline is computed again when it comes.
    visit.left = Ready::READABLE;
    visit.set_write_interest(false)?;
    Ok(true)
}

fn connecting_is_over(io: &mut ClientIo) {
    if io.config.rights == Rights::Wanted {
        io.set_extra(Some(Box::default()));
    } else {
        io.set_extra(None);
    }
}

/// Begins to connect to the host's next address, with a new socket in place of the old one.
fn try_next<S>(visit: &mut Visit<'_, S>) -> Flow<()> {
    let io = io_of(&mut visit.set.registry, visit.key);
    let framing = io.config.framing.clone();
    let Some(connecting) = io.extra().and_then(|extra| extra.connecting.as_mut()) else { return Ok(()) };
    connecting.targets.pop_front();
    let (socket, failure) =
        begin(connecting.transport, &framing, &mut connecting.targets).map_err(Cause::Connect)?;
    connecting.failure = failure;
    let old = io.replace_socket(socket);
    let (fd, interest) = (io.raw_fd(), io.interest());
    visit.set.registry.deregister(old.as_raw_fd()).map_err(Cause::Io)?;
    visit.set.registry.register_as(visit.key, fd, interest).map_err(Cause::Io)?;
    visit.set.mark_ready(visit.key, Ready::NONE);
    Ok(())
}
