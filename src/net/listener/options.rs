//! A listener's options, and how each kind of listener is made.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    os::fd::AsFd,
    path::Path,
};

use super::Listener;
use crate::{
    net::{
        address::{Address, Escaped},
        failure::failed,
        path::PathGuard,
        transport::{Transport, invalid},
    },
    sys::{file, sockaddr::SockAddr, socket},
};

/// Options to set before a listener is made, from [`Listener::options`].
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    mode: u32,
    backlog: u32,
    takeover: bool,
}

impl ListenerOptions {
    pub(super) fn new() -> Self {
        Self { mode: 0o600, backlog: 4096, takeover: false }
    }

    /// The permission bits of a path. A client needs write permission to connect. Default 0600.
    ///
    /// They are set before `bind(2)`, so the path never has other ones. The umask removes bits, as with
    /// [`OpenOptions::mode`](std::os::unix::fs::OpenOptionsExt::mode). No effect for abstract names and TCP.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    /// The most connections that wait to be accepted. Default 4096. The kernel clamps it to
    /// `/proc/sys/net/core/somaxconn` (`listen(2)`).
    pub fn backlog(&mut self, connections: u32) -> &mut Self {
        self.backlog = connections;
        self
    }

    /// Takes a path over from a running server, in one step: no client is refused. Default false.
    ///
    /// The new socket is bound to a temporary name in the same directory, listens, and then exchanges its name with the
    /// old socket. Therefore:
    ///
    /// - Clients see the temporary name (`.ipc-` and 8 digits) in `getpeername(2)`, and the kernel shows it in
    ///   `/proc/net/unix`. The temporary name must not be longer than 107 bytes, either.
    /// - The old server keeps its connections, also those that wait in its backlog. When it ends, it removes neither
    ///   the path nor the lock file, which belong to its successor.
    /// - A socket of any type, in use or stale, is replaced. A file of another kind is still `AlreadyExists`. Of two
    ///   servers that take over at the same time one may get `AddrInUse`.
    ///
    /// No effect for abstract names and TCP.
    ///
    /// # How the old server ends
    ///
    /// `connect(2)` first looks the path up, and then enters the backlog of the socket that it found. Between the two
    /// steps the client may lose the processor. So for a moment after the exchange some clients still reach the old
    /// socket. If it is closed by then, they are refused; if it has accepted for the last time, they get no answer.
    /// (Measured under load: an old server that drains at once loses a connection in one of 2,500 takeovers.) No event
    /// says when the last of them is in the backlog, but a second is more than enough. In this order no connection is
    /// lost:
    ///
    /// 1. The successor takes over, and only then tells the old server, for example with SIGTERM.
    /// 2. The old server goes on for that second, and still accepts.
    /// 3. It drains: it accepts, answers and closes the connections that clients have made.
    /// 4. It ends, and its socket is closed.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use ipc_reactor::{Reactor, Signal};
    /// # let mut reactor = Reactor::<()>::new()?;
    /// reactor.signals([Signal::TERM], |_, cx, ()| {
    ///     cx.after(Duration::from_secs(1), |cx, ()| cx.drain(Duration::from_secs(5)));
    ///     Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn takeover(&mut self, takeover: bool) -> &mut Self {
        self.takeover = takeover;
        self
    }

    /// [`Listener::unix`] with these options.
    ///
    /// # Errors
    ///
    /// As [`Listener::unix`]; `InvalidInput` for a mode above 0777.
    pub fn unix(&self, path: impl AsRef<Path>) -> io::Result<Listener> {
        self.at_path(Transport::UnixStream, path.as_ref())
    }

    /// [`Listener::unix_seqpacket`] with these options.
    ///
    /// # Errors
    ///
    /// As [`unix`](Self::unix).
    pub fn unix_seqpacket(&self, path: impl AsRef<Path>) -> io::Result<Listener> {
        self.at_path(Transport::UnixSeqpacket, path.as_ref())
    }

    /// [`Listener::unix_abstract`] with these options.
    ///
    /// # Errors
    ///
    /// As [`Listener::unix_abstract`].
    pub fn unix_abstract(&self, name: impl AsRef<[u8]>) -> io::Result<Listener> {
        self.at_name(Transport::UnixStream, name.as_ref())
    }

    /// [`Listener::seqpacket_abstract`] with these options.
    ///
    /// # Errors
    ///
    /// As [`Listener::unix_abstract`].
    pub fn seqpacket_abstract(&self, name: impl AsRef<[u8]>) -> io::Result<Listener> {
        self.at_name(Transport::UnixSeqpacket, name.as_ref())
    }

    /// [`Listener::tcp`] with these options.
    ///
    /// # Errors
    ///
    /// As [`Listener::tcp`].
    pub fn tcp(&self, address: impl ToSocketAddrs) -> io::Result<Listener> {
        let mut last = invalid("no address to listen on: the name resolves to none".into());
        for address in address.to_socket_addrs()? {
            match self.at_inet(address) {
                Ok(listener) => return Ok(listener),
                Err(cause) => last = failed("cannot listen on", format_args!("tcp:{address}"), cause),
            }
        }
        Err(last)
    }

    /// [`Listener::bind`] with these options.
    ///
    /// # Errors
    ///
    /// As [`Listener::bind`].
    pub fn bind(&self, address: &Address) -> io::Result<Listener> {
        match address {
            Address::UnixStream(path) => self.unix(path),
            Address::UnixSeqpacket(path) => self.unix_seqpacket(path),
            Address::AbstractStream(name) => self.unix_abstract(name),
            Address::AbstractSeqpacket(name) => self.seqpacket_abstract(name),
            Address::Tcp(_) => self.tcp(&*address.resolve()?),
            Address::UnixDatagram(_) | Address::AbstractDatagram(_) | Address::Udp(_) | Address::Queue(_) => {
                Err(invalid(format!(
                    "{address} has no connections; listen on unix:, unix-seq:, abstract:, abstract-seq: or tcp:"
                )))
            }
        }
    }

    fn at_path(&self, transport: Transport, path: &Path) -> io::Result<Listener> {
        if self.mode & !0o777 != 0 {
            return Err(invalid(format!("mode {:#o} has more than permission bits (0o777)", self.mode)));
        }
        let mut listener = Listener::new(transport, libc::AF_UNIX)
            .map_err(|cause| failed("cannot make a socket for", format_args!("{path:?}"), cause))?;
        file::fchmod(listener.as_fd(), self.mode)?;
        let socket_type = transport.socket_type();
        let guard = PathGuard::listen(listener.as_fd(), path, socket_type, self.backlog, self.takeover)?;
        listener.guard = Some(guard);
        listener.path = Some(path.to_owned());
        Ok(listener)
    }

    fn at_name(&self, transport: Transport, name: &[u8]) -> io::Result<Listener> {
        let address = SockAddr::unix_abstract(name)?;
        let listen = || {
            let listener = Listener::new(transport, libc::AF_UNIX)?;
            socket::bind(listener.as_fd(), &address)?;
            socket::listen(listener.as_fd(), self.backlog)?;
            Ok(listener)
        };
        let scheme = if transport.is_seqpacket() { "abstract-seq" } else { "abstract" };
        listen()
            .map_err(|cause| failed("cannot listen on", format_args!("{scheme}:{}", Escaped(name)), cause))
    }

    fn at_inet(&self, address: SocketAddr) -> io::Result<Listener> {
        let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let listener = Listener::new(Transport::Tcp, domain)?;
        socket::bind(listener.as_fd(), &SockAddr::inet(address))?;
        socket::listen(listener.as_fd(), self.backlog)?;
        Ok(listener)
    }
}
