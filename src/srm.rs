//! The way of an SRM: read, cut into frames, handled and answered, all in one visit to its client.
//!
//! A visit sends what waits, reads until there is proof that nothing is left or until its budget is spent, hands
//! every whole frame to the session (`intake.rs`), and sends all the replies at once (`output.rs`).

use std::mem;

use crate::{
    Cause, Drain, HalfClose, Key, PollSet, TimerKey,
    cause::Outcome,
    client::{Client, Ending, account, arm_deadline},
    connect,
    guard::guarded,
    intake::{Budget, Pass, Read, Told, Work, fresh_frames, pump},
    output::{flush, stays_slow},
    set::{Halt, Phase},
    source::{Ready, Source, Visited},
    sys::socket,
};

/// One visit. The client has been taken out of its slot.
#[inline]
pub(crate) fn visit<S>(
    set: &mut PollSet<S>,
    key: Key,
    client: &mut Client<S>,
    ready: Ready,
    scratch: &mut [u8],
    state: &mut S,
) -> Visited {
    let mut budget = Budget { bytes: set.limits.bytes_per_visit, messages: set.limits.messages_per_visit };
    let reached = if ready == Ready::READABLE && client.is_plain() && set.is_plain() {
        plain(set, key, client, scratch, &mut budget, state)
    } else {
        Plain::Unusual
    };
    match reached {
        Plain::Done => Visited::Drained,
        reached => general(set, key, client, reached, ready, scratch, budget, state),
    }
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
/// by one look at the client; whatever turns out otherwise is left to [`general`].
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
    let handled =
        guarded(set, key, |cx| Ok(fresh_frames(client, &scratch[..count], cx, budget, Told::Nobody, state)));
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

/// All other visits, and what a plain one has left.
#[inline(never)]
#[allow(clippy::too_many_arguments, reason = "the whole of a visit, handed over")]
fn general<S>(
    set: &mut PollSet<S>,
    key: Key,
    client: &mut Client<S>,
    reached: Plain,
    ready: Ready,
    scratch: &mut [u8],
    budget: Budget,
    state: &mut S,
) -> Visited {
    let mut left = ready.without(Ready::WRITABLE);
    let (mut first, mut spent) = (None, false);
    match reached {
        Plain::Failed(cause) => {
            set.out.clear();
            set.halt = Halt::No;
            return Visited::Closed(cause);
        }
        Plain::Done | Plain::Drained => left = Ready::NONE,
        Plain::Budget => spent = true,
        Plain::Unusual => {}
        Plain::Read(read) => first = Some(read),
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
    client.note_plain();
    leave(set, key, client, visited)
}

#[cold]
fn swap_descriptors<S>(set: &mut PollSet<S>, client: &mut Client<S>) {
    if let Some(extra) = &mut client.extra {
        mem::swap(&mut set.descriptors, &mut extra.descriptors);
    }
}

/// The end of a visit: what was not sent stays with the client, and what it holds is accounted.
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
