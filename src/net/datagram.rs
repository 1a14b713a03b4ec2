//! The datagram socket: messages and their senders' addresses, without connections.

use std::{
    fmt, io,
    net::{ToSocketAddrs, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::{Path, PathBuf},
};

use crate::{
    net::{address::Address, path::PathGuard, peer::PeerAddress, transport::invalid},
    sys::{
        closer::ClosedElsewhere,
        datagram::{self, Arrival},
        file, socket,
    },
};

pub(crate) mod address;
mod options;
pub use address::SocketAddress;
pub use options::DatagramOptions;

/// A datagram socket, Unix or UDP: non-blocking, close-on-exec.
///
/// Each datagram is received whole, or is marked as truncated, with its sender's address. There is no end of file: **an
/// empty datagram is a message**. A Unix socket keeps the order and loses nothing (`unix(7)`): while the receiver's
/// queue is full, sending fails with `WouldBlock`. UDP may lose datagrams, and change their order (`udp(7)`).
///
/// A path is handled as safely as a [`Listener`](crate::Listener)'s: one server at a time; only a stale socket is
/// removed; the path has its mode from the moment at which it exists; drop removes the path if it is still the socket
/// that was bound here. A running server does not notice the test connection.
///
/// Descriptors cannot be sent to this socket. Where the kernel can refuse them (`SO_PASSRIGHTS`, since Linux 6.16), the
/// sender gets `EPERM`. On an older kernel, and of an adopted socket, those that arrive are closed, by a thread of its
/// own: closing what another process has passed can block.
///
/// ```
/// use ipc_reactor::Datagram;
///
/// let server = Datagram::unix_autobind()?;
/// let client = Datagram::connected(&server.local_address()?)?;
/// client.send(b"how much?")?;
///
/// let mut buffer = [0; 64];
/// let question = server.recv_from(&mut buffer)?;
/// assert_eq!(&buffer[..question.len], b"how much?");
/// server.send_to(b"42", &question.from)?;
/// assert_eq!(client.recv_from(&mut buffer)?.len, 2);
/// # std::io::Result::Ok(())
/// ```
pub struct Datagram {
    // Dropped before the descriptor: while that is open, the inode number that the guard compares is not used again.
    guard: Option<Box<PathGuard>>,
    fd: ClosedElsewhere,
    is_unix: bool,
    /// The kernel lets senders pass descriptors: each receive must take them, to have them closed off this thread.
    takes_rights: bool,
    path: Option<PathBuf>,
    message_size: usize,
}

const MESSAGE_SIZE_MAX: usize = 16 << 20;

/// A datagram received with [`Datagram::recv_from`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// How many bytes of the buffer it fills. May be 0.
    pub len: usize,
    /// `Some` if it was longer than the buffer: its length in bytes when it was sent. The rest is lost.
    pub truncated: Option<usize>,
    /// The sender's address.
    pub from: SocketAddress,
}

impl Datagram {
    /// The default of [`DatagramOptions::message_size`]: all of UDP fits.
    pub const MESSAGE_SIZE: usize = 65_536;

    /// Receives on a path. Its mode is 0600: only processes of this user can send to it.
    ///
    /// # Errors
    /// - `AddrInUse`: a process receives there.
    /// - `AlreadyExists`: a file of another kind is there.
    /// - `InvalidInput`: the path is longer than 107 bytes.
    /// - Those of `bind(2)`.
    pub fn unix(path: impl AsRef<Path>) -> io::Result<Datagram> {
        Self::options().unix(path)
    }

    /// Receives on an abstract name (1 to 107 bytes of any value). It has no mode: **every** process of the network
    /// namespace can send to it. The name is free again when its last socket is closed.
    ///
    /// # Errors
    /// `AddrInUse`: another socket has the name. `InvalidInput`: the name is empty or too long.
    pub fn unix_abstract(name: impl AsRef<[u8]>) -> io::Result<Datagram> {
        Self::options().unix_abstract(name)
    }

    /// Receives on an abstract name that the kernel chooses: for a client, which only needs an address for the answers.
    ///
    /// # Errors
    /// `AddrInUse`: all of the million names are in use.
    pub fn unix_autobind() -> io::Result<Datagram> {
        Self::options().unix_autobind()
    }

    /// Receives on the first of the addresses that can be bound, IPv4 or IPv6. For port 0 the kernel chooses a port,
    /// which [`local_address`](Self::local_address) returns.
    ///
    /// # Errors
    /// Those of `getaddrinfo(3)`; those of `bind(2)` for the last address that was tried.
    pub fn udp(address: impl ToSocketAddrs) -> io::Result<Datagram> {
        Self::options().udp(address)
    }

    /// Receives on an address of any kind that takes datagrams.
    ///
    /// # Errors
    /// `InvalidInput` for streams, seqpacket sockets and queues; otherwise those of the constructor for that kind.
    pub fn bind(address: &Address) -> io::Result<Datagram> {
        Self::options().bind(address)
    }

    /// A socket [connected](Self::connect) to `address`. The kernel chooses its own address, so that the peer can
    /// answer.
    ///
    /// # Errors
    /// `InvalidInput` for an address of another kind; those of `getaddrinfo(3)` and of [`connect`](Self::connect).
    pub fn connected(address: &Address) -> io::Result<Datagram> {
        Self::options().connected(address)
    }

    /// Options to set before the socket is made.
    pub fn options() -> DatagramOptions {
        DatagramOptions::new()
    }

    /// Sets the only peer from now on: [`send`](Self::send) sends to it, and datagrams of others are refused (Unix) or
    /// dropped (UDP). Those that others have sent before are still received. You may connect again, to another peer; a
    /// Unix socket then drops the datagrams that it has not received yet.
    ///
    /// Nothing is sent. Whether a UDP peer receives is not known before a datagram to it causes an ICMP message: a
    /// later call then fails with `ConnectionRefused`.
    ///
    /// # Errors
    /// - `NotFound` (Unix): there is no such path.
    /// - `ConnectionRefused` (Unix): no process has the socket open.
    /// - `PermissionDenied` (Unix): no write permission, or the peer is connected to another socket.
    /// - `InvalidInput`: the address has another family than the socket.
    pub fn connect(&self, to: &SocketAddress) -> io::Result<()> {
        socket::connect_nonblocking(self.as_fd(), &to.0).map_err(|cause| explain(cause, 0))
    }

    /// Sends a datagram, which may be empty, whole or not at all. It never waits.
    ///
    /// # Errors
    /// - `WouldBlock`: the receiver's queue (Unix) or this socket's send buffer is full. No event says when one
    ///   receiver of many has room: try again later, or [`connect`](Self::connect) a socket to it.
    /// - `ConnectionRefused`, `NotFound`: no socket receives there, or (UDP, connected) none received an earlier
    ///   datagram.
    /// - `PermissionDenied`: no write permission, or the receiver is connected to another socket.
    /// - `InvalidInput`: the datagram is too long (more than 65,507 bytes on UDP over IPv4, or than `SO_SNDBUF` on a
    ///   Unix socket), or the address has another family than the socket.
    pub fn send_to(&self, bytes: &[u8], to: &SocketAddress) -> io::Result<()> {
        datagram::send_to(self.as_fd(), bytes, &to.0).map(drop).map_err(|cause| explain(cause, bytes.len()))
    }

    /// Sends a datagram to the connected peer.
    ///
    /// # Errors
    /// `NotConnected`, and those of [`send_to`](Self::send_to).
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        socket::send(self.as_fd(), bytes).map(drop).map_err(|cause| explain(cause, bytes.len()))
    }

    /// Sends several datagrams, 16 with each system call (`sendmmsg(2)`), and returns how many were sent. From 4
    /// datagrams on it costs about a tenth less than [`send_to`](Self::send_to) for each; for one it costs a tenth
    /// more.
    ///
    /// # Errors
    /// Those of `send_to`, if the first datagram cannot be sent. If a later one cannot, the call returns how many were
    /// sent before it; a next call that begins with that datagram returns the error.
    pub fn send_batch(&self, mut datagrams: &[(&[u8], &SocketAddress)]) -> io::Result<usize> {
        let mut sent = 0;
        while let Some((first, _)) = datagrams.first() {
            let batch = datagrams.iter().map(|(bytes, to)| (*bytes, &to.0));
            match datagram::send_batch(self.as_fd(), batch) {
                Ok(count) => {
                    sent += count;
                    if count < datagrams.len().min(datagram::BATCH) {
                        return Ok(sent);
                    }
                    datagrams = &datagrams[count..];
                }
                Err(_) if sent > 0 => return Ok(sent),
                Err(cause) => return Err(explain(cause, first.len())),
            }
        }
        Ok(sent)
    }

    /// Receives a datagram and its sender's address. It never waits.
    ///
    /// # Errors
    /// `WouldBlock`: there is none. `ConnectionRefused` and other errors of ICMP: an earlier datagram of this socket
    /// was not received; the socket stays usable.
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut arrival = Arrival::zeroed();
        let mut discarded = 0;
        let discarded = self.takes_rights.then_some(&mut discarded);
        datagram::recv_from(self.as_fd(), buffer, &mut arrival, discarded)?;
        let (len, size) = (arrival.len, buffer.len());
        Ok(Received {
            len: len.min(size),
            truncated: (len > size).then_some(len),
            from: SocketAddress(arrival.from),
        })
    }

    /// The address that it receives on: for UDP with the real port, for a path as it was given.
    ///
    /// # Errors
    /// `AddrNotAvailable`: it is unnamed, so no process can send to it. Those of `getsockname(2)`.
    pub fn local_address(&self) -> io::Result<Address> {
        if let Some(path) = &self.path {
            return Ok(Address::UnixDatagram(path.clone()));
        }
        match PeerAddress::from(socket::getsockname(self.as_fd())?) {
            PeerAddress::Path(path) => Ok(Address::UnixDatagram(path)),
            PeerAddress::Abstract(name) => Ok(Address::AbstractDatagram(name)),
            PeerAddress::Inet(address) => Ok(Address::Udp(address.to_string())),
            PeerAddress::Unnamed => Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the socket is unnamed, so no process can send to it; bind it, for example with unix_autobind",
            )),
        }
    }

    /// The peer that it is connected to.
    ///
    /// # Errors
    /// `NotConnected`, and those of `getpeername(2)`.
    pub fn peer_address(&self) -> io::Result<PeerAddress> {
        socket::getpeername(self.as_fd()).map(PeerAddress::from)
    }

    /// Bytes of the longest datagram that the poll set receives whole: [`DatagramOptions::message_size`].
    pub fn message_size(&self) -> usize {
        self.message_size
    }

    /// Sets [`message_size`](Self::message_size), for an adopted socket. Call it before the socket is in a poll set.
    pub fn set_message_size(&mut self, bytes: usize) {
        self.message_size = bytes.clamp(1, MESSAGE_SIZE_MAX);
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

    pub(crate) fn takes_rights(&self) -> bool {
        self.takes_rights
    }

    fn around(fd: OwnedFd, is_unix: bool, message_size: usize) -> Datagram {
        // Before Linux 6.16 there is no such option.
        let takes_rights = is_unix && socket::set_passes_rights(fd.as_fd(), false).is_err();
        let fd = ClosedElsewhere::when(takes_rights, fd);
        Datagram { guard: None, fd, is_unix, takes_rights, path: None, message_size }
    }

    /// `TryFrom` returns the error. `From` cannot, and there is none: the socket is open.
    fn adopt(fd: OwnedFd, is_unix: bool) -> (Datagram, io::Result<()>) {
        let mut datagram = Self::around(fd, is_unix, Self::MESSAGE_SIZE);
        if is_unix && !datagram.takes_rights {
            // What was passed before is in the socket; no more is let in.
            datagram.takes_rights = true;
            datagram.fd.set_elsewhere(true);
        }
        let fd = datagram.as_fd();
        let usable = file::set_nonblocking(fd, true).and_then(|()| file::set_cloexec(fd));
        (datagram, usable)
    }
}

impl AsFd for Datagram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Datagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Datagram");
        if let Ok(address) = self.local_address() {
            out.field("address", &format_args!("{address}"));
        }
        out.field("fd", &self.fd).field("is_unix", &self.is_unix).finish_non_exhaustive()
    }
}

/// Makes the socket non-blocking. Drop keeps its path, if it has one.
impl From<UnixDatagram> for Datagram {
    fn from(socket: UnixDatagram) -> Datagram {
        Self::adopt(socket.into(), true).0
    }
}

/// Makes the socket non-blocking.
impl From<UdpSocket> for Datagram {
    fn from(socket: UdpSocket) -> Datagram {
        Self::adopt(socket.into(), false).0
    }
}

/// Adopts a datagram socket that another program made, such as a service manager. It becomes non-blocking and
/// close-on-exec, and drop keeps its path.
///
/// Fails with `InvalidInput` if the descriptor is no socket, or one of another kind. The descriptor is then closed.
impl TryFrom<OwnedFd> for Datagram {
    type Error = io::Error;

    fn try_from(fd: OwnedFd) -> io::Result<Datagram> {
        let option = |name| {
            socket::option(fd.as_fd(), libc::SOL_SOCKET, name).map_err(|cause| match cause.raw_os_error() {
                Some(libc::ENOTSOCK) => invalid("the descriptor is no socket; pass a datagram socket".into()),
                _ => cause,
            })
        };
        let is_unix = match (option(libc::SO_DOMAIN)?, option(libc::SO_TYPE)?) {
            (libc::AF_UNIX, libc::SOCK_DGRAM) => true,
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM) => false,
            (domain, kind) => {
                return Err(invalid(format!(
                    "a Unix datagram or a UDP socket is wanted; this one has domain {domain}, type {kind}"
                )));
            }
        };
        let (datagram, usable) = Self::adopt(fd, is_unix);
        usable.map(|()| datagram)
    }
}

/// Explains the errno of a call with a datagram of `len` bytes. `WouldBlock` is returned as it is: it is no fault, and
/// must not cost an allocation.
fn explain(cause: io::Error, len: usize) -> io::Error {
    let (kind, why) = match cause.raw_os_error() {
        Some(libc::EMSGSIZE) => {
            let why = format!(
                "a datagram of {len} bytes is too long: UDP carries 65507, a Unix socket what its send buffer allows \
                 (DatagramOptions::send_buffer; the kernel's bound is /proc/sys/net/core/wmem_max)"
            );
            (io::ErrorKind::InvalidInput, why)
        }
        Some(libc::EDESTADDRREQ | libc::ENOTCONN) => {
            (io::ErrorKind::NotConnected, "no receiver: connect the socket, or use send_to".into())
        }
        Some(libc::ECONNREFUSED) => (
            cause.kind(),
            "nobody receives there, or nobody received an earlier datagram of this socket".into(),
        ),
        Some(libc::ENOENT) => (cause.kind(), "no socket is at that path".into()),
        Some(libc::EPERM) => {
            (cause.kind(), "the receiver is connected, and takes datagrams from another socket alone".into())
        }
        Some(libc::EPROTOTYPE) => (io::ErrorKind::InvalidInput, "the receiver is no datagram socket".into()),
        Some(libc::EAFNOSUPPORT | libc::EINVAL) => (
            io::ErrorKind::InvalidInput,
            "the address has another family than the socket, or is malformed".into(),
        ),
        _ => return cause,
    };
    io::Error::new(kind, format!("{why} ({cause})"))
}
