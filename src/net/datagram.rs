//! The datagram socket: messages and their senders' addresses, without connections.

use std::fmt;
use std::io;
use std::net::{ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::net::address::Address;
use crate::net::path::PathGuard;
use crate::net::peer::PeerAddress;
use crate::sys::{
    datagram::{self, Arrival},
    socket,
};

pub(crate) mod address;
mod options;
pub use address::SocketAddress;
pub use options::DatagramOptions;

/// A datagram socket, Unix or UDP: non-blocking, closed on `exec`.
///
/// Each message comes whole, with its sender's address, or says that it was truncated. There is no end of file:
/// **an empty datagram is a message**. A Unix socket keeps order and loses nothing (`unix(7)`); its sender is refused or
/// made to wait while the receiver's queue is full. UDP does neither (`udp(7)`).
///
/// A path is made safe as a [`Listener`](crate::Listener)'s is: one server at a time, a stale socket is removed and nothing
/// else is, the mode holds from the first instant, and dropping removes the path if it is still the socket bound here. A
/// living server does not notice the probing connect at all.
///
/// Nobody can pass descriptors to this socket: where the kernel can refuse them (`SO_PASSRIGHTS`, since Linux 6.16) the sender
/// gets `EPERM`, elsewhere the kernel closes them on arrival.
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
    // Before the descriptor, which pins the inode that the guard compares.
    guard: Option<Box<PathGuard>>,
    fd: OwnedFd,
    is_unix: bool,
    path: Option<PathBuf>,
    message_size: usize,
}

const MESSAGE_SIZE_MAX: usize = 16 << 20;

/// A datagram taken by [`Datagram::recv_from`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// How many bytes of the buffer it has filled. There may be none.
    pub len: usize,
    /// `Some` if it did not fit into the buffer: the bytes that it had when it was sent. The rest is lost.
    pub truncated: Option<usize>,
    /// Who sent it.
    pub from: SocketAddress,
}

impl Datagram {
    /// The default of [`DatagramOptions::message_size`]: all of UDP fits.
    pub const MESSAGE_SIZE: usize = 65_536;

    /// Receives on a path. Mode 0600: senders of this user only.
    ///
    /// # Errors
    /// `AddrInUse` if a socket lives there, `AlreadyExists` if something is there that is no socket, `InvalidInput` if
    /// the path is longer than 107 bytes, and those of `bind(2)`.
    pub fn unix(path: impl AsRef<Path>) -> io::Result<Datagram> {
        Self::options().unix(path)
    }

    /// Receives on an abstract name (1 to 107 bytes of any value). It has no mode: **every** process of the
    /// network namespace can send to it. It vanishes with its last socket.
    ///
    /// # Errors
    /// `AddrInUse` if it is taken, `InvalidInput` for an empty or too long name.
    pub fn unix_abstract(name: impl AsRef<[u8]>) -> io::Result<Datagram> {
        Self::options().unix_abstract(name)
    }

    /// Receives on an abstract name that the kernel chooses: for those who only want answers.
    ///
    /// # Errors
    /// `AddrInUse`: all of the million names are taken.
    pub fn unix_autobind() -> io::Result<Datagram> {
        Self::options().unix_autobind()
    }

    /// Receives on the first of the addresses that can be bound, IPv4 or IPv6. Port 0 lets the kernel choose;
    /// [`local_address`](Self::local_address) tells.
    ///
    /// # Errors
    /// Those of resolving and of `bind(2)`, for the last address tried.
    pub fn udp(address: impl ToSocketAddrs) -> io::Result<Datagram> {
        Self::options().udp(address)
    }

    /// Receives on an address of any kind that takes datagrams.
    ///
    /// # Errors
    /// `InvalidInput` for streams, seqpacket sockets and queues; else those of the constructor for that kind.
    pub fn bind(address: &Address) -> io::Result<Datagram> {
        Self::options().bind(address)
    }

    /// A socket with an address of the kernel's choice, [connected](Self::connect) to `address`. It can be answered.
    ///
    /// # Errors
    /// `InvalidInput` for an address of another kind; those of resolving and of [`connect`](Self::connect).
    pub fn connected(address: &Address) -> io::Result<Datagram> {
        Self::options().connected(address)
    }

    /// Options to set before binding.
    pub fn options() -> DatagramOptions {
        DatagramOptions::new()
    }

    /// Names the one peer from now on: [`send`](Self::send) goes to it, and datagrams of others are refused (Unix) or
    /// dropped (UDP). What others have sent before is still received. It can be done again, with another peer;
    /// a Unix socket then throws away what it has not received yet.
    ///
    /// Nothing is sent. Of a UDP peer nothing is known before a datagram to it comes back as an ICMP message: that
    /// is `ConnectionRefused`, of a later call.
    ///
    /// # Errors
    /// On a Unix socket: `NotFound`, nothing is there; `ConnectionRefused`, nobody lives there; `PermissionDenied`, no write
    /// permission, or the peer is connected to another. `InvalidInput`: the address is of another family.
    pub fn connect(&self, to: &SocketAddress) -> io::Result<()> {
        socket::connect_nonblocking(self.as_fd(), &to.0).map_err(|cause| explain(cause, 0))
    }

    /// Sends a datagram, which may be empty. It is taken whole or not at all, and the call never waits.
    ///
    /// # Errors
    /// - `WouldBlock`: the receiver's queue is full (Unix), or this socket's send buffer. Nobody tells when there is room at
    ///   one receiver of many: try later, or [`connect`](Self::connect) a socket to it.
    /// - `ConnectionRefused`, `NotFound`: nobody receives there, or (UDP, connected) an earlier datagram found nobody.
    /// - `PermissionDenied`: no write permission, or the receiver is connected to another socket.
    /// - `InvalidInput`: too long (more than 65,507 bytes on UDP over IPv4, or than `SO_SNDBUF` on a Unix socket), or an address
    ///   of another family.
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

    /// Sends several datagrams, 16 a system call (`sendmmsg(2)`), and says how many were taken. Against a `send_to` each
    /// it costs about a tenth less from 4 datagrams on, and a tenth more for one.
    ///
    /// # Errors
    /// Those of `send_to`, if the first datagram is refused. A later one's refusal ends the call, and is that of the first
    /// in the next call that begins with it.
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

    /// Receives a datagram, and who sent it. Never waits.
    ///
    /// # Errors
    /// `WouldBlock`: none is there. `ConnectionRefused` and its like: an earlier datagram of ours found nobody; the
    /// socket is as good as before.
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut arrival = Arrival::to_fill();
        datagram::recv_from(self.as_fd(), buffer, &mut arrival)?;
        let (len, size) = (arrival.len, buffer.len());
        Ok(Received {
            len: len.min(size),
            truncated: (len > size).then_some(len),
            from: SocketAddress(arrival.from),
        })
    }

    /// The address it receives on, with the actual port of UDP; of a path, as it was given.
    ///
    /// # Errors
    /// `AddrNotAvailable`: it is unnamed, and nobody can send to it. Those of `getsockname(2)`.
    pub fn local_address(&self) -> io::Result<Address> {
        if let Some(path) = &self.path {
            return Ok(Address::UnixDatagram(path.clone()));
        }
        match socket::getsockname(self.as_fd())? {
            PeerAddress::Path(path) => Ok(Address::UnixDatagram(path)),
            PeerAddress::Abstract(name) => Ok(Address::AbstractDatagram(name)),
            PeerAddress::Inet(address) => Ok(Address::Udp(address.to_string())),
            PeerAddress::Unnamed => Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the socket is unnamed: nobody can send to it; bind it (autobind will do)",
            )),
        }
    }

    /// The peer that it is connected to.
    ///
    /// # Errors
    /// `NotConnected`, and those of `getpeername(2)`.
    pub fn peer_address(&self) -> io::Result<PeerAddress> {
        socket::getpeername(self.as_fd())
    }

    /// Bytes of the largest datagram that the poll set takes whole: [`DatagramOptions::message_size`].
    pub fn message_size(&self) -> usize {
        self.message_size
    }

    /// Sets it for an adopted socket, before the socket goes into a poll set.
    pub fn set_message_size(&mut self, bytes: usize) {
        self.message_size = bytes.clamp(1, MESSAGE_SIZE_MAX);
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

    fn around(fd: OwnedFd, is_unix: bool, message_size: usize) -> Datagram {
        if is_unix {
            // A kernel before 6.16 has no such option, and closes what arrives.
            let _ = socket::set_passes_rights(fd.as_fd(), false);
        }
        Datagram { guard: None, fd, is_unix, path: None, message_size }
    }

    /// Errors are for those that can be told: `From` has nobody to tell, and on an open socket none can occur.
    fn adopt(fd: OwnedFd, is_unix: bool) -> (Datagram, io::Result<()>) {
        let datagram = Self::around(fd, is_unix, Self::MESSAGE_SIZE);
        let fd = datagram.as_fd();
        let usable = socket::set_nonblocking(fd).and_then(|()| socket::set_cloexec(fd));
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

/// Becomes non-blocking. Its path, if it has one, is left alone on drop.
impl From<UnixDatagram> for Datagram {
    fn from(socket: UnixDatagram) -> Datagram {
        Self::adopt(socket.into(), true).0
    }
}

/// Becomes non-blocking.
impl From<UdpSocket> for Datagram {
    fn from(socket: UdpSocket) -> Datagram {
        Self::adopt(socket.into(), false).0
    }
}

/// Adopts a datagram socket that another program made, such as a service manager: it becomes non-blocking and
/// close-on-exec, and its path is left alone on drop.
///
/// Fails with `InvalidInput` if the descriptor is no socket or one of another kind; the descriptor is then closed.
impl TryFrom<OwnedFd> for Datagram {
    type Error = io::Error;

    fn try_from(fd: OwnedFd) -> io::Result<Datagram> {
        let option = |name| {
            socket::option(fd.as_fd(), libc::SOL_SOCKET, name).map_err(|cause| match cause.raw_os_error() {
                Some(libc::ENOTSOCK) => {
                    invalid("the descriptor is no socket; a datagram socket is wanted".into())
                }
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

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Says what the kernel's number means for a datagram of `len` bytes. `WouldBlock` stays as it is: it is no
/// fault, and must not cost an allocation.
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
        Some(libc::ECONNREFUSED) => {
            (cause.kind(), "nobody receives there, or an earlier datagram of this socket found nobody".into())
        }
        Some(libc::ENOENT) => (cause.kind(), "no socket is at that path".into()),
        Some(libc::EPERM) => (cause.kind(), "the receiver takes datagrams from another socket alone".into()),
        Some(libc::EPROTOTYPE) => (io::ErrorKind::InvalidInput, "the receiver is no datagram socket".into()),
        Some(libc::EAFNOSUPPORT | libc::EINVAL) => (
            io::ErrorKind::InvalidInput,
            "the address is of another family than the socket, or malformed".into(),
        ),
        _ => return cause,
    };
    io::Error::new(kind, format!("{why} ({cause})"))
}
