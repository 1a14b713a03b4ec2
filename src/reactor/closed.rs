//! Calls the `on_close` of removed sources.

use crate::{
    set::{
        call::{call_closed, report},
        poll_set::PollSet,
        source::{Closed, PendingClose, Source},
    },
    sources::{child, shm},
};

/// Calls the `on_close` of every removed source, in the order of removal.
#[cold]
pub(crate) fn deliver_closed<S>(set: &mut PollSet<S>, state: &mut S) {
    while let Some(PendingClose { key, cause, handler }) = set.lifecycle.pending.pop_front() {
        let state = &mut *state;
        match handler {
            Closed::Session(mut session) => {
                report(set, key, "client", &cause);
                call_closed(set, key, move |cx| session.on_close(&cause, cx, state));
            }
            Closed::Source(source) => match source {
                Source::Datagram { handler: Some(mut handler), port } => {
                    call_closed(set, key, move |cx| handler.on_close(&cause, cx, state));
                    drop(port);
                }
                Source::Queue { handler: Some(mut handler), port } => {
                    call_closed(set, key, move |cx| handler.on_close(&cause, cx, state));
                    drop(port);
                }
                Source::Fd { handler: Some(mut handler), .. } => {
                    call_closed(set, key, move |cx| handler.on_close(&cause, cx, state));
                }
                Source::Shm { handler: Some(subscription), port } => {
                    shm::closed(set, key, port, subscription, &cause, state);
                }
                Source::Child { handler: Some(handler), port } => {
                    child::closed(set, key, *port, handler, &cause, state);
                }
                _ => {}
            },
        }
    }
}
