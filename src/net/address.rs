//! Addresses in their written form.

use std::{
    ffi::OsString,
    fmt::{self, Write},
    io,
    net::{SocketAddr, ToSocketAddrs},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
    str::FromStr,
};

use crate::net::transport::invalid;

const FORMS: &str = "unix:PATH, unix-seq:PATH, unix-dgram:PATH, abstract:NAME, abstract-seq:NAME, \
                     abstract-dgram:NAME, tcp:HOST:PORT, udp:HOST:PORT, mq:/NAME, or a path that begins with / or ./";

/// The address of a socket or of a message queue, with one written form for command lines, configuration and logs.
///
/// | written | means |
/// |---|---|
/// | `unix:/run/adder.sock`, `/run/adder.sock`, `./adder.sock` | [`UnixStream`](Self::UnixStream) |
/// | `unix-seq:/run/adder.sock` | [`UnixSeqpacket`](Self::UnixSeqpacket) |
/// | `unix-dgram:/run/adder.sock` | [`UnixDatagram`](Self::UnixDatagram) |
/// | `abstract:adder`, `abstract-seq:adder`, `abstract-dgram:adder` | the same three in the abstract namespace |
/// | `tcp:localhost:4000`, `tcp:[::1]:0` | [`Tcp`](Self::Tcp) |
/// | `udp:localhost:4000` | [`Udp`](Self::Udp) |
/// | `mq:/adder-jobs` | [`Queue`](Self::Queue) |
///
/// Paths and names are bytes, not text. A control character and a byte that is not UTF-8 are written as `\xNN`, a
/// backslash as `\\`, and parsed from that. So a displayed address parses to the same address.
///
/// ```
/// use ipc_reactor::Address;
///
/// let address: Address = "tcp:[::1]:0".parse()?;
/// assert_eq!(address, Address::Tcp("[::1]:0".into()));
/// assert_eq!(address.to_string(), "tcp:[::1]:0");
/// assert_eq!(Address::AbstractStream(b"a\0b".to_vec()).to_string(), r"abstract:a\x00b");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A Unix stream socket at a path: `unix:PATH`.
    UnixStream(PathBuf),
    /// A Unix seqpacket socket at a path: `unix-seq:PATH`.
    UnixSeqpacket(PathBuf),
    /// A Unix datagram socket at a path: `unix-dgram:PATH`.
    UnixDatagram(PathBuf),
    /// A Unix stream socket with an abstract name, without its first NUL: `abstract:NAME`.
    AbstractStream(Vec<u8>),
    /// A Unix seqpacket socket with an abstract name: `abstract-seq:NAME`.
    AbstractSeqpacket(Vec<u8>),
    /// A Unix datagram socket with an abstract name: `abstract-dgram:NAME`.
    AbstractDatagram(Vec<u8>),
    /// TCP, with host and port as they were written, not resolved: `tcp:HOST:PORT`.
    Tcp(String),
    /// UDP, with host and port as they were written, not resolved: `udp:HOST:PORT`.
    Udp(String),
    /// A POSIX message queue: `mq:/NAME`.
    Queue(String),
}

impl Address {
    /// Resolves the host of a TCP or UDP address: at least one IP address and port, in the order of `getaddrinfo(3)`.
    ///
    /// A host name may need a query over the network, which blocks: resolve before the reactor runs.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for any other kind of address; `NotFound` if there is no IP address; those of `getaddrinfo(3)`.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let (Self::Tcp(host_port) | Self::Udp(host_port)) = self else {
            return Err(invalid(format!("{self} has no IP address: only tcp: and udp: addresses do")));
        };
        let found: Vec<_> = host_port
            .to_socket_addrs()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot resolve {self}: {error}")))?
            .collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{self} resolves to no address")));
        }
        Ok(found)
    }

    fn scheme(&self) -> &'static str {
        match self {
            Self::UnixStream(_) => "unix",
            Self::UnixSeqpacket(_) => "unix-seq",
            Self::UnixDatagram(_) => "unix-dgram",
            Self::AbstractStream(_) => "abstract",
            Self::AbstractSeqpacket(_) => "abstract-seq",
            Self::AbstractDatagram(_) => "abstract-dgram",
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Queue(_) => "mq",
        }
    }

    fn rest(&self) -> &[u8] {
        match self {
            Self::UnixStream(path) | Self::UnixSeqpacket(path) | Self::UnixDatagram(path) => {
                path.as_os_str().as_encoded_bytes()
            }
            Self::AbstractStream(name) | Self::AbstractSeqpacket(name) | Self::AbstractDatagram(name) => name,
            Self::Tcp(text) | Self::Udp(text) | Self::Queue(text) => text.as_bytes(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme(), Escaped(self.rest()))
    }
}

impl FromStr for Address {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        if text.starts_with('/') || text.starts_with("./") {
            return Ok(Self::UnixStream(path(text, text)?));
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(invalid(format!("{text:?} is no address; accepted are {FORMS}")));
        };
        Ok(match scheme {
            "unix" => Self::UnixStream(path(text, rest)?),
            "unix-seq" => Self::UnixSeqpacket(path(text, rest)?),
            "unix-dgram" => Self::UnixDatagram(path(text, rest)?),
            "abstract" => Self::AbstractStream(name(text, rest)?),
            "abstract-seq" => Self::AbstractSeqpacket(name(text, rest)?),
            "abstract-dgram" => Self::AbstractDatagram(name(text, rest)?),
            "tcp" => Self::Tcp(host_port(text, rest)?),
            "udp" => Self::Udp(host_port(text, rest)?),
            "mq" => Self::Queue(queue(text, rest)?),
            _ => return Err(invalid(format!("{text:?} has an unknown scheme; accepted are {FORMS}"))),
        })
    }
}

fn name(text: &str, rest: &str) -> io::Result<Vec<u8>> {
    let name = unescape(rest).ok_or_else(|| {
        invalid(format!(
            r"{text:?} has a backslash that escapes nothing: write \\ for itself, or \xNN for a byte in hexadecimal"
        ))
    })?;
    if name.is_empty() {
        return Err(invalid(format!("{text:?} has no path or name; accepted are {FORMS}")));
    }
    Ok(name)
}

fn path(text: &str, rest: &str) -> io::Result<PathBuf> {
    let bytes = name(text, rest)?;
    if bytes.contains(&0) {
        return Err(invalid(format!("{text:?} contains a NUL byte, which no path can")));
    }
    Ok(OsString::from_vec(bytes).into())
}

fn host_port(text: &str, rest: &str) -> io::Result<String> {
    let wrong = |why| invalid(format!("{text:?}: {why}; write HOST:PORT, as in localhost:4000 or [::1]:0"));
    let (host, port) = rest.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err() {
        return Err(wrong("the port is not a number from 0 to 65535"));
    }
    if host.starts_with('[') {
        if rest.parse::<SocketAddr>().is_err() {
            return Err(wrong("there is no IPv6 address between the brackets"));
        }
    } else if host.is_empty() || host.contains(|c: char| c == ':' || c == '\\' || c.is_control() || c == ']')
    {
        return Err(wrong("the host is missing or malformed (an IPv6 address goes in brackets)"));
    }
    Ok(rest.to_owned())
}

fn queue(text: &str, rest: &str) -> io::Result<String> {
    let bytes = name(text, rest)?;
    let good = |name: &String| {
        name.strip_prefix('/').is_some_and(|tail| !tail.is_empty() && !tail.contains(['/', '\0']))
    };
    String::from_utf8(bytes).ok().filter(good).ok_or_else(|| {
        invalid(format!(
            "{text:?} is no queue name; write one slash and a name without a slash, as in mq:/jobs"
        ))
    })
}

/// Displays bytes as text that [`unescape`] reads back.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str(r"\\")?,
                    c if c.is_control() => {
                        c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, r"\x{byte:02x}"))?;
                    }
                    c => f.write_char(c)?,
                }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, r"\x{byte:02x}"))?;
        }
        Ok(())
    }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('\\');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    while let Some(part) = parts.next() {
        if part.is_empty() {
            // Two backslashes in a row are one, and the next part follows it.
            bytes.push(b'\\');
            bytes.extend_from_slice(parts.next()?.as_bytes());
            continue;
        }
        let digits = part.strip_prefix('x')?.get(..2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[3..]);
    }
    Some(bytes)
}
