//! The kernel's netlink multicast groups: rtnetlink(7), and the uevents that udev reads.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind,
    netlink::{KOBJECT_UEVENT, SocketAddrNetlink},
    recvfrom, socket_with,
};

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`.
const LINKS_AND_ADDRESSES: u32 = 0x1 | 0x10 | 0x100;
/// The group of the kernel's own uevents; group 2 has those that udev has processed.
const UEVENTS: u32 = 1;

/// A socket that receives every change of a link or an address, in the network namespace of the caller.
pub(crate) fn changes() -> io::Result<OwnedFd> {
    open(None, LINKS_AND_ADDRESSES)
}

/// A socket that receives every event of a device: added, removed or changed.
pub(crate) fn uevents() -> io::Result<OwnedFd> {
    open(Some(KOBJECT_UEVENT), UEVENTS)
}

fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    // Port 0: the kernel chooses one for us.
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// The result of one receive.
pub(crate) enum Received {
    /// A message from the kernel, of this length.
    Message(usize),
    /// Not from the kernel: any root process can send to these groups.
    Stranger(u32),
    /// The receive buffer overflowed and messages are lost (`ENOBUFS`): read the whole state again.
    Lost,
}

/// Receives one message. Returns `WouldBlock` if there is none.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    // TRUNC: the result is the real length, also of a message that did not fit.
    let (length, sender) = match recvfrom(socket, &mut *buffer, RecvFlags::TRUNC) {
        Ok((_, length, sender)) => (length, sender),
        Err(rustix::io::Errno::NOBUFS) => return Ok(Received::Lost),
        Err(errno) => return Err(errno.into()),
    };
    let port =
        sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok()).map_or(u32::MAX, |s| s.pid());
    Ok(match port {
        0 if length > buffer.len() => Received::Lost,
        0 => Received::Message(length),
        port => Received::Stranger(port),
    })
}

/// The changes in a message of [`changes`], one line each.
pub(crate) fn describe_changes(mut bytes: &[u8]) -> Vec<String> {
    const HEADER: usize = 16;
    let mut lines = Vec::new();
    while let Some(length) = number::<4>(bytes, 0).map(|length| u32::from_ne_bytes(length) as usize) {
        let Some(message) = bytes.get(HEADER..length) else { break };
        let kind = number(bytes, 4).map_or(0, u16::from_ne_bytes);
        lines.extend(match kind {
            16 | 17 => link(message, kind == 17),
            20 | 21 => address(message, kind == 21),
            _ => None,
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    lines
}

/// `struct ifinfomsg`, then attributes.
fn link(message: &[u8], gone: bool) -> Option<String> {
    const IFLA_IFNAME: u16 = 3;
    const IFF_UP: u32 = 1;
    let flags = u32::from_ne_bytes(number(message, 8)?);
    let name = attribute(message.get(16..)?, IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name));
    let what = if gone {
        "removed"
    } else if flags & IFF_UP != 0 {
        "up"
    } else {
        "down"
    };
    Some(format!("link {name} {what}"))
}

/// `struct ifaddrmsg`, then attributes.
fn address(message: &[u8], gone: bool) -> Option<String> {
    const IFA_ADDRESS: u16 = 1;
    let (prefix, index) = (message.get(1)?, u32::from_ne_bytes(number(message, 4)?));
    let address = attribute(message.get(8..)?, IFA_ADDRESS)?;
    let address = match address.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?).to_string(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).to_string(),
    };
    let what = if gone { "removed from" } else { "added to" };
    Some(format!("address {address}/{prefix} {what} link {index}"))
}

fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(number(bytes, 0)?));
        let value = bytes.get(4..length)?;
        if number(bytes, 2).map(u16::from_ne_bytes) == Some(wanted) {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// `add@/devices/virtual/net/v0` out of a message of [`uevents`], whose other fields are an environment.
pub(crate) fn describe_uevent(bytes: &[u8]) -> Option<String> {
    let head = bytes.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(head).into_owned())
}
