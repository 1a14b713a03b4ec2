//! What is to be sent: the running session's replies, and what anybody sends to any client.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
};

use mio::unix::SourceFd;

use crate::{
    bytes::{buffer::Buffer, framing::Framing},
    observe::event::What,
    set::{
        client::{Client, Plan, interest},
        context::not_connected,
        poll_set::{Answering, Halt, PollSet},
        source::{Ready, Slot, Source},
    },
    sys::{scm, socket},
    types::{
        cause::{Cause, Limit, Outcome},
        key::Key,
        limits::SlowConsumer,
    },
};

impl<S> PollSet<S> {
    /// Whether `key` is the client whose session runs.
    pub(crate) fn is_current(&self, key: Key) -> bool {
        self.answering != Answering::Nobody && self.current == key
    }

    /// Whether `key` is the source whose handler runs, whether that was taken out of its slot alone or with its source.
    pub(crate) fn runs(&self, key: Key) -> bool {
        self.is_current(key) || self.current == key && matches!(self.source(key), Some(Source::Running))
    }

    pub(crate) fn plan_of(&self, key: Key) -> Option<&Rc<Plan>> {
        match self.source(key)? {
            Source::Running if self.is_current(key) => self.running.as_ref(),
            Source::Client(client) if client.is_open() => Some(&client.plan),
            _ => None,
        }
    }

    pub(crate) fn framing_of(&self, key: Key) -> Option<Framing> {
        self.plan_of(key).map(|plan| plan.framing.clone())
    }

    /// The session of a client on a stream is about to run, while the client stays in its slot.
    #[inline]
    pub(crate) fn begin_answering(&mut self, key: Key, read: &[u8]) {
        self.echo.begin(read);
        self.current = key;
        self.answering = Answering::Stream;
    }

    /// The session has run. Returns what of its replies echoes what was read.
    #[inline]
    pub(crate) fn end_answering<'a>(&mut self, read: &'a [u8]) -> &'a [u8] {
        self.answering = Answering::Nobody;
        self.echo.take(read)
    }

    /// How many bytes wait for the client whose session runs.
    pub(crate) fn unsent(&self) -> usize {
        self.echo.len() + self.out.len()
    }

    /// Appends a reply to what the running session's client is to be sent.
    #[inline]
    pub(crate) fn reply(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.echo.extend(bytes, self.reply_room) { Ok(()) } else { self.reply_copied(bytes) }
    }

    #[inline(never)]
    fn reply_copied(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.echo.end();
        // One question to answer most replies: is there a stream, and room?
        if self.answering == Answering::Stream
            && let Some(room) = self.reply_room.checked_sub(self.echo.len())
            && self.out.extend_within(bytes, room)
        {
            return Ok(());
        }
        self.put_current(&[bytes])
    }

    /// Appends one reply, given in parts, to what the running session's client is to be sent.
    pub(crate) fn put_current(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        self.echo.end();
        let records = match self.answering {
            Answering::Nobody => return Err(not_connected()),
            answering => answering == Answering::Records,
        };
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let unsent = self.unsent() + bytes;
        if unsent > self.reply_room {
            if unsent > self.limits.output_max {
                return Err(self.refuse_output());
            }
            if self.halt == Halt::No {
                self.halt = Halt::Flush;
            }
        }
        append(&mut self.out, records, bytes, parts)
    }

    /// [`put`](PollSet::put), with descriptors that leave with the first byte.
    pub(crate) fn put_attached(
        &mut self,
        key: Key,
        parts: &[&[u8]],
        descriptors: Option<Vec<OwnedFd>>,
    ) -> io::Result<()> {
        let Some(descriptors) = descriptors else { return self.put(key, parts) };
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        // Room first: what is attached must not be left without its byte.
        let current = self.is_current(key);
        let waits =
            if current { self.unsent() } else { self.output_of(key).map_or(0, |output| output.len()) };
        if waits + bytes + 4 > self.limits.output_max {
            return Err(self.refuse_output());
        }
        self.echo.end();
        let output = if current { Some(&mut self.out) } else { self.output_of(key) };
        let Some(output) = output else { return Err(not_connected()) };
        output.reserve(bytes + 4)?;
        output.attach(descriptors);
        self.put(key, parts)
    }

    /// The bytes that wait for a client other than the running session's; lent to it if it has none.
    fn output_of(&mut self, key: Key) -> Option<&mut Buffer> {
        let slot = self.slots.get_mut(key.index as usize).filter(|slot| slot.serial == key.serial)?;
        match &mut slot.source {
            Source::Client(client) if client.is_open() => Some(client.output(&mut self.pool)),
            _ => None,
        }
    }

    /// Appends one reply, given in parts, to what the client of this key is to be sent.
    pub(crate) fn put(&mut self, key: Key, parts: &[&[u8]]) -> io::Result<()> {
        if self.is_current(key) {
            return self.put_current(parts);
        }
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let limit = self.limits.output_max;
        let slot = self.slots.get_mut(key.index as usize).filter(|slot| slot.serial == key.serial);
        let Some(Slot { source: Source::Client(client), .. }) = slot else { return Err(not_connected()) };
        if !client.is_open() {
            return Err(not_connected());
        }
        let records = client.plan.records;
        let output = client.output(&mut self.pool);
        if output.len() + bytes > limit {
            return Err(self.refuse_output());
        }
        append(output, records, bytes, parts)?;
        // Sent by the client's next visit, with all else that this round has for it.
        self.mark_ready(key, Ready::NONE);
        Ok(())
    }

    #[cold]
    fn refuse_output(&mut self) -> io::Error {
        self.trip(Limit::Output, format_args!("a reply was refused"));
        let why = format!(
            "more than {} bytes would wait for a peer that does not read them; raise Limits::output_max",
            self.limits.output_max
        );
        io::Error::new(io::ErrorKind::WouldBlock, why)
    }
}

/// A record's length goes before it in the buffer, so that flushing finds the boundaries again.
#[inline]
fn append(out: &mut Buffer, records: bool, bytes: usize, parts: &[&[u8]]) -> io::Result<()> {
    if records {
        let length = u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        out.reserve(bytes + 4)?;
        out.extend(&length.to_ne_bytes())?;
    } else if parts.len() > 1 {
        // All of a message or nothing of it.
        out.reserve(bytes)?;
    }
    for part in parts {
        out.extend(part)?;
    }
    Ok(())
}

/// Sends what waits for the client, as far as its socket takes it.
#[inline]
pub(crate) fn flush<S>(set: &mut PollSet<S>, key: Key, client: &mut Client<S>) -> Outcome<()> {
    if set.out.is_empty() || !client.writable {
        return Ok(());
    }
    loop {
        if client.mute {
            set.stats.bytes_dropped += set.out.len() as u64;
            set.out.clear();
            break;
        }
        let (piece, descriptors) = set.out.next_piece();
        let (bytes, header) = if client.plan.records {
            let (length, rest) = piece.split_first_chunk::<4>().expect("a record has its length before it");
            (&rest[..u32::from_ne_bytes(*length) as usize], 4)
        } else {
            (piece, 0)
        };
        let attached = !descriptors.is_empty();
        let sent = if attached {
            scm::send(client.fd(), bytes, descriptors)
        } else {
            socket::send(client.fd(), bytes)
        };
        match sent {
            Ok(sent) => {
                if attached {
                    set.out.detach();
                }
                set.stats.bytes_out += sent as u64;
                set.out.consume(header + sent);
                if set.tells_messages() {
                    tell_sent(set, key, client, sent);
                }
                if client.is_open() {
                    client.active_ns = set.now_ns();
                }
                if set.out.is_empty() {
                    break;
                }
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => {
                    client.writable = false;
                    return watch_writing(set, key, client, true);
                }
                Some(libc::EINTR) => {}
                // Too many descriptors of this user are under way: no edge tells when some have arrived.
                Some(libc::ETOOMANYREFS) => {
                    set.stats.failed(error.kind());
                    client.writable = false;
                    set.resume_after(key, set.limits.accept_retry);
                    return Ok(());
                }
                // Nobody reads any more; what the peer had sent before is handled all the same.
                Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => client.mute = true,
                _ => {
                    set.stats.failed(error.kind());
                    return Err(Cause::Io(error).into());
                }
            },
        }
    }
    // A standing EPOLLOUT would fire each time the peer reads.
    if client.watches_write { watch_writing(set, key, client, false) } else { Ok(()) }
}

#[cold]
fn tell_sent<S>(set: &mut PollSet<S>, key: Key, client: &Client<S>, bytes: usize) {
    let left = set.out.len();
    set.tell_lap(|_, _| What::Sent { who: client.who(key), bytes, left });
}

#[cold]
pub(crate) fn watch_writing<S>(
    set: &mut PollSet<S>,
    key: Key,
    client: &mut Client<S>,
    watch: bool,
) -> Outcome<()> {
    if client.watches_write != watch && !client.unwatched {
        let fd = client.socket.as_raw_fd();
        let registry = set.poll.registry();
        registry
            .reregister(&mut SourceFd(&fd), key.token(), interest(&client.plan, watch))
            .map_err(Cause::Io)?;
    }
    client.watches_write = watch;
    Ok(())
}

/// More waits for this client than it should. True while it must wait; false when it has caught up.
#[cold]
pub(crate) fn stays_slow<S>(set: &mut PollSet<S>, key: Key, client: &mut Client<S>) -> Outcome<bool> {
    let waits = set.out.len();
    if client.slow {
        client.slow = waits > set.limits.output_high_water / 2;
        return Ok(client.slow);
    }
    client.slow = true;
    set.trip(Limit::SlowConsumer, format_args!("client {key} does not take {waits} bytes"));
    match set.limits.slow_consumer {
        SlowConsumer::Pause => Ok(true),
        SlowConsumer::Disconnect => Err(Cause::Limit(Limit::SlowConsumer).into()),
    }
}
