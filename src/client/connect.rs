//! Clients of our own: connections that this process makes, as sources like those that it accepts.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use mio::unix::SourceFd;

use crate::{
    bytes::framing::Framing,
    client::output::watch_writing,
    net::{address::Address, listener::ListenerKind},
    set::{
        client::{self, Client, Extra, Plan, Watched},
        poll_set::PollSet,
        session::Session,
        source::Ready,
    },
    sys::{sockaddr::SockAddr, socket},
    types::{
        cause::{Cause, Outcome},
        key::Key,
    },
};

/// How soon a full backlog is tried again: no event tells when there is room in it. Each time in vain doubles the pause.
const BACKLOG_RETRY: Duration = Duration::from_millis(1);
const BACKLOG_RETRY_MAX: Duration = Duration::from_millis(64);

/// Domain and address.
type Target = (libc::c_int, SockAddr);

/// A connection of ours that does not stand yet.
pub(crate) struct Connecting {
    kind: ListenerKind,
    /// Where to: the first is being tried, the others are for when that fails.
    targets: VecDeque<Target>,
    /// Why the last of them failed at once; told by the first visit.
    failure: Option<io::Error>,
    /// A timer has it tried again at this time; visits before, for whatever reason, have nothing to try.
    retry_ns: u64,
    pause: Duration,
}

impl<S> PollSet<S> {
    /// Connects to a Unix stream, Unix seqpacket or TCP address without waiting for it. The session's
    /// [`on_open`](Session::on_open) is called once the connection stands; what is sent to it before waits.
    ///
    /// A connection that cannot be made is told once, to [`on_close`](Session::on_close): with
    /// [`Cause::Connect`], or with [`Limit::Connect`](crate::Limit::Connect) after
    /// [`Limits::connect`](crate::Limits::connect). A full backlog is waited for.
    ///
    /// Host names are looked up with the system's resolver, which blocks: give numbers where that matters. Of several
    /// addresses each is tried in turn, all within that one time; the last one's failure is told.
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
        self.connect_to(kind, targets, framing, Box::new(session))
    }

    fn connect_to(
        &mut self,
        kind: ListenerKind,
        mut targets: VecDeque<Target>,
        framing: Framing,
        session: Box<dyn Session<S>>,
    ) -> io::Result<Key> {
        let (socket, failure) = begin(kind, &framing, &mut targets)?;
        let refuses = !kind.is_tcp()
            && framing.descriptors_max() == 0
            && matches!(socket::passes_rights(socket.as_fd()), Ok(false));
        let plan = Rc::new(Plan::new(kind, framing, refuses));
        let connecting = Connecting { kind, targets, failure, retry_ns: 0, pause: BACKLOG_RETRY };
        let extra = Extra { connecting: Some(Box::new(connecting)), ..Extra::default() };
        let key = client::admit(self, socket, plan, session, Some(Box::new(extra)), Watched::AtOnce)?;
        // What stands or has failed already is found so by the first visit.
        self.mark_ready(key, Ready::NONE);
        Ok(key)
    }
}

fn targets(address: &Address) -> io::Result<(ListenerKind, VecDeque<Target>)> {
    let unix = |kind, address| Ok((kind, VecDeque::from([(libc::AF_UNIX, address)])));
    match address {
        Address::UnixStream(path) => unix(ListenerKind::UnixStream, SockAddr::unix_path(path)?),
        Address::UnixSeqpacket(path) => unix(ListenerKind::UnixSeqpacket, SockAddr::unix_path(path)?),
        Address::AbstractStream(name) => unix(ListenerKind::UnixStream, SockAddr::unix_abstract(name)?),
        Address::AbstractSeqpacket(name) => unix(ListenerKind::UnixSeqpacket, SockAddr::unix_abstract(name)?),
        Address::Tcp(_) => Ok((ListenerKind::Tcp, address.resolve()?.into_iter().map(target).collect())),
        _ => {
            let why = format!(
                "{address} cannot be connected to; unix:, unix-seq:, abstract:, abstract-seq: and tcp: can"
            );
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
    }
}

fn target(ip: std::net::SocketAddr) -> Target {
    (if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }, SockAddr::inet(ip))
}

/// Starts on the first address that does not fail at once. If all do, says why the last one did.
fn begin(
    kind: ListenerKind,
    framing: &Framing,
    targets: &mut VecDeque<Target>,
) -> io::Result<(OwnedFd, Option<io::Error>)> {
    loop {
        let (domain, target) = targets[0];
        let last = targets.len() == 1;
        match prepare(kind, domain, framing) {
            Ok(socket) => match socket::connect_nonblocking(socket.as_fd(), &target) {
                Err(error) if is_under_way(&error) => return Ok((socket, None)),
                Err(error) if last => return Ok((socket, Some(error))),
                Err(_) => {}
                Ok(()) => return Ok((socket, None)),
            },
            Err(error) if last => return Err(error),
            // One protocol may be missing here where the other is not.
            Err(_) => {}
        }
        targets.pop_front();
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
    let now_ns = set.now_ns();
    let Some(connecting) = client.extra.as_mut().and_then(|extra| extra.connecting.as_mut()) else {
        return Ok(true);
    };
    if let Some(error) = connecting.failure.take() {
        return Err(Cause::Connect(error).into());
    }
    if now_ns < connecting.retry_ns {
        return Ok(false);
    }
    // A second connect tells where the first has got to, on every kind of socket.
    match socket::connect_nonblocking(client.socket.as_fd(), &connecting.targets[0].1) {
        Ok(()) => {}
        Err(error) => match error.raw_os_error() {
            Some(libc::EISCONN) => {}
            Some(libc::EAGAIN) => {
                let pause = connecting.pause;
                connecting.retry_ns = now_ns.saturating_add(pause.as_nanos() as u64);
                connecting.pause = (pause * 2).min(BACKLOG_RETRY_MAX);
                set.resume_after(key, pause);
                return Ok(false);
            }
            Some(libc::EALREADY | libc::EINPROGRESS | libc::EINTR) => return Ok(false),
            _ if connecting.targets.len() > 1 => {
                try_next(set, key, client)?;
                return Ok(false);
            }
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
    client.active_ns = now_ns;
    // Edges from before (an unconnected socket shows a hang-up) mean nothing now; registering anew tells what is true.
    *left = Ready::READABLE;
    // The heap has the connection's deadline: it is put off when it comes.
    watch_writing(set, key, client, false)?;
    Ok(true)
}

/// The host has more addresses: on to the next, with a new socket in the old one's place.
fn try_next<S>(set: &mut PollSet<S>, key: Key, client: &mut Client<S>) -> Outcome<()> {
    let Some(connecting) = client.extra.as_mut().and_then(|extra| extra.connecting.as_mut()) else {
        return Ok(());
    };
    connecting.targets.pop_front();
    let (socket, failure) =
        begin(connecting.kind, &client.plan.framing, &mut connecting.targets).map_err(Cause::Connect)?;
    connecting.failure = failure;
    let registry = set.poll.registry();
    let old = std::mem::replace(&mut client.socket, socket);
    registry.deregister(&mut SourceFd(&old.as_raw_fd())).map_err(Cause::Io)?;
    registry
        .register(
            &mut SourceFd(&client.socket.as_raw_fd()),
            key.token(),
            client::interest(&client.plan, client.watches_write),
        )
        .map_err(Cause::Io)?;
    set.mark_ready(key, Ready::NONE);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::{reactor::event_loop::Reactor, set::context::Context};

    struct Told;

    impl Session<Vec<String>> for Told {
        fn on_open(&mut self, cx: &mut Context<'_, Vec<String>>, told: &mut Vec<String>) -> io::Result<()> {
            told.push("open".into());
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

        fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Vec<String>>, told: &mut Vec<String>) {
            told.push(cause.to_string());
            cx.stop();
        }
    }

    /// Connects to a host with these addresses.
    fn told(addresses: &[std::net::SocketAddr]) -> Vec<String> {
        let targets = addresses.iter().map(|ip| target(*ip)).collect();
        let mut reactor = Reactor::<Vec<String>>::new().unwrap();
        reactor.connect_to(ListenerKind::Tcp, targets, Framing::raw(), Box::new(Told)).unwrap();
        let mut told = Vec::new();
        reactor.run(&mut told).unwrap();
        told
    }

    #[test]
    fn a_host_is_reached_at_whichever_address_serves() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let serves = server.local_addr().unwrap();
        // Bound and not listening: nobody else gets the port, and it refuses.
        let deaf = |address: &str| {
            let (domain, address) = target(address.parse().unwrap());
            let socket = socket::socket(domain, libc::SOCK_STREAM)?;
            socket::bind(socket.as_fd(), &address)?;
            match socket::getsockname(socket.as_fd())? {
                crate::net::peer::PeerAddress::Inet(ip) => Ok((socket, ip)),
                other => Err(io::Error::other(other.to_string())),
            }
        };
        let (_v4, refuses) = deaf("127.0.0.1:0").unwrap();
        let (_v6, v6) = deaf("[::1]:0").or_else(|_| deaf("127.0.0.1:0")).unwrap();
        for addresses in
            [&[serves][..], &[refuses, serves], &[v6, refuses, refuses, serves], &[serves, refuses]]
        {
            assert_eq!(told(addresses), ["open", "closed by a handler"], "{addresses:?}");
        }
        let refused = told(&[v6, refuses]);
        assert!(refused.len() == 1 && refused[0].contains("Connection refused"), "{refused:?}");
    }
}
