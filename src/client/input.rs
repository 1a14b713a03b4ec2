//! What a client sends, taken in: read, cut into frames, handed to the session.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use crate::{
    client::{
        descriptors,
        requests::{Frames, hand_over_told, keep_rest, tell_srm},
    },
    observe::event::What,
    set::{
        client::{Client, Ending, Plan},
        context::Context,
        poll_set::{Halt, Phase, PollSet},
        source::Ready,
    },
    sys::socket,
    types::cause::{Cause, Limit, Outcome},
};

/// How one pass over a client's input ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Nothing is left to read.
    Drained,
    /// A budget is spent.
    Budget,
    /// The handler wants something done first ([`Halt`]).
    Halted,
    /// The peer has shut down its writing side.
    EndOfFile,
}

/// What a read brought.
pub(crate) enum Read {
    Bytes(usize),
    End,
    Failed(io::Error),
    /// More than is allowed.
    Limit(Limit),
}

impl From<io::Result<usize>> for Read {
    fn from(received: io::Result<usize>) -> Read {
        match received {
            Ok(0) => Read::End,
            Ok(count) => Read::Bytes(count),
            Err(error) => Read::Failed(error),
        }
    }
}

/// What is left of a visit's budget.
pub(crate) struct Budget {
    pub(crate) bytes: usize,
    pub(crate) messages: usize,
}

impl Budget {
    /// The limit that it has come to.
    pub(crate) fn spent(&self) -> Option<Limit> {
        match self {
            Budget { bytes: 0, .. } => Some(Limit::Bytes),
            Budget { messages: 0, .. } => Some(Limit::Messages),
            _ => None,
        }
    }
}

/// What a visit has to work on, and with.
pub(crate) struct Work<'a> {
    /// The edges that are not used up.
    pub(crate) left: &'a mut Ready,
    pub(crate) scratch: &'a mut [u8],
    /// What has been read already.
    pub(crate) first: Option<Read>,
    pub(crate) budget: Budget,
}

/// Reads and handles until nothing is left, the budget is spent, or a handler wants something else.
pub(crate) fn pump<S>(
    client: &mut Client<S>,
    cx: &mut Context<'_, S>,
    work: &mut Work<'_>,
    state: &mut S,
) -> Outcome<Pass> {
    let Work { left, scratch, first, budget } = work;
    if !client.opened {
        client.opened = true;
        client.session().on_open(cx, state).map_err(Cause::Handler)?;
        if cx.set.halt != Halt::No {
            return Ok(Pass::Halted);
        }
    }
    if client.more
        && let Some(pass) = held_frames(client, cx, budget, state)?
    {
        return Ok(pass);
    }
    if client.eof || !left.has(Ready::READABLE) {
        return Ok(Pass::Drained);
    }
    if cx.set.phase == Phase::Draining && client.plan.unix && !client.shut {
        // From here on the peer's sends fail; all that it sent before can be read, and is answered.
        client.shut = socket::shutdown(client.socket.as_fd(), std::net::Shutdown::Read).is_ok();
    }
    // Behind an out-of-band byte, and before an end of file or an error, a short read proves nothing.
    let proved = client.plan.proved
        && !left.has(Ready::PRIORITY | Ready::READ_CLOSED | Ready::WRITE_CLOSED | Ready::ERROR);
    loop {
        let (read, room) = match &mut client.input {
            _ if client.plan.records => (read_record(client, cx.set, scratch), usize::MAX),
            None if first.is_some() => (first.take().expect("there is one"), scratch.len()),
            None => (read_stream(&client.socket, &client.plan, cx.set, scratch), scratch.len()),
            Some(held) => {
                let room = held.tail(held.len().clamp(4 << 10, 64 << 10)).map_err(Cause::Io)?;
                (read_stream(&client.socket, &client.plan, cx.set, room), room.len())
            }
        };
        let count = match read {
            Read::Bytes(count) => count,
            Read::End => return end_of_file(client, cx, left, budget, state),
            Read::Failed(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => {
                    **left = Ready::NONE;
                    return Ok(Pass::Drained);
                }
                Some(libc::EINTR) => continue,
                Some(libc::ECONNRESET) => return Err(Cause::Reset.into()),
                _ => {
                    cx.set.stats.failed(error.kind());
                    return Err(Cause::Io(error).into());
                }
            },
            Read::Limit(limit) => {
                cx.set.trip(limit, format_args!("client {}", cx.key));
                return Err(Cause::Limit(limit).into());
            }
        };
        client.active_ns = cx.set.now_ns();
        cx.set.stats.bytes_in += count as u64;
        if cx.set.tells_messages() {
            cx.set.tell_lap(|_, _| What::Read { who: client.who(cx.key), bytes: count });
        }
        budget.bytes = budget.bytes.saturating_sub(count);
        let pass = if client.plan.records {
            one_record(client, &scratch[..count], cx, budget, state)?
        } else if let Some(held) = &mut client.input {
            held.commit(count);
            held_frames(client, cx, budget, state)?
        } else {
            fresh_frames(client, &scratch[..count], cx, budget, state)?
        };
        if let Some(pass) = pass {
            return Ok(pass);
        }
        if count < room && proved && !client.plan.records {
            **left = Ready::NONE;
            return Ok(Pass::Drained);
        }
        if let Some(limit) = budget.spent() {
            cx.set.tripped(limit);
            return Ok(Pass::Budget);
        }
    }
}

fn read_record<S>(client: &Client<S>, set: &mut PollSet<S>, scratch: &mut [u8]) -> Read {
    let record = if client.plan.passes {
        descriptors::receive(set, client.fd(), scratch)
    } else {
        socket::recv_record(client.fd(), scratch)
    };
    match record {
        Ok(_) if client.plan.passes && descriptors::too_many(set, &client.plan) => {
            Read::Limit(Limit::DescriptorsHeld)
        }
        Ok(record) if record.end => Read::End,
        Ok(record) if record.truncated => Read::Limit(Limit::Frame),
        Ok(record) if record.len > client.plan.framing.frame_max(set.limits.frame_max) => {
            Read::Limit(Limit::Frame)
        }
        Ok(record) => Read::Bytes(record.len),
        Err(error) => Read::Failed(error),
    }
}

#[inline]
fn read_stream<S>(socket: &OwnedFd, plan: &Plan, set: &mut PollSet<S>, buffer: &mut [u8]) -> Read {
    let read = if plan.passes {
        descriptors::receive(set, socket.as_fd(), buffer).map(|record| record.len)
    } else {
        socket::recv(socket.as_fd(), buffer)
    };
    match read {
        Ok(_) if plan.passes && descriptors::too_many(set, plan) => Read::Limit(Limit::DescriptorsHeld),
        read => read.into(),
    }
}

fn one_record<S>(
    client: &mut Client<S>,
    record: &[u8],
    cx: &mut Context<'_, S>,
    budget: &mut Budget,
    state: &mut S,
) -> Outcome<Option<Pass>> {
    cx.set.stats.srms += 1;
    let replied = cx.set.unsent();
    client.session().on_request(record, cx, state).map_err(Cause::Handler)?;
    tell_srm(record, replied, cx);
    budget.messages = budget.messages.saturating_sub(1);
    Ok(if cx.set.halt != Halt::No {
        Some(Pass::Halted)
    } else if budget.messages == 0 {
        cx.set.tripped(Limit::Messages);
        Some(Pass::Budget)
    } else {
        None
    })
}

/// Handles the frames in bytes that were just read; a rest of them is kept.
fn fresh_frames<S>(
    client: &mut Client<S>,
    bytes: &[u8],
    cx: &mut Context<'_, S>,
    budget: &mut Budget,
    state: &mut S,
) -> Outcome<Option<Pass>> {
    let plan = client.plan.clone();
    let mut frames = Frames::new(&plan.framing, bytes, budget.messages);
    hand_over_told(client.session(), &mut frames, cx, state)?;
    budget.messages = frames.messages;
    if frames.is_unusual() {
        let now_ns = cx.set.now_ns();
        keep_rest(client, &frames, &mut cx.set.pool, now_ns)?;
    }
    Ok(frames.pass)
}

/// Handles the frames in what the client holds already.
fn held_frames<S>(
    client: &mut Client<S>,
    cx: &mut Context<'_, S>,
    budget: &mut Budget,
    state: &mut S,
) -> Outcome<Option<Pass>> {
    let Some(mut held) = client.input.take() else { return Ok(None) };
    let plan = client.plan.clone();
    let mut frames = Frames::new(&plan.framing, held.bytes(), budget.messages);
    frames.scanned = held.scanned;
    hand_over_told(client.session(), &mut frames, cx, state)?;
    budget.messages = frames.messages;
    let (used, pass) = (held.len() - frames.rest.len(), frames.pass);
    let scanned = frames.scanned;
    held.scanned = scanned;
    if used > 0 {
        held.consume(used);
        held.since_ns = cx.set.now_ns();
    }
    client.more = pass.is_some() && !held.is_empty();
    if held.is_empty() {
        cx.set.pool.give_back(held);
    } else {
        client.input = Some(held);
    }
    Ok(pass)
}

/// The peer sends no more: a last message that the framing lets an end of file close, then the end.
#[cold]
fn end_of_file<S>(
    client: &mut Client<S>,
    cx: &mut Context<'_, S>,
    left: &mut Ready,
    budget: &mut Budget,
    state: &mut S,
) -> Outcome<Pass> {
    *left = Ready::NONE;
    if cx.set.tells_messages() {
        cx.set.tell_lap(|_, _| What::Read { who: client.who(cx.key), bytes: 0 });
    }
    if client.shut {
        return Ok(Pass::Drained);
    }
    if let Some(held) = client.input.take() {
        let max = client.plan.framing.frame_max(cx.set.limits.frame_max);
        match client.plan.framing.decode_last(held.bytes()) {
            // Its last byte might have been half of a line's end; it was not.
            Some(last) if last.len() > max => {
                let (key, size) = (cx.key, last.len());
                cx.set.trip(Limit::Frame, format_args!("client {key}: {size} bytes, {max} allowed"));
                return Err(Cause::Limit(Limit::Frame).into());
            }
            Some(last) => {
                cx.set.stats.srms += 1;
                budget.messages = budget.messages.saturating_sub(1);
                let (replied, request) = (cx.set.unsent(), &held.bytes()[last]);
                client.session().on_request(request, cx, state).map_err(Cause::Handler)?;
                tell_srm(request, replied, cx);
            }
            None => client.end(Ending::HalfFrame, cx.set.now_ns()),
        }
        cx.set.pool.give_back(held);
    }
    Ok(Pass::EndOfFile)
}
