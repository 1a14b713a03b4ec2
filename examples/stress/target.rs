//! The target of a load, and the limits of its kind.

use std::{fmt, io, os::fd::AsFd, str::FromStr};

use ipc_reactor::{Address, Queue};

/// The largest payload of a UDP datagram over IPv4.
const UDP_MAX: usize = 65_507;
/// The part of a Unix socket's send buffer that the kernel uses itself.
const UNIX_OVERHEAD: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Stream and seqpacket sockets.
    Connections(Address),
    Datagrams(Address),
    /// A queue of requests, and the one that answers come out of, if any do.
    Queue {
        requests: String,
        answers: Option<String>,
    },
    /// A publisher in shared memory, and the socket from which subscribers get tickets.
    Memory(Address),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        if let Some(at) = text.strip_prefix("shm:") {
            return match at.parse() {
                Ok(Address::Tcp(_)) => {
                    Err("memory is shared within a machine; shm:unix:PATH is wanted".into())
                }
                Ok(address) => match Target::from(address) {
                    Target::Connections(address) => Ok(Target::Memory(address)),
                    _ => Err("tickets come over a connection; shm:unix:PATH is wanted".into()),
                },
                Err(error) => Err(error.to_string()),
            };
        }
        text.parse()
            .map(|address: Address| Target::from(address))
            .map_err(|error| format!("{error}, or shm:unix:PATH for a publisher in shared memory"))
    }
}

impl From<Address> for Target {
    fn from(address: Address) -> Target {
        match address {
            Address::Queue(requests) => Target::Queue { requests, answers: None },
            Address::UnixDatagram(_) | Address::AbstractDatagram(_) | Address::Udp(_) => {
                Target::Datagrams(address)
            }
            _ => Target::Connections(address),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Connections(address) | Target::Datagrams(address) => address.fmt(f),
            Target::Memory(address) => write!(f, "shm:{address}"),
            Target::Queue { requests, .. } => write!(f, "mq:{requests}"),
        }
    }
}

impl Target {
    pub(crate) fn is_seqpacket(&self) -> bool {
        matches!(self, Target::Connections(Address::UnixSeqpacket(_) | Address::AbstractSeqpacket(_)))
    }

    /// With the host's name looked up once, and not for every connection.
    pub(crate) fn resolved(self) -> io::Result<Target> {
        Ok(match self {
            Target::Connections(address @ Address::Tcp(_)) => {
                let first = address.resolve()?.into_iter().next();
                Target::Connections(first.map_or(address, |ip| Address::Tcp(ip.to_string())))
            }
            target => target,
        })
    }
}

/// Refuses a message that the queue does not take.
///
/// # Errors
/// The message is too long for the queue; the error says how to raise the limit.
pub(crate) fn check_queue(queue: &Queue, name: &str, bytes: usize) -> io::Result<()> {
    let most = queue.message_size();
    if bytes <= most {
        return Ok(());
    }
    Err(invalid(format!(
        "mq:{name} takes messages of up to {most} bytes, and {bytes} are asked for: have its owner make it with a larger \
         mq_msgsize (the system's bounds are /proc/sys/fs/mqueue/msgsize_max and `ulimit -q`), or ask for a smaller --size"
    )))
}

/// Refuses a datagram or a record that the socket does not take in one piece.
///
/// # Errors
/// As for [`check_queue`].
pub(crate) fn check_datagram(socket: impl AsFd, address: &Address, bytes: usize) -> io::Result<()> {
    if let Address::Udp(_) = address {
        if bytes <= UDP_MAX {
            return Ok(());
        }
        return Err(invalid(format!(
            "a UDP datagram carries {UDP_MAX} bytes at most, and {bytes} are asked for: ask for a smaller --size"
        )));
    }
    let buffer = rustix::net::sockopt::socket_send_buffer_size(socket)?;
    if bytes + UNIX_OVERHEAD <= buffer {
        return Ok(());
    }
    Err(invalid(format!(
        "{address} takes {} bytes in one piece, as the send buffer has {buffer}, and {bytes} are asked for: raise the \
         default with `sysctl net.core.wmem_default={}`, or ask for a smaller --size",
        buffer - UNIX_OVERHEAD,
        bytes + UNIX_OVERHEAD
    )))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
