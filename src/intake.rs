//! What a client sends, taken in: read, cut into frames, handed to the session.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use log::{Level, log_enabled};

use crate::{
    Cause, Context, Decoded, Limit, PollSet,
    cause::Outcome,
    client::{Client, Ending, Plan},
    descriptors,
    framing::Refusal,
    observe::{What, Who},
    set::{Halt, Phase},
    source::Ready,
    sys::socket,
    throttle::Kind,
};

/// How one pass over a client's input ended.
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

/// Who is told of each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nobody: the caller has asked.
    Nobody,
    /// The log, and observers, if they want to know.
    Ask,
}

/// What is left of a visit's budget.
pub(crate) struct Budget {
    pub(crate) bytes: usize,
    pub(crate) messages: usize,
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
        client.session.on_open(cx, state).map_err(Cause::Handler)?;
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
            fresh_frames(client, &scratch[..count], cx, budget, Told::Ask, state)?
        };
        if let Some(pass) = pass {
            return Ok(pass);
        }
        if count < room && proved && !client.plan.records {
            **left = Ready::NONE;
            return Ok(Pass::Drained);
        }
        if budget.bytes == 0 || budget.messages == 0 {
            let limit = if budget.bytes == 0 { Limit::Bytes } else { Limit::Messages };
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
        Ok(0) => Read::End,
        Ok(count) => Read::Bytes(count),
        Err(error) => Read::Failed(error),
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
    log::trace!(target: "ipc_reactor", "SRM from client {}: {} bytes", cx.key, record.len());
    let replied = cx.set.out.len();
    client.session.on_request(record, cx, state).map_err(Cause::Handler)?;
    if cx.set.tells_messages() {
        tell_srm(client.who(cx.key), record, replied, cx);
    }
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
#[inline(always)]
pub(crate) fn fresh_frames<S>(
    client: &mut Client<S>,
    bytes: &[u8],
    cx: &mut Context<'_, S>,
    budget: &mut Budget,
    told: Told,
    state: &mut S,
) -> Outcome<Option<Pass>> {
    let mut scanned = 0;
    let (used, pass) = frames(client, bytes, &mut scanned, cx, budget, told, state)?;
    if used < bytes.len() {
        let mut held = cx.set.pool.lend();
        held.extend(&bytes[used..]).map_err(Cause::Io)?;
        held.since_ns = cx.set.now_ns();
        held.scanned = scanned;
        client.input = Some(held);
        client.more = pass.is_some();
    }
    Ok(pass)
}

/// Handles the frames in what the client holds already.
fn held_frames<S>(
    client: &mut Client<S>,
    cx: &mut Context<'_, S>,
    budget: &mut Budget,
    state: &mut S,
) -> Outcome<Option<Pass>> {
    let Some(mut held) = client.input.take() else { return Ok(None) };
    let mut scanned = held.scanned;
    let (used, pass) = frames(client, held.bytes(), &mut scanned, cx, budget, Told::Ask, state)?;
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

/// Hands every whole frame in `bytes` to the session. Returns how many bytes they took, and why it stopped if not for
/// want of a whole frame.
#[inline(always)]
fn frames<S>(
    client: &mut Client<S>,
    bytes: &[u8],
    scanned: &mut usize,
    cx: &mut Context<'_, S>,
    budget: &mut Budget,
    told: Told,
    state: &mut S,
) -> Outcome<(usize, Option<Pass>)> {
    let who = client.who(cx.key);
    let Client { plan, session, .. } = client;
    let max = plan.framing.frame_max(cx.set.limits.frame_max);
    let trace = told == Told::Ask && log_enabled!(target: "ipc_reactor", Level::Trace);
    let told = told == Told::Ask && cx.set.tells_messages();
    let mut used = 0;
    let mut pass = None;
    while used < bytes.len() {
        match plan.framing.decode(&bytes[used..], scanned, max) {
            Ok(Decoded::Frame { payload, consumed }) => {
                let request = &bytes[used..][payload];
                used += consumed;
                budget.messages = budget.messages.saturating_sub(1);
                cx.set.stats.srms += 1;
                if trace {
                    log::trace!(target: "ipc_reactor", "SRM from client {}: {} bytes", cx.key, request.len());
                }
                let replied = cx.set.out.len();
                session.on_request(request, cx, state).map_err(Cause::Handler)?;
                if told {
                    tell_srm(who, request, replied, cx);
                }
                if cx.set.halt != Halt::No {
                    pass = Some(Pass::Halted);
                    break;
                }
                if budget.messages == 0 && used < bytes.len() {
                    cx.set.tripped(Limit::Messages);
                    pass = Some(Pass::Budget);
                    break;
                }
            }
            Ok(Decoded::Partial { .. }) => break,
            Err(Refusal::TooLarge(size, max)) => {
                cx.set.trip(
                    Limit::Frame,
                    format_args!("client {}: {size} bytes or more, {max} allowed", cx.key),
                );
                return Err(Cause::Limit(Limit::Frame).into());
            }
            Err(Refusal::Malformed(error)) => {
                let key = cx.key;
                cx.set.complain(
                    Kind::Client,
                    Level::Warn,
                    format_args!("client {key}: malformed frame: {error}"),
                );
                return Err(Cause::Malformed(error).into());
            }
        }
    }
    Ok((used, pass))
}

#[cold]
fn tell_srm<S>(who: Who, request: &[u8], replied: usize, cx: &mut Context<'_, S>) {
    let reply_bytes = cx.set.out.len().saturating_sub(replied);
    cx.set.tell_lap(|handler_ns, _| What::Srm { who, request, reply_bytes, handler_ns });
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
                let (replied, request) = (cx.set.out.len(), &held.bytes()[last]);
                client.session.on_request(request, cx, state).map_err(Cause::Handler)?;
                if cx.set.tells_messages() {
                    tell_srm(client.who(cx.key), request, replied, cx);
                }
            }
            None => client.end(Ending::HalfFrame, cx.set.now_ns()),
        }
        cx.set.pool.give_back(held);
    }
    Ok(Pass::EndOfFile)
}
