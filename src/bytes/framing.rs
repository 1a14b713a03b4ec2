//! Framing: how a byte stream is cut into messages.

use std::{fmt, io, ops::Range, sync::Arc};

use crate::sys;

/// Where a message begins and ends in the bytes that have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A whole message.
    Frame {
        /// The message itself, as a range of the bytes given.
        payload: Range<usize>,
        /// How many bytes it occupies with its header and its end mark: at least one.
        consumed: usize,
    },
    /// The message is incomplete.
    Partial {
        /// How many bytes must be there before `decode` is called again; 0 if that is not known.
        needed: usize,
    },
}

/// A custom framing: [`Framing::custom`].
///
/// The bytes always begin at the first byte of a message, in whatever pieces they arrived, so a decoder keeps no state.
///
/// ```
/// use ipc_reactor::{Decode, Decoded, Framing};
/// use std::io;
///
/// /// Netstrings: `5:hello,`.
/// struct Netstring;
///
/// impl Decode for Netstring {
///     fn decode(&self, bytes: &[u8]) -> io::Result<Decoded> {
///         let Some(colon) = bytes.iter().take(8).position(|&byte| byte == b':') else {
///             return if bytes.len() < 8 { Ok(Decoded::Partial { needed: 0 }) } else { Err(io::Error::other("no length")) };
///         };
///         let length: usize = std::str::from_utf8(&bytes[..colon]).ok().and_then(|text| text.parse().ok())
///             .ok_or_else(|| io::Error::other("the length is not a number"))?;
///         let end = colon + 1 + length;
///         match bytes.get(end) {
///             None => Ok(Decoded::Partial { needed: end + 1 }),
///             Some(b',') => Ok(Decoded::Frame { payload: colon + 1..end, consumed: end + 1 }),
///             Some(_) => Err(io::Error::other("no comma at the end")),
///         }
///     }
/// }
///
/// let framing = Framing::custom(Netstring).max(4_096);
/// ```
pub trait Decode: Send + Sync {
    /// Finds the first message in `bytes`, which are never empty.
    ///
    /// # Errors
    /// The bytes can never become a message: the client is closed with
    /// [`Cause::Malformed`](crate::Cause::Malformed).
    fn decode(&self, bytes: &[u8]) -> io::Result<Decoded>;

    /// Appends `payload` as a message to `out`, for [`reply_frame`](crate::Context::reply_frame). By default the
    /// message is the payload itself.
    ///
    /// # Errors
    /// The payload cannot be a message of this framing.
    fn encode(&self, payload: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(payload);
        Ok(())
    }
}

/// The width and the byte order of the length in [`Framing::prefixed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Prefix {
    U8,
    U16Be,
    U16Le,
    U32Be,
    U32Le,
}

impl Prefix {
    fn width(self) -> usize {
        match self {
            Prefix::U8 => 1,
            Prefix::U16Be | Prefix::U16Le => 2,
            Prefix::U32Be | Prefix::U32Le => 4,
        }
    }

    fn read(self, bytes: &[u8]) -> Option<usize> {
        Some(match self {
            Prefix::U8 => usize::from(*bytes.first()?),
            Prefix::U16Be => usize::from(u16::from_be_bytes(*bytes.first_chunk()?)),
            Prefix::U16Le => usize::from(u16::from_le_bytes(*bytes.first_chunk()?)),
            Prefix::U32Be => u32::from_be_bytes(*bytes.first_chunk()?) as usize,
            Prefix::U32Le => u32::from_le_bytes(*bytes.first_chunk()?) as usize,
        })
    }

    /// The header of a message of `length` bytes, in the first `width` bytes of the array.
    fn write(self, length: usize) -> Option<[u8; 4]> {
        let mut header = [0; 4];
        match self {
            Prefix::U8 => header[0] = u8::try_from(length).ok()?,
            Prefix::U16Be => header[..2].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes()),
            Prefix::U16Le => header[..2].copy_from_slice(&u16::try_from(length).ok()?.to_le_bytes()),
            Prefix::U32Be => header = u32::try_from(length).ok()?.to_be_bytes(),
            Prefix::U32Le => header = u32::try_from(length).ok()?.to_le_bytes(),
        }
        Some(header)
    }
}

#[derive(Clone)]
enum Rule {
    Raw,
    Fixed(usize),
    Lines,
    Prefixed(Prefix),
    Custom(Arc<dyn Decode>),
}

/// How a stream is cut into messages. A seqpacket socket keeps message boundaries: use [`Framing::raw`] there.
///
/// A partial frame is buffered until it is complete, up to [`Limits::frame_max`](crate::Limits::frame_max) or
/// [`Framing::max`]. A length prefix alone allocates nothing: memory is used for bytes that have arrived.
#[derive(Clone)]
pub struct Framing {
    rule: Rule,
    max: Option<usize>,
    descriptors: u16,
}

impl Framing {
    /// Each read is a message, of at least one byte and at most the reactor's
    /// [read buffer](crate::Builder::read_buffer). On a seqpacket socket, each record is a message.
    pub fn raw() -> Framing {
        Framing { rule: Rule::Raw, max: None, descriptors: 0 }
    }

    /// Each message is `size` bytes.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn fixed(size: usize) -> Framing {
        assert!(size > 0, "a fixed frame has at least one byte");
        Framing { rule: Rule::Fixed(size), max: Some(size), descriptors: 0 }
    }

    /// Each message ends with a line feed. The line feed, and a carriage return before it, are not part of the message.
    /// A last line without a line feed, before the end of file, is a message too, as in
    /// [`std::io::BufRead::lines`].
    pub fn lines() -> Framing {
        Framing { rule: Rule::Lines, max: None, descriptors: 0 }
    }

    /// Each message follows its length in bytes; the length does not include the prefix. A message may be empty.
    pub fn prefixed(prefix: Prefix) -> Framing {
        Framing { rule: Rule::Prefixed(prefix), max: None, descriptors: 0 }
    }

    /// A custom framing.
    pub fn custom(decoder: impl Decode + 'static) -> Framing {
        Framing { rule: Rule::Custom(Arc::new(decoder)), max: None, descriptors: 0 }
    }

    /// The largest message, in bytes of payload, in place of [`Limits::frame_max`](crate::Limits::frame_max).
    #[must_use]
    pub fn max(mut self, bytes: usize) -> Framing {
        self.max = Some(bytes);
        self
    }

    /// Lets peers on Unix sockets pass descriptors (`SCM_RIGHTS`, `unix(7)`). At most `max` are kept for a client until
    /// its session takes them ([`Context::descriptor`](crate::Context::descriptor)); one more closes the client.
    /// Without this, a peer that passes descriptors gets `EPERM` (before Linux 6.16, they are closed here).
    ///
    /// Reading then costs one system call more: a short read no longer proves that nothing is left.
    #[must_use]
    pub fn descriptors(mut self, max: u16) -> Framing {
        self.descriptors = max;
        self
    }

    pub(crate) fn descriptors_max(&self) -> usize {
        usize::from(self.descriptors)
    }

    pub(crate) fn frame_max(&self, default: usize) -> usize {
        self.max.unwrap_or(default)
    }

    /// The size of each message in `length` bytes, if it does not depend on the bytes.
    #[inline]
    pub(crate) fn known_size(&self, length: usize) -> Option<usize> {
        match self.rule {
            Rule::Raw => Some(length),
            Rule::Fixed(size) => Some(size),
            _ => None,
        }
    }

    /// Finds the first message in `bytes`. The first `scanned` bytes are known to contain no end of a message. If the
    /// rest contains none either, `scanned` moves on, so that a peer that sends byte by byte causes no repeated scans.
    pub(crate) fn decode(&self, bytes: &[u8], scanned: &mut usize, max: usize) -> Result<Decoded, Refusal> {
        match &self.rule {
            Rule::Raw => Ok(Decoded::Frame { payload: 0..bytes.len(), consumed: bytes.len() }),
            &Rule::Fixed(size) if bytes.len() < size => Ok(Decoded::Partial { needed: size }),
            &Rule::Fixed(size) => Ok(Decoded::Frame { payload: 0..size, consumed: size }),
            Rule::Lines => line(bytes, scanned, max),
            Rule::Prefixed(prefix) => prefixed(*prefix, bytes, max),
            Rule::Custom(decoder) => custom(&**decoder, bytes, scanned, max),
        }
    }

    /// The message in the bytes before an end of file, if the framing lets an end of file end a message.
    pub(crate) fn decode_last(&self, bytes: &[u8]) -> Option<Range<usize>> {
        matches!(self.rule, Rule::Lines).then_some(0..bytes.len())
    }

    /// Passes `payload`, as a message in parts, to `put`.
    pub(crate) fn encode(
        &self,
        payload: &[u8],
        mut put: impl FnMut(&[&[u8]]) -> io::Result<()>,
    ) -> io::Result<()> {
        let misfit = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        match &self.rule {
            Rule::Raw => put(&[payload]),
            &Rule::Fixed(size) if payload.len() != size => misfit(format!(
                "a reply of {} bytes in frames of {size}; use reply for unframed bytes",
                payload.len()
            )),
            Rule::Fixed(_) => put(&[payload]),
            Rule::Lines if payload.contains(&b'\n') => {
                misfit("a line feed within a line; reply line by line".into())
            }
            Rule::Lines => put(&[payload, b"\n"]),
            Rule::Prefixed(prefix) => match prefix.write(payload.len()) {
                Some(header) => put(&[&header[..prefix.width()], payload]),
                None => {
                    misfit(format!("a reply of {} bytes does not fit a {prefix:?} length", payload.len()))
                }
            },
            Rule::Custom(decoder) => {
                let mut frame = Vec::with_capacity(payload.len() + 16);
                decoder.encode(payload, &mut frame)?;
                put(&[&frame])
            }
        }
    }
}

/// Why bytes cannot become a frame.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is larger than the limit: its size as far as it is known, and the limit.
    TooLarge(usize, usize),
    Malformed(io::Error),
}

fn line(bytes: &[u8], scanned: &mut usize, max: usize) -> Result<Decoded, Refusal> {
    match sys::memchr(b'\n', &bytes[*scanned..]) {
        Some(found) => {
            let end = *scanned + found;
            let payload = if end > 0 && bytes[end - 1] == b'\r' { 0..end - 1 } else { 0..end };
            *scanned = 0;
            if payload.end > max {
                Err(Refusal::TooLarge(payload.end, max))
            } else {
                Ok(Decoded::Frame { payload, consumed: end + 1 })
            }
        }
        // Room for a carriage return after the largest line.
        None if bytes.len() > max.saturating_add(1) => Err(Refusal::TooLarge(bytes.len(), max)),
        None => {
            *scanned = bytes.len();
            Ok(Decoded::Partial { needed: 0 })
        }
    }
}

fn prefixed(prefix: Prefix, bytes: &[u8], max: usize) -> Result<Decoded, Refusal> {
    let Some(length) = prefix.read(bytes) else { return Ok(Decoded::Partial { needed: prefix.width() }) };
    if length > max {
        return Err(Refusal::TooLarge(length, max));
    }
    let end = prefix.width() + length; // No overflow: a prefix has 32 bits at most.
    if bytes.len() < end {
        return Ok(Decoded::Partial { needed: end });
    }
    Ok(Decoded::Frame { payload: prefix.width()..end, consumed: end })
}

fn custom(decoder: &dyn Decode, bytes: &[u8], scanned: &mut usize, max: usize) -> Result<Decoded, Refusal> {
    if bytes.len() < *scanned {
        return Ok(Decoded::Partial { needed: *scanned });
    }
    match decoder.decode(bytes).map_err(Refusal::Malformed)? {
        Decoded::Frame { payload, consumed } => {
            *scanned = 0;
            if consumed == 0
                || consumed > bytes.len()
                || payload.start > payload.end
                || payload.end > consumed
            {
                let why =
                    format!("the decoder answered {payload:?} of {consumed} bytes out of {}", bytes.len());
                return Err(Refusal::Malformed(io::Error::other(why)));
            }
            if payload.len() > max {
                Err(Refusal::TooLarge(payload.len(), max))
            } else {
                Ok(Decoded::Frame { payload, consumed })
            }
        }
        // Some room for a header: only the decoder knows how much a frame needs beyond its payload.
        Decoded::Partial { needed } if needed.max(bytes.len()) > max.saturating_add(64) => {
            Err(Refusal::TooLarge(needed.max(bytes.len()), max))
        }
        Decoded::Partial { needed } => {
            *scanned = needed;
            Ok(Decoded::Partial { needed })
        }
    }
}

impl fmt::Debug for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::Raw => f.write_str("raw"),
            Rule::Fixed(size) => write!(f, "fixed({size})"),
            Rule::Lines => f.write_str("lines"),
            Rule::Prefixed(prefix) => write!(f, "prefixed({prefix:?})"),
            Rule::Custom(_) => f.write_str("custom"),
        }
    }
}
