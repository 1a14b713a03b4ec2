//! The other end of a connection: its address, its user, its process.

use std::{
    ffi::OsStr,
    fmt, io,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

use crate::{
    net::{address::Escaped, transport::Transport},
    sys::{sockaddr::SockAddr, socket},
};

/// The user, the group and the process that connected, as the kernel noted them at `connect(2)` (`SO_PEERCRED`,
/// `unix(7)`).
///
/// **Authorise by `uid`** (or `gid`), never by `pid`. The pid is a hint for logs: a process can connect, fork a child
/// that keeps the connection, and exit, and the kernel then gives its pid to another process. A process that executes
/// another program after `connect(2)` keeps these credentials, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Credentials {
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// The process. 0: it is in a pid namespace that this process cannot see.
    pub pid: i32,
}

impl From<libc::ucred> for Credentials {
    fn from(peer: libc::ucred) -> Credentials {
        Credentials { uid: peer.uid, gid: peer.gid, pid: peer.pid }
    }
}

/// The address of a socket's other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddress {
    /// A Unix socket that was never bound, as most clients' sockets are.
    Unnamed,
    /// A Unix socket that is bound to this path. The client chooses it, so it proves nothing.
    Path(PathBuf),
    /// A Unix socket that is bound to this abstract name, given without its first NUL.
    Abstract(Vec<u8>),
    /// An IPv4 or IPv6 address and port.
    Inet(SocketAddr),
}

impl From<SockAddr> for PeerAddress {
    fn from(address: SockAddr) -> PeerAddress {
        if let Some(inet) = address.to_inet() {
            return PeerAddress::Inet(inet);
        }
        match address.sun_path() {
            [] => PeerAddress::Unnamed,
            [0, name @ ..] => PeerAddress::Abstract(name.to_vec()),
            path => {
                let path = path.split(|&byte| byte == 0).next().unwrap_or_default();
                PeerAddress::Path(PathBuf::from(OsStr::from_bytes(path)))
            }
        }
    }
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

/// The other end of a connection that was just accepted: an argument of the factory that makes the session.
///
/// Each method makes its system call when it is called. A factory that calls none costs no system call.
pub struct Peer<'a> {
    fd: BorrowedFd<'a>,
    transport: Transport,
    inet: Option<SocketAddr>,
}

impl<'a> Peer<'a> {
    pub(crate) fn new(fd: BorrowedFd<'a>, transport: Transport, inet: Option<SocketAddr>) -> Self {
        Self { fd, transport, inet }
    }

    /// The transport of the connection.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The peer's address: for TCP from `accept(2)`, for Unix from `getpeername(2)`.
    ///
    /// # Errors
    ///
    /// Those of `getpeername(2)`. `NotConnected`: an adopted socket is not connected.
    pub fn address(&self) -> io::Result<PeerAddress> {
        match self.inet {
            Some(address) => Ok(PeerAddress::Inet(address)),
            None => socket::getpeername(self.fd).map(PeerAddress::from),
        }
    }

    /// The user, the group and the process that connected. [`Credentials`] says what they prove.
    ///
    /// # Errors
    ///
    /// `Unsupported` on TCP, where the kernel does not know the peer's process.
    pub fn credentials(&self) -> io::Result<Credentials> {
        self.require_unix("credentials")?;
        socket::peer_credentials(self.fd).map(Credentials::from)
    }

    /// The supplementary groups of the process that connected, as they were at `connect(2)` (`SO_PEERGROUPS`). The
    /// group in [`credentials`](Self::credentials) need not be among them.
    ///
    /// # Errors
    ///
    /// `Unsupported` on TCP.
    pub fn groups(&self) -> io::Result<Vec<u32>> {
        self.require_unix("groups")?;
        // Few users are in more than 64 groups. None can be in more than 65,536 (NGROUPS_MAX).
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

    /// A pidfd of the process that connected (`SO_PEERPIDFD`, since Linux 6.5). Unlike a pid it never refers to another
    /// process. It becomes readable when the process exits.
    ///
    /// # Errors
    ///
    /// `Unsupported` on TCP and before Linux 6.5. `EINVAL`, `ESRCH` or `ENODATA`, depending on the kernel: the process
    /// has ended already.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.require_unix("a pidfd")?;
        socket::peer_pidfd(self.fd).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOPROTOOPT) => {
                let text = "this kernel has no SO_PEERPIDFD; it needs Linux 6.5";
                io::Error::new(io::ErrorKind::Unsupported, text)
            }
            _ => error,
        })
    }

    fn require_unix(&self, what: &str) -> io::Result<()> {
        if self.transport != Transport::Tcp {
            return Ok(());
        }
        let text = format!("a TCP peer has no {what}; only the peer of a Unix socket has");
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }
}

/// The client handle, for socket options, or for a duplicate to write to. Do not read from it: the reactor does.
impl AsFd for Peer<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd
    }
}

/// For logs: the address of a TCP peer, the uid and the pid of a Unix peer.
impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.transport, self.credentials()) {
            (Transport::Tcp, _) | (_, Err(_)) => match self.address() {
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
            .field("transport", &self.transport)
            .field("inet", &self.inet)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn kernel_addresses_convert() {
        let inet: SocketAddr = "[fe80::1%7]:9".parse().unwrap();
        assert_eq!(PeerAddress::from(SockAddr::inet(inet)), PeerAddress::Inet(inet));
        let path = Path::new("/run/adder.sock");
        let address = SockAddr::unix_path(path).unwrap();
        assert_eq!(PeerAddress::from(address), PeerAddress::Path(path.to_owned()));
        let longest = PathBuf::from("p".repeat(107));
        let address = SockAddr::unix_path(&longest).unwrap();
        assert_eq!(PeerAddress::from(address), PeerAddress::Path(longest));
        let address = SockAddr::unix_abstract(b"a\0b").unwrap();
        assert_eq!(PeerAddress::from(address), PeerAddress::Abstract(b"a\0b".to_vec()));
        assert_eq!(PeerAddress::from(SockAddr::autobind()), PeerAddress::Unnamed);
    }
}
