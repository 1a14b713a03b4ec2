//! Output buffering: replies, flush, EPOLLOUT, slow consumers.

use crate::{
    client::visit_state::{Flow, Visit, io_of},
    observe::event::{SourceInfo, SourceKind, What},
    set::{
        client::{Flags, Sent},
        poll_set::PollSet,
    },
    sys::socket,
    types::{
        cause::{Cause, Limit, Outcome},
        key::Key,
        limits::SlowConsumer,
    },
};

/// Sends the replies of the straight line if some were copied. `borrowed` are those that were not; they are sent first.
/// True: all are sent. False: the rest is in the reactor's buffer.
pub(super) fn send_copied<S>(set: &mut PollSet<S>, key: Key, borrowed: &[u8]) -> Outcome<bool> {
    keep_borrowed(set, borrowed)?;
    let Some(bytes) = set.io.out.plain_bytes() else { return Ok(false) };
    let io = io_of(&mut set.registry, key);
    // An error is handled by the rest of the visit, which sends again.
    let sent = socket::send(io.fd(), bytes).unwrap_or(0);
    set.stats.bytes_out += sent as u64;
    set.io.out.consume(sent);
    Ok(set.io.out.is_empty())
}

/// Copies borrowed replies into the reactor's buffer, before all others.
pub(super) fn keep_borrowed<S>(set: &mut PollSet<S>, borrowed: &[u8]) -> Outcome<()> {
    if borrowed.is_empty() {
        return Ok(());
    }
    set.io.out.prepend(borrowed).map_err(|error| Box::new(Cause::Io(error)))
}

impl<S> Visit<'_, S> {
    /// Sends the client's output, as much as its socket accepts.
    #[inline]
    pub(super) fn flush(&mut self) -> Flow<()> {
        if self.set.io.out.is_empty() { Ok(()) } else { self.send_waiting() }
    }

    fn send_waiting(&mut self) -> Flow<()> {
        if !self.has(Flags::WRITABLE) {
            return Ok(());
        }
        while !self.set.io.out.is_empty() {
            let io = io_of(&mut self.set.registry, self.key);
            match io.send(&mut self.set.io.out) {
                Sent::Bytes(sent) => {
                    if io.is_open() {
                        io.active_ns = self.set.timers.clock.now_ns();
                    }
                    self.set.stats.bytes_out += sent as u64;
                    self.emit_sent(sent);
                }
                Sent::Dropped(dropped) => self.set.stats.bytes_dropped += dropped as u64,
                Sent::Full => return self.set_write_interest(true),
                Sent::InFlight(error) => {
                    self.set.stats.failed(error.kind());
                    self.set.resume_after(self.key, self.set.limits.accept_retry);
                    return Ok(());
                }
                Sent::Failed(error) => {
                    self.set.stats.failed(error.kind());
                    return Err(Cause::Io(error).into());
                }
            }
        }
        // Otherwise EPOLLOUT would fire each time the peer reads.
        self.set_write_interest(false)
    }

    pub(super) fn set_write_interest(&mut self, on: bool) -> Flow<()> {
        let io = io_of(&mut self.set.registry, self.key);
        if io.flags.has(Flags::WRITE_INTEREST) == on {
            return Ok(());
        }
        io.flags.set(Flags::WRITE_INTEREST, on);
        if io.is_unregistered() {
            return Ok(());
        }
        let (fd, interest) = (io.raw_fd(), io.interest());
        self.set.registry.reregister(self.key, fd, interest).map_err(|error| Cause::Io(error).into())
    }

    /// Checks a slow consumer. True: its requests are not read. False: it has read enough of its output.
    #[cold]
    pub(super) fn stays_throttled(&mut self) -> Flow<bool> {
        let (key, waits) = (self.key, self.set.io.out.len());
        if self.has(Flags::THROTTLED) {
            let throttled = waits > self.set.limits.output_high_water / 2;
            self.io().flags.set(Flags::THROTTLED, throttled);
            return Ok(throttled);
        }
        self.io().flags.set(Flags::THROTTLED, true);
        self.set.report_limit(
            Limit::SlowConsumer,
            format_args!("client {key} does not read {waits} bytes of output"),
        );
        match self.set.limits.slow_consumer {
            SlowConsumer::Pause => Ok(true),
            SlowConsumer::Disconnect => Err(Cause::Limit(Limit::SlowConsumer).into()),
        }
    }

    fn emit_sent(&mut self, bytes: usize) {
        if self.set.observes_messages() {
            let source = SourceInfo { key: self.key, fd: Some(self.io().raw_fd()), kind: SourceKind::Client };
            let left = self.set.io.out.len();
            self.set.emit_timed(|_, _| What::Sent { source, bytes, left });
        }
    }
}
