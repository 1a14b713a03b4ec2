//! What was read, cut into frames and handed to the session.

use std::io;

use log::{Level, log_enabled};

use crate::{
    bytes::{
        buffer::Pool,
        framing::{Decoded, Framing, Refusal},
    },
    client::input::Pass,
    observe::{event::What, throttle::Kind},
    set::{
        client::Client,
        context::Context,
        poll_set::{Answering, Halt, PollSet},
        session::Session,
    },
    types::cause::{Cause, Limit, Outcome},
};

/// What was read, on its way through [`Session::on_frames`].
#[doc(hidden)]
#[derive(Debug)]
pub struct Frames<'a> {
    framing: &'a Framing,
    /// The bytes that no whole frame has taken yet.
    pub(crate) rest: &'a [u8],
    /// How many of them are known to hold no whole frame.
    pub(crate) scanned: usize,
    /// How many messages the budget still allows.
    pub(crate) messages: usize,
    /// Why it stopped, if not for want of a whole frame.
    pub(crate) pass: Option<Pass>,
}

/// A frame, and what comes behind it.
type Split<'a> = (&'a [u8], &'a [u8]);

impl<'a> Frames<'a> {
    #[inline]
    pub(crate) fn new(framing: &'a Framing, bytes: &'a [u8], messages: usize) -> Frames<'a> {
        Frames { framing, rest: bytes, scanned: 0, messages: messages.max(1), pass: None }
    }

    /// Bytes are left, or somebody has stopped the handling.
    #[inline]
    pub(crate) fn is_unusual(&self) -> bool {
        self.pass.is_some() || !self.rest.is_empty()
    }

    /// The first frame, where only a look at the bytes tells how long it is, and the rest.
    fn decode(&mut self, rest: &'a [u8], frame_max: usize) -> Result<Option<Split<'a>>, Refusal> {
        let max = self.framing.frame_max(frame_max);
        Ok(match self.framing.decode(rest, &mut self.scanned, max)? {
            Decoded::Frame { payload, consumed } => Some((&rest[payload], &rest[consumed..])),
            Decoded::Partial { .. } => None,
        })
    }
}

/// Hands every whole frame to the session. As the body of [`Session::on_frames`] it is compiled with the session's own type:
/// a read costs a call through a table, a message none. `TOLD`: the log and observers are told of each message.
#[inline(always)]
pub(crate) fn hand_over<S, T: Session<S> + ?Sized, const TOLD: bool>(
    session: &mut T,
    frames: &mut Frames<'_>,
    cx: &mut Context<'_, S>,
    state: &mut S,
) -> Outcome<()> {
    let mut rest = frames.rest;
    let mut messages = frames.messages;
    let known_size = frames.framing.known_size(rest.len());
    while !rest.is_empty() {
        let next = match known_size {
            Some(size) => rest.split_at_checked(size),
            None => match frames.decode(rest, cx.set.limits.frame_max) {
                Ok(next) => next,
                Err(refusal) => return Err(refused(refusal, cx)),
            },
        };
        let Some((request, behind)) = next else { break };
        rest = behind;
        cx.set.stats.srms += 1;
        let replied = cx.set.unsent();
        if let Err(error) = session.on_request(request, cx, state) {
            return Err(failed(error));
        }
        if TOLD {
            tell_srm(request, replied, cx);
        }
        messages -= 1;
        if messages == 0 || cx.set.halt != Halt::No {
            frames.pass = stopped(messages, rest, cx.set);
            break;
        }
    }
    (frames.rest, frames.messages) = (rest, messages);
    Ok(())
}

/// [`hand_over`], the log and observers told of each message if they want to know.
pub(crate) fn hand_over_told<S>(
    session: &mut dyn Session<S>,
    frames: &mut Frames<'_>,
    cx: &mut Context<'_, S>,
    state: &mut S,
) -> Outcome<()> {
    if cx.set.tells_messages() || log_enabled!(target: "ipc_reactor", Level::Trace) {
        hand_over::<_, _, true>(session, frames, cx, state)
    } else {
        session.on_frames(frames, cx, state)
    }
}

/// Why the handling stops before the next frame, if there is one.
#[cold]
fn stopped<S>(messages: usize, rest: &[u8], set: &mut PollSet<S>) -> Option<Pass> {
    if messages == 0 && !rest.is_empty() {
        set.tripped(Limit::Messages);
        return Some(Pass::Budget);
    }
    (set.halt != Halt::No).then_some(Pass::Halted)
}

#[cold]
pub(crate) fn failed(error: io::Error) -> Box<Cause> {
    Box::new(Cause::Handler(error))
}

#[cold]
fn refused<S>(refusal: Refusal, cx: &mut Context<'_, S>) -> Box<Cause> {
    let key = cx.key;
    Box::new(match refusal {
        Refusal::TooLarge(size, max) => {
            cx.set.trip(Limit::Frame, format_args!("client {key}: {size} bytes or more, {max} allowed"));
            Cause::Limit(Limit::Frame)
        }
        Refusal::Malformed(error) => {
            cx.set.complain(
                Kind::Client,
                Level::Warn,
                format_args!("client {key}: malformed frame: {error}"),
            );
            Cause::Malformed(error)
        }
    })
}

/// An SRM has been handled.
#[cold]
pub(crate) fn tell_srm<S>(request: &[u8], replied: usize, cx: &mut Context<'_, S>) {
    log::trace!(target: "ipc_reactor", "SRM from client {}: {} bytes", cx.key, request.len());
    if cx.set.tells_messages() {
        let reply_bytes = match cx.set.answering {
            Answering::Records => record_bytes(&cx.set.out.bytes()[replied..]),
            _ => cx.set.unsent() - replied,
        };
        cx.set.tell_lap(|handler_ns, who| What::Srm { who, request, reply_bytes, handler_ns });
    }
}

/// How many bytes these records have, without the lengths that stand before them.
fn record_bytes(mut records: &[u8]) -> usize {
    let mut bytes = 0;
    while let Some((length, rest)) = records.split_first_chunk() {
        let length = u32::from_ne_bytes(*length) as usize;
        bytes += length;
        records = &rest[length..];
    }
    bytes
}

/// Half a frame, or frames that a budget has left.
#[cold]
pub(crate) fn keep_rest<S>(
    client: &mut Client<S>,
    frames: &Frames<'_>,
    pool: &mut Pool,
    now_ns: u64,
) -> Outcome<()> {
    if frames.rest.is_empty() {
        return Ok(());
    }
    let mut held = pool.lend();
    held.extend(frames.rest).map_err(Cause::Io)?;
    held.since_ns = now_ns;
    held.scanned = frames.scanned;
    client.input = Some(held);
    client.more = frames.pass.is_some();
    Ok(())
}
