//! Serving a plain client on the spot: most of what ever happens.
//!
//! There is something to read from it and nothing else, and nothing about it is unusual: one short read, whole frames, one send. That leaves
//! nothing to be remembered, so such a client goes past the ready list and stays in its slot; only its session is taken out while
//! it runs. Whatever turns out otherwise goes on as a visit (`srm.rs`).

use std::mem;

use slab::Slab;

use crate::{
    bytes::buffer::Buffer,
    client::{
        input::Read,
        requests::{Frames, failed, hand_over, keep_rest},
        visit::visit,
    },
    observe::event::What,
    set::{
        call::caught,
        client::Client,
        poll_set::{Halt, PollSet},
        session::Session,
        source::{Ready, Slot, Source},
    },
    sys::socket,
    types::{
        cause::{Cause, Outcome},
        key::Key,
        stats::Stats,
    },
};

/// How far a client was served on the spot, where something has come between.
pub(crate) enum Served {
    /// Nothing has been done.
    Not,
    /// All there was has been read, and handled unless something has stopped that. So many messages are left of the budget.
    Handled(usize),
    /// This was read, and is not plain.
    Read(Read),
    Failed(Box<Cause>),
}

/// Serves a client that there is something to read from and nothing else, if it is plain; goes on as a [`visit`] where that turns
/// out to be not all.
///
/// `WATCHED`: observers are told of its visit. False if nothing was done.
#[inline(always)]
pub(crate) fn serve<S, const WATCHED: bool>(
    set: &mut PollSet<S>,
    key: Key,
    scratch: &mut [u8],
    state: &mut S,
) -> bool {
    // One that is in the ready list has its share of this round when its turn comes.
    let Some(Slot { source: Source::Client(client), serial, queued: false, .. }) =
        set.slots.get_mut(key.index as usize)
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
    if let Err(cause) = caught(set, key, |cx| session.on_request(read, cx, state).map_err(failed)) {
        set.end_answering(read);
        return_session(&mut set.slots, key, session);
        return go_on(set, key, Served::Failed(cause), scratch, state);
    }
    let echoed = set.end_answering(read);
    let client = return_session(&mut set.slots, key, session);
    if set.limits.idle.is_some() {
        client.active_ns = set.timers.clock.now_ns();
    }
    let sent = if set.halt == Halt::No {
        match answer(client, echoed, &set.out, &mut set.stats) {
            Ok(()) => return true,
            Err(sent) => sent,
        }
    } else {
        0
    };
    let served = leave_rest(client, Ok(()), set.halt, &echoed[sent..], &mut set.out, &mut set.stats);
    served.is_none_or(|served| go_on(set, key, served, scratch, state))
}

/// [`serve`], where the log or observers are told of each message.
#[cold]
pub(crate) fn serve_told<S>(set: &mut PollSet<S>, key: Key, scratch: &mut [u8], state: &mut S) -> bool {
    let who = match set.source(key) {
        Some(Source::Client(client)) if client.is_plain() && !set.is_queued(key) => client.who(key),
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
    let served = match served {
        None if !frames.is_unusual() => return true,
        None | Some(Served::Handled(_)) => Served::Handled(frames.messages),
        Some(served) => served,
    };
    go_on(set, key, served, scratch, state)
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
    // Of one request, nothing is left to be handled.
    let handled = Some(Served::Handled(0));
    if halt != Halt::No {
        return handled;
    }
    let Some(bytes) = out.plain_bytes() else { return handled };
    if !bytes.is_empty() {
        let sent = socket::send(client.fd(), bytes).unwrap_or(0);
        stats.bytes_out += sent as u64;
        out.consume(sent);
    }
    if out.is_empty() { None } else { handled }
}

/// Visits a client that was served in part.
#[cold]
fn go_on<S>(set: &mut PollSet<S>, key: Key, served: Served, scratch: &mut [u8], state: &mut S) -> bool {
    let Some(slot) = set.slot(key) else { return true };
    // If its handler has begun a drain it is in the ready list by now, and stays there.
    let mut source = mem::replace(&mut slot.source, Source::Running);
    set.current = key;
    if let Source::Client(client) = &mut source {
        let visited = visit(set, key, client, Ready::READABLE, served, scratch, state);
        let end = set.put_back(key, source, visited);
        set.observe_visited(end);
    }
    true
}
