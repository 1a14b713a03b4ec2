//! A datagram's address in the kernel's form.

use std::{
    fmt,
    hash::{Hash, Hasher},
    io,
    net::SocketAddr,
    path::Path,
};

use crate::{
    net::{address::Address, peer::PeerAddress, transport::invalid},
    sys::sockaddr::SockAddr,
};

/// The address of a datagram's sender or receiver in the kernel's form (`struct sockaddr`). It is copied, stored and
/// compared without allocating. [`to_address`](Self::to_address) converts it.
///
/// ```
/// use ipc_reactor::{Address, SocketAddress};
///
/// let to = SocketAddress::try_from(&"udp:127.0.0.1:4000".parse::<Address>()?)?;
/// assert_eq!(to, "127.0.0.1:4000".parse::<std::net::SocketAddr>().unwrap().into());
/// assert_eq!(to.to_string(), "127.0.0.1:4000");
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Copy)]
pub struct SocketAddress(pub(crate) SockAddr);

impl SocketAddress {
    /// A Unix socket at a path.
    ///
    /// # Errors
    /// `InvalidInput`: the path is empty, contains a NUL byte, or is longer than 107 bytes.
    pub fn unix(path: impl AsRef<Path>) -> io::Result<SocketAddress> {
        SockAddr::unix_path(path.as_ref()).map(SocketAddress)
    }

    /// A Unix socket with an abstract name, given without its first NUL.
    ///
    /// # Errors
    /// `InvalidInput`: the name is empty, or longer than 107 bytes.
    pub fn unix_abstract(name: impl AsRef<[u8]>) -> io::Result<SocketAddress> {
        SockAddr::unix_abstract(name.as_ref()).map(SocketAddress)
    }

    /// The address as a path, a name, or an IP address and port.
    pub fn to_address(&self) -> PeerAddress {
        self.0.into()
    }

    /// The IP address and port, if this is one.
    pub fn to_inet(&self) -> Option<SocketAddr> {
        self.0.to_inet()
    }

    /// It is of a socket that was never bound: nothing can be sent to it.
    pub fn is_unnamed(&self) -> bool {
        self.0.sun_path().is_empty()
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> SocketAddress {
        SocketAddress(SockAddr::inet(address))
    }
}

/// Resolves the host of a UDP address, and takes the first result. That may need a query over the network, which
/// blocks.
///
/// Fails with `InvalidInput` for an address of another kind, and with the errors of `getaddrinfo(3)`.
impl TryFrom<&Address> for SocketAddress {
    type Error = io::Error;

    fn try_from(address: &Address) -> io::Result<SocketAddress> {
        match address {
            Address::UnixDatagram(path) => SocketAddress::unix(path),
            Address::AbstractDatagram(name) => SocketAddress::unix_abstract(name),
            Address::Udp(_) => Ok(address.resolve()?[0].into()),
            _ => Err(invalid(format!(
                "{address} takes no datagrams; unix-dgram:, abstract-dgram: and udp: addresses do"
            ))),
        }
    }
}

/// Fails with `InvalidInput` for an unnamed peer.
impl TryFrom<&PeerAddress> for SocketAddress {
    type Error = io::Error;

    fn try_from(address: &PeerAddress) -> io::Result<SocketAddress> {
        match address {
            PeerAddress::Path(path) => SocketAddress::unix(path),
            PeerAddress::Abstract(name) => SocketAddress::unix_abstract(name),
            PeerAddress::Inet(address) => Ok((*address).into()),
            PeerAddress::Unnamed => Err(invalid("an unnamed socket has no address to send to".into())),
        }
    }
}

impl PartialEq for SocketAddress {
    fn eq(&self, other: &SocketAddress) -> bool {
        self.0.as_bytes() == other.0.as_bytes()
    }
}

impl Eq for SocketAddress {}

impl Hash for SocketAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_bytes().hash(state);
    }
}

/// In the form of [`PeerAddress`].
impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_address().fmt(f)
    }
}

impl fmt::Debug for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SocketAddress({self})")
    }
}
