//! When a client's time is up: idle, half a frame, a connection that does not stand, last bytes that are not taken.

use std::{mem, time::Duration};

use crate::{
    set::{client::Client, poll_set::PollSet, source::Source},
    types::{
        cause::{Cause, Limit},
        key::Key,
    },
};

/// When this client's time is up next, and why.
fn deadline<S>(set: &PollSet<S>, client: &Client<S>) -> Option<(u64, Limit)> {
    let after = |since_ns: u64, duration: Duration| since_ns.saturating_add(duration.as_nanos() as u64);
    if !client.is_open() {
        return Some((after(client.active_ns, set.limits.flush), Limit::Flush));
    }
    if client.is_connecting() {
        return Some((after(client.active_ns, set.limits.connect), Limit::Connect));
    }
    let active_ns = client.active_ns.max(set.idle_since_ns);
    let idle = set.limits.idle.map(|idle| (after(active_ns, idle), Limit::Idle));
    let half_frame = match (set.limits.half_frame, client.has_half_frame()) {
        (Some(limit), Some(since_ns)) if !client.slow => Some((after(since_ns, limit), Limit::HalfFrame)),
        _ => None,
    };
    [idle, half_frame].into_iter().flatten().min_by_key(|&(due_ns, _)| due_ns)
}

/// Sees to it that this client's deadline will be noticed. One that moves away needs nothing: it is looked at when
/// the earlier one has come.
pub(crate) fn arm_deadline<S>(set: &mut PollSet<S>, key: Key, client: &Client<S>) {
    if let Some((due_ns, _)) = deadline(set, client) {
        set.timers.client_deadline(&mut set.slots, key.index, due_ns);
    }
}

/// There is an idle deadline from now on. Without one nobody has looked at the clock when a client was active: all of them
/// begin to idle now.
pub(crate) fn begin_idling<S>(set: &mut PollSet<S>, idle: Duration) {
    set.idle_since_ns = set.now_ns();
    let due_ns = set.idle_since_ns.saturating_add(idle.as_nanos() as u64);
    let keys: Vec<Key> = set.clients().collect();
    for key in keys {
        set.timers.client_deadline(&mut set.slots, key.index, due_ns);
    }
}

/// A deadline in the heap has come: the client's time is up, or it is put off.
pub(crate) fn deadline_due<S>(set: &mut PollSet<S>, key: Key, now_ns: u64) {
    let Some(Source::Client(client)) = set.source(key) else { return };
    match deadline(set, client) {
        Some((due_ns, limit)) if due_ns <= now_ns => {
            let Some(slot) = set.slot(key) else { return };
            let source = mem::replace(&mut slot.source, Source::Running);
            set.trip(limit, format_args!("client {key}"));
            set.retire(key, source, Cause::Limit(limit));
        }
        Some((due_ns, _)) => set.timers.client_deadline(&mut set.slots, key.index, due_ns),
        None => {}
    }
}

pub(crate) fn any_half_frame<S>(set: &PollSet<S>) -> bool {
    set.slots
        .iter()
        .any(|(_, slot)| matches!(&slot.source, Source::Client(client) if client.has_half_frame().is_some()))
}

/// Closes the clients that have been holding a half frame for longest, to make room for newcomers: of those that
/// connected and never finish a request, none keeps a place that somebody else could use.
pub(crate) fn evict_half_frames<S>(set: &mut PollSet<S>) -> bool {
    const AT_ONCE: usize = 64;
    let mut found: Vec<(u64, Key)> = set
        .slots
        .iter()
        .filter_map(|(index, slot)| match &slot.source {
            Source::Client(client) => {
                Some((client.has_half_frame()?, Key { index: index as u32, serial: slot.serial }))
            }
            _ => None,
        })
        .collect();
    if found.len() > AT_ONCE {
        found.select_nth_unstable(AT_ONCE);
        found.truncate(AT_ONCE);
    }
    for &(_, key) in &found {
        if let Some(slot) = set.slot(key) {
            let source = mem::replace(&mut slot.source, Source::Running);
            set.trip(Limit::Evicted, format_args!("client {key} with a half frame"));
            set.retire(key, source, Cause::Limit(Limit::Evicted));
        }
    }
    !found.is_empty()
}
