//! Socket addresses in the kernel's layout.
//!
//! The layout is written and read as bytes, without C unions: every kind of address begins with its family, and
//! `unix(7)`, `ip(7)` and `ipv6(7)` define the rest.

use std::{
    ffi::OsStr,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use super::socklen_of;

/// Bytes of the longest path and of the longest abstract name: `sun_path` has 108, and one is the NUL after a path or
/// before a name.
pub(crate) const SUN_PATH_MAX: usize = 107;

const STORAGE: usize = size_of::<libc::sockaddr_storage>();
const FAMILY_LEN: usize = size_of::<libc::sa_family_t>();
const IN6_LEN: usize = size_of::<libc::sockaddr_in6>();
const IN_LEN: usize = size_of::<libc::sockaddr_in>();

/// A `struct sockaddr_storage` and the length of the address in it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct SockAddr {
    bytes: [u8; STORAGE],
    pub(crate) len: libc::socklen_t,
}

impl SockAddr {
    /// The size of the storage in bytes, for a call that fills it.
    pub(crate) const CAPACITY: libc::socklen_t = socklen_of::<libc::sockaddr_storage>();

    /// Zeroed storage, with its whole size as the length, for a call that fills it.
    pub(crate) fn zeroed() -> Self {
        Self { bytes: [0; STORAGE], len: Self::CAPACITY }
    }

    fn new(family: libc::c_int, parts: &[&[u8]], len: usize) -> Self {
        let family = libc::sa_family_t::try_from(family).expect("families are small numbers");
        let len = libc::socklen_t::try_from(len).expect("an address is no longer than its storage");
        let mut address = Self { len, ..Self::zeroed() };
        address.bytes[..FAMILY_LEN].copy_from_slice(&family.to_ne_bytes());
        let mut at = FAMILY_LEN;
        for part in parts {
            address.bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        address
    }

    /// The address with which `bind(2)` lets the kernel choose an abstract name (`unix(7)`, autobind).
    pub(crate) fn autobind() -> Self {
        Self::new(libc::AF_UNIX, &[], FAMILY_LEN)
    }

    /// A Unix socket at a path. `InvalidInput`: the path is empty, too long, or contains a NUL byte.
    pub(crate) fn unix_path(path: &Path) -> io::Result<Self> {
        let name = path.as_os_str().as_bytes();
        if name.is_empty() || name.contains(&0) {
            let text = format!("{path:?} is no socket path: it must not be empty, nor contain a NUL byte");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        within_limit("socket path", path, name.len(), "; choose a shorter one, or a relative one")?;
        Ok(Self::new(libc::AF_UNIX, &[name], FAMILY_LEN + name.len() + 1))
    }

    /// A Unix socket with an abstract name, given without its first NUL. `InvalidInput`: the name is empty or too long.
    pub(crate) fn unix_abstract(name: &[u8]) -> io::Result<Self> {
        if name.is_empty() {
            let text = "an abstract socket name must not be empty: the kernel would choose one itself";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        within_limit("abstract socket name", OsStr::from_bytes(name).as_ref(), name.len(), "")?;
        // No NUL at the end: every byte up to the length belongs to an abstract name, also a NUL.
        Ok(Self::new(libc::AF_UNIX, &[&[0], name], FAMILY_LEN + 1 + name.len()))
    }

    /// An IPv4 or IPv6 address and port.
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

    /// The IPv4 or IPv6 address and port, if this is one. It does not allocate.
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

    /// `sun_path` of a Unix address, as far as the length goes. Empty: the socket is unnamed. A first NUL byte: the
    /// rest is an abstract name. Else it is a path, which may have a NUL byte after it.
    pub(crate) fn sun_path(&self) -> &[u8] {
        self.as_bytes().get(FAMILY_LEN..).unwrap_or_default()
    }

    /// The bytes of the address, without the rest of the storage.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..(self.len as usize).min(STORAGE)]
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
        let path = "p".repeat(SUN_PATH_MAX);
        let address = SockAddr::unix_path(Path::new(&path)).unwrap();
        assert_eq!(address.sun_path(), (path.clone() + "\0").as_bytes());
        assert_eq!(address.to_inet(), None);
        let name = [0; SUN_PATH_MAX];
        let address = SockAddr::unix_abstract(&name).unwrap();
        assert_eq!((address.sun_path().len(), address.sun_path()[0]), (1 + SUN_PATH_MAX, 0));
        assert_eq!(SockAddr::autobind().sun_path(), b"");

        let refused =
            |result: io::Result<SockAddr>| result.unwrap_err().kind() == io::ErrorKind::InvalidInput;
        assert!(refused(SockAddr::unix_path(Path::new(&(path + "p")))));
        assert!(refused(SockAddr::unix_path(Path::new("a\0b"))));
        assert!(refused(SockAddr::unix_path(Path::new(""))));
        assert!(refused(SockAddr::unix_abstract(&[0; SUN_PATH_MAX + 1])));
        assert!(refused(SockAddr::unix_abstract(b"")));
    }

    #[test]
    fn a_length_beyond_the_storage_is_cut() {
        let address = SockAddr { len: u32::MAX, ..SockAddr::zeroed() };
        assert_eq!(address.as_bytes().len(), STORAGE);
        assert_eq!(SockAddr { len: 0, ..address }.sun_path(), b"");
    }
}
