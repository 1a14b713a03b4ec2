//! Socket addresses as the kernel lays them out.
//!
//! The layout is written and read as bytes, so that no union has to be trusted: every kind of
//! address begins with its family, and the rest is fixed by `unix(7)`, `ip(7)` and `ipv6(7)`.

use std::ffi::OsStr;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::net::peer::PeerAddress;

/// The longest path, and the longest abstract name, that `sun_path` carries: 108 bytes, one of
/// which is the NUL after a path or before a name.
pub(crate) const SUN_PATH_MAX: usize = 107;

const FAMILY_LEN: usize = size_of::<libc::sa_family_t>();
const IN6_LEN: usize = size_of::<libc::sockaddr_in6>();
const IN_LEN: usize = size_of::<libc::sockaddr_in>();

/// A `struct sockaddr_storage` and the length of what it holds.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct SockAddr {
    bytes: [u8; size_of::<libc::sockaddr_storage>()],
    pub(crate) len: libc::socklen_t,
}

impl SockAddr {
    /// Bytes of storage, for a call that fills it.
    pub(crate) const CAPACITY: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;

    /// An empty address with the whole storage offered to the kernel to fill.
    pub(crate) fn to_fill() -> Self {
        let bytes = [0; size_of::<libc::sockaddr_storage>()];
        Self { bytes, len: bytes.len() as libc::socklen_t }
    }

    fn new(family: libc::c_int, parts: &[&[u8]], len: usize) -> Self {
        let mut address = Self::to_fill();
        address.len = len as libc::socklen_t;
        address.bytes[..FAMILY_LEN].copy_from_slice(&(family as libc::sa_family_t).to_ne_bytes());
        let mut at = FAMILY_LEN;
        for part in parts {
            address.bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        address
    }

    pub(crate) fn unix_path(path: &Path) -> io::Result<Self> {
        let name = path.as_os_str().as_bytes();
        if name.is_empty() || name.contains(&0) {
            let text = format!("{path:?} is no socket path: it must not be empty nor hold a NUL byte");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        within_limit("socket path", path, name.len(), "; choose a shorter one, or a relative one")?;
        Ok(Self::new(libc::AF_UNIX, &[name], FAMILY_LEN + name.len() + 1))
    }

    pub(crate) fn unix_abstract(name: &[u8]) -> io::Result<Self> {
        if name.is_empty() {
            let text = "an abstract socket name must not be empty: the kernel would choose one itself";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        within_limit("abstract socket name", OsStr::from_bytes(name).as_ref(), name.len(), "")?;
        // No NUL at the end: every byte of an abstract name counts, also a NUL.
        Ok(Self::new(libc::AF_UNIX, &[&[0], name], FAMILY_LEN + 1 + name.len()))
    }

    pub(crate) fn inet(address: SocketAddr) -> Self {
        let port = address.port().to_be_bytes();
        match address {
            SocketAddr::V4(v4) => Self::new(libc::AF_INET, &[&port, &v4.ip().octets()], IN_LEN),
            SocketAddr::V6(v6) => {
                let (flow, scope) = (v6.flowinfo().to_ne_bytes(), v6.scope_id().to_ne_bytes());
                Self::new(libc::AF_INET6, &[&port, &flow, &v6.ip().octets(), &scope], IN6_LEN)
            }
        }
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        self.bytes.as_ptr().cast()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        self.bytes.as_mut_ptr().cast()
    }

    /// The IPv4 or IPv6 address, if this is one; nothing is allocated.
    pub(crate) fn to_inet(self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes(self.array(2));
        match self.family() {
            libc::AF_INET => Some(SocketAddrV4::new(Ipv4Addr::from(self.array::<4>(4)), port).into()),
            libc::AF_INET6 => {
                let (flow, scope) = (u32::from_ne_bytes(self.array(4)), u32::from_ne_bytes(self.array(24)));
                Some(SocketAddrV6::new(Ipv6Addr::from(self.array::<16>(8)), port, flow, scope).into())
            }
            _ => None,
        }
    }

    pub(crate) fn to_peer_address(self) -> PeerAddress {
        if let Some(address) = self.to_inet() {
            return PeerAddress::Inet(address);
        }
        let end = (self.len as usize).clamp(FAMILY_LEN, self.bytes.len());
        match &self.bytes[FAMILY_LEN..end] {
            [] => PeerAddress::Unnamed,
            [0, name @ ..] => PeerAddress::Abstract(name.to_vec()),
            path => {
                let path = path.split(|&byte| byte == 0).next().unwrap_or_default();
                PeerAddress::Path(PathBuf::from(OsStr::from_bytes(path)))
            }
        }
    }

    /// What the kernel counts as the address.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..(self.len as usize).min(self.bytes.len())]
    }

    fn family(&self) -> libc::c_int {
        libc::sa_family_t::from_ne_bytes(self.array(0)).into()
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|offset| self.bytes[at + offset])
    }
}

fn within_limit(what: &str, name: &Path, len: usize, advice: &str) -> io::Result<()> {
    if len <= SUN_PATH_MAX {
        return Ok(());
    }
    let text = format!("{what} {name:?} is {len} bytes long; unix(7) allows {SUN_PATH_MAX}{advice}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inet_addresses_survive() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[fe80::1%7]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SockAddr::inet(address).to_inet(), Some(address));
        }
    }

    #[test]
    fn unix_names_survive_up_to_the_limit() {
        let path = PathBuf::from("p".repeat(SUN_PATH_MAX));
        assert_eq!(SockAddr::unix_path(&path).unwrap().to_peer_address(), PeerAddress::Path(path));
        let name = vec![0; SUN_PATH_MAX];
        assert_eq!(SockAddr::unix_abstract(&name).unwrap().to_peer_address(), PeerAddress::Abstract(name));
    }
}
