//! What can be chosen about a datagram socket, and the making of each kind.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::Path;

use super::{Datagram, invalid};
use crate::net::address::{Address, Escaped};
use crate::net::path::PathGuard;
use crate::sys::path::fchmod;
use crate::sys::sockaddr::SockAddr;
use crate::sys::{datagram, socket};

/// What to set before binding; from [`Datagram::options`].
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

    /// Permission bits of a path: who may send to it, for which write permission is needed. Default 0600. They hold
    /// from the path's first instant, and the umask takes bits away. Nothing for abstract names and UDP.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    /// Bytes of the largest datagram that the poll set takes whole; a longer one is truncated, and says so. 1 byte to 16 MiB; default 65,536: all
    /// of UDP fits. A Unix datagram can be as long as its sender's `SO_SNDBUF` allows. There are 16 such buffers a socket, of
    /// which memory is used only as far as datagrams have filled it.
    pub fn message_size(&mut self, bytes: usize) -> &mut Self {
        self.message_size = bytes.clamp(1, super::MESSAGE_SIZE_MAX);
        self
    }

    /// `SO_RCVBUF`, in bytes. On UDP it bounds what waits to be received, and what is beyond is lost. On a Unix socket it means
    /// nothing: there the kernel counts datagrams (`/proc/sys/net/unix/max_dgram_qlen`), and nothing is lost.
    pub fn receive_buffer(&mut self, bytes: u32) -> &mut Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// `SO_SNDBUF`, in bytes. On a Unix socket it bounds the largest datagram, and what others have not yet received.
    pub fn send_buffer(&mut self, bytes: u32) -> &mut Self {
        self.send_buffer = Some(bytes);
        self
    }

    /// [`Datagram::unix`] with these options.
    ///
    /// # Errors
    /// As [`Datagram::unix`]; `InvalidInput` for a mode beyond 0777.
    pub fn unix(&self, path: impl AsRef<Path>) -> io::Result<Datagram> {
        let path = path.as_ref();
        if self.mode & !0o777 != 0 {
            return Err(invalid(format!("mode {:#o} has more than permission bits (0o777)", self.mode)));
        }
        let mut datagram = self.socket(libc::AF_UNIX)?;
        fchmod(datagram.as_fd(), self.mode)?;
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
        socket::bind(datagram.as_fd(), &address)
            .map_err(|cause| failed(&format!("abstract-dgram:{}", Escaped(name)), cause))?;
        Ok(datagram)
    }

    /// [`Datagram::unix_autobind`] with these options.
    ///
    /// # Errors
    /// As [`Datagram::unix_autobind`].
    pub fn unix_autobind(&self) -> io::Result<Datagram> {
        let datagram = self.socket(libc::AF_UNIX)?;
        datagram::autobind(datagram.as_fd())?;
        Ok(datagram)
    }

    /// [`Datagram::udp`] with these options.
    ///
    /// # Errors
    /// As [`Datagram::udp`].
    pub fn udp(&self, address: impl ToSocketAddrs) -> io::Result<Datagram> {
        let mut last = invalid("no address to bind: the name resolves to none".into());
        for address in address.to_socket_addrs()? {
            let datagram = self.socket(domain(&address))?;
            match socket::bind(datagram.as_fd(), &SockAddr::inet(address)) {
                Ok(()) => return Ok(datagram),
                Err(cause) => last = failed(&format!("udp:{address}"), cause),
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
        let to = super::SocketAddress::try_from(address)?;
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

    fn socket(&self, domain: libc::c_int) -> io::Result<Datagram> {
        let fd = socket::socket(domain, libc::SOCK_DGRAM)?;
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

fn failed(address: &str, cause: io::Error) -> io::Error {
    io::Error::new(cause.kind(), format!("cannot bind {address}: {cause}"))
}
