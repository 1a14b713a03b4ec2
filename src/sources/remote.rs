//! The jobs of all `Remote`s as a source.

use crate::{
    set::{
        asked::Asked,
        call::call_once,
        poll_set::PollSet,
        source::{Source, Visited},
    },
    types::key::Key,
};

/// One visit: runs every job that has come by now, until one stops the loop.
pub(crate) fn visit<S>(set: &mut PollSet<S>, key: Key, state: &mut S) -> Visited {
    let Some(Source::Remote(inbox)) = set.registry.get(key) else { return Visited::Drained };
    for job in inbox.take() {
        let called = call_once(set, key, |cx| {
            job(cx, state);
            Ok(())
        });
        if called.or_report(set, key, "remote job") == Asked::Stop {
            break;
        }
    }
    Visited::Drained
}
