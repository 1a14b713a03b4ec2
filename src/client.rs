//! A client handle: what the slab holds of a connection, how it comes in, what it holds, when its time is up.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use mio::{Interest, unix::SourceFd};

use crate::{
    Cause, Framing, Key, Limit, ListenerKind, PollSet, Session, SourceKind, Who,
    buffer::{Buffer, Pool},
    connect::Connecting,
    set::{Phase, Usage},
    source::{Ready, Slot, Source},
    sys::socket,
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

    /// Whether a newcomer had something to say when it came.
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

/// The uid of a client that nobody has asked the kernel about yet; no user has it (`chown(2)` takes -1 for "leave it").
const UID_UNKNOWN: u32 = u32::MAX;
/// Stands for all the peers of whom the kernel knows no uid (the overflow uid minus one is nobody's either).
const NO_UID: u32 = u32::MAX - 1;

pub(crate) struct Client<S> {
    pub(crate) socket: OwnedFd,
    pub(crate) plan: Rc<Plan>,
    /// None while it runs in a plain visit.
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
    uid: u32,
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

    /// At the end of a visit: whether the next can be plain.
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

/// Accounts what a client holds of the reactor's memory now; names the limit that this exceeds.
pub(crate) fn account<S>(set: &mut PollSet<S>, client: &mut Client<S>, held: usize) -> Option<Limit> {
    let before = client.held as usize;
    set.held = set.held - before + held;
    client.held = u32::try_from(held).unwrap_or(u32::MAX);
    if set.held > set.limits.held_max && held > before {
        return Some(Limit::Held);
    }
    // No user can hold more than all together.
    if client.plan.unix && set.users.is_none() && set.held > set.limits.held_per_uid {
        count_users(set);
    }
    if set.users.is_some() && client.uid == UID_UNKNOWN {
        // It was out of its slot when the users were counted.
        let uid = uid_of(client);
        client.uid = uid;
        if let Some(users) = &mut set.users {
            let usage = users.entry(uid).or_default();
            usage.clients += 1;
            usage.held += before;
        }
    }
    let limit = set.limits.held_per_uid;
    let usage = set.users.as_mut()?.get_mut(&client.uid)?;
    usage.held = usage.held - before + held;
    (client.plan.unix && usage.held > limit && held > before).then_some(Limit::HeldPerUid)
}

/// Whether another client of the same user as this new one would be too many.
pub(crate) fn too_many_of_user<S>(set: &mut PollSet<S>, socket: &OwnedFd) -> bool {
    // While all clients together are fewer than one user may have, nobody need be asked.
    if set.stats.clients < set.limits.clients_per_uid {
        return false;
    }
    if set.users.is_none() {
        count_users(set);
    }
    let uid = socket::peer_credentials(socket.as_fd()).map_or(NO_UID, |credentials| credentials.uid);
    let clients = set.users.as_ref().and_then(|users| users.get(&uid)).map_or(0, |usage| usage.clients);
    clients >= set.limits.clients_per_uid
}

/// Asks the kernel whose each client is. Done once, and only where one user could be over a limit at all; from then
/// on the count is kept.
fn count_users<S>(set: &mut PollSet<S>) {
    let mut users: HashMap<u32, Usage> = HashMap::new();
    for (_, slot) in &mut set.slots {
        if let Slot { source: Source::Client(client), .. } = slot {
            client.uid = uid_of(client);
            let usage = users.entry(client.uid).or_default();
            usage.clients += 1;
            usage.held += client.held as usize;
        }
    }
    set.users = Some(users);
}

fn uid_of<S>(client: &Client<S>) -> u32 {
    if !client.plan.unix {
        return NO_UID;
    }
    match socket::peer_credentials(client.socket.as_fd()) {
        // A connection of ours that does not stand yet has no peer, and the uid -1.
        Ok(credentials) if credentials.uid != UID_UNKNOWN => credentials.uid,
        _ => NO_UID,
    }
}

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
