//! Admission: puts an accepted, adopted or connecting socket into the poll set as a client.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};

use crate::{
    bytes::framing::Framing,
    client::{accounts::uid_for, deadlines::begin_idling},
    net::transport::Transport,
    set::{
        client::{ClientIo, Connecting, ConnectionConfig, Extra, Flags, Rights},
        driver::Driver,
        lifecycle::Phase,
        poll_set::PollSet,
        session::Session,
        source::Source,
    },
    sys::{file, socket, time::nanos},
    types::{cause::Cause, key::Key, limits::Limits, ready::Ready},
};

/// When a new client is registered with epoll.
pub(crate) enum Registration {
    AtOnce,
    /// The caller visits it, and then calls [`register`].
    AfterFirstVisit,
    /// At once, with the interest to write: the socket becomes writable when the connection is established.
    Connecting(Box<Connecting>),
}

/// Puts a new client into a slot, registers it, and marks it ready for its first visit.
pub(crate) fn admit<S>(
    set: &mut PollSet<S>,
    socket: OwnedFd,
    config: Rc<ConnectionConfig>,
    session: Box<dyn Driver<S>>,
    registration: Registration,
) -> io::Result<Key> {
    let now_ns = set.now_ns();
    let mut io = ClientIo::new(socket, config, now_ns, 0);
    if io.config.rights == Rights::Discarded {
        // Descriptors that were passed before are in the socket. Since Linux 6.16 the kernel refuses more.
        let refuses = socket::set_passes_rights(io.fd(), false).is_ok();
        io.flags.set(Flags::REFUSES_RIGHTS, refuses);
    }
    io.uid = uid_for(set, &io);
    let mut time = set.limits.idle;
    let mut registers = true;
    match registration {
        Registration::AtOnce => {}
        Registration::AfterFirstVisit => {
            set.registry.check_not_forked()?;
            io.flags.set(Flags::UNREGISTERED, true);
            registers = false;
        }
        Registration::Connecting(connecting) => {
            io.flags.set(Flags::WRITABLE, false);
            io.flags.set(Flags::WRITE_INTEREST, true);
            io.set_extra(Some(Box::new(Extra { connecting: Some(connecting), ..Extra::default() })));
            time = Some(set.limits.connect);
        }
    }
    if registers && let Err(error) = set.register(io.fd(), io.interest()) {
        io.close();
        return Err(error);
    }
    set.accounts.admit(io.uid);
    let key = set.place(Source::Client { io, session: Some(session) });
    set.stats.clients += 1;
    if let Some(time) = time {
        set.timers.set_slot_deadline(key.index, now_ns.saturating_add(nanos(time)));
    }
    if registers {
        // The first visit opens the session, and in a drain asks it to end.
        let ready = if set.lifecycle.phase() == Phase::Draining { Ready::READABLE } else { Ready::NONE };
        set.mark_ready(key, ready);
    } else if let Some(slot) = set.registry.slot_mut(key) {
        slot.ready = Ready::READABLE;
    }
    Ok(key)
}

/// Registers a client after its first visit. Bytes that have come since the visit make a new edge.
pub(crate) fn register<S>(set: &mut PollSet<S>, key: Key) {
    let Some(Source::Client { io, .. }) = set.registry.get_mut(key) else { return };
    let (fd, interest) = (io.raw_fd(), io.interest());
    match set.registry.register_as(key, fd, interest) {
        Ok(()) => {
            if let Some(Source::Client { io, .. }) = set.registry.get_mut(key) {
                io.flags.set(Flags::UNREGISTERED, false);
            }
        }
        Err(error) => {
            set.stats.failed(error.kind());
            set.remove(key, Cause::Io(error));
        }
    }
}

/// Makes the read buffer large enough for records, which are read in one piece.
pub(crate) fn make_room_for_records<S>(set: &mut PollSet<S>, framing: &Framing) {
    /// By default no sender's buffer is larger. A larger record counts as a frame that is too large.
    const RECORD_MAX: usize = 16 << 20;
    set.io.has_records = true;
    set.io.need_read_room(framing.frame_max(set.limits.frame_max).min(RECORD_MAX) + 1);
}

impl<S> PollSet<S> {
    /// Puts a connected stream or seqpacket socket into the poll set, as a client.
    ///
    /// # Errors
    /// `InvalidInput`: it is no such socket. Those of `fcntl(2)`, `setsockopt(2)` and `epoll_ctl(2)`. The socket is
    /// closed.
    pub fn adopt(
        &mut self,
        socket: impl Into<OwnedFd>,
        framing: Framing,
        session: impl Session<S> + 'static,
    ) -> io::Result<Key> {
        let socket = socket.into();
        let transport = Transport::of(socket.as_fd())?;
        file::set_nonblocking(socket.as_fd(), true)?;
        if transport.is_seqpacket() {
            socket::set_passes_credentials(socket.as_fd(), true)?;
            make_room_for_records(self, &framing);
        }
        let config = Rc::new(ConnectionConfig::new(transport, framing, Rights::Discarded));
        let key = admit(self, socket, config, Box::new(session), Registration::AtOnce)?;
        // An out-of-band byte may have come before: the first visit reads until EAGAIN.
        self.mark_ready(key, Ready::READABLE | Ready::PRIORITY);
        Ok(key)
    }

    /// Sets other limits. What exceeds them already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        if let (None, Some(idle)) = (self.limits.idle, limits.idle) {
            begin_idling(self, idle);
        }
        self.io.set_limits(&limits);
        self.limits = limits;
        if self.io.has_records {
            make_room_for_records(self, &Framing::raw());
        }
        self.resume_acceptors();
    }
}
