//! Input: reads from a client, finds the frames, and calls the session with each.

use std::net::Shutdown;

use crate::{
    bytes::{
        buffer::Pool,
        frames::{Frames, Pass},
    },
    client::visit_state::{Exit, Flow, Visit, io_of},
    observe::event::{SourceInfo, SourceKind, What},
    set::{
        asked::Asked,
        call::call_outcome,
        client::{ClientIo, Ending, Flags, Read},
        context::Context,
        driver::{Driver, failed},
        lifecycle::Phase,
    },
    sys::socket,
    types::{
        cause::{Cause, Limit, Outcome},
        ready::Ready,
    },
};

/// The smallest and the largest room for reading the rest of a partial frame.
const ROOM_MIN: usize = 4 << 10;
const ROOM_MAX: usize = 64 << 10;

impl<S> Visit<'_, S> {
    /// Reads and handles until nothing is left, the budget is spent, or the session asks for something else.
    pub(super) fn read_requests(&mut self) -> Flow<Pass> {
        if !self.has(Flags::OPENED) {
            self.io().flags.set(Flags::OPENED, true);
            if self.call_asking(|session, cx, state| session.on_open(cx, state).map_err(failed))?
                != Asked::Nothing
            {
                return Ok(Pass::Asked);
            }
        }
        if self.has(Flags::FRAMES_PENDING)
            && let Some(pass) = self.buffered_frames()?
        {
            return Ok(pass);
        }
        if self.has(Flags::READ_CLOSED) || !self.left.has(Ready::READABLE) {
            return Ok(Pass::Drained);
        }
        if self.set.lifecycle.phase() == Phase::Draining
            && self.io().config.unix
            && !self.has(Flags::READ_SHUTDOWN)
        {
            // From now on the peer's sends fail. What it sent before can still be read, and is answered.
            let shut = socket::shutdown(self.io().fd(), Shutdown::Read).is_ok();
            self.io().flags.set(Flags::READ_SHUTDOWN, shut);
        }
        let records = self.io().config.records;
        // After an out-of-band byte, and before an end of file or an error, a short read proves nothing.
        let short_read_drains = !records
            && !self.left.has(Ready::PRIORITY | Ready::READ_CLOSED | Ready::WRITE_CLOSED | Ready::ERROR);
        loop {
            let (read, room) = self.read()?;
            let (count, whole) = match read {
                Read::Bytes(count) => (count, true),
                Read::BytesAndRights(count) => (count, false),
                Read::End => return self.end_of_file(),
                Read::Failed(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        let call = self.io().read_call();
                        self.emit_empty(call);
                        return Ok(self.drained());
                    }
                    Some(libc::EINTR) => continue,
                    Some(libc::ECONNRESET) => return Err(Cause::Reset.into()),
                    _ => {
                        self.set.stats.failed(error.kind());
                        return Err(Cause::Io(error).into());
                    }
                },
                Read::Limit(limit) => {
                    self.set.report_limit(limit, format_args!("client {}", self.key));
                    return Err(Cause::Limit(limit).into());
                }
            };
            let now_ns = self.set.now_ns();
            self.io().active_ns = now_ns;
            self.set.stats.bytes_in += count as u64;
            self.emit_read(count);
            self.budget.bytes = self.budget.bytes.saturating_sub(count);
            let pass = if records {
                self.one_record(count)?
            } else if self.io().has_input() {
                self.buffered_frames()?
            } else {
                self.fresh_frames(count)?
            };
            if let Some(pass) = pass {
                return Ok(pass);
            }
            if count < room && whole && short_read_drains {
                return Ok(self.drained());
            }
            if let Some(limit) = self.budget.spent() {
                if !self.is_anything_left() {
                    return Ok(self.drained());
                }
                self.set.count_limit(limit);
                return Ok(Pass::Budget);
            }
        }
    }

    /// Whether there are frames to handle, or bytes or an end of file to read: else no limit is reached.
    #[cold]
    pub(super) fn is_anything_left(&mut self) -> bool {
        if self.has(Flags::FRAMES_PENDING) {
            return true;
        }
        if !self.left.has(Ready::READABLE) || self.has(Flags::READ_CLOSED) {
            return false;
        }
        let is_drained = socket::is_drained(self.io().fd());
        if is_drained {
            self.emit_empty("recv");
        }
        !is_drained
    }

    fn drained(&mut self) -> Pass {
        self.left = Ready::NONE;
        self.io().note_drained();
        Pass::Drained
    }

    /// One read: into the loop's buffer, or after a partial frame. Also returns the room that there was.
    fn read(&mut self) -> Flow<(Read, usize)> {
        if let Some(read) = self.first.take() {
            return Ok((read, self.scratch.len()));
        }
        let frame_max = self.set.limits.frame_max;
        let io = io_of(&mut self.set.registry, self.key);
        let inbox = &mut self.set.io.inbox;
        let Some(mut input) = io.take_input().filter(|_| !io.config.records) else {
            return Ok((io.recv(self.scratch, inbox, frame_max), self.scratch.len()));
        };
        let room = input.len().clamp(ROOM_MIN, ROOM_MAX);
        let read = match input.tail(room) {
            Ok(tail) => {
                let room = tail.len();
                let read = io.recv(tail, inbox, frame_max);
                if let Read::Bytes(count) | Read::BytesAndRights(count) = read {
                    input.commit(count);
                }
                Ok((read, room))
            }
            Err(error) => Err(Cause::Io(error).into()),
        };
        io.put_input(input);
        read
    }

    fn one_record(&mut self, count: usize) -> Flow<Option<Pass>> {
        let record = &self.scratch[..count];
        let state = &mut *self.state;
        let called = call_outcome(self.set, self.key, |session: &mut Box<dyn Driver<S>>, cx| {
            cx.set.stats.requests += 1;
            let replied = cx.set.io.unsent();
            session.on_request(record, cx, state).map_err(failed)?;
            let key = cx.key();
            cx.set.emit_request(key, record, replied);
            Ok(())
        });
        let asked = called.asked;
        self.apply(called)?;
        self.budget.messages = self.budget.messages.saturating_sub(1);
        Ok((asked != Asked::Nothing).then_some(Pass::Asked))
    }

    /// Handles the frames in bytes that were just read, and buffers the rest.
    fn fresh_frames(&mut self, count: usize) -> Flow<Option<Pass>> {
        let config = self.io().config.clone();
        let mut frames = Frames::new(&config.framing, &self.scratch[..count], self.budget.messages);
        let called = {
            let (observed, state) = (self.set.observes(), &mut *self.state);
            call_outcome(self.set, self.key, |session: &mut Box<dyn Driver<S>>, cx| match observed {
                true => session.on_frames_observed(&mut frames, cx, state),
                false => session.on_frames(&mut frames, cx, state),
            })
        };
        if called.result.is_ok() && !frames.rest.is_empty() {
            let now_ns = self.set.now_ns();
            let io = io_of(&mut self.set.registry, self.key);
            keep_rest(io, &frames, &mut self.set.io.pool, now_ns)?;
        }
        let (messages, pass) = (frames.messages, frames.pass);
        self.budget.messages = messages;
        self.apply(called)?;
        Ok(pass)
    }

    /// Handles the frames in the client's input buffer.
    fn buffered_frames(&mut self) -> Flow<Option<Pass>> {
        let Some(mut input) = self.io().take_input() else { return Ok(None) };
        let config = self.io().config.clone();
        let mut frames = Frames::new(&config.framing, input.bytes(), self.budget.messages);
        frames.scanned = input.scanned;
        let called = {
            let (observed, state) = (self.set.observes(), &mut *self.state);
            call_outcome(self.set, self.key, |session: &mut Box<dyn Driver<S>>, cx| match observed {
                true => session.on_frames_observed(&mut frames, cx, state),
                false => session.on_frames(&mut frames, cx, state),
            })
        };
        let (used, scanned) = (input.len() - frames.rest.len(), frames.scanned);
        let (messages, pass) = (frames.messages, frames.pass);
        self.budget.messages = messages;
        input.scanned = scanned;
        if used > 0 {
            input.consume(used);
            input.since_ns = self.set.now_ns();
        }
        let pending = pass.is_some() && !input.is_empty();
        self.io().flags.set(Flags::FRAMES_PENDING, pending);
        if input.is_empty() {
            self.set.io.pool.give_back(input);
        } else {
            self.io().put_input(input);
        }
        self.apply(called)?;
        Ok(pass)
    }

    /// The end of file: handles a last message, if the framing lets an end of file end one.
    #[cold]
    fn end_of_file(&mut self) -> Flow<Pass> {
        self.left = Ready::NONE;
        self.emit_read(0);
        if self.has(Flags::READ_SHUTDOWN) {
            return Ok(Pass::Drained);
        }
        let Some(input) = self.io().take_input() else { return Ok(Pass::EndOfFile) };
        let config = self.io().config.clone();
        let max = config.framing.frame_max(self.set.limits.frame_max);
        let ended = match config.framing.decode_last(input.bytes()) {
            // Its last byte could have been the first half of a line's end; it was not.
            Some(last) if last.len() > max => {
                let (key, size) = (self.key, last.len());
                self.set
                    .report_limit(Limit::Frame, format_args!("client {key}: {size} bytes, {max} allowed"));
                Err(Cause::Limit(Limit::Frame).into())
            }
            Some(last) => {
                let request = &input.bytes()[last];
                self.budget.messages = self.budget.messages.saturating_sub(1);
                self.call_asking(|session, cx, state| {
                    cx.set.stats.requests += 1;
                    let replied = cx.set.io.unsent();
                    session.on_request(request, cx, state).map_err(failed)?;
                    let key = cx.key();
                    cx.set.emit_request(key, request, replied);
                    Ok(())
                })
                .map(drop)
            }
            None => {
                let now_ns = self.set.now_ns();
                self.io().end(Ending::PartialFrame, now_ns);
                Ok(())
            }
        };
        self.set.io.pool.give_back(input);
        ended.map(|()| Pass::EndOfFile)
    }

    /// Calls the session, does what it asks, and returns what that was.
    fn call_asking(
        &mut self,
        f: impl FnOnce(&mut dyn Driver<S>, &mut Context<'_, S>, &mut S) -> Outcome<()>,
    ) -> Result<Asked, Exit> {
        let state = &mut *self.state;
        let called = call_outcome(self.set, self.key, |session: &mut Box<dyn Driver<S>>, cx| {
            f(&mut **session, cx, state)
        });
        let asked = called.asked;
        self.apply(called)?;
        Ok(asked)
    }

    #[cold]
    fn emit_empty(&mut self, call: &'static str) {
        if self.set.observes_messages() {
            let source = SourceInfo { key: self.key, fd: Some(self.io().raw_fd()), kind: SourceKind::Client };
            self.set.emit_timed(|_, _| What::Empty { source, call });
        }
    }

    fn emit_read(&mut self, bytes: usize) {
        if self.set.observes_messages() {
            let source = SourceInfo { key: self.key, fd: Some(self.io().raw_fd()), kind: SourceKind::Client };
            let call = self.io().read_call();
            self.set.emit_timed(|_, _| What::Read { source, call, bytes });
        }
    }
}

/// Buffers a partial frame, or frames that a budget has left.
#[cold]
pub(super) fn keep_rest(io: &mut ClientIo, frames: &Frames<'_>, pool: &mut Pool, now_ns: u64) -> Outcome<()> {
    let mut input = pool.take();
    input.extend(frames.rest).map_err(|error| Box::new(Cause::Io(error)))?;
    input.since_ns = now_ns;
    input.scanned = frames.scanned;
    io.put_input(input);
    io.flags.set(Flags::FRAMES_PENDING, frames.pass.is_some());
    Ok(())
}
