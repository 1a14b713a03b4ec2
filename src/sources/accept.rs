//! The listener as a source: accepts connections, and makes clients with the factory's sessions.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};

use log::{Level, log_enabled};
use mio::Interest;

use crate::{
    bytes::framing::Framing,
    client::{
        accounts::too_many_of_user,
        admit::{Registration, admit, make_room_for_records},
        deadlines::{any_partial_frame, evict_partial_frames},
    },
    net::{listener::Listener, peer::Peer},
    observe::{event::What, throttle::Kind},
    set::{
        call::{call, report},
        client::{ConnectionConfig, Rights},
        driver::Driver,
        endpoints::Acceptor,
        lifecycle::Phase,
        poll_set::PollSet,
        session::{Factory, Session},
        source::{Source, Visited},
    },
    sys::{closer, socket},
    types::{
        cause::{Cause, Limit},
        key::Key,
        limits::WhenFull,
        ready::Ready,
        rejected::Rejected,
    },
};

impl<S> PollSet<S> {
    /// Puts a listener (a master socket) into the poll set. For each connection (CIR), `factory` sees the peer and
    /// makes the session of the new client; its error refuses the connection. `framing` cuts the stream into requests
    /// (SRMs).
    ///
    /// # Errors
    /// Those of `setsockopt(2)` and `epoll_ctl(2)`. The error returns the listener.
    #[allow(clippy::result_large_err, reason = "once per listener, and the listener is worth having back")]
    pub fn listen<T: Session<S> + 'static>(
        &mut self,
        listener: Listener,
        framing: Framing,
        mut factory: impl FnMut(&Peer<'_>, &mut S) -> io::Result<T> + 'static,
    ) -> Result<Key, Rejected<Listener>> {
        let transport = listener.transport();
        if transport.is_tcp() {
            // Every client inherits TCP_NODELAY: replies are sent at once.
            if let Err(error) = socket::set_nodelay(listener.as_fd(), true) {
                return Err(Rejected { error, source: listener });
            }
        }
        if transport.is_seqpacket() {
            make_room_for_records(self, &framing);
        }
        let unwanted = match (listener.refuses_descriptors(), listener.is_adopted()) {
            (true, _) => Rights::Refused,
            (false, true) => Rights::Discarded,
            (false, false) => Rights::EndClient,
        };
        let config = ConnectionConfig::new(transport, framing, unwanted);
        if config.rights == Rights::Wanted {
            // Inherited at connect: a client need not wait to be accepted before it passes any.
            let _ = socket::set_passes_rights(listener.as_fd(), true);
        }
        if let Err(error) = self.register(listener.as_fd(), Interest::READABLE) {
            return Err(Rejected { error, source: listener });
        }
        let port = Acceptor { listener, config: Rc::new(config), spare: None, full: false };
        let factory: Factory<S> =
            Box::new(move |peer, state| Ok(Box::new(factory(peer, state)?) as Box<dyn Driver<S>>));
        Ok(self.place(Source::Listener { port: Box::new(port), handler: Some(factory) }))
    }
}

/// The endpoint of the listener that is visited.
fn port<S>(set: &mut PollSet<S>, key: Key) -> &mut Acceptor {
    match set.registry.get_mut(key) {
        Some(Source::Listener { port, .. }) => port,
        _ => unreachable!("a listener is not removed while it is visited"),
    }
}

/// One visit: accepts until no connection waits, a budget is spent, or there is no place.
pub(crate) fn visit<S>(set: &mut PollSet<S>, key: Key, state: &mut S) -> Visited {
    if set.limits.when_full == WhenFull::Shed && port(set, key).spare.is_none() {
        port(set, key).spare = socket::spare().ok();
    }
    let config = port(set, key).config.clone();
    for _ in 0..set.limits.accepts_per_visit.max(1) {
        let full = set.stats.clients >= set.limits.clients;
        if full && set.limits.when_full == WhenFull::Wait && !any_partial_frame(set) {
            return wait(set, key, Some(Limit::Clients), "every place is taken");
        }
        match port(set, key).listener.accept() {
            // A client is evicted only when another is there to take its place.
            Ok((socket, _)) if full && !evict_partial_frames(set) => shed(set, key, Limit::Clients, socket),
            Ok((socket, address)) => {
                if let Err(socket) = accepted(set, key, &config, socket, address, state) {
                    close_unread(config.rights.are_taken(), socket);
                }
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) if set.lifecycle.phase() == Phase::Draining => {
                    return Visited::closed(Cause::Drain);
                }
                Some(libc::EAGAIN) => return Visited::Drained,
                // This connection was closed before it was accepted; there may be others.
                Some(libc::ECONNABORTED | libc::EINTR) => set.stats.failed(error.kind()),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    set.stats.failed(error.kind());
                    if !shed_with_spare(set, key) {
                        return wait(set, key, Some(Limit::Descriptors), &error.to_string());
                    }
                }
                // EPERM (from a firewall), EPROTO and network errors: they concern this connection only, or they are
                // temporary. The listener stays open, and tries again after a pause.
                _ => {
                    set.stats.failed(error.kind());
                    return wait(set, key, None, &error.to_string());
                }
            },
        }
    }
    set.count_limit(Limit::Accepts);
    Visited::Again(Ready::READABLE)
}

/// There is no descriptor for a connection: closes the spare one, to accept the connection and close it at once. False:
/// there is no spare one.
#[cold]
fn shed_with_spare<S>(set: &mut PollSet<S>, key: Key) -> bool {
    if set.limits.when_full != WhenFull::Shed {
        return false;
    }
    let Some(spare) = port(set, key).spare.take() else { return false };
    drop(spare);
    if let Ok((socket, _)) = port(set, key).listener.accept() {
        shed(set, key, Limit::Descriptors, socket);
    }
    let spare = socket::spare().ok();
    let has_spare = spare.is_some();
    port(set, key).spare = spare;
    has_spare
}

/// Pauses the listener until a client is closed, or the retry timer fires. Connections wait in the backlog.
#[cold]
fn wait<S>(set: &mut PollSet<S>, key: Key, limit: Option<Limit>, why: &str) -> Visited {
    if !std::mem::replace(&mut port(set, key).full, true) {
        let what = format_args!("listener {key} is paused, connections wait in its backlog: {why}");
        match limit {
            Some(limit) => set.report_limit(limit, what),
            None => set.warn(Kind::Accept, what),
        }
    }
    if !set.acceptors.is_paused(key) {
        let retry = set.resume_after(key, set.limits.accept_retry);
        set.acceptors.pause(key, retry);
    }
    Visited::Blocked(Ready::READABLE)
}

#[cold]
fn shed<S>(set: &mut PollSet<S>, key: Key, limit: Limit, socket: OwnedFd) {
    let takes_rights = port(set, key).config.rights.are_taken();
    close_unread(takes_rights, socket);
    refused(set);
    if std::mem::replace(&mut port(set, key).full, true) {
        set.count_limit(limit);
    } else {
        set.report_limit(limit, format_args!("new clients at listener {key} are closed at once"));
    }
}

/// Counts a connection that was refused, for any cause.
#[cold]
fn refused<S>(set: &mut PollSet<S>) {
    set.stats.refused += 1;
    if let Some(listener) = set.visiting() {
        set.emit(What::Refused { listener });
    }
}

/// Closes a connection without reading from it.
fn close_unread(takes_rights: bool, socket: OwnedFd) {
    if takes_rights {
        closer::close_soon(socket);
    }
}

#[cold]
fn dropped<S>(set: &mut PollSet<S>, key: Key, error: &io::Error) {
    refused(set);
    set.warn(Kind::Accept, format_args!("connection at listener {key} dropped: {error}"));
}

/// Makes a client of an accepted connection. `Err`: the connection, which the caller closes.
fn accepted<S>(
    set: &mut PollSet<S>,
    key: Key,
    config: &Rc<ConnectionConfig>,
    socket: OwnedFd,
    address: Option<SocketAddr>,
    state: &mut S,
) -> Result<(), OwnedFd> {
    let port = port(set, key);
    port.full = false;
    let transport = port.listener.transport();
    if let Err(error) = prepare(port, &socket) {
        dropped(set, key, &error);
        return Err(socket);
    }
    if config.unix && too_many_of_user(set, &socket) {
        refused(set);
        set.report_limit(Limit::ClientsPerUid, format_args!("a connection at listener {key} was refused"));
        return Err(socket);
    }
    let peer = Peer::new(socket.as_fd(), transport, address);
    if log_enabled!(target: "ipc_reactor", Level::Debug) {
        log::debug!(target: "ipc_reactor", "connection at listener {key} from {peer}");
    }
    if set.observes_messages() {
        set.lap();
    }
    let made = call(set, key, |factory: &mut Factory<S>, _| factory(&peer, state));
    let handler_ns = if set.observes_messages() { set.lap() } else { 0 };
    // A factory has no context, so it can ask for nothing.
    let session = match made.result {
        Ok(session) => session,
        Err(cause) => {
            refused(set);
            report(set, key, "connection refused by the factory of listener", &cause);
            return Err(socket);
        }
    };
    // If clients send a request as they connect, a visit before the registration saves an epoll_wait.
    let early = config.expects_request()
        && !config.records
        && set.lifecycle.phase() == Phase::Running
        && set.observers.is_none();
    let registration = if early { Registration::AfterFirstVisit } else { Registration::AtOnce };
    match admit(set, socket, config.clone(), session, registration) {
        Ok(client) => {
            set.stats.accepted += 1;
            if early {
                set.acceptors.unregistered.push(client);
            }
            if set.observers.is_some() {
                set.emit_accepted(client, transport, address, handler_ns);
            }
        }
        Err(error) => dropped(set, key, &error),
    }
    Ok(())
}

/// What a client does not inherit from its listener, or may have missed by connecting early.
#[inline]
fn prepare(port: &Acceptor, socket: &OwnedFd) -> io::Result<()> {
    if port.config.records && !port.listener.marks_records() {
        socket::set_passes_credentials(socket.as_fd(), true)?;
    }
    if port.config.rights == Rights::Wanted && port.listener.refuses_descriptors() {
        socket::set_passes_rights(socket.as_fd(), true)?;
    }
    Ok(())
}
