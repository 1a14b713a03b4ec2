//! Output: replies, sends to other clients, and their limits.

use std::{io, os::fd::OwnedFd, rc::Rc};

use crate::{
    bytes::{buffer::Buffer, framing::Framing},
    set::{
        asked::Asked,
        client::{ClientIo, ConnectionConfig},
        context::not_connected,
        io::{ReplyMode, append},
        poll_set::PollSet,
        source::Source,
    },
    sys::scm,
    types::{cause::Limit, key::Key, ready::Ready},
};

impl<S> PollSet<S> {
    /// Whether `key` is the client whose session runs.
    pub(crate) fn is_replying_to(&self, key: Key) -> bool {
        self.io.mode != ReplyMode::None && self.call.is_of(key)
    }

    fn open_client(&self, key: Key) -> Option<&ClientIo> {
        match self.registry.get(key)? {
            Source::Client { io, .. } if io.is_open() => Some(io),
            _ => None,
        }
    }

    fn config_of(&self, key: Key) -> Option<&Rc<ConnectionConfig>> {
        self.open_client(key).map(|io| &io.config)
    }

    pub(crate) fn framing_of(&self, key: Key) -> Option<Framing> {
        self.config_of(key).map(|config| config.framing.clone())
    }

    /// Unsent bytes of a client.
    pub(crate) fn unsent_of(&self, key: Key) -> usize {
        if self.is_replying_to(key) {
            return self.io.unsent();
        }
        self.open_client(key).map_or(0, ClientIo::unsent)
    }

    /// Appends a reply to the output of the running session's client.
    #[inline]
    pub(crate) fn reply(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.io.reply_borrowed(bytes) { Ok(()) } else { self.reply_copied(bytes) }
    }

    #[inline(never)]
    fn reply_copied(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.io.reply_copied(bytes) { Ok(()) } else { self.put_current(&[bytes]) }
    }

    /// Appends one reply, in parts, to the output of the running session's client.
    pub(crate) fn put_current(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        if self.io.mode == ReplyMode::None {
            return Err(not_connected());
        }
        self.io.borrowed.end();
        let unsent = self.io.unsent() + parts.iter().map(|part| part.len()).sum::<usize>();
        if self.io.exceeds_reply_room(unsent) {
            if unsent > self.limits.output_max {
                return Err(self.refuse_output());
            }
            self.call.ask(Asked::Pause);
        }
        self.io.append(parts)
    }

    /// Appends one reply, in parts, to the output of the client of this key.
    pub(crate) fn put(&mut self, key: Key, parts: &[&[u8]]) -> io::Result<()> {
        if self.is_replying_to(key) {
            return self.put_current(parts);
        }
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let max = self.limits.output_max;
        let Some(Source::Client { io, .. }) = self.registry.get_mut(key) else { return Err(not_connected()) };
        if !io.is_open() {
            return Err(not_connected());
        }
        let records = io.config.records;
        let output = io.output(&mut self.io.pool);
        if output.len() + bytes > max {
            return Err(self.refuse_output());
        }
        append(output, records, parts)?;
        // The client's next visit sends it, with all other output.
        self.mark_ready(key, Ready::NONE);
        Ok(())
    }

    /// [`put`](PollSet::put), with descriptors that are sent with the first byte.
    pub(crate) fn put_with(&mut self, key: Key, bytes: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let Some(config) = self.config_of(key) else { return Err(not_connected()) };
        if descriptors.is_empty() {
            return self.put(key, &[bytes]);
        }
        let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if !config.unix {
            return refuse("descriptors can be passed over a Unix socket only; this client's is TCP");
        }
        if descriptors.len() > scm::AT_ONCE {
            return refuse("more than 253 descriptors in one message (SCM_MAX_FD); send several messages");
        }
        if bytes.is_empty() && !config.records {
            return refuse("descriptors are sent with a byte of the stream; send at least one byte");
        }
        // Reserve first: attached descriptors must not be left without their byte.
        if self.unsent_of(key) + bytes.len() + 4 > self.limits.output_max {
            return Err(self.refuse_output());
        }
        self.io.borrowed.end();
        let output = self.output_of(key)?;
        output.reserve(bytes.len() + 4)?;
        output.attach(descriptors);
        self.put(key, &[bytes])
    }

    /// The output buffer of a client.
    fn output_of(&mut self, key: Key) -> io::Result<&mut Buffer> {
        if self.is_replying_to(key) {
            return Ok(&mut self.io.out);
        }
        match self.registry.get_mut(key) {
            Some(Source::Client { io, .. }) if io.is_open() => Ok(io.output(&mut self.io.pool)),
            _ => Err(not_connected()),
        }
    }

    #[cold]
    fn refuse_output(&mut self) -> io::Error {
        self.report_limit(Limit::Output, format_args!("a reply was refused"));
        let why = format!(
            "more than {} bytes would be buffered for a peer that does not read them; raise Limits::output_max",
            self.limits.output_max
        );
        io::Error::new(io::ErrorKind::WouldBlock, why)
    }
}
