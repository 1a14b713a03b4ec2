//! The three kinds of address a server can listen on, as text and as the kernel wants them.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// `unix:/path`: a name in the file system, which outlives the server unless removed.
    Path(PathBuf),
    /// `abstract:name`: a name outside the file system, which the kernel removes with the socket (unix(7)).
    Abstract(String),
    /// `tcp:host:port`.
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Self::Path(PathBuf::from(path)),
            Some(("abstract", name)) if !name.is_empty() => Self::Abstract(name.to_owned()),
            Some(("tcp", host)) => Self::Tcp(
                host.to_socket_addrs()
                    .map_err(|error| format!("{host}: {error}; give host:port, as in tcp:127.0.0.1:7000"))?
                    .next()
                    .ok_or_else(|| format!("{host} has no address"))?,
            ),
            _ => return Err(format!("{text} is none of unix:/path, abstract:name, tcp:host:port")),
        };
        address.to_kernel().map_err(|error| error.to_string())?;
        Ok(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "abstract:{name}"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// An address in the form that `bind` and `connect` take.
pub(crate) enum KernelAddress {
    Unix(libc::sockaddr_un, libc::socklen_t),
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl KernelAddress {
    pub(crate) fn family(&self) -> libc::c_int {
        match self {
            Self::Unix(..) => libc::AF_UNIX,
            Self::V4(_) => libc::AF_INET,
            Self::V6(_) => libc::AF_INET6,
        }
    }

    /// Valid for as long as `self` is borrowed.
    pub(crate) fn as_raw(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            Self::Unix(raw, len) => ((&raw const *raw).cast(), *len),
            Self::V4(raw) => ((&raw const *raw).cast(), size_of_val(raw) as libc::socklen_t),
            Self::V6(raw) => ((&raw const *raw).cast(), size_of_val(raw) as libc::socklen_t),
        }
    }
}

impl Address {
    pub(crate) fn to_kernel(&self) -> io::Result<KernelAddress> {
        match self {
            Self::Path(path) => unix(path.as_os_str(), false),
            Self::Abstract(name) => unix(OsStr::new(name), true),
            Self::Tcp(SocketAddr::V4(v4)) => Ok(KernelAddress::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            })),
            Self::Tcp(SocketAddr::V6(v6)) => Ok(KernelAddress::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            })),
        }
    }
}

fn unix(name: &OsStr, is_abstract: bool) -> io::Result<KernelAddress> {
    let mut raw = libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
    let name = name.as_bytes();
    // A path ends with a NUL byte; an abstract name begins with one, and its length is the end.
    let room = raw.sun_path.len() - 1;
    if name.len() > room {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the address is {} bytes long, and a Unix address holds {room}; shorten it", name.len()),
        ));
    }
    if name.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the address holds a NUL byte"));
    }
    let start = usize::from(is_abstract);
    for (to, from) in raw.sun_path[start..].iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    // Either way it is the family, the name, and one NUL byte.
    let len = size_of::<libc::sa_family_t>() + name.len() + 1;
    Ok(KernelAddress::Unix(raw, len as libc::socklen_t))
}
