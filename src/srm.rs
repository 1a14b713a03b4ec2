//! The way of an SRM: read, cut into frames, handled and answered, all in one visit to its client.
//!
//! A visit sends what waits, reads until there is proof that nothing is left or until its budget is spent, hands
//! every whole frame to the session (`intake.rs`), and sends all the replies at once (`output.rs`).

use std::mem;

use slab::Slab;

use crate::{
    Cause, Drain, HalfClose, Key, PollSet, Session, Stats, TimerKey,
    buffer::Buffer,
    cause::Outcome,
    client::{Client, Ending, account, arm_deadline},
    connect,
    guard::{caught, guarded},
    intake::{Budget, Frames, Pass, Read, Work, failed, hand_over, keep_rest, pump},
    observe::What,
    output::{flush, stays_slow},
    set::{Answering, Halt, Phase},
    source::{Ready, Slot, Source, Visited},
    sys::socket,
};

/// How far a client was served on the spot, where something has come between.
pub(crate) enum Served {
    /// Nothing has been done.
    Not,
    /// All there was has been read, and handled unless the handler has stopped that.
    Handled,
    /// All there was has been read; a budget has stopped the handling.
    Spent,
    /// This was read, and is not plain.
    Read(Read),
    Failed(Box<Cause>),
}

/// Serves a client that there is something to read from, if nothing about it is unusual: one read that is short, whole frames,
/// one send. That is most of what ever happens, and leaves nothing to be remembered: such a client goes past the ready list,
/// and stays in its slot. Only its session is taken out while it runs. Whatever turns out otherwise is left to [`visit`].
///
/// `WATCHED`: observers are told of its visit. False if nothing was done.
#[inline(always)]
pub(crate) fn serve<S, const WATCHED: bool>(
    set: &mut PollSet<S>,
    key: Key,
    scratch: &mut [u8],
    state: &mut S,
) -> bool {
    let Some(Slot { source: Source::Client(client), serial, .. }) = set.slots.get_mut(key.index as usize)
    else {
        return false;
    };
    if *serial != key.serial || !client.is_plain() {
        return false;
    }
    if WATCHED && let Some(watch) = &mut set.watch {
        watch.service(client.who(key));
    }
    let count = match socket::recv(client.fd(), scratch) {
        Ok(count) if (1..scratch.len()).contains(&count) => count,
        unusual => return go_on(set, key, Served::Read(unusual.into()), scratch, state),
    };
    set.stats.bytes_in += count as u64;
    if client.plan.framing.known_size(count) != Some(count) {
        return serve_frames::<S, false>(set, key, count, scratch, state);
    }
    let Some(mut session) = client.session.take() else { unreachable!("only while it runs it is not there") };
    set.stats.srms += 1;
    let read = &scratch[..count];
    set.begin_answering(key, read);
    let handled = caught(set, key, |cx| session.on_request(read, cx, state).map_err(failed));
    let echoed = set.end_answering(read);
    let client = return_session(&mut set.slots, key, session);
    if set.limits.idle.is_some() {
        client.active_ns = set.timers.clock.now_ns();
    }
    let sent = if handled.is_ok() && set.halt == Halt::No {
        match answer(client, echoed, &set.out, &mut set.stats) {
            Ok(()) => return true,
            Err(sent) => sent,
        }
    } else {
        0
    };
    let served = leave_rest(client, handled, set.halt, &echoed[sent..], &mut set.out, &mut set.stats);
    served.is_none_or(|served| go_on(set, key, served, scratch, state))
}

/// [`serve`], where the log or observers are told of each message.
#[cold]
pub(crate) fn serve_told<S>(set: &mut PollSet<S>, key: Key, scratch: &mut [u8], state: &mut S) -> bool {
    let who = match set.source(key) {
        Some(Source::Client(client)) if client.is_plain() => client.who(key),
        _ => return false,
    };
    set.observe_service(who);
    let Some(Source::Client(client)) = set.source(key) else { unreachable!("it was there just now") };
    let count = match socket::recv(client.fd(), scratch) {
        Ok(count) if (1..scratch.len()).contains(&count) => count,
        unusual => return go_on(set, key, Served::Read(unusual.into()), scratch, state),
    };
    set.stats.bytes_in += count as u64;
    set.tell_lap(|_, who| What::Read { who, bytes: count });
    serve_frames::<S, true>(set, key, count, scratch, state)
}

/// [`serve`], where what was read is any number of frames, or a part of one.
#[inline(never)]
fn serve_frames<S, const TOLD: bool>(
    set: &mut PollSet<S>,
    key: Key,
    count: usize,
    scratch: &mut [u8],
    state: &mut S,
) -> bool {
    let Some(Source::Client(client)) = set.slot(key).map(|slot| &mut slot.source) else { return true };
    let Some(mut session) = client.session.take() else { unreachable!("only while it runs it is not there") };
    let plan = client.plan.clone();
    let read = &scratch[..count];
    let mut frames = Frames::new(&plan.framing, read, set.limits.messages_per_visit);
    set.begin_answering(key, read);
    let handled = caught(set, key, |cx| match TOLD {
        true => hand_over::<_, _, true>(&mut *session, &mut frames, cx, state),
        false => session.on_frames(&mut frames, cx, state),
    });
    let echoed = set.end_answering(read);
    let client = return_session(&mut set.slots, key, session);
    if set.limits.idle.is_some() {
        client.active_ns = set.timers.clock.now_ns();
    }
    let bytes_out = set.stats.bytes_out;
    let sent = if handled.is_ok() && !frames.is_unusual() {
        match answer(client, echoed, &set.out, &mut set.stats) {
            Ok(()) => {
                tell_sent::<S, TOLD>(set, bytes_out);
                return true;
            }
            Err(sent) => sent,
        }
    } else {
        0
    };
    let now_ns = set.timers.clock.now_ns();
    let handled = handled.and_then(|()| keep_rest(client, &frames, &mut set.pool, now_ns));
    let served = leave_rest(client, handled, set.halt, &echoed[sent..], &mut set.out, &mut set.stats);
    tell_sent::<S, TOLD>(set, bytes_out);
    match served {
        None if !frames.is_unusual() => true,
        None | Some(Served::Handled) if frames.pass == Some(Pass::Budget) => {
            go_on(set, key, Served::Spent, scratch, state)
        }
        served => go_on(set, key, served.unwrap_or(Served::Handled), scratch, state),
    }
}

/// Tells what has been sent since `bytes_out` had been in all.
#[inline(always)]
fn tell_sent<S, const TOLD: bool>(set: &mut PollSet<S>, bytes_out: u64) {
    let (bytes, left) = ((set.stats.bytes_out - bytes_out) as usize, set.out.len());
    if TOLD && bytes > 0 {
        set.tell_lap(|_, who| What::Sent { who, bytes, left });
    }
}

/// Puts a session back to its client, which has stayed in its slot.
#[inline(always)]
fn return_session<S>(slots: &mut Slab<Slot<S>>, key: Key, session: Box<dyn Session<S>>) -> &mut Client<S> {
    match slots.get_mut(key.index as usize) {
        Some(Slot { source: Source::Client(client), .. }) => {
            // What is replaced is `None`, which needs no drop.
            mem::forget(client.session.replace(session));
            client
        }
        _ => unreachable!("a client whose session runs is not taken out of its slot"),
    }
}

/// Sends the replies, if all of them echo what was read, from where they are. Otherwise answers how many bytes have left.
#[inline(always)]
fn answer<S>(client: &Client<S>, echoed: &[u8], out: &Buffer, stats: &mut Stats) -> Result<(), usize> {
    if !out.is_empty() {
        return Err(0);
    }
    if echoed.is_empty() {
        return Ok(());
    }
    // Why it may have failed, the visit will see that tries again.
    let sent = socket::send(client.fd(), echoed).unwrap_or(0);
    stats.bytes_out += sent as u64;
    if sent == echoed.len() { Ok(()) } else { Err(sent) }
}

/// What is left of a service on the spot: replies that wait, or a fault. Sends what the socket takes at once, and leaves the
/// rest in the buffer. `None`: there is nothing left.
#[inline(never)]
fn leave_rest<S>(
    client: &Client<S>,
    handled: Outcome<()>,
    halt: Halt,
    echoed: &[u8],
    out: &mut Buffer,
    stats: &mut Stats,
) -> Option<Served> {
    if let Err(cause) = handled.and_then(|()| out.prepend(echoed).map_err(|e| Cause::Io(e).into())) {
        return Some(Served::Failed(cause));
    }
    if halt != Halt::No {
        return Some(Served::Handled);
    }
    let Some(bytes) = out.plain_bytes() else { return Some(Served::Handled) };
    if !bytes.is_empty() {
        let sent = socket::send(client.fd(), bytes).unwrap_or(0);
        stats.bytes_out += sent as u64;
        out.consume(sent);
    }
    (!out.is_empty()).then_some(Served::Handled)
}

/// Visits a client that was served in part.
#[cold]
fn go_on<S>(set: &mut PollSet<S>, key: Key, served: Served, scratch: &mut [u8], state: &mut S) -> bool {
    let Some((mut source, ready)) = set.take_out(key) else { return true };
    if let Source::Client(client) = &mut source {
        let visited = visit(set, key, client, ready | Ready::READABLE, served, scratch, state);
        let end = set.put_back(key, source, visited);
        set.observe_visited(end);
    }
    true
}

/// One visit. The client has been taken out of its slot, and may have been served in part.
#[allow(clippy::too_many_arguments, reason = "what a visit is about, and what was done already")]
pub(crate) fn visit<S>(
    set: &mut PollSet<S>,
    key: Key,
    client: &mut Client<S>,
    ready: Ready,
    served: Served,
    scratch: &mut [u8],
    state: &mut S,
) -> Visited {
    let budget = Budget { bytes: set.limits.bytes_per_visit, messages: set.limits.messages_per_visit };
    let mut left = ready.without(Ready::WRITABLE);
    let (mut first, mut spent) = (None, false);
    match served {
        Served::Failed(cause) => {
            set.out.clear();
            set.halt = Halt::No;
            return Visited::Closed(cause);
        }
        Served::Handled => left = Ready::NONE,
        Served::Spent => (left, spent) = (Ready::NONE, true),
        Served::Not => {}
        Served::Read(read) => first = Some(read),
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
    let timers = mem::replace(&mut set.current, key);
    if let Source::Client(client) = &mut source {
        let visited = lend(set, key, client, |set, client| {
            guarded(set, key, |cx| client.session().on_timer(timer, cx, state))?;
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
    if let Some(mut waiting) = client.output.take() {
        mem::swap(&mut set.out, &mut waiting);
        set.pool.give_back(waiting);
    }
    if client.plan.passes {
        swap_descriptors(set, client);
    }
    set.running = Some(client.plan.clone());
    set.answering = if client.plan.records { Answering::Records } else { Answering::Stream };
    let visited = work(set, client).unwrap_or_else(Visited::Closed);
    set.answering = Answering::Nobody;
    set.running = None;
    set.halt = Halt::No;
    if client.plan.passes {
        swap_descriptors(set, client);
    }
    let visited = leave(set, key, client, visited);
    client.note_plain();
    visited
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
        let mut waiting = set.pool.lend();
        mem::swap(&mut set.out, &mut waiting);
        client.output = Some(waiting);
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
            guarded(set, key, |cx| client.session().on_flushed(cx, state))?;
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
                if guarded(set, key, |cx| client.session().on_half_close(cx, state))? == HalfClose::Close {
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
            if guarded(set, key, |cx| client.session().on_drain(cx, state))? == Drain::Close {
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
