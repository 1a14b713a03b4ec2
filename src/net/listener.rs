//! The master socket, which gives birth to all client handles.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::net::address::Address;
use crate::net::path::PathGuard;
use crate::net::peer::PeerAddress;
use crate::sys::socket;

mod options;
pub use options::ListenerOptions;

/// The kinds of master socket: what its clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ListenerKind {
    /// A Unix stream: bytes, without boundaries.
    UnixStream,
    /// A Unix seqpacket: records, in order, whole.
    UnixSeqpacket,
    /// TCP: bytes, without boundaries.
    Tcp,
}

impl ListenerKind {
    /// Of which kind a socket is.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<ListenerKind> {
        let option = |name| socket::option(fd, libc::SOL_SOCKET, name);
        match (option(libc::SO_DOMAIN)?, option(libc::SO_TYPE)?) {
            (libc::AF_UNIX, libc::SOCK_STREAM) => Ok(ListenerKind::UnixStream),
            (libc::AF_UNIX, libc::SOCK_SEQPACKET) => Ok(ListenerKind::UnixSeqpacket),
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM) => Ok(ListenerKind::Tcp),
            (domain, kind) => Err(invalid(format!(
                "a Unix stream, a Unix seqpacket or a TCP socket is wanted; this one has domain {domain}, type {kind}"
            ))),
        }
    }

    /// TCP, of either version; the others are Unix sockets, whose peers the kernel vouches for.
    pub fn is_tcp(self) -> bool {
        self == ListenerKind::Tcp
    }

    /// It keeps message boundaries.
    pub fn is_seqpacket(self) -> bool {
        self == ListenerKind::UnixSeqpacket
    }

    pub(crate) fn socket_type(self) -> libc::c_int {
        match self {
            Self::UnixStream | Self::Tcp => libc::SOCK_STREAM,
            Self::UnixSeqpacket => libc::SOCK_SEQPACKET,
        }
    }
}

/// A master socket: bound, listening, non-blocking, closed on `exec`.
///
/// On a path the steps "remove an old socket, create, name, bind, listen … remove the socket" are one
/// constructor and one drop, made safe:
///
/// - A second server is refused with `AddrInUse`: by `PATH.lock`, held under `flock(2)` while the value lives, and by a probing connect,
///   which a living server sees as a client that leaves at once.
/// - A stale socket, one that nobody answers for, is removed. A file of another kind never is, a symbolic link is not
///   followed: `AlreadyExists`.
/// - The path has its mode from its first instant.
/// - Dropping removes the path if it is still the socket bound here (device and inode), and only in the process that bound it;
///   a forked child's drop removes nothing. A socket adopted with `From` or `TryFrom` leaves its path alone.
///
/// The directory must be writable, for the lock and for moving names, and its filesystem must know
/// `renameat2(2)`, as all local ones do. In a directory that others can write, too, such as `/tmp`, they can hold the
/// name or the lock first; a service belongs in a directory of its own.
///
/// Clients cannot pass descriptors to this master socket's clients (`SO_PASSRIGHTS` is off where the kernel has it, since Linux 6.16).
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("adder.sock");
/// use ipc_reactor::Listener;
///
/// let master = Listener::options().mode(0o660).backlog(64).unix(&path)?;
/// assert!(Listener::unix(&path).is_err(), "one server at a time");
/// drop(master);
/// assert!(!path.exists());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Listener {
    // Before the descriptor, which pins the inode that the guard compares.
    guard: Option<PathGuard>,
    fd: OwnedFd,
    kind: ListenerKind,
    path: Option<PathBuf>,
    refuses_descriptors: bool,
    marks_records: bool,
}

impl Listener {
    /// Listens for streams on a path. Mode 0600: clients of this user only.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if a server lives there, `AlreadyExists` if something is there that is no socket, `InvalidInput` if the path
    /// is longer than 107 bytes, and those of `bind(2)`.
    pub fn unix(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::options().unix(path)
    }

    /// Listens for seqpacket connections on a path; else as [`unix`](Self::unix).
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
    /// [`Peer::credentials`](crate::Peer::credentials). It vanishes with its last socket.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if it is taken, `InvalidInput` for an empty or too long name.
    pub fn unix_abstract(name: impl AsRef<[u8]>) -> io::Result<Self> {
        Self::options().unix_abstract(name)
    }

    /// Listens for seqpacket connections on an abstract name; else as [`unix_abstract`](Self::unix_abstract).
    ///
    /// # Errors
    ///
    /// As [`unix_abstract`](Self::unix_abstract).
    pub fn seqpacket_abstract(name: impl AsRef<[u8]>) -> io::Result<Self> {
        Self::options().seqpacket_abstract(name)
    }

    /// Listens on the first of the addresses that can be bound, with `SO_REUSEADDR`. Port 0 lets the kernel choose;
    /// [`local_address`](Self::local_address) tells.
    ///
    /// # Errors
    ///
    /// Those of resolving, `bind(2)` and `listen(2)`, for the last address tried.
    pub fn tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        Self::options().tcp(address)
    }

    /// Listens on an address of any kind that has connections.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for datagram sockets and queues; else those of the constructor for that kind.
    pub fn bind(address: &Address) -> io::Result<Self> {
        Self::options().bind(address)
    }

    /// Options to set before listening.
    pub fn options() -> ListenerOptions {
        ListenerOptions::new()
    }

    /// What its clients speak.
    pub fn kind(&self) -> ListenerKind {
        self.kind
    }

    /// The address it listens on, with the actual port of TCP; of a path, as it was given.
    ///
    /// # Errors
    ///
    /// Those of `getsockname(2)`.
    pub fn local_address(&self) -> io::Result<Address> {
        let seqpacket = self.kind == ListenerKind::UnixSeqpacket;
        let at_path = if seqpacket { Address::UnixSeqpacket } else { Address::UnixStream };
        if let Some(path) = &self.path {
            return Ok(at_path(path.clone()));
        }
        match socket::getsockname(self.as_fd())? {
            PeerAddress::Path(path) => Ok(at_path(path)),
            PeerAddress::Abstract(name) if seqpacket => Ok(Address::AbstractSeqpacket(name)),
            PeerAddress::Abstract(name) => Ok(Address::AbstractStream(name)),
            PeerAddress::Inet(address) => Ok(Address::Tcp(address.to_string())),
            PeerAddress::Unnamed => Err(invalid("the master socket has no address".into())),
        }
    }

    /// Leaves the path in place when the value is dropped: for a process whose successor goes on with the same
    /// socket, inherited or passed. The lock is held until the drop all the same.
    pub fn leave_path(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.keep();
        }
    }

    /// The socket itself; its path is left in place and the lock is released.
    pub fn into_fd(mut self) -> OwnedFd {
        self.leave_path();
        self.fd
    }

    /// `accept4(2)`, one system call: the client handle, and its address if it is TCP.
    pub(crate) fn accept(&self) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        match self.kind {
            ListenerKind::Tcp => socket::accept_inet(self.as_fd()),
            ListenerKind::UnixStream | ListenerKind::UnixSeqpacket => {
                Ok((socket::accept(self.as_fd())?, None))
            }
        }
    }

    /// Whether no client accepted here can ever receive descriptors; then a short read is a proof of drained.
    ///
    /// A client inherits that when it connects. So for an adopted socket it is true only if the one who made it had
    /// refused them already: connections may have been waiting.
    pub(crate) fn refuses_descriptors(&self) -> bool {
        self.refuses_descriptors
    }

    /// Whether every client accepted here has `SO_PASSCRED` already, which [`socket::recv_record`] needs. Where
    /// not (an adopted socket whose maker had not set it), set it on each client handle.
    pub(crate) fn marks_records(&self) -> bool {
        self.marks_records
    }

    fn new(kind: ListenerKind, domain: libc::c_int) -> io::Result<Self> {
        let fd = socket::socket(domain, kind.socket_type())?;
        let mut listener = Self::around(fd, kind);
        let fd = listener.fd.as_fd();
        if kind == ListenerKind::Tcp {
            socket::set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        } else {
            // A kernel before 6.16 has no such option: the reactor then reads until there is nothing more.
            listener.refuses_descriptors = socket::set_passes_rights(fd, false).is_ok();
        }
        if kind == ListenerKind::UnixSeqpacket {
            socket::set_passes_credentials(fd, true)?;
            listener.marks_records = true;
        }
        Ok(listener)
    }

    fn around(fd: OwnedFd, kind: ListenerKind) -> Self {
        Self { guard: None, fd, kind, path: None, refuses_descriptors: false, marks_records: false }
    }

    /// Errors are for those that can be told: `From` has nobody to tell, and on an open socket none can occur.
    fn adopt(fd: OwnedFd, kind: ListenerKind) -> (Self, io::Result<()>) {
        let mut listener = Self::around(fd, kind);
        let fd = listener.fd.as_fd();
        let usable = socket::set_nonblocking(fd).and_then(|()| socket::set_cloexec(fd));
        if kind != ListenerKind::Tcp {
            let refused = matches!(socket::passes_rights(fd), Ok(false));
            listener.refuses_descriptors = socket::set_passes_rights(fd, false).is_ok() && refused;
        }
        if kind == ListenerKind::UnixSeqpacket {
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
        out.field("fd", &self.fd).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Becomes non-blocking. Its path, if it has one, is left alone on drop.
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::adopt(listener.into(), ListenerKind::UnixStream).0
    }
}

/// Becomes non-blocking.
impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::adopt(listener.into(), ListenerKind::Tcp).0
    }
}

/// Adopts a listening socket that another program made, such as a service manager: it becomes non-blocking and
/// close-on-exec, and its path is left alone on drop.
///
/// Fails with `InvalidInput` if the descriptor is no socket, does not listen, or is of another kind than
/// [`ListenerKind`] knows; the descriptor is then closed.
impl TryFrom<OwnedFd> for Listener {
    type Error = io::Error;

    fn try_from(fd: OwnedFd) -> io::Result<Self> {
        let option = |name| socket::option(fd.as_fd(), libc::SOL_SOCKET, name);
        let listening = option(libc::SO_ACCEPTCONN).map_err(|cause| match cause.raw_os_error() {
            Some(libc::ENOTSOCK) => invalid("the descriptor is no socket; a master socket is wanted".into()),
            _ => cause,
        })?;
        if listening == 0 {
            return Err(invalid("the socket does not listen; call listen(2) before handing it over".into()));
        }
        let kind = ListenerKind::of(fd.as_fd())?;
        let (listener, usable) = Self::adopt(fd, kind);
        usable.map(|()| listener)
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
