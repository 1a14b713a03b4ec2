//! The way of an SRM: read, cut into frames, handled and answered, all in one visit to its client.
//!
//! A visit sends what waits, reads until there is proof that nothing is left or until its budget is spent, hands
//! every whole frame to the session, and sends all the replies at once.

use std::{io, mem, os::fd::AsFd};

use log::{Level, log_enabled};

use crate::{
    Cause, Context, Decoded, Drain, HalfClose, Key, Limit, PollSet, TimerKey,
    client::{Client, Ending, account, arm_deadline},
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

/// What is left of a visit's budget.
struct Budget {
    bytes: usize,
    messages: usize,
}

/// One visit. The client has been taken out of its slot.
pub(crate) fn visit<S>(
    set: &mut PollSet<S>,
    key: Key,
    client: &mut Client<S>,
    ready: Ready,
    state: &mut S,
) -> Visited {
    lend(set, key, client, |set, client, scratch| {
        client.writable |= ready.has(Ready::WRITABLE | Ready::WRITE_CLOSED | Ready::ERROR);
        let mut left = ready.without(Ready::WRITABLE);
        if left.has(Ready::READ_CLOSED | Ready::WRITE_CLOSED | Ready::ERROR) {
            left |= Ready::READABLE;
        }
        attend(set, key, client, &mut left, scratch, state)
    })
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
        let visited = lend(set, key, client, |set, client, _| {
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
    work: impl FnOnce(&mut PollSet<S>, &mut Client<S>, &mut [u8]) -> Result<Visited, Cause>,
) -> Visited {
    if let Some(waiting) = client.output.take() {
        let empty = mem::replace(&mut set.out, waiting);
        set.pool.give_back(empty);
    }
    set.running = Some(client.plan.clone());
    let mut scratch = mem::take(&mut set.scratch);
    let visited = work(set, client, &mut scratch).unwrap_or_else(Visited::Closed);
    // A handler that has put in a seqpacket socket may have made a larger one.
    if set.scratch.len() < scratch.len() {
        set.scratch = scratch;
    }
    set.running = None;
    set.halt = Halt::No;
    leave(set, key, client, visited)
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
        return Visited::Closed(Cause::Limit(limit));
    }
    arm_deadline(set, key, client);
    visited
}

/// Sends, reads, handles, sends, until there is nothing to do or no budget to do it.
fn attend<S>(
    set: &mut PollSet<S>,
    key: Key,
    client: &mut Client<S>,
    left: &mut Ready,
    scratch: &mut [u8],
    state: &mut S,
) -> Result<Visited, Cause> {
    let mut budget = Budget { bytes: set.limits.bytes_per_visit, messages: set.limits.messages_per_visit };
    let gone = left.has(Ready::WRITE_CLOSED);
    loop {
        flush(set, key, client)?;
        if let Some(ending) = client.ending {
            return if set.out.is_empty() { Err(ending.into()) } else { Ok(Visited::Parked(*left)) };
        }
        if set.out.len() > set.limits.output_high_water || client.slow {
            if stays_slow(set, key, client)? {
                return Ok(Visited::Parked(*left));
            }
            guarded(set, key, |cx| client.session.on_flushed(cx, state))?;
            heed(set, client)?;
            continue;
        }
        let pass = guarded(set, key, |cx| Ok(pump(client, cx, scratch, left, &mut budget, state)))??;
        heed(set, client)?;
        match pass {
            Pass::Halted => continue,
            Pass::Budget => {
                flush(set, key, client)?;
                return Ok(Visited::Again(*left));
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
            return Err(if client.mute { Cause::Reset } else { Cause::Peer });
        }
        return Ok(Visited::Drained);
    }
}

/// Does what a handler has said about its own client.
#[inline]
fn heed<S>(set: &mut PollSet<S>, client: &mut Client<S>) -> Result<(), Cause> {
    if set.halt != Halt::No {
        match mem::replace(&mut set.halt, Halt::No) {
            Halt::Abort => return Err(Cause::Closed),
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
    scratch: &mut [u8],
    left: &mut Ready,
    budget: &mut Budget,
    state: &mut S,
) -> Result<Pass, Cause> {
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
            None => (socket::recv(client.socket.as_fd(), scratch).map(Some), scratch.len()),
            Some(held) => {
                let room = held.tail(held.len().clamp(4 << 10, 64 << 10)).map_err(Cause::Io)?;
                (socket::recv(client.socket.as_fd(), room).map(Some), room.len())
            }
        };
        let count = match read {
            Ok(Some(0)) if !client.plan.records => return end_of_file(client, cx, left, budget, state),
            Ok(None) => return end_of_file(client, cx, left, budget, state),
            Ok(Some(count)) => count,
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => {
                    *left = Ready::NONE;
                    return Ok(Pass::Drained);
                }
                Some(libc::EINTR) => continue,
                Some(libc::ECONNRESET) => return Err(Cause::Reset),
                // Ours: a record larger than the limit.
                None => {
                    let key = cx.key;
                    cx.set.trip(Limit::Frame, format_args!("client {key}: {error}"));
                    return Err(Cause::Limit(Limit::Frame));
                }
                _ => {
                    cx.set.stats.failed(error.kind());
                    return Err(Cause::Io(error));
                }
            },
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
            *left = Ready::NONE;
            return Ok(Pass::Drained);
        }
        if budget.bytes == 0 || budget.messages == 0 {
            let limit = if budget.bytes == 0 { Limit::Bytes } else { Limit::Messages };
            cx.set.stats.tripped(limit);
            return Ok(Pass::Budget);
        }
    }
}

/// A record; `None` at the end of file.
fn read_record<S>(client: &Client<S>, set: &PollSet<S>, scratch: &mut [u8]) -> io::Result<Option<usize>> {
    let record = socket::recv_record(client.socket.as_fd(), scratch)?;
    if record.end {
        return Ok(None);
    }
    if record.truncated || record.len > client.plan.framing.frame_max(set.limits.frame_max) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "record too large"));
    }
    Ok(Some(record.len))
}

fn one_record<S>(
    client: &mut Client<S>,
    record: &[u8],
    cx: &mut Context<'_, S>,
    budget: &mut Budget,
    state: &mut S,
) -> Result<Option<Pass>, Cause> {
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
fn fresh_frames<S>(
    client: &mut Client<S>,
    bytes: &[u8],
    cx: &mut Context<'_, S>,
    budget: &mut Budget,
    state: &mut S,
) -> Result<Option<Pass>, Cause> {
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
) -> Result<Option<Pass>, Cause> {
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
#[inline]
fn frames<S>(
    client: &mut Client<S>,
    bytes: &[u8],
    scanned: &mut usize,
    cx: &mut Context<'_, S>,
    budget: &mut Budget,
    state: &mut S,
) -> Result<(usize, Option<Pass>), Cause> {
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
                return Err(Cause::Limit(Limit::Frame));
            }
            Err(Refusal::Malformed(error)) => {
                let key = cx.key;
                cx.set.complain(
                    Kind::Client,
                    Level::Warn,
                    format_args!("client {key}: malformed frame: {error}"),
                );
                return Err(Cause::Malformed(error));
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
) -> Result<Pass, Cause> {
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
                return Err(Cause::Limit(Limit::Frame));
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
