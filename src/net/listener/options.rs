//! What can be chosen about a master socket, and the making of each kind.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::Path;

use super::{Listener, ListenerKind, invalid};
use crate::net::address::{Address, Escaped};
use crate::net::path::PathGuard;
use crate::sys::path::fchmod;
use crate::sys::sockaddr::SockAddr;
use crate::sys::socket;

/// What to set before listening; from [`Listener::options`].
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

    /// Permission bits of a path: who may connect, for which write permission is needed. Default 0600.
    ///
    /// They are set on the socket before `bind(2)`, so the path never has others; and as with
    /// [`OpenOptions::mode`](std::os::unix::fs::OpenOptionsExt::mode), the umask takes bits away. Nothing for abstract names and TCP.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    /// Connections that may wait to be accepted. Default 4096; the kernel clamps it to `/proc/sys/net/core/somaxconn` (`listen(2)`).
    pub fn backlog(&mut self, connections: u32) -> &mut Self {
        self.backlog = connections;
        self
    }

    /// Takes a path over from a living server, in one step: no client is refused. Default false.
    ///
    /// The new socket is bound to a temporary name in the same directory, listens, and then changes places with the old one. Therefore:
    ///
    /// - clients see the temporary name (`.ipc-` and 8 digits) in `getpeername(2)`, and the kernel shows it in `/proc/net/unix`;
    ///   the temporary name has to fit in 107 bytes, too;
    /// - the old server keeps the connections that it has, also those waiting in its backlog, and when it ends, it leaves path
    ///   and lock to its successor;
    /// - a socket of any type, living or stale, is replaced; a file of another kind still is `AlreadyExists`. Of two servers that
    ///   take over at the same time one may get `AddrInUse`.
    ///
    /// Nothing for abstract names and TCP.
    ///
    /// # The old server's end
    ///
    /// `connect(2)` first looks the path up and then queues with the socket that it found, and the client may lose the processor in
    /// between. So for a moment after the exchange some still reach the old socket: one that is closed by then
    /// refuses them, and one that has accepted for the last time leaves them unanswered. (Measured, under load: an old server
    /// that drains at once loses a connection in one of 2,500 takeovers.) Nothing tells when the last of them is through;
    /// a second is ample. In this order none is lost:
    ///
    /// 1. the successor takes over, and only then tells the old server, say by SIGTERM;
    /// 2. the old server goes on as before, accepting included, for that second;
    /// 3. it drains: what has connected is accepted, answered and closed;
    /// 4. it ends, and its socket with it.
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
    /// As [`Listener::unix`]; `InvalidInput` for a mode beyond 0777.
    pub fn unix(&self, path: impl AsRef<Path>) -> io::Result<Listener> {
        self.at_path(ListenerKind::UnixStream, path.as_ref())
    }

    /// [`Listener::unix_seqpacket`] with these options.
    ///
    /// # Errors
    ///
    /// As [`unix`](Self::unix).
    pub fn unix_seqpacket(&self, path: impl AsRef<Path>) -> io::Result<Listener> {
        self.at_path(ListenerKind::UnixSeqpacket, path.as_ref())
    }

    /// [`Listener::unix_abstract`] with these options.
    ///
    /// # Errors
    ///
    /// As [`Listener::unix_abstract`].
    pub fn unix_abstract(&self, name: impl AsRef<[u8]>) -> io::Result<Listener> {
        self.at_name(ListenerKind::UnixStream, name.as_ref())
    }

    /// [`Listener::seqpacket_abstract`] with these options.
    ///
    /// # Errors
    ///
    /// As [`Listener::unix_abstract`].
    pub fn seqpacket_abstract(&self, name: impl AsRef<[u8]>) -> io::Result<Listener> {
        self.at_name(ListenerKind::UnixSeqpacket, name.as_ref())
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
                Err(cause) => last = failed(&format!("tcp:{address}"), cause),
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
                    "{address} has no connections to listen for; unix:, unix-seq:, abstract:, abstract-seq: and tcp: have"
                )))
            }
        }
    }

    fn at_path(&self, kind: ListenerKind, path: &Path) -> io::Result<Listener> {
        if self.mode & !0o777 != 0 {
            return Err(invalid(format!("mode {:#o} has more than permission bits (0o777)", self.mode)));
        }
        let mut listener = Listener::new(kind, libc::AF_UNIX)?;
        fchmod(listener.as_fd(), self.mode)?;
        let socket_type = kind.socket_type();
        let guard = PathGuard::listen(listener.as_fd(), path, socket_type, self.backlog, self.takeover)?;
        listener.guard = Some(guard);
        listener.path = Some(path.to_owned());
        Ok(listener)
    }

    fn at_name(&self, kind: ListenerKind, name: &[u8]) -> io::Result<Listener> {
        let address = SockAddr::unix_abstract(name)?;
        let listener = Listener::new(kind, libc::AF_UNIX)?;
        socket::bind(listener.as_fd(), &address)
            .and_then(|()| socket::listen(listener.as_fd(), self.backlog))
            .map_err(|cause| failed(&format!("abstract:{}", Escaped(name)), cause))?;
        Ok(listener)
    }

    fn at_inet(&self, address: SocketAddr) -> io::Result<Listener> {
        let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let listener = Listener::new(ListenerKind::Tcp, domain)?;
        socket::bind(listener.as_fd(), &SockAddr::inet(address))?;
        socket::listen(listener.as_fd(), self.backlog)?;
        Ok(listener)
    }
}

fn failed(address: &str, cause: io::Error) -> io::Error {
    io::Error::new(cause.kind(), format!("cannot listen on {address}: {cause}"))
}
