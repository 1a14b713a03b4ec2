//! Clients of our own: connections that this process makes, as sources like those that it accepts.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use crate::{
    Address, Cause, Framing, Key, ListenerKind, PollSet, Session,
    cause::Outcome,
    client::{self, Client, Extra, Plan},
    output::watch_writing,
    source::Ready,
    sys::{sockaddr::SockAddr, socket},
};

/// How soon a full backlog is tried again: no event tells when there is room in it.
const BACKLOG_RETRY: Duration = Duration::from_millis(5);

impl<S> PollSet<S> {
    /// Connects to a Unix stream, Unix seqpacket or TCP address without waiting for it. The session's
    /// [`on_open`](Session::on_open) is called once the connection stands; what is sent to it before waits.
    ///
    /// A connection that cannot be made is told once, to [`on_close`](Session::on_close): with
    /// [`Cause::Connect`], or with [`Limit::Connect`](crate::Limit::Connect) after
    /// [`Limits::connect`](crate::Limits::connect). A full backlog is waited for.
    ///
    /// Host names are looked up with the system's resolver, which blocks: give numbers where that matters. Of several
    /// addresses the first that does not fail at once is taken.
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
    /// The address is of no such kind, or cannot be resolved; no descriptors. What the *peer* refuses is told to
    /// `on_close`.
    pub fn connect(
        &mut self,
        address: &Address,
        framing: Framing,
        session: impl Session<S> + 'static,
    ) -> io::Result<Key> {
        let (kind, targets) = targets(address)?;
        let mut failure = None;
        let mut made = None;
        for (domain, target) in targets {
            let socket = prepare(kind, domain, &framing)?;
            match socket::connect_nonblocking(socket.as_fd(), &target) {
                Ok(()) => failure = None,
                Err(error) if is_under_way(&error) => failure = None,
                Err(error) => failure = Some(error),
            }
            made = Some((socket, target));
            if failure.is_none() {
                break;
            }
        }
        let Some((socket, target)) = made else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{address} resolves to no address")));
        };
        let refuses = !kind.is_tcp()
            && framing.descriptors_max() == 0
            && matches!(socket::passes_rights(socket.as_fd()), Ok(false));
        let plan = Rc::new(Plan::new(kind, framing, refuses));
        let extra = Extra { connecting: Some(Box::new(target)), failure, ..Extra::default() };
        let key = client::admit(self, socket, plan, Box::new(session), Some(Box::new(extra)))?;
        // What stands or has failed already is found so by the first visit.
        self.mark_ready(key, Ready::NONE);
        Ok(key)
    }
}

fn targets(address: &Address) -> io::Result<(ListenerKind, Vec<(libc::c_int, SockAddr)>)> {
    let unix = |kind, address| Ok((kind, vec![(libc::AF_UNIX, address)]));
    match address {
        Address::UnixStream(path) => unix(ListenerKind::UnixStream, SockAddr::unix_path(path)?),
        Address::UnixSeqpacket(path) => unix(ListenerKind::UnixSeqpacket, SockAddr::unix_path(path)?),
        Address::AbstractStream(name) => unix(ListenerKind::UnixStream, SockAddr::unix_abstract(name)?),
        Address::AbstractSeqpacket(name) => unix(ListenerKind::UnixSeqpacket, SockAddr::unix_abstract(name)?),
        Address::Tcp(_) => {
            let domain =
                |ip: &std::net::SocketAddr| if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            let found = address.resolve()?;
            Ok((ListenerKind::Tcp, found.iter().map(|ip| (domain(ip), SockAddr::inet(*ip))).collect()))
        }
        _ => {
            let why = format!(
                "{address} cannot be connected to; unix:, unix-seq:, abstract:, abstract-seq: and tcp: can"
            );
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
    }
}

/// A socket with all that a client inherits from a master socket of ours.
fn prepare(kind: ListenerKind, domain: libc::c_int, framing: &Framing) -> io::Result<OwnedFd> {
    let socket = socket::socket(domain, kind.socket_type())?;
    if kind.is_tcp() {
        socket::set_nodelay(socket.as_fd(), true)?;
    } else {
        // A kernel before 6.16 has no such option; then a short read proves nothing.
        let _ = socket::set_passes_rights(socket.as_fd(), framing.descriptors_max() > 0);
    }
    if kind.is_seqpacket() {
        socket::set_passes_credentials(socket.as_fd(), true)?;
    }
    Ok(socket)
}

fn is_under_way(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EAGAIN | libc::EINTR))
}

/// Whether a client is connected; if it is not, goes on with it.
#[cold]
pub(crate) fn stands<S>(
    set: &mut PollSet<S>,
    key: Key,
    client: &mut Client<S>,
    left: &mut Ready,
) -> Outcome<bool> {
    let Some(target) = client.connecting().copied() else { return Ok(true) };
    if let Some(error) = client.extra.as_mut().and_then(|extra| extra.failure.take()) {
        return Err(Cause::Connect(error).into());
    }
    // A second connect tells where the first has got to, on every kind of socket.
    match socket::connect_nonblocking(client.fd(), &target) {
        Ok(()) => {}
        Err(error) => match error.raw_os_error() {
            Some(libc::EISCONN) => {}
            Some(libc::EAGAIN) => {
                set.resume_after(key, BACKLOG_RETRY);
                return Ok(false);
            }
            Some(libc::EALREADY | libc::EINPROGRESS | libc::EINTR) => return Ok(false),
            _ => return Err(Cause::Connect(error).into()),
        },
    }
    if let Some(extra) = &mut client.extra {
        extra.connecting = None;
    }
    if !client.plan.passes {
        client.extra = None;
    }
    client.writable = true;
    client.active_ns = set.now_ns();
    *left |= Ready::READABLE;
    // The heap has the connection's deadline: it is put off when it comes.
    watch_writing(set, key, client, false)?;
    Ok(true)
}
