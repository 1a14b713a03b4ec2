//! A visit to a client: reads, calls the session with each frame, and sends the replies.
//!
//! It begins with the straight line ([`visit_at_once`]), which is all of most visits: the event is readable and nothing
//! else, nothing about the client is unusual, the read is short, every byte of it belongs to a whole frame, and one
//! send takes all replies. Such a visit leaves no state behind, and skips the ready list.
//!
//! Everything else is [`Visit::run`]: it sends buffered output, reads until nothing is left or the budget is spent,
//! calls the session with each whole frame (`input.rs`), and sends all replies at once (`output.rs`).

use std::{mem, ops::Range};

use crate::{
    bytes::frames::{Frames, Pass},
    client::{
        accounts::account,
        connect::poll_connect,
        deadlines::arm_deadline,
        input::keep_rest,
        output::{keep_borrowed, send_copied},
        visit_state::{Exit, Flow, Visit, VisitArgs, halves, io_of},
    },
    observe::{
        event::{SourceInfo, SourceKind, VisitEnd, What},
        probe::{Off, On, Probe},
    },
    poll::registry::Slot,
    set::{
        asked::Asked,
        call::{Called, call, call_session},
        client::{Ending, Flags, Read},
        driver::{Driver, failed},
        io::ReplyMode,
        lifecycle::Phase,
        poll_set::PollSet,
        session::{Drain, HalfClose},
        source::{Source, Visited},
    },
    sys::socket,
    types::{
        cause::{Cause, Outcome},
        key::{Key, TimerKey},
        ready::Ready,
    },
};

// ---- The straight line ----

/// How a visit that began with the straight line went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtOnce {
    /// The straight line was all: the handler has asked for nothing, so the loop has nothing to check.
    Straight,
    /// The visit went further: the loop checks its state.
    Other,
}

/// Whether nothing is unusual about a client, and it is not in the ready list: a readable event can be handled at once.
/// `RIGHTS`: whether its reads must take descriptors.
#[inline(always)]
pub(crate) fn is_plain<S, const RIGHTS: bool>(set: &PollSet<S>, key: Key) -> bool {
    let Some(Slot { value: Source::Client { io, .. }, queued: false, .. }) = set.registry.slot(key) else {
        return false;
    };
    if RIGHTS { io.is_plain_with_rights() } else { io.is_plain() }
}

/// Visits a [plain](is_plain) client as soon as its event is read. The event is readable, and nothing else.
#[inline(always)]
pub(crate) fn visit_at_once<S, P: Probe, const RIGHTS: bool>(
    set: &mut PollSet<S>,
    key: Key,
    args: &mut VisitArgs<'_, S>,
) -> AtOnce {
    if P::ON {
        let io = io_of(&mut set.registry, key);
        let source = SourceInfo { key, fd: Some(io.raw_fd()), kind: SourceKind::Client };
        set.begin_visit_at_once(source);
    }
    let (io, session) = halves(&mut set.registry, key);
    let read = if RIGHTS {
        // A plain client has no descriptors, so the inbox is empty.
        io.recv(args.scratch, &mut set.io.inbox, usize::MAX)
    } else {
        socket::recv(io.fd(), args.scratch).into()
    };
    let count = match read {
        Read::Bytes(count) if count < args.scratch.len() => count,
        unusual => return go_on(set, key, args, Progress::Read(unusual)),
    };
    set.stats.bytes_in += count as u64;
    if P::ON || io.config.framing.known_size(count) != Some(count) {
        return visit_frames::<S, P>(set, key, args, count);
    }
    let Some(mut taken) = session.take() else { unreachable!("it is there unless it runs") };
    set.stats.requests += 1;
    let (read, state) = (&args.scratch[..count], &mut *args.state);
    set.io.begin_replies(read);
    if let Err(called) = call_session(set, key, |cx| taken.on_request(read, cx, state).map_err(failed)) {
        return finish_unusual(set, key, args, taken, called, count);
    }
    let borrowed = set.io.end_replies(read);
    match answer(set, key, taken, borrowed) {
        Ok(()) => AtOnce::Straight,
        Err(sent) => finish_request(set, key, args, sent..borrowed.len()),
    }
}

/// The first visit to a client that was just accepted and is not registered yet: opens the session, and handles a
/// request that came with the connection. Bytes that come later make an edge when the client is registered.
pub(crate) fn first_visit<S>(set: &mut PollSet<S>, key: Key, args: &mut VisitArgs<'_, S>) {
    let Some(ready) = set.registry.begin_visit(key) else { return };
    let io = io_of(&mut set.registry, key);
    let (config, received) = (io.config.clone(), set.stats.bytes_in);
    if !io.becomes_plain() {
        visit(set, key, ready, args);
        return;
    }
    io.flags.set(Flags::OPENED, true);
    set.io.begin_replies(&[]);
    let state = &mut *args.state;
    let called = call(set, key, |session: &mut Box<dyn Driver<S>>, cx| session.on_open(cx, state));
    set.io.end_replies(&[]);
    if !called.is_plain() || !set.io.out.is_empty() {
        go_on(set, key, args, Progress::handled(called, Ok(()), 0));
    } else if set.observes() {
        visit_first::<S, On>(set, key, args);
    } else {
        visit_first::<S, Off>(set, key, args);
    }
    config.note_first_visit(set.stats.bytes_in > received);
}

fn visit_first<S, P: Probe>(set: &mut PollSet<S>, key: Key, args: &mut VisitArgs<'_, S>) {
    if io_of(&mut set.registry, key).takes_rights() {
        visit_at_once::<S, P, true>(set, key, args);
    } else {
        visit_at_once::<S, P, false>(set, key, args);
    }
}

/// Puts the session back, which has asked for nothing, and sends the replies if all of them are borrowed. `Err`: not
/// all are sent, but this many bytes.
#[inline(always)]
fn answer<S>(
    set: &mut PollSet<S>,
    key: Key,
    session: Box<dyn Driver<S>>,
    borrowed: &[u8],
) -> Result<(), usize> {
    let (io, slot) = halves(&mut set.registry, key);
    // The replaced value is `None`, which needs no drop.
    mem::forget(slot.replace(session));
    if set.limits.idle.is_some() {
        io.active_ns = set.timers.clock.now_ns();
    }
    if !set.io.out.is_empty() {
        return Err(0);
    }
    if borrowed.is_empty() {
        return Ok(());
    }
    // An error is handled by the rest of the visit, which sends again.
    let sent = socket::send(io.fd(), borrowed).unwrap_or(0);
    set.stats.bytes_out += sent as u64;
    if sent == borrowed.len() { Ok(()) } else { Err(sent) }
}

/// The straight line, if not all replies are sent. `unsent`: the range of the borrowed ones in the read buffer.
#[inline(never)]
fn finish_request<S>(
    set: &mut PollSet<S>,
    key: Key,
    args: &mut VisitArgs<'_, S>,
    unsent: Range<usize>,
) -> AtOnce {
    match send_copied(set, key, &args.scratch[unsent]) {
        Ok(true) => AtOnce::Straight,
        sent => go_on(set, key, args, Progress::handled(Called::plain(), sent.map(drop), 0)),
    }
}

/// The straight line, if the session has failed or asked for something.
#[cold]
fn finish_unusual<S>(
    set: &mut PollSet<S>,
    key: Key,
    args: &mut VisitArgs<'_, S>,
    session: Box<dyn Driver<S>>,
    called: Called<()>,
    count: usize,
) -> AtOnce {
    let kept = put_back_unusual(set, key, session, &args.scratch[..count]);
    go_on(set, key, args, Progress::handled(called, kept, 0))
}

#[cold]
fn put_back_unusual<S>(
    set: &mut PollSet<S>,
    key: Key,
    session: Box<dyn Driver<S>>,
    read: &[u8],
) -> Outcome<()> {
    let borrowed = set.io.end_replies(read);
    *halves(&mut set.registry, key).1 = Some(session);
    keep_borrowed(set, borrowed)
}

/// The straight line, if the read is not exactly one frame.
#[inline(never)]
fn visit_frames<S, P: Probe>(
    set: &mut PollSet<S>,
    key: Key,
    args: &mut VisitArgs<'_, S>,
    count: usize,
) -> AtOnce {
    if P::ON && set.observes_messages() {
        let call = io_of(&mut set.registry, key).read_call();
        set.emit_timed(|_, source| What::Read { source, call, bytes: count });
    }
    let (io, session) = halves(&mut set.registry, key);
    let Some(mut taken) = session.take() else { unreachable!("it is there unless it runs") };
    let config = io.config.clone();
    let (read, state) = (&args.scratch[..count], &mut *args.state);
    let mut frames = Frames::new(&config.framing, read, set.limits.messages_per_visit);
    set.io.begin_replies(read);
    let called = call_session(set, key, |cx| {
        if P::ON {
            taken.on_frames_observed(&mut frames, cx, state)
        } else {
            taken.on_frames(&mut frames, cx, state)
        }
    });
    let bytes_out = set.stats.bytes_out;
    let (called, mut sent) = match called {
        Err(called) => {
            let kept = put_back_unusual(set, key, taken, read);
            (called, kept.map(|()| false))
        }
        Ok(()) => {
            let borrowed = set.io.end_replies(read);
            match answer(set, key, taken, borrowed) {
                Ok(()) if !P::ON && frames.is_done() => return AtOnce::Straight,
                Ok(()) => (Called::plain(), Ok(true)),
                Err(sent) => (Called::plain(), send_copied(set, key, &borrowed[sent..])),
            }
        }
    };
    if P::ON && set.observes_messages() {
        let bytes = usize::try_from(set.stats.bytes_out - bytes_out).unwrap_or(usize::MAX);
        let left = set.io.out.len();
        if bytes > 0 {
            set.emit_timed(|_, source| What::Sent { source, bytes, left });
        }
    }
    if frames.is_done() && called.is_plain() && matches!(sent, Ok(true)) {
        if P::ON {
            set.end_visit(VisitEnd::Drained);
        }
        return AtOnce::Straight;
    }
    if called.result.is_ok() && sent.is_ok() && !frames.rest.is_empty() {
        let now_ns = set.now_ns();
        let io = io_of(&mut set.registry, key);
        if let Err(cause) = keep_rest(io, &frames, &mut set.io.pool, now_ns) {
            sent = Err(cause);
        }
    }
    let progress = Progress::handled(called, sent.map(drop), frames.messages);
    go_on(set, key, args, progress)
}

/// How far the straight line has come when something unusual ends it.
enum Progress {
    /// This was read, and is not handled yet.
    Read(Read),
    /// All that was read is handled or buffered, and its replies are sent or in the reactor's buffer. `messages`: what
    /// is left of the budget.
    Handled { outcome: Outcome<()>, asked: Asked, messages: usize },
}

impl Progress {
    fn handled(called: Called<()>, sent: Outcome<()>, messages: usize) -> Progress {
        let Called { result, asked } = called;
        Progress::Handled { outcome: result.and(sent), asked, messages }
    }
}

/// Continues where the straight line ends.
#[cold]
fn go_on<S>(set: &mut PollSet<S>, key: Key, args: &mut VisitArgs<'_, S>, progress: Progress) -> AtOnce {
    let mut visit = Visit::new(set, key, Ready::READABLE, args);
    visit.begin();
    let flow = match progress {
        Progress::Read(read) => {
            visit.first = Some(read);
            visit.run()
        }
        Progress::Handled { outcome, asked, messages } => {
            (visit.left, visit.budget.messages) = (Ready::NONE, messages);
            visit.apply(Called { result: outcome, asked }).and_then(|()| visit.run_handled())
        }
    };
    let end = visit.finish(flow);
    set.end_visit(end);
    AtOnce::Other
}

// ---- Everything else ----

/// One visit to a client from the ready list.
pub(crate) fn visit<S>(
    set: &mut PollSet<S>,
    key: Key,
    ready: Ready,
    args: &mut VisitArgs<'_, S>,
) -> VisitEnd {
    let received = set.stats.bytes_in;
    let mut visit = Visit::new(set, key, ready, args);
    visit.begin();
    let io = visit.io();
    let first = (!io.flags.has(Flags::OPENED)).then(|| io.config.clone());
    io.flags.set_if(Flags::WRITABLE, ready.has(Ready::WRITABLE | Ready::WRITE_CLOSED | Ready::ERROR));
    if ready.has(Ready::READ_CLOSED | Ready::WRITE_CLOSED | Ready::ERROR) {
        visit.left |= Ready::READABLE;
    }
    let flow = visit.run();
    if let Some(config) = first {
        config.note_first_visit(visit.set.stats.bytes_in > received);
    }
    visit.finish(flow)
}

/// A session's timer is due.
pub(crate) fn wake<S>(set: &mut PollSet<S>, key: Key, timer: TimerKey, args: &mut VisitArgs<'_, S>) {
    if !matches!(set.registry.get(key), Some(Source::Client { io, .. }) if io.is_open()) {
        return;
    }
    let mut visit = Visit::new(set, key, Ready::NONE, args);
    visit.begin();
    let flow = visit.call(|session, cx, state| session.on_timer(timer, cx, state)).and_then(|()| {
        visit.flush()?;
        // The next visit does the rest.
        Ok(Visited::Again(Ready::NONE))
    });
    visit.finish(flow);
}

impl<S> Visit<'_, S> {
    /// Gives the reactor's buffers to the client.
    fn begin(&mut self) {
        let io = io_of(&mut self.set.registry, self.key);
        if let Some(mut waiting) = io.take_output() {
            // The reactor's buffer is empty here: the straight line is for clients without output.
            mem::swap(&mut self.set.io.out, &mut waiting);
            self.set.io.pool.give_back(waiting);
        }
        if let Some(extra) = io.extra() {
            mem::swap(&mut self.set.io.inbox.descriptors, &mut extra.descriptors);
        }
        self.set.io.mode = if io.config.records { ReplyMode::Records } else { ReplyMode::Stream };
    }

    /// Takes the buffers back. Unsent output stays with the client, and its buffered bytes are accounted.
    fn finish(mut self, flow: Flow<Visited>) -> VisitEnd {
        self.set.stats.descriptors_discarded += mem::take(&mut self.set.io.inbox.discarded);
        let visited = match flow {
            Ok(visited) => visited,
            Err(Exit::Stop) => match self.flush() {
                Err(Exit::Close(cause)) => Visited::Closed(cause),
                // What was replied before the stop is sent, as far as the socket takes it.
                _ => Visited::Again(self.left),
            },
            Err(Exit::Close(cause)) => Visited::Closed(cause),
            Err(Exit::Ended(ending)) => {
                let Visit { set, key, .. } = self;
                set.io.mode = ReplyMode::None;
                if let Some(extra) = io_of(&mut set.registry, key).extra() {
                    mem::swap(&mut set.io.inbox.descriptors, &mut extra.descriptors);
                }
                set.remove(key, ending.into());
                return VisitEnd::Closed;
            }
        };
        let Visit { set, key, .. } = self;
        set.io.mode = ReplyMode::None;
        let io = io_of(&mut set.registry, key);
        if let Some(extra) = io.extra() {
            mem::swap(&mut set.io.inbox.descriptors, &mut extra.descriptors);
        }
        if matches!(visited, Visited::Closed(_)) {
            set.io.out.clear();
            return set.finish_visit(key, visited);
        }
        if set.io.out.is_empty() && io.buffered == 0 && !io.has_input() {
            return set.finish_visit(key, visited);
        }
        if !set.io.out.is_empty() {
            let mut waiting = set.io.pool.take();
            mem::swap(&mut set.io.out, &mut waiting);
            io.put_output(waiting);
        }
        if let Some(limit) = account(set, key) {
            set.report_limit(limit, format_args!("client {key}"));
            return set.finish_visit(key, Visited::closed(Cause::Limit(limit)));
        }
        arm_deadline(set, key);
        set.finish_visit(key, visited)
    }

    // ---- The phases of a visit ----

    /// Continues after the straight line has handled what was read.
    fn run_handled(&mut self) -> Flow<Visited> {
        if self.budget.messages == 0 && self.has(Flags::FRAMES_PENDING) && self.io().is_open() {
            self.flush()?;
            return Ok(Visited::Again(self.left));
        }
        self.run()
    }

    /// Sends, reads, handles, sends, until nothing is left to do or the budget is spent.
    fn run(&mut self) -> Flow<Visited> {
        if self.io().extra().is_some() && !poll_connect(self)? {
            return Ok(Visited::Blocked(Ready::NONE));
        }
        let gone = self.left.has(Ready::WRITE_CLOSED);
        loop {
            self.flush()?;
            let io = io_of(&mut self.set.registry, self.key);
            if let Some(ending) = io.ending() {
                return if self.set.io.out.is_empty() {
                    Err(Exit::Ended(ending))
                } else {
                    Ok(Visited::Blocked(self.left))
                };
            }
            if self.set.io.out.len() > self.set.limits.output_high_water || io.flags.has(Flags::THROTTLED) {
                if self.stays_throttled()? {
                    return Ok(Visited::Blocked(self.left));
                }
                self.call(|session, cx, state| session.on_flushed(cx, state))?;
                continue;
            }
            let pass = self.read_requests()?;
            match pass {
                Pass::Asked | Pass::Budget if !self.io().is_open() => continue,
                Pass::Asked => match self.budget.spent() {
                    Some(limit) if self.is_anything_left() => self.set.count_limit(limit),
                    _ => continue,
                },
                Pass::Budget => {}
                Pass::EndOfFile => {
                    self.io().flags.set(Flags::READ_CLOSED, true);
                    // The session may have closed the client when it handled the last message.
                    if self.io().ending() != Some(Ending::Closed)
                        && self.call(|session, cx, state| session.on_half_close(cx, state))?
                            == HalfClose::Close
                    {
                        let now_ns = self.set.now_ns();
                        self.io().end(Ending::Peer, now_ns);
                    }
                    continue;
                }
                Pass::Drained => {}
            }
            self.flush()?;
            if matches!(pass, Pass::Asked | Pass::Budget) {
                return Ok(Visited::Again(self.left));
            }
            if !self.io().is_open() || self.set.io.out.len() > self.set.limits.output_high_water {
                continue;
            }
            if self.drain_is_due() {
                self.io().flags.set(Flags::DRAIN_NOTIFIED, true);
                if self.call(|session, cx, state| session.on_drain(cx, state))? == Drain::Close {
                    let now_ns = self.set.now_ns();
                    self.io().end(Ending::Drain, now_ns);
                }
                continue;
            }
            // A client that is kept only for writing is closed when the peer does not read any more.
            let write_closed = self.has(Flags::WRITE_CLOSED);
            if self.has(Flags::READ_CLOSED.or(Flags::READ_SHUTDOWN)) && (gone || write_closed) {
                return Err(if write_closed { Cause::Reset } else { Cause::Peer }.into());
            }
            return Ok(Visited::Drained);
        }
    }

    /// Whether the loop drains and this client has nothing left to do. A client that has begun the drain itself is in
    /// the ready list: its next visit reads what came before.
    fn drain_is_due(&mut self) -> bool {
        self.set.lifecycle.phase() == Phase::Draining
            && !self.has(Flags::DRAIN_NOTIFIED)
            && self.set.io.out.is_empty()
            && !self.set.registry.is_queued(self.key)
    }
}
