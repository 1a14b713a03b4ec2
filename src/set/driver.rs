//! How the reactor calls a session: one virtual call per read, static dispatch per message.

use std::io;

use crate::{
    bytes::{
        frames::{Frames, Pass},
        framing::Refusal,
    },
    observe::{
        probe::{Off, On, Probe},
        throttle::Kind,
    },
    set::{context::Context, poll_set::PollSet, session::Session},
    types::cause::{Cause, Limit, Outcome},
};

/// Implemented for every [`Session`]. The methods are compiled for the session's type, so they call its `on_request`
/// directly, once for each frame.
pub(crate) trait Driver<S>: Session<S> {
    /// Handles the frames of one read.
    fn on_frames(&mut self, frames: &mut Frames<'_>, cx: &mut Context<'_, S>, state: &mut S) -> Outcome<()>;

    /// The same, and emits an event and a log line for each.
    fn on_frames_observed(
        &mut self,
        frames: &mut Frames<'_>,
        cx: &mut Context<'_, S>,
        state: &mut S,
    ) -> Outcome<()>;
}

impl<S, T: Session<S>> Driver<S> for T {
    fn on_frames(&mut self, frames: &mut Frames<'_>, cx: &mut Context<'_, S>, state: &mut S) -> Outcome<()> {
        handle_frames::<S, T, Off>(self, frames, cx, state)
    }

    fn on_frames_observed(
        &mut self,
        frames: &mut Frames<'_>,
        cx: &mut Context<'_, S>,
        state: &mut S,
    ) -> Outcome<()> {
        handle_frames::<S, T, On>(self, frames, cx, state)
    }
}

#[inline(always)]
fn handle_frames<S, T: Session<S>, P: Probe>(
    session: &mut T,
    frames: &mut Frames<'_>,
    cx: &mut Context<'_, S>,
    state: &mut S,
) -> Outcome<()> {
    let mut rest = frames.rest;
    let mut messages = frames.messages;
    let known_size = frames.known_size();
    while !rest.is_empty() {
        let next = match known_size {
            Some(size) => rest.split_at_checked(size),
            None => match frames.decode(rest, cx.set.limits.frame_max) {
                Ok(next) => next,
                Err(refusal) => return Err(refused(refusal, cx)),
            },
        };
        let Some((request, after)) = next else { break };
        rest = after;
        cx.set.stats.requests += 1;
        let replied = if P::ON { cx.set.io.unsent() } else { 0 };
        if let Err(error) = session.on_request(request, cx, state) {
            return Err(failed(error));
        }
        if P::ON {
            let key = cx.key();
            cx.set.emit_request(key, request, replied);
        }
        messages -= 1;
        if messages == 0 || cx.set.call.has_asked() {
            frames.pass = stopped(frames, rest, cx.set);
            break;
        }
    }
    (frames.rest, frames.messages) = (rest, messages);
    Ok(())
}

/// Why the handling stops before the next frame; `None` if there is no next frame.
#[cold]
fn stopped<'a, S>(frames: &mut Frames<'a>, rest: &'a [u8], set: &mut PollSet<S>) -> Option<Pass> {
    if set.call.has_asked() {
        return Some(Pass::Asked);
    }
    // A frame of which only a part has come is for a later read: no limit is reached.
    let is_whole = match frames.known_size() {
        Some(size) => rest.len() >= size,
        None => !rest.is_empty() && !matches!(frames.decode(rest, set.limits.frame_max), Ok(None)),
    };
    if is_whole {
        set.count_limit(Limit::Messages);
        return Some(Pass::Budget);
    }
    None
}

#[cold]
pub(crate) fn failed(error: io::Error) -> Box<Cause> {
    Box::new(Cause::Handler(error))
}

#[cold]
fn refused<S>(refusal: Refusal, cx: &mut Context<'_, S>) -> Box<Cause> {
    let key = cx.key();
    Box::new(match refusal {
        Refusal::TooLarge(size, max) => {
            cx.set.report_limit(
                Limit::Frame,
                format_args!("client {key}: {size} bytes or more, {max} allowed"),
            );
            Cause::Limit(Limit::Frame)
        }
        Refusal::Malformed(error) => {
            cx.set.warn(Kind::Client, format_args!("client {key}: malformed frame: {error}"));
            Cause::Malformed(error)
        }
    })
}
