//! Who is at the other end of a connection.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::net::address::Escaped;
use crate::net::listener::ListenerKind;
use crate::sys::socket;

/// The user, the group and the process that connected, as the kernel noted them at `connect(2)`
/// (`SO_PEERCRED`, `unix(7)`).
///
/// **Authorise by `uid`** (or `gid`), never by `pid`. The pid is a hint for logs: a process can connect, fork a child that keeps the
/// connection, and exit; the kernel then gives its number to a stranger. A process that runs another program after
/// `connect` keeps its credentials, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Credentials {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process; 0 if it lives in a pid namespace that this process does not see.
    pub pid: i32,
}

/// The name of a socket's other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddress {
    /// A Unix socket that was never bound, as nearly all clients are.
    Unnamed,
    /// A Unix socket bound to this path. It is the client's own choice and proves nothing.
    Path(PathBuf),
    /// A Unix socket bound to this abstract name, the first NUL left out.
    Abstract(Vec<u8>),
    /// An IPv4 or IPv6 address and port.
    Inet(SocketAddr),
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unnamed => f.write_str("unnamed"),
            Self::Path(path) => write!(f, "unix:{}", Escaped(path.as_os_str().as_encoded_bytes())),
            Self::Abstract(name) => write!(f, "abstract:{}", Escaped(name)),
            Self::Inet(address) => address.fmt(f),
        }
    }
}

/// The other end of a connection just accepted, given to the factory that makes its session.
///
/// Nothing is asked of the kernel before a method is called: a factory that does not look costs no system call.
pub struct Peer<'a> {
    fd: BorrowedFd<'a>,
    kind: ListenerKind,
    inet: Option<SocketAddr>,
}

impl<'a> Peer<'a> {
    pub(crate) fn new(fd: BorrowedFd<'a>, kind: ListenerKind, inet: Option<SocketAddr>) -> Self {
        Self { fd, kind, inet }
    }

    /// The kind of master socket that the connection came through.
    pub fn kind(&self) -> ListenerKind {
        self.kind
    }

    /// The peer's address: for TCP as `accept(2)` told it, for Unix from `getpeername(2)`.
    ///
    /// # Errors
    ///
    /// Those of `getpeername(2)`; `NotConnected` where a socket that was handed in is not connected.
    pub fn address(&self) -> io::Result<PeerAddress> {
        self.inet.map_or_else(|| socket::getpeername(self.fd), |address| Ok(PeerAddress::Inet(address)))
    }

    /// Who connected. [`Credentials`] says what may be concluded from it.
    ///
    /// # Errors
    ///
    /// `Unsupported` on TCP, where the kernel knows nothing of the peer's process.
    pub fn credentials(&self) -> io::Result<Credentials> {
        self.local("credentials")?;
        socket::peer_credentials(self.fd)
    }

    /// The supplementary groups of who connected, as they were at `connect(2)` (`SO_PEERGROUPS`); the group in
    /// [`credentials`](Self::credentials) need not be among them.
    ///
    /// # Errors
    ///
    /// `Unsupported` on TCP.
    pub fn groups(&self) -> io::Result<Vec<u32>> {
        self.local("groups")?;
        // Few users are in more; none can be in more than 65,536 (NGROUPS_MAX).
        for room in [64, 1 << 16] {
            let mut groups = vec![0; room];
            match socket::peer_groups(self.fd, &mut groups) {
                Err(error) if error.raw_os_error() == Some(libc::ERANGE) => {}
                count => {
                    groups.truncate(count?);
                    return Ok(groups);
                }
            }
        }
        Err(io::Error::other("the peer is in more groups than the kernel allows"))
    }

    /// A pidfd of the process that connected (`SO_PEERPIDFD`, since Linux 6.5): unlike the pid it never
    /// comes to mean another process. It becomes readable when that process exits.
    ///
    /// # Errors
    ///
    /// `Unsupported` on TCP and on an older kernel. A kernel may refuse (`EINVAL`, `ESRCH`, `ENODATA`) where the process
    /// is gone already.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.local("a pidfd")?;
        socket::peer_pidfd(self.fd).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOPROTOOPT) => {
                let text = "this kernel has no SO_PEERPIDFD; it needs Linux 6.5";
                io::Error::new(io::ErrorKind::Unsupported, text)
            }
            _ => error,
        })
    }

    fn local(&self, what: &str) -> io::Result<()> {
        if self.kind != ListenerKind::Tcp {
            return Ok(());
        }
        let text = format!("a TCP peer has no {what}; only a Unix socket tells who connected");
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }
}

/// The client handle: for socket options, or a duplicate to write to. It is the reactor's to read.
impl AsFd for Peer<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd
    }
}

/// For logs: the address of a TCP peer, the uid and pid of a Unix one.
impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.credentials()) {
            (ListenerKind::Tcp, _) | (_, Err(_)) => match self.address() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("unknown"),
            },
            (_, Ok(Credentials { uid, pid, .. })) => write!(f, "uid {uid} pid {pid}"),
        }
    }
}

impl fmt::Debug for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("fd", &self.fd)
            .field("kind", &self.kind)
            .field("inet", &self.inet)
            .finish()
    }
}
