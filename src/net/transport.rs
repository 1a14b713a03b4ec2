//! What a socket with connections speaks.

use std::{io, os::fd::BorrowedFd};

use crate::sys::socket;

/// The transport of a listener and of its connections: what the bytes on it are cut into, and whether the kernel knows
/// the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// A Unix stream: bytes without boundaries.
    UnixStream,
    /// A Unix seqpacket connection: whole records, in order.
    UnixSeqpacket,
    /// TCP over IPv4 or IPv6: bytes without boundaries.
    Tcp,
}

impl Transport {
    /// The transport of a socket.
    ///
    /// # Errors
    /// `InvalidInput`: it is a socket of another kind. Those of `getsockopt(2)`.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Transport> {
        let option = |name| socket::option(fd, libc::SOL_SOCKET, name);
        match (option(libc::SO_DOMAIN)?, option(libc::SO_TYPE)?) {
            (libc::AF_UNIX, libc::SOCK_STREAM) => Ok(Transport::UnixStream),
            (libc::AF_UNIX, libc::SOCK_SEQPACKET) => Ok(Transport::UnixSeqpacket),
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM) => Ok(Transport::Tcp),
            (domain, kind) => Err(invalid(format!(
                "a Unix stream, a Unix seqpacket or a TCP socket is wanted; this one has domain {domain}, type {kind}"
            ))),
        }
    }

    /// It is TCP. The others are Unix sockets, where the kernel knows the user and the process of the peer.
    pub fn is_tcp(self) -> bool {
        self == Transport::Tcp
    }

    /// It keeps message boundaries.
    pub fn is_seqpacket(self) -> bool {
        self == Transport::UnixSeqpacket
    }

    /// The type argument of `socket(2)`.
    pub(crate) fn socket_type(self) -> libc::c_int {
        match self {
            Self::UnixStream | Self::Tcp => libc::SOCK_STREAM,
            Self::UnixSeqpacket => libc::SOCK_SEQPACKET,
        }
    }
}

/// An `InvalidInput` error with a text of its own.
pub(crate) fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, UdpSocket},
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use super::*;

    #[test]
    fn a_transport_is_read_from_the_socket() {
        let (unix, _peer) = UnixStream::pair().unwrap();
        assert_eq!(Transport::of(unix.as_fd()).unwrap(), Transport::UnixStream);
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(Transport::of(tcp.as_fd()).unwrap(), Transport::Tcp);
        for kind in [Transport::UnixStream, Transport::UnixSeqpacket] {
            let socket = socket::socket(libc::AF_UNIX, kind.socket_type()).unwrap();
            assert_eq!(Transport::of(socket.as_fd()).unwrap(), kind);
        }
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(Transport::of(udp.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
