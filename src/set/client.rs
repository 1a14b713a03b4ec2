//! A client handle: what the slab holds of a connection, how it comes in, what it holds, when its time is up.

use std::{
    cell::Cell,
    collections::VecDeque,
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use mio::{Interest, unix::SourceFd};

use crate::{
    bytes::{
        buffer::{Buffer, Pool},
        framing::Framing,
    },
    client::{
        accounts::{UID_UNKNOWN, account, uid_of},
        connect::Connecting,
    },
    net::listener::ListenerKind,
    observe::event::{SourceKind, Who},
    set::{
        poll_set::{Phase, PollSet},
        session::Session,
        source::{Ready, Source},
    },
    sys::socket,
    types::{cause::Cause, key::Key},
};

/// What all clients of one master socket have in common.
pub(crate) struct Plan {
    pub(crate) framing: Framing,
    /// The socket keeps message boundaries (seqpacket): a read is a record, a reply is a record.
    pub(crate) records: bool,
    /// A short read proves that nothing is left. It does not where a passed descriptor can cut it short.
    pub(crate) proved: bool,
    /// The peer may pass descriptors.
    pub(crate) passes: bool,
    /// The kernel vouches for the peer's uid.
    pub(crate) unix: bool,
    /// Of the latest newcomers, how many more than not had something to say when they came: 0 to 3.
    talkative: Cell<u8>,
}

impl Plan {
    pub(crate) fn new(kind: ListenerKind, framing: Framing, refuses_descriptors: bool) -> Plan {
        Plan {
            records: kind.is_seqpacket(),
            // A passed descriptor stops a read short.
            proved: kind.is_tcp() || (refuses_descriptors && framing.descriptors_max() == 0),
            passes: framing.descriptors_max() > 0 && !kind.is_tcp(),
            unix: !kind.is_tcp(),
            talkative: Cell::new(0),
            framing,
        }
    }

    /// Whether the next newcomer will have something to say when it comes, as the latest had.
    pub(crate) fn expects_request(&self) -> bool {
        self.talkative.get() >= 2
    }

    /// Whether a newcomer had something to say by its first visit.
    pub(crate) fn note_newcomer(&self, spoke: bool) {
        let before = self.talkative.get();
        self.talkative.set(if spoke { (before + 1).min(3) } else { before.saturating_sub(1) });
    }
}

/// Why a client that still has bytes to take is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Peer,
    HalfFrame,
    Closed,
    Drain,
}

impl From<Ending> for Cause {
    fn from(ending: Ending) -> Cause {
        match ending {
            Ending::Peer => Cause::Peer,
            Ending::HalfFrame => Cause::HalfFrame,
            Ending::Closed => Cause::Closed,
            Ending::Drain => Cause::Drain,
        }
    }
}

pub(crate) struct Client<S> {
    pub(crate) socket: OwnedFd,
    pub(crate) plan: Rc<Plan>,
    /// None while it runs, if its client stays in its slot meanwhile.
    pub(crate) session: Option<Box<dyn Session<S>>>,
    /// Bytes that are no whole frame yet, or frames that a budget left.
    pub(crate) input: Option<Box<Buffer>>,
    /// Bytes that the socket did not take yet.
    pub(crate) output: Option<Box<Buffer>>,
    /// What few clients have.
    pub(crate) extra: Option<Box<Extra>>,
    /// When it last sent or took a byte; for one that is ending, since when.
    pub(crate) active_ns: u64,
    /// How much of the reactor's memory it holds, as accounted.
    pub(crate) held: u32,
    pub(crate) uid: u32,
    pub(crate) ending: Option<Ending>,
    /// There is nothing unusual about it: as seen at the end of its last general visit. Between visits only `output` and
    /// `ending` change, by [`Client::output`] and [`Client::end`].
    plain: bool,
    pub(crate) opened: bool,
    /// It is not in the kernel's poll set yet: its first visit comes before that.
    pub(crate) unwatched: bool,
    /// `input` may hold whole frames.
    pub(crate) more: bool,
    /// The peer has shut down its writing side, or we have ended reading.
    pub(crate) eof: bool,
    /// The peer does not read any more: what would be sent is thrown away.
    pub(crate) mute: bool,
    /// The socket took all it was given last.
    pub(crate) writable: bool,
    /// It is registered for `EPOLLOUT`.
    pub(crate) watches_write: bool,
    /// It takes its replies too slowly; nothing is read from it.
    pub(crate) slow: bool,
    /// Nothing more is read: a drain has shut its reading side.
    pub(crate) shut: bool,
    /// It was asked to end for a drain.
    pub(crate) asked: bool,
}

/// What few clients have.
#[derive(Default)]
pub(crate) struct Extra {
    /// Passed by the peer, and not taken by the session yet.
    pub(crate) descriptors: VecDeque<OwnedFd>,
    /// A connection of ours that is being made.
    pub(crate) connecting: Option<Box<Connecting>>,
}

impl<S> Client<S> {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    #[inline]
    pub(crate) fn who(&self, key: Key) -> Who {
        Who { key, fd: Some(self.socket.as_raw_fd()), kind: SourceKind::Client }
    }

    /// Nothing is unusual about it: a readable event can be served without asking what else there is to do.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// At the end of a visit: whether it is plain from now on.
    pub(crate) fn note_plain(&mut self) {
        self.plain = self.output.is_none()
            && self.ending.is_none()
            && self.plan.proved
            && !self.plan.records
            && self.opened
            && self.writable
            && self.input.is_none()
            && self.extra.is_none()
            && !(self.eof | self.mute | self.slow | self.shut | self.asked);
    }

    /// What waits to be sent to it, from outside of its visits.
    pub(crate) fn output(&mut self, pool: &mut Pool) -> &mut Buffer {
        self.plain = false;
        self.output.get_or_insert_with(|| pool.lend())
    }

    pub(crate) fn is_connecting(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.connecting.is_some())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.ending.is_none()
    }

    /// Sends what waits, then closes; nothing more is read. From now on it is the flush deadline that counts.
    pub(crate) fn end(&mut self, ending: Ending, now_ns: u64) {
        if self.is_open() {
            self.ending = Some(ending);
            self.plain = false;
            self.active_ns = now_ns;
        }
    }

    pub(crate) fn has_half_frame(&self) -> Option<u64> {
        self.input.as_ref().filter(|_| !self.more).map(|input| input.since_ns)
    }

    /// Gives back what it holds of the reactor's; what is left is the session, to be told.
    pub(crate) fn dismantle(mut self, set: &mut PollSet<S>) -> Box<dyn Session<S>> {
        account(set, &mut self, 0);
        if let Some(users) = &mut set.users
            && let Some(usage) = users.get_mut(&self.uid)
        {
            usage.clients -= 1;
            if usage.clients == 0 {
                users.remove(&self.uid);
            }
        }
        for buffer in [self.input.take(), self.output.take()].into_iter().flatten() {
            set.pool.give_back(buffer);
        }
        self.session.take().expect("its visit is over")
    }

    /// The session of a client that was taken out of its slot.
    pub(crate) fn session(&mut self) -> &mut dyn Session<S> {
        &mut **self.session.as_mut().expect("in a general visit it stays with its client")
    }
}

/// When a new client comes into the kernel's poll set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    AtOnce,
    /// The caller visits it, and then calls [`watch`].
    AfterFirstVisit,
}

/// A new client: in the slab, in the poll set, and visited in the next round.
pub(crate) fn admit<S>(
    set: &mut PollSet<S>,
    socket: OwnedFd,
    plan: Rc<Plan>,
    session: Box<dyn Session<S>>,
    extra: Option<Box<Extra>>,
    watched: Watched,
) -> io::Result<Key> {
    let connecting = extra.as_ref().is_some_and(|extra| extra.connecting.is_some());
    let interest = interest(&plan, connecting);
    let extra = extra.or_else(|| plan.passes.then(Box::default));
    let mut client = Client {
        socket,
        plan,
        session: Some(session),
        input: None,
        output: None,
        extra,
        active_ns: set.now_ns(),
        held: 0,
        uid: UID_UNKNOWN,
        ending: None,
        plain: false,
        opened: false,
        unwatched: watched == Watched::AfterFirstVisit,
        more: false,
        eof: false,
        mute: false,
        writable: !connecting,
        watches_write: connecting,
        slow: false,
        shut: false,
        asked: false,
    };
    if set.users.is_some() {
        client.uid = uid_of(&client);
    }
    let (active_ns, uid) = (client.active_ns, client.uid);
    let key = if client.unwatched {
        set.check_not_forked()?;
        set.next_key()
    } else {
        set.register(client.socket.as_fd(), interest)?
    };
    set.place(key, Source::Client(client));
    if let Some(users) = &mut set.users {
        users.entry(uid).or_default().clients += 1;
    }
    set.stats.clients += 1;
    if let Some(time) = if connecting { Some(set.limits.connect) } else { set.limits.idle } {
        set.timers.client_deadline(
            &mut set.slots,
            key.index,
            active_ns.saturating_add(time.as_nanos() as u64),
        );
    }
    if watched == Watched::AfterFirstVisit {
        set.slots[key.index as usize].ready = Ready::READABLE;
        return Ok(key);
    }
    // The session is opened by its first visit, and in a drain it is asked to end.
    set.mark_ready(key, if set.phase == Phase::Draining { Ready::READABLE } else { Ready::NONE });
    Ok(key)
}

/// Puts a client that has been visited for the first time into the kernel's poll set. What has come since the visit makes an
/// edge of its own.
pub(crate) fn watch<S>(set: &mut PollSet<S>, key: Key) {
    let Some(Source::Client(client)) = set.source(key) else { return };
    let (fd, interest) = (client.socket.as_raw_fd(), interest(&client.plan, client.watches_write));
    let watched = set
        .check_not_forked()
        .and_then(|()| set.poll.registry().register(&mut SourceFd(&fd), key.token(), interest));
    let Some(slot) = set.slot(key) else { return };
    match (watched, &mut slot.source) {
        (Ok(()), Source::Client(client)) => client.unwatched = false,
        (Ok(()), _) => {}
        (Err(error), source) => {
            let source = mem::replace(source, Source::Running);
            set.stats.failed(error.kind());
            set.retire(key, source, Cause::Io(error));
        }
    }
}

/// Takes in a connected socket that no master socket of ours accepted.
pub(crate) fn adopt<S>(
    set: &mut PollSet<S>,
    socket: OwnedFd,
    framing: Framing,
    session: Box<dyn Session<S>>,
) -> io::Result<Key> {
    let kind = ListenerKind::of(socket.as_fd())?;
    socket::set_nonblocking(socket.as_fd())?;
    let passes = framing.descriptors_max() > 0;
    let refuses = !kind.is_tcp() && socket::set_passes_rights(socket.as_fd(), passes).is_ok() && !passes;
    if kind.is_seqpacket() {
        socket::set_passes_credentials(socket.as_fd(), true)?;
        make_room_for_records(set, &framing);
    }
    let plan = Plan::new(kind, framing, refuses);
    let key = admit(set, socket, Rc::new(plan), session, None, Watched::AtOnce)?;
    // Descriptors that were passed before they were refused may be in the socket: the first visit reads to EAGAIN, as
    // though urgent data had come.
    set.mark_ready(key, Ready::READABLE | Ready::PRIORITY);
    Ok(key)
}

/// A record is read whole or not at all.
pub(crate) fn make_room_for_records<S>(set: &mut PollSet<S>, framing: &Framing) {
    /// No sender's buffer is larger, as systems are set up; what is, counts as a frame too large.
    const RECORD_MAX: usize = 16 << 20;
    set.has_records = true;
    set.read_room = set.read_room.max(framing.frame_max(set.limits.frame_max).min(RECORD_MAX) + 1);
}

pub(crate) fn interest(plan: &Plan, write: bool) -> Interest {
    // PRIORITY tells of an out-of-band byte, at which a read stops short.
    let read = if plan.records { Interest::READABLE } else { Interest::READABLE | Interest::PRIORITY };
    if write { read | Interest::WRITABLE } else { read }
}
