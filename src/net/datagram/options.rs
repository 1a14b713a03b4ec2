//! A datagram socket's options, and how each kind of datagram socket is made.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    os::fd::AsFd,
    path::Path,
};

use super::{Datagram, SocketAddress};
use crate::{
    net::{
        address::{Address, Escaped},
        failure::failed,
        path::PathGuard,
        transport::invalid,
    },
    sys::{file, sockaddr::SockAddr, socket},
};

/// Options to set before a datagram socket is made, from [`Datagram::options`].
#[derive(Clone, Debug)]
pub struct DatagramOptions {
    mode: u32,
    message_size: usize,
    receive_buffer: Option<u32>,
    send_buffer: Option<u32>,
}

impl DatagramOptions {
    pub(super) fn new() -> Self {
        let message_size = Datagram::MESSAGE_SIZE;
        Self { mode: 0o600, message_size, receive_buffer: None, send_buffer: None }
    }

    /// The permission bits of a path. A sender needs write permission. Default 0600. The path has them from the moment
    /// at which it exists, and the umask removes bits. No effect for abstract names and UDP.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    /// Bytes of the longest datagram that the poll set receives whole; a longer one is truncated and marked so. 1 byte
    /// to 16 MiB, default 65,536, which no UDP datagram exceeds. A Unix datagram can be as long as its sender's
    /// `SO_SNDBUF` allows. A socket in a poll set has 16 such buffers, and uses memory for the part that datagrams have
    /// filled.
    pub fn message_size(&mut self, bytes: usize) -> &mut Self {
        self.message_size = bytes.clamp(1, super::MESSAGE_SIZE_MAX);
        self
    }

    /// `SO_RCVBUF` in bytes. On UDP it limits what waits to be received; datagrams beyond it are lost. On a Unix socket
    /// it has no effect: there the kernel limits the number of datagrams (`/proc/sys/net/unix/max_dgram_qlen`), and
    /// none is lost.
    pub fn receive_buffer(&mut self, bytes: u32) -> &mut Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// `SO_SNDBUF` in bytes. On a Unix socket it limits the longest datagram, and the sum of those not yet received.
    pub fn send_buffer(&mut self, bytes: u32) -> &mut Self {
        self.send_buffer = Some(bytes);
        self
    }

    /// [`Datagram::unix`] with these options.
    ///
    /// # Errors
    /// As [`Datagram::unix`]; `InvalidInput` for a mode above 0777.
    pub fn unix(&self, path: impl AsRef<Path>) -> io::Result<Datagram> {
        let path = path.as_ref();
        if self.mode & !0o777 != 0 {
            return Err(invalid(format!("mode {:#o} has more than permission bits (0o777)", self.mode)));
        }
        let mut datagram = self.socket(libc::AF_UNIX)?;
        file::fchmod(datagram.as_fd(), self.mode)?;
        let guard = PathGuard::listen(datagram.as_fd(), path, libc::SOCK_DGRAM, 0, false)?;
        datagram.guard = Some(Box::new(guard));
        datagram.path = Some(path.to_owned());
        Ok(datagram)
    }

    /// [`Datagram::unix_abstract`] with these options.
    ///
    /// # Errors
    /// As [`Datagram::unix_abstract`].
    pub fn unix_abstract(&self, name: impl AsRef<[u8]>) -> io::Result<Datagram> {
        let name = name.as_ref();
        let address = SockAddr::unix_abstract(name)?;
        let datagram = self.socket(libc::AF_UNIX)?;
        socket::bind(datagram.as_fd(), &address).map_err(|cause| {
            failed("cannot bind", format_args!("abstract-dgram:{}", Escaped(name)), cause)
        })?;
        Ok(datagram)
    }

    /// [`Datagram::unix_autobind`] with these options.
    ///
    /// # Errors
    /// As [`Datagram::unix_autobind`].
    pub fn unix_autobind(&self) -> io::Result<Datagram> {
        let datagram = self.socket(libc::AF_UNIX)?;
        socket::bind(datagram.as_fd(), &SockAddr::autobind())?;
        Ok(datagram)
    }

    /// [`Datagram::udp`] with these options.
    ///
    /// # Errors
    /// As [`Datagram::udp`].
    pub fn udp(&self, address: impl ToSocketAddrs) -> io::Result<Datagram> {
        let mut last = invalid("no address to bind: the name resolves to none".into());
        for address in address.to_socket_addrs()? {
            match self.at_inet(address) {
                Ok(datagram) => return Ok(datagram),
                Err(cause) => last = failed("cannot bind", format_args!("udp:{address}"), cause),
            }
        }
        Err(last)
    }

    /// [`Datagram::bind`] with these options.
    ///
    /// # Errors
    /// As [`Datagram::bind`].
    pub fn bind(&self, address: &Address) -> io::Result<Datagram> {
        match address {
            Address::UnixDatagram(path) => self.unix(path),
            Address::AbstractDatagram(name) => self.unix_abstract(name),
            Address::Udp(_) => self.udp(&*address.resolve()?),
            _ => Err(invalid(format!(
                "{address} takes no datagrams; unix-dgram:, abstract-dgram: and udp: addresses do"
            ))),
        }
    }

    /// [`Datagram::connected`] with these options.
    ///
    /// # Errors
    /// As [`Datagram::connected`].
    pub fn connected(&self, address: &Address) -> io::Result<Datagram> {
        let to = SocketAddress::try_from(address)?;
        let datagram = match to.to_inet() {
            // The kernel chooses the port when it connects.
            Some(inet) => self.socket(domain(&inet))?,
            None => self.unix_autobind()?,
        };
        datagram
            .connect(&to)
            .map_err(|cause| io::Error::new(cause.kind(), format!("cannot connect to {address}: {cause}")))?;
        Ok(datagram)
    }

    fn at_inet(&self, address: SocketAddr) -> io::Result<Datagram> {
        let datagram = self.socket(domain(&address))?;
        socket::bind(datagram.as_fd(), &SockAddr::inet(address))?;
        Ok(datagram)
    }

    fn socket(&self, domain: libc::c_int) -> io::Result<Datagram> {
        let fd = socket::socket(domain, libc::SOCK_DGRAM)
            .map_err(|cause| failed("cannot make", "a datagram socket", cause))?;
        if let Some(bytes) = self.receive_buffer {
            socket::set_receive_buffer(fd.as_fd(), bytes)?;
        }
        if let Some(bytes) = self.send_buffer {
            socket::set_send_buffer(fd.as_fd(), bytes)?;
        }
        Ok(Datagram::around(fd, domain == libc::AF_UNIX, self.message_size))
    }
}

fn domain(address: &SocketAddr) -> libc::c_int {
    if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}
