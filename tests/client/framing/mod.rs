//! How streams and records are cut into messages, however they arrive, and what becomes of those that cannot be.

mod budgets;
mod misfits;
mod records;
mod replies;
mod splits;

use std::io;

use ipc_reactor::{Cause, Context, Decode, Decoded, Framing, Prefix, Session};

/// What the session under test received.
#[derive(Debug, Default)]
struct Heard {
    messages: Vec<Vec<u8>>,
    closed: Vec<String>,
}

struct Listen;

impl Session<Heard> for Listen {
    fn on_request(
        &mut self,
        request: &[u8],
        _: &mut Context<'_, Heard>,
        heard: &mut Heard,
    ) -> io::Result<()> {
        heard.messages.push(request.to_vec());
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Heard>, heard: &mut Heard) {
        heard.closed.push(format!("{cause:?}"));
    }
}

/// `5:hello,`
struct Netstring;

impl Decode for Netstring {
    fn decode(&self, bytes: &[u8]) -> io::Result<Decoded> {
        let Some(colon) = bytes.iter().position(|&byte| byte == b':') else {
            return if bytes.len() < 8 {
                Ok(Decoded::Partial { needed: 0 })
            } else {
                Err(io::Error::other("no length"))
            };
        };
        let length: usize = std::str::from_utf8(&bytes[..colon])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| io::Error::other("no number"))?;
        let end = colon + 1 + length;
        match bytes.get(end) {
            None => Ok(Decoded::Partial { needed: end + 1 }),
            Some(b',') => Ok(Decoded::Frame { payload: colon + 1..end, consumed: end + 1 }),
            Some(_) => Err(io::Error::other("no comma")),
        }
    }

    fn encode(&self, payload: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        if payload.len() > 9_999 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too long for a netstring"));
        }
        out.extend(format!("{}:", payload.len()).bytes());
        out.extend(payload);
        out.push(b',');
        Ok(())
    }
}

const PREFIXES: [Prefix; 5] = [Prefix::U8, Prefix::U16Be, Prefix::U16Le, Prefix::U32Be, Prefix::U32Le];

/// A message as it is on the wire, encoded here independently.
fn prefixed(prefix: Prefix, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    let mut wire = match prefix {
        Prefix::U8 => vec![length as u8],
        Prefix::U16Be => vec![(length >> 8) as u8, length as u8],
        Prefix::U16Le => vec![length as u8, (length >> 8) as u8],
        Prefix::U32Be => vec![(length >> 24) as u8, (length >> 16) as u8, (length >> 8) as u8, length as u8],
        Prefix::U32Le => vec![length as u8, (length >> 8) as u8, (length >> 16) as u8, (length >> 24) as u8],
    };
    wire.extend(message);
    wire
}

/// One framing, and how its messages look on the wire.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Fixed(usize),
    Lines,
    CrLines,
    Prefixed(Prefix),
    Netstring,
}

const KINDS: [Kind; 9] = [
    Kind::Fixed(5),
    Kind::Lines,
    Kind::CrLines,
    Kind::Prefixed(PREFIXES[0]),
    Kind::Prefixed(PREFIXES[1]),
    Kind::Prefixed(PREFIXES[2]),
    Kind::Prefixed(PREFIXES[3]),
    Kind::Prefixed(PREFIXES[4]),
    Kind::Netstring,
];

impl Kind {
    fn framing(self) -> Framing {
        match self {
            Kind::Fixed(size) => Framing::fixed(size),
            Kind::Lines | Kind::CrLines => Framing::lines(),
            Kind::Prefixed(prefix) => Framing::prefixed(prefix),
            Kind::Netstring => Framing::custom(Netstring),
        }
    }

    /// Any bytes made a message that this framing can carry.
    fn message(self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Kind::Fixed(size) => bytes.resize(size, b'.'),
            Kind::Lines | Kind::CrLines => bytes.retain(|byte| !b"\r\n".contains(byte)),
            Kind::Prefixed(_) | Kind::Netstring => bytes.truncate(255),
        }
        bytes
    }

    fn wire(self, message: &[u8]) -> Vec<u8> {
        match self {
            Kind::Fixed(_) => message.to_vec(),
            Kind::Lines => [message, b"\n"].concat(),
            Kind::CrLines => [message, b"\r\n"].concat(),
            Kind::Prefixed(prefix) => prefixed(prefix, message),
            Kind::Netstring => [format!("{}:", message.len()).as_bytes(), message, b","].concat(),
        }
    }

    /// Some messages, empty ones among them, and the stream that they make.
    fn conversation(self) -> (Vec<Vec<u8>>, Vec<u8>) {
        let messages: Vec<_> =
            [&b""[..], b"x", b"", b"", b"hello", b"\x00\xff:,12", b"forty bytes, or nearly, of one message"]
                .iter()
                .map(|bytes| self.message(bytes.to_vec()))
                .collect();
        let wire = messages.iter().flat_map(|message| self.wire(message)).collect();
        (messages, wire)
    }
}
