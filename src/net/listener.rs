//! The listener, from which all client handles are accepted.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};

use crate::{
    net::{
        address::Address,
        path::PathGuard,
        peer::PeerAddress,
        transport::{Transport, invalid},
    },
    sys::{closer::ClosedElsewhere, file, socket},
};

mod options;
pub use options::ListenerOptions;

/// A listening socket: bound, non-blocking, close-on-exec. It is also called the *master socket*.
///
/// On a path one constructor and one drop do all the steps ("remove an old socket, create, bind, listen … remove the
/// socket"), and do them safely:
///
/// - A second server gets `AddrInUse`. This server holds the lock file `PATH.lock` under `flock(2)` as long as the
///   value exists. A server without a lock file is found by a test connection, which it sees as a client that
///   disconnects at once.
/// - A stale socket, to which no process listens any more, is removed. A file of another kind is never removed, and a
///   symbolic link is not followed: `AlreadyExists`.
/// - The path has its mode from the moment at which it exists.
/// - Drop removes the path if it is still the socket that was bound here (same device and inode), and only in the
///   process that bound it, not in a forked child. A socket adopted with `From` or `TryFrom` keeps its path.
///
/// The directory must be writable, because the lock file is made and names are moved in it. Its filesystem must support
/// `renameat2(2)`, as all local ones do. In a directory that other users can write to, such as `/tmp`, they can take
/// the name or the lock first, so give a service a directory of its own.
///
/// Descriptors cannot be sent to the connections of this listener where the kernel can refuse them (`SO_PASSRIGHTS`,
/// since Linux 6.16), unless the framing asks for them.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("adder.sock");
/// use ipc_reactor::Listener;
///
/// let listener = Listener::options().mode(0o660).backlog(64).unix(&path)?;
/// assert!(Listener::unix(&path).is_err(), "one server at a time");
/// drop(listener);
/// assert!(!path.exists());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Listener {
    // Dropped before the descriptor: while that is open, the inode number that the guard compares is not used again.
    guard: Option<PathGuard>,
    fd: ClosedElsewhere,
    transport: Transport,
    path: Option<PathBuf>,
    refuses_descriptors: bool,
    marks_records: bool,
    adopted: bool,
}

impl Listener {
    /// Listens for streams on a path. Its mode is 0600: only clients of this user can connect.
    ///
    /// # Errors
    ///
    /// - `AddrInUse`: a server listens there.
    /// - `AlreadyExists`: a file of another kind is there.
    /// - `InvalidInput`: the path is longer than 107 bytes.
    /// - Those of `bind(2)`.
    pub fn unix(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::options().unix(path)
    }

    /// Listens for seqpacket connections on a path, otherwise as [`unix`](Self::unix).
    ///
    /// # Errors
    ///
    /// As [`unix`](Self::unix).
    pub fn unix_seqpacket(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::options().unix_seqpacket(path)
    }

    /// Listens for streams on an abstract name (1 to 107 bytes of any value).
    ///
    /// An abstract name has no mode: **every** process of the network namespace can connect, so check
    /// [`Peer::credentials`](crate::Peer::credentials). The name is free again when its last socket is closed.
    ///
    /// # Errors
    ///
    /// `AddrInUse`: another socket has the name. `InvalidInput`: the name is empty or too long.
    pub fn unix_abstract(name: impl AsRef<[u8]>) -> io::Result<Self> {
        Self::options().unix_abstract(name)
    }

    /// Listens for seqpacket connections on an abstract name, otherwise as [`unix_abstract`](Self::unix_abstract).
    ///
    /// # Errors
    ///
    /// As [`unix_abstract`](Self::unix_abstract).
    pub fn seqpacket_abstract(name: impl AsRef<[u8]>) -> io::Result<Self> {
        Self::options().seqpacket_abstract(name)
    }

    /// Listens on the first of the addresses that can be bound, with `SO_REUSEADDR`. For port 0 the kernel chooses a
    /// port, which [`local_address`](Self::local_address) returns.
    ///
    /// # Errors
    ///
    /// Those of `getaddrinfo(3)`; those of `bind(2)` and `listen(2)` for the last address that was tried.
    pub fn tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        Self::options().tcp(address)
    }

    /// Listens on an address of any kind that has connections.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for datagram sockets and queues; otherwise those of the constructor for that kind.
    pub fn bind(address: &Address) -> io::Result<Self> {
        Self::options().bind(address)
    }

    /// Options to set before the socket is made.
    pub fn options() -> ListenerOptions {
        ListenerOptions::new()
    }

    /// The transport of its connections.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The address that it listens on: for TCP with the real port, for a path as it was given.
    ///
    /// # Errors
    ///
    /// Those of `getsockname(2)`.
    pub fn local_address(&self) -> io::Result<Address> {
        let seqpacket = self.transport == Transport::UnixSeqpacket;
        let at_path = if seqpacket { Address::UnixSeqpacket } else { Address::UnixStream };
        if let Some(path) = &self.path {
            return Ok(at_path(path.clone()));
        }
        match PeerAddress::from(socket::getsockname(self.as_fd())?) {
            PeerAddress::Path(path) => Ok(at_path(path)),
            PeerAddress::Abstract(name) if seqpacket => Ok(Address::AbstractSeqpacket(name)),
            PeerAddress::Abstract(name) => Ok(Address::AbstractStream(name)),
            PeerAddress::Inet(address) => Ok(Address::Tcp(address.to_string())),
            PeerAddress::Unnamed => Err(invalid("the listener has no address".into())),
        }
    }

    /// Keeps the path when the value is dropped: for a process whose successor inherits or receives this socket and
    /// goes on with it. The lock is still released at the drop.
    pub fn leave_path(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.keep();
        }
    }

    /// The socket itself. Its path is kept, and the lock is released.
    pub fn into_fd(mut self) -> OwnedFd {
        self.leave_path();
        self.fd.into_inner()
    }

    /// Accepts a connection with one system call, `accept4(2)`: the client handle, and the client's address if it is
    /// TCP.
    pub(crate) fn accept(&self) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        match self.transport {
            Transport::Tcp => socket::accept_inet(self.as_fd()),
            Transport::UnixStream | Transport::UnixSeqpacket => Ok((socket::accept(self.as_fd())?, None)),
        }
    }

    /// Whether descriptors can be sent to no connection accepted here. A read that returns less than there is room for
    /// has then emptied the socket.
    ///
    /// A connection takes this over from the listener when the client connects. So it is true for an adopted socket
    /// only if its maker had set `SO_PASSRIGHTS` already: connections may have been waiting.
    pub(crate) fn refuses_descriptors(&self) -> bool {
        self.refuses_descriptors
    }

    /// Another program made the socket, so what its clients did before is no fault of theirs.
    pub(crate) fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// Whether every connection accepted here has `SO_PASSCRED` already, which [`socket::recv_record`] needs. If not
    /// (an adopted socket, whose maker had not set it), set it on each client handle.
    pub(crate) fn marks_records(&self) -> bool {
        self.marks_records
    }

    fn new(transport: Transport, domain: libc::c_int) -> io::Result<Self> {
        let fd = socket::socket(domain, transport.socket_type())?;
        let mut listener = Self::around(fd, transport);
        if transport == Transport::Tcp {
            socket::set_option(listener.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        } else {
            // Before Linux 6.16 there is no such option: each read takes the descriptors that come.
            listener.refuses_descriptors = socket::set_passes_rights(listener.as_fd(), false).is_ok();
            listener.fd.set_elsewhere(!listener.refuses_descriptors);
        }
        if transport == Transport::UnixSeqpacket {
            socket::set_passes_credentials(listener.as_fd(), true)?;
            listener.marks_records = true;
        }
        Ok(listener)
    }

    fn around(fd: OwnedFd, transport: Transport) -> Self {
        // Connections that wait in it when it is closed can hold messages with descriptors.
        let fd = ClosedElsewhere::when(transport != Transport::Tcp, fd);
        Self {
            guard: None,
            fd,
            transport,
            path: None,
            refuses_descriptors: false,
            marks_records: false,
            adopted: false,
        }
    }

    /// `TryFrom` returns the error. `From` cannot, and there is none: the socket is open.
    fn adopt(fd: OwnedFd, transport: Transport) -> (Self, io::Result<()>) {
        let mut listener = Self::around(fd, transport);
        listener.adopted = true;
        let fd = listener.fd.as_fd();
        let usable = file::set_nonblocking(fd, true).and_then(|()| file::set_cloexec(fd));
        if transport != Transport::Tcp {
            let refused = matches!(socket::passes_rights(fd), Ok(false));
            listener.refuses_descriptors = socket::set_passes_rights(fd, false).is_ok() && refused;
        }
        if transport == Transport::UnixSeqpacket {
            let marked = matches!(socket::passes_credentials(fd), Ok(true));
            listener.marks_records = socket::set_passes_credentials(fd, true).is_ok() && marked;
        }
        (listener, usable)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Listener");
        if let Ok(address) = self.local_address() {
            out.field("address", &format_args!("{address}"));
        }
        out.field("fd", &self.fd).field("transport", &self.transport).finish_non_exhaustive()
    }
}

/// Makes the socket non-blocking. Drop keeps its path, if it has one.
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::adopt(listener.into(), Transport::UnixStream).0
    }
}

/// Makes the socket non-blocking.
impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::adopt(listener.into(), Transport::Tcp).0
    }
}

/// Adopts a listening socket that another program made, such as a service manager. It becomes non-blocking and
/// close-on-exec, and drop keeps its path.
///
/// Fails with `InvalidInput` if the descriptor is no socket, does not listen, or has none of the transports of
/// [`Transport`]. The descriptor is then closed.
impl TryFrom<OwnedFd> for Listener {
    type Error = io::Error;

    fn try_from(fd: OwnedFd) -> io::Result<Self> {
        let option = |name| socket::option(fd.as_fd(), libc::SOL_SOCKET, name);
        let listening = option(libc::SO_ACCEPTCONN).map_err(|cause| match cause.raw_os_error() {
            Some(libc::ENOTSOCK) => invalid("the descriptor is no socket; pass a listening socket".into()),
            _ => cause,
        })?;
        if listening == 0 {
            return Err(invalid("the socket does not listen; call listen(2) before handing it over".into()));
        }
        let transport = Transport::of(fd.as_fd())?;
        let (listener, usable) = Self::adopt(fd, transport);
        usable.map(|()| listener)
    }
}

#[cfg(test)]
mod tests;
