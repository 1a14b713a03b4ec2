//! Deadlines: a client is closed when it is idle, or a frame, a connect or a flush takes too long.

use std::time::Duration;

use crate::{
    client::visit_state::io_of,
    set::{
        client::{ClientIo, Flags},
        poll_set::PollSet,
        source::Source,
    },
    sys::time::nanos,
    types::{
        cause::{Cause, Limit},
        key::Key,
        limits::Limits,
    },
};

/// The most clients that are evicted at once.
const EVICTED_AT_ONCE: usize = 64;

/// The next deadline of a client, and its limit.
fn deadline(limits: &Limits, io: &ClientIo) -> Option<(u64, Limit)> {
    let after = |since_ns: u64, duration: Duration| since_ns.saturating_add(nanos(duration));
    if !io.is_open() {
        return Some((after(io.active_ns, limits.flush), Limit::Flush));
    }
    if io.is_connecting() {
        return Some((after(io.active_ns, limits.connect), Limit::Connect));
    }
    let idle = limits.idle.map(|idle| (after(io.active_ns, idle), Limit::Idle));
    let partial_frame = match (limits.frame_timeout, io.partial_frame_since_ns()) {
        (Some(limit), Some(since_ns)) if !io.flags.has(Flags::THROTTLED) => {
            Some((after(since_ns, limit), Limit::PartialFrame))
        }
        _ => None,
    };
    [idle, partial_frame].into_iter().flatten().min_by_key(|&(due_ns, _)| due_ns)
}

/// Sets the deadline of a client's slot, unless it has an earlier one: the deadline is computed again when that comes.
pub(super) fn arm_deadline<S>(set: &mut PollSet<S>, key: Key) {
    let io = io_of(&mut set.registry, key);
    if let Some((due_ns, _)) = deadline(&set.limits, io) {
        set.timers.set_slot_deadline(key.index, due_ns);
    }
}

/// Begins the idle deadline of all clients. Without an idle limit the times of their activity were not stored.
pub(super) fn begin_idling<S>(set: &mut PollSet<S>, idle: Duration) {
    let now_ns = set.now_ns();
    let due_ns = now_ns.saturating_add(nanos(idle));
    for (key, source) in set.registry.iter_mut() {
        if let Source::Client { io, .. } = source
            && io.is_open()
        {
            io.active_ns = io.active_ns.max(now_ns);
            set.timers.set_slot_deadline(key.index, due_ns);
        }
    }
}

/// A slot's deadline has come: closes the client, unless its deadline has moved.
pub(crate) fn slot_due<S>(set: &mut PollSet<S>, index: u32, now_ns: u64) {
    let Some(key) = set.registry.key_at(index) else { return };
    let Some(Source::Client { io, .. }) = set.registry.get(key) else { return };
    match deadline(&set.limits, io) {
        Some((due_ns, limit)) if due_ns <= now_ns => {
            set.report_limit(limit, format_args!("client {key}"));
            set.remove(key, Cause::Limit(limit));
        }
        Some((due_ns, _)) => set.timers.set_slot_deadline(index, due_ns),
        None => {}
    }
}

pub(crate) fn any_partial_frame<S>(set: &PollSet<S>) -> bool {
    set.registry.iter().any(
        |(_, source)| matches!(source, Source::Client { io, .. } if io.partial_frame_since_ns().is_some()),
    )
}

/// Closes the clients whose partial frames are the oldest, to make room for new clients: a client that never completes
/// a request keeps no place that another could use. False: there is none.
pub(crate) fn evict_partial_frames<S>(set: &mut PollSet<S>) -> bool {
    let mut found: Vec<(u64, Key)> = set
        .registry
        .iter()
        .filter_map(|(key, source)| match source {
            Source::Client { io, .. } => Some((io.partial_frame_since_ns()?, key)),
            _ => None,
        })
        .collect();
    if found.len() > EVICTED_AT_ONCE {
        found.select_nth_unstable(EVICTED_AT_ONCE);
        found.truncate(EVICTED_AT_ONCE);
    }
    for &(_, key) in &found {
        set.report_limit(Limit::Evicted, format_args!("client {key} with a partial frame"));
        set.remove(key, Cause::Limit(Limit::Evicted));
    }
    !found.is_empty()
}
