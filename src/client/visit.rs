//! The way of an SRM: read, cut into frames, handled and answered, all in one visit to its client.
//!
//! A visit sends what waits, reads until there is proof that nothing is left or until its budget is spent, hands
//! every whole frame to the session (`intake.rs`), and sends all the replies at once (`output.rs`).

use std::mem;

use crate::{
    client::{
        accounts::account,
        connect,
        deadlines::arm_deadline,
        input::{Budget, Pass, Work, pump},
        output::{flush, stays_slow},
        serve::Served,
    },
    poll::timers::TimerKey,
    set::{
        call::guarded,
        client::{Client, Ending},
        poll_set::{Answering, Halt, Phase, PollSet},
        session::{Drain, HalfClose},
        source::{Ready, Source, Visited},
    },
    types::{
        cause::{Cause, Outcome},
        key::Key,
    },
};

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
    let mut budget = Budget { bytes: set.limits.bytes_per_visit, messages: set.limits.messages_per_visit };
    let mut left = ready.without(Ready::WRITABLE);
    let (mut first, mut spent) = (None, false);
    match served {
        Served::Failed(cause) => {
            set.out.clear();
            set.halt = Halt::No;
            return Visited::Closed(cause);
        }
        Served::Handled(messages) => {
            (left, budget.messages) = (Ready::NONE, messages);
            spent = messages == 0 && client.more;
        }
        Served::Not => {}
        Served::Read(read) => first = Some(read),
    }
    let (newcomer, heard) = (!client.opened, set.stats.bytes_in);
    let visited = lend(set, key, client, |set, client| {
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
    });
    if newcomer {
        client.plan.note_newcomer(set.stats.bytes_in > heard);
    }
    visited
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
            Pass::Halted | Pass::Budget if !client.is_open() => continue,
            Pass::Halted => match work.budget.spent() {
                Some(limit) => set.tripped(limit),
                None => continue,
            },
            Pass::Budget => {}
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
        if matches!(pass, Pass::Halted | Pass::Budget) {
            return Ok(Visited::Again(*work.left));
        }
        if !client.is_open() || set.out.len() > set.limits.output_high_water {
            continue;
        }
        // In the ready list it is if it began the drain itself: what has come before that is still to be read.
        if set.phase == Phase::Draining && !client.asked && set.out.is_empty() && !set.is_queued(key) {
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
