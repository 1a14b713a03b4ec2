//! Connects to an address of any kind that has connections.

use std::{
    io,
    net::TcpStream,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    time::Duration,
};

use ipc_reactor::Address;

/// Returns a connected, blocking socket, or an error after `timeout`.
///
/// It is called a `UnixStream` whatever its kind: reading, writing, timeouts and `shutdown` are the same for all.
pub(crate) fn connect(address: &Address, timeout: Duration) -> io::Result<UnixStream> {
    let socket = match address {
        Address::UnixStream(path) => unix(libc::SOCK_STREAM, path.as_os_str().as_bytes(), false, timeout),
        Address::UnixSeqpacket(path) => {
            unix(libc::SOCK_SEQPACKET, path.as_os_str().as_bytes(), false, timeout)
        }
        Address::AbstractStream(name) => unix(libc::SOCK_STREAM, name, true, timeout),
        Address::AbstractSeqpacket(name) => unix(libc::SOCK_SEQPACKET, name, true, timeout),
        Address::Tcp(_) => tcp(address, timeout),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "nothing to connect to; unix:, unix-seq:, abstract:, abstract-seq: and tcp: addresses have connections",
        )),
    };
    socket.map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "; is the server running?",
            // connect(2) fails with EAGAIN when its wait times out.
            io::ErrorKind::WouldBlock => "; the server accepts no connections, and its backlog is full",
            io::ErrorKind::AddrNotAvailable => {
                "; no local port is left: widen /proc/sys/net/ipv4/ip_local_port_range, or use a Unix socket"
            }
            _ => "",
        };
        io::Error::new(error.kind(), format!("cannot connect to {address}: {error}{help}"))
    })
}

fn tcp(address: &Address, timeout: Duration) -> io::Result<UnixStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in address.resolve()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(OwnedFd::from(stream).into());
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The standard library has no seqpacket sockets, and no Unix connect with a timeout.
#[allow(unsafe_code, reason = "socket(2) and connect(2)")]
fn unix(kind: libc::c_int, name: &[u8], is_abstract: bool, timeout: Duration) -> io::Result<UnixStream> {
    // SAFETY: all zeros are a sockaddr_un, of no family.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let first = usize::from(is_abstract);
    if first + name.len() >= address.sun_path.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name is longer than 107 bytes"));
    }
    for (to, from) in address.sun_path[first..].iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + first + name.len();

    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `socket` has just created the descriptor, and it has no other owner.
    let socket = unsafe { UnixStream::from_raw_fd(fd) };
    socket.set_write_timeout(Some(timeout))?;
    // SAFETY: `address` lives through the call, and `length` is within it.
    let connected =
        unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length as libc::socklen_t) };
    if connected < 0 {
        return Err(io::Error::last_os_error());
    }
    socket.set_write_timeout(None)?;
    Ok(socket)
}
