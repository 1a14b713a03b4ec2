//! Runs the timers and checks the deadlines that are due.

use std::time::Duration;

use crate::{
    client::{deadlines::slot_due, visit::wake, visit_state::VisitArgs},
    observe::event::{SourceInfo, What},
    poll::timers::Due,
    set::{
        call::call_once,
        lifecycle::Phase,
        poll_set::PollSet,
        source::Visited,
        task::{Every, Task},
    },
    sources::queue,
    sys::time::nanos,
    types::{
        key::{Key, TimerKey},
        ready::Ready,
    },
};

/// One visit: everything that is due by the turn's time, within the budget. Timers set meanwhile are not due yet.
pub(crate) fn visit<S>(set: &mut PollSet<S>, key: Key, args: &mut VisitArgs<'_, S>) -> Visited {
    set.timers.fired();
    let now_ns = set.now_ns();
    for _ in 0..set.limits.messages_per_visit.max(1) {
        match set.timers.pop_due(now_ns) {
            None => return Visited::Drained,
            Some((Due::Slot(index), _)) => slot_due(set, index, now_ns),
            Some((Due::Timer(timer), due_ns)) => fire(set, key, timer, due_ns, args),
        }
        if set.lifecycle.phase() == Phase::Stopped {
            return Visited::Drained;
        }
    }
    Visited::Again(Ready::READABLE)
}

fn fire<S>(set: &mut PollSet<S>, key: Key, timer: TimerKey, due_ns: u64, args: &mut VisitArgs<'_, S>) {
    let Some(task) = set.timers.take(timer) else { return };
    if !matches!(task, Task::Every(..)) {
        set.timers.remove(timer);
    }
    if task.is_embedders() {
        set.stats.timers += 1;
    }
    let source = if set.observers.is_some() { source_of(set, &task) } else { None };
    if source.is_some() {
        set.lap();
    }
    // A timer's handler has no source to close. The visit checks for a stop.
    match task {
        Task::Once(f) => {
            call_once(set, key, |cx| f(cx, args.state)).or_report(set, key, "timer");
        }
        Task::Every(period, mut f) => {
            call_once(set, key, |cx| f(cx, args.state)).or_report(set, key, "timer");
            again(set, timer, due_ns, period, f);
        }
        Task::Session(client) => wake(set, client, timer, args),
        Task::Resume(source) => {
            set.acceptors.retried(timer);
            set.mark_ready(source, Ready::READABLE | Ready::WRITABLE);
        }
        Task::CheckQueue(queue, period) => {
            if queue::check(set, queue, args.state) {
                set.timers.add(period, Task::CheckQueue(queue, period));
            }
        }
        Task::DrainDeadline => set.cut_off_drain(),
    }
    if let Some(source) = source {
        let late_ns = set.now_ns().saturating_sub(due_ns);
        set.emit_timed(|handler_ns, _| What::Timer { source, timer, late_ns, handler_ns });
    }
}

/// The source of an embedder's timer, for observers.
#[cold]
fn source_of<S>(set: &PollSet<S>, task: &Task<S>) -> Option<SourceInfo> {
    match task {
        Task::Session(client) => set.registry.get(*client).map(|source| source.info(*client)),
        task => set.visiting().filter(|_| task.is_embedders()),
    }
}

/// Sets a repeating timer to its next time, unless it was cancelled meanwhile.
fn again<S>(set: &mut PollSet<S>, timer: TimerKey, due_ns: u64, period: Duration, f: Every<S>) {
    let period_ns = nanos(period);
    let missed = set.now_ns().saturating_sub(due_ns) / period_ns;
    let next_ns = due_ns.saturating_add(period_ns.saturating_mul(missed.saturating_add(1)));
    set.timers.put_back(timer, Task::Every(period, f), next_ns);
}
