//! The way of an SRM: read, cut into frames, handled and answered, all in one visit to its client.
//!
//! A visit sends what waits, reads until there is proof that nothing is left or until its budget is spent, hands
//! every whole frame to the session, and sends all the replies at once.

use std::{
    io, mem,
    os::fd::{AsFd, OwnedFd},
};

use log::{Level, log_enabled};

use crate::{
    Cause, Context, Decoded, Drain, HalfClose, Key, Limit, PollSet, TimerKey,
    cause::Outcome,
    client::{Client, Ending, Plan, account, arm_deadline},
    connect, descriptors,
    framing::Refusal,
    guard::guarded,
    output::{flush, stays_slow},
    set::{Halt, Phase},
    source::{Ready, Source, Visited},
    sys::socket,
    throttle::Kind,
};

/// How one pass over a client's input ended.
enum Pass {
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
enum Read {
    Bytes(usize),
    End,
    Failed(io::Error),
    /// More than is allowed.
    Limit(Limit),
}

/// What is left of a visit's budget.
struct Budget {
    bytes: usize,
    messages: usize,
}

/// What a visit has to work on, and with.
struct Work<'a> {
    /// The edges that are not used up.
    left: &'a mut Ready,
    scratch: &'a mut [u8],
    /// What has been read already.
    first: Option<Read>,
    budget: Budget,
}

/// One visit. The client has been taken out of its slot.
pub(crate) fn visit<S>(
    set: &mut PollSet<S>,
    key: Key,
    client: &mut Client<S>,
    ready: Ready,
    scratch: &mut [u8],
    state: &mut S,
) -> Visited {
    let mut budget = Budget { bytes: set.limits.bytes_per_visit, messages: set.limits.messages_per_visit };
    let mut left = ready.without(Ready::WRITABLE);
    let (mut first, mut spent) = (None, false);
    if ready == Ready::READABLE && client.is_plain() && set.phase == Phase::Running {
        match plain(set, key, client, scratch, &mut budget, state) {
            Plain::Done => return Visited::Drained,
            Plain::Failed(cause) => {
                set.out.clear();
                return Visited::Closed(cause);
            }
            Plain::Drained => left = Ready::NONE,
            Plain::Budget => spent = true,
            Plain::Unusual => {}
            Plain::Read(read) => first = Some(read),
        }
    }
    lend(set, key, client, |set, client| {
        heed(set, client)?;
        if spent && client.is_open() {
            flush(set, key, client)?;
            return Ok(Visited::Again(left));
        }
        client.writable |= ready.has(Ready::WRITABLE | Ready::WRITE_CLOSED | Ready::ERROR);
        if left.has(Ready::READ_CLOSED | Ready::WRITE_CLOSED | Ready::ERROR) {
            left |= Ready::READABLE;
        }
        attend(set, key, client, Work { left: &mut left, scratch, first, budget }, state)
    })
}

/// How far a plain visit got.
enum Plain {
    /// All there was has been handled, and answered.
    Done,
    /// All there was has been handled; what is left is not to be read.
    Drained,
    /// The budget is spent.
    Budget,
    /// Something is left that is not plain.
    Unusual,
    /// This was read, and is not plain.
    Read(Read),
    Failed(Box<Cause>),
}

/// What most visits are: one read that is short, whole frames, one send. That there is nothing else to do has been seen
/// by one look at the client; whatever turns out otherwise is left to [`attend`].
#[inline(always)]
fn plain<S>(
    set: &mut PollSet<S>,
    key: Key,
    client: &mut Client<S>,
    scratch: &mut [u8],
    budget: &mut Budget,
    state: &mut S,
) -> Plain {
    let count = match socket::recv(client.fd(), scratch) {
        Ok(0) => return Plain::Read(Read::End),
        Ok(count) if count == scratch.len() => return Plain::Read(Read::Bytes(count)),
        Ok(count) => count,
        Err(error) => return Plain::Read(Read::Failed(error)),
    };
    client.active_ns = set.now_ns();
    set.stats.bytes_in += count as u64;
    set.running = Some(client.plan.clone());
    let handled = guarded(set, key, |cx| Ok(fresh_frames(client, &scratch[..count], cx, budget, state)));
    set.running = None;
    match handled {
        Ok(Ok(None)) if set.halt == Halt::No && client.input.is_none() => {}
        Ok(Ok(None)) if set.halt == Halt::No => return Plain::Drained,
        Ok(Ok(Some(Pass::Budget))) => return Plain::Budget,
        Ok(Ok(_)) => return Plain::Unusual,
        Ok(Err(cause)) | Err(cause) => return Plain::Failed(cause),
    }
    if set.out.is_empty() {
        return Plain::Done;
    }
    if let Some(sent) = set.out.plain_bytes().and_then(|bytes| socket::send(client.fd(), bytes).ok()) {
        set.stats.bytes_out += sent as u64;
        set.out.consume(sent);
        if set.out.is_empty() {
            return Plain::Done;
        }
    }
    Plain::Drained
}

/// A session's timer is due.
pub(crate) fn wake<S>(set: &mut PollSet<S>, key: Key, timer: TimerKey, state: &mut S) {
    let Some(slot) = set.slot(key) else { return };
    if !matches!(&slot.source, Source::Client(client) if client.is_open()) {
        return;
    }
    let mut source = mem::replace(&mut slot.source, Source::Running);
    let timers = set.current.replace(key);
    if let Source::Client(client) = &mut source {
        let visited = lend(set, key, client, |set, client| {
            guarded(set, key, |cx| client.session.on_timer(timer, cx, state))?;
            heed(set, client)?;
            flush(set, key, client)?;
            // What it has to do yet, a visit does.
            Ok(Visited::Again(Ready::NONE))
        });
        set.put_back(key, source, visited);
    }
    set.current = timers;
}

/// Lends a client the reactor's buffers for as long as `work` takes.
#[inline]
fn lend<S>(
    set: &mut PollSet<S>,
    key: Key,
    client: &mut Client<S>,
    work: impl FnOnce(&mut PollSet<S>, &mut Client<S>) -> Outcome<Visited>,
) -> Visited {
    if let Some(waiting) = client.output.take() {
        let empty = mem::replace(&mut set.out, waiting);
        set.pool.give_back(empty);
    }
    if client.plan.passes {
        swap_descriptors(set, client);
    }
    set.running = Some(client.plan.clone());
    let visited = work(set, client).unwrap_or_else(Visited::Closed);
    set.running = None;
    set.halt = Halt::No;
    if client.plan.passes {
        swap_descriptors(set, client);
    }
    leave(set, key, client, visited)
}

#[cold]
fn swap_descriptors<S>(set: &mut PollSet<S>, client: &mut Client<S>) {
    if let Some(extra) = &mut client.extra {
        mem::swap(&mut set.descriptors, &mut extra.descriptors);
    }
}

/// The end of a visit: what was not sent stays with the client, and what it holds is accounted.
#[inline]
fn leave<S>(set: &mut PollSet<S>, key: Key, client: &mut Client<S>, visited: Visited) -> Visited {
    if matches!(visited, Visited::Closed(_)) {
        set.out.clear();
        return visited;
    }
    if set.out.is_empty() && client.held == 0 && client.input.is_none() {
        return visited;
    }
    if !set.out.is_empty() {
        let empty = set.pool.lend();
        client.output = Some(mem::replace(&mut set.out, empty));
    }
    let held = client.input.as_ref().map_or(0, |input| input.len())
        + client.output.as_ref().map_or(0, |output| output.len());
    if let Some(limit) = account(set, client, held) {
        set.trip(limit, format_args!("client {key} held {held} bytes"));
        return Visited::closed(Cause::Limit(limit));
    }
    arm_deadline(set, key, client);
    visited
}

/// Sends, reads, handles, sends, until there is nothing to do or no budget to do it.
fn attend<S>(
    set: &mut PollSet<S>,
    key: Key,
    client: &mut Client<S>,
    mut work: Work<'_>,
    state: &mut S,
) -> Outcome<Visited> {
    if client.extra.is_some() && !connect::stands(set, key, client, work.left)? {
        return Ok(Visited::Parked(Ready::NONE));
    }
    let gone = work.left.has(Ready::WRITE_CLOSED);
    loop {
        flush(set, key, client)?;
        if let Some(ending) = client.ending {
            return if set.out.is_empty() {
                Err(Cause::from(ending).into())
            } else {
                Ok(Visited::Parked(*work.left))
            };
        }
        if set.out.len() > set.limits.output_high_water || client.slow {
            if stays_slow(set, key, client)? {
                return Ok(Visited::Parked(*work.left));
            }
            guarded(set, key, |cx| client.session.on_flushed(cx, state))?;
            heed(set, client)?;
            continue;
        }
        let pass = guarded(set, key, |cx| Ok(pump(client, cx, &mut work, state)))??;
        heed(set, client)?;
        match pass {
            Pass::Halted => continue,
            Pass::Budget => {
                flush(set, key, client)?;
                return Ok(Visited::Again(*work.left));
            }
            Pass::EndOfFile => {
                client.eof = true;
                if guarded(set, key, |cx| client.session.on_half_close(cx, state))? == HalfClose::Close {
                    client.end(Ending::Peer, set.now_ns());
                }
                heed(set, client)?;
                continue;
            }
            Pass::Drained => {}
        }
        flush(set, key, client)?;
        if !client.is_open() || set.out.len() > set.limits.output_high_water {
            continue;
        }
        if set.phase == Phase::Draining && !client.asked && set.out.is_empty() {
            client.asked = true;
            if guarded(set, key, |cx| client.session.on_drain(cx, state))? == Drain::Close {
                client.end(Ending::Drain, set.now_ns());
            }
            heed(set, client)?;
            continue;
        }
        // A client that is kept only for writing ends when nobody reads any more.
        if (client.eof || client.shut) && (gone || client.mute) {
            return Err(if client.mute { Cause::Reset } else { Cause::Peer }.into());
        }
        return Ok(Visited::Drained);
    }
}

/// Does what a handler has said about its own client.
#[inline]
fn heed<S>(set: &mut PollSet<S>, client: &mut Client<S>) -> Outcome<()> {
    if set.halt != Halt::No {
        match mem::replace(&mut set.halt, Halt::No) {
            Halt::Abort => return Err(Cause::Closed.into()),
            Halt::Close => {
                client.end(Ending::Closed, set.now_ns());
            }
            Halt::Flush | Halt::No => {}
        }
    }
    Ok(())
}

/// Reads and handles until nothing is left, the budget is spent, or a handler wants something else.
fn pump<S>(
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
        if budget.bytes == 0 || budget.messages == 0 {
            let limit = if budget.bytes == 0 { Limit::Bytes } else { Limit::Messages };
            cx.set.stats.tripped(limit);
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
    client.session.on_request(record, cx, state).map_err(Cause::Handler)?;
    budget.messages = budget.messages.saturating_sub(1);
    Ok(if cx.set.halt != Halt::No {
        Some(Pass::Halted)
    } else if budget.messages == 0 {
        cx.set.stats.tripped(Limit::Messages);
        Some(Pass::Budget)
    } else {
        None
    })
}

/// Handles the frames in bytes that were just read; a rest of them is kept.
#[inline(always)]
fn fresh_frames<S>(
    client: &mut Client<S>,
    bytes: &[u8],
    cx: &mut Context<'_, S>,
    budget: &mut Budget,
    state: &mut S,
) -> Outcome<Option<Pass>> {
    let mut scanned = 0;
    let (used, pass) = frames(client, bytes, &mut scanned, cx, budget, state)?;
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
    let (used, pass) = frames(client, held.bytes(), &mut scanned, cx, budget, state)?;
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
    state: &mut S,
) -> Outcome<(usize, Option<Pass>)> {
    let Client { plan, session, .. } = client;
    let max = plan.framing.frame_max(cx.set.limits.frame_max);
    let trace = log_enabled!(target: "ipc_reactor", Level::Trace);
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
                session.on_request(request, cx, state).map_err(Cause::Handler)?;
                if cx.set.halt != Halt::No {
                    pass = Some(Pass::Halted);
                    break;
                }
                if budget.messages == 0 && used < bytes.len() {
                    cx.set.stats.tripped(Limit::Messages);
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
                client.session.on_request(&held.bytes()[last], cx, state).map_err(Cause::Handler)?;
            }
            None => client.end(Ending::HalfFrame, cx.set.now_ns()),
        }
        cx.set.pool.give_back(held);
    }
    Ok(Pass::EndOfFile)
}
