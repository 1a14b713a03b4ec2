//! A master socket, and the way of a CIR: accepted, shown to the factory, made a client handle.

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
    client::{accounts, deadlines},
    net::{listener::Listener, peer::Peer},
    observe::{event::What, throttle::Kind},
    set::{
        call::{guarded, report},
        client::{self, Plan, Watched},
        poll_set::{Phase, PollSet},
        session::Session,
        source::{Ready, Source, Visited},
    },
    sys::socket,
    types::{
        cause::{Cause, Limit},
        key::Key,
        limits::WhenFull,
        rejected::Rejected,
    },
};

type Factory<S> = Box<dyn FnMut(&Peer<'_>, &mut S) -> io::Result<Box<dyn Session<S>>>>;

pub(crate) struct Master<S> {
    pub(crate) listener: Listener,
    factory: Factory<S>,
    plan: Rc<Plan>,
    /// Given up when there is no other, to accept one more client and show it the door.
    spare: Option<OwnedFd>,
    /// There was no descriptor or place for the last CIR; said once, until there is one again.
    full: bool,
}

impl<S> PollSet<S> {
    /// Puts a master socket into the poll set. For each CIR, `factory` sees the peer and makes the session that will
    /// handle its requests, cut out of the stream by `framing`; an error from it refuses the connection.
    ///
    /// # Errors
    /// The kernel refuses to watch it; the listener is handed back in the error.
    #[allow(
        clippy::result_large_err,
        reason = "once per master socket, and the listener is worth having back"
    )]
    pub fn listen<T: Session<S> + 'static>(
        &mut self,
        listener: Listener,
        framing: Framing,
        mut factory: impl FnMut(&Peer<'_>, &mut S) -> io::Result<T> + 'static,
    ) -> Result<Key, Rejected<Listener>> {
        let kind = listener.kind();
        if kind.is_tcp() {
            // Every client inherits it: answers are not held back for more to come.
            if let Err(error) = socket::set_nodelay(listener.as_fd(), true) {
                return Err(Rejected { error, source: listener });
            }
        }
        if kind.is_seqpacket() {
            client::make_room_for_records(self, &framing);
        }
        let plan = Plan::new(kind, framing, listener.refuses_descriptors());
        if plan.passes {
            // Inherited at connect: a client need not wait to be accepted before it passes any.
            let _ = socket::set_passes_rights(listener.as_fd(), true);
        }
        let key = match self.register(listener.as_fd(), Interest::READABLE) {
            Ok(key) => key,
            Err(error) => return Err(Rejected { error, source: listener }),
        };
        let master = Master {
            listener,
            factory: Box::new(move |peer, state| Ok(Box::new(factory(peer, state)?))),
            plan: Rc::new(plan),
            spare: None,
            full: false,
        };
        Ok(self.place(key, Source::Master(Box::new(master))))
    }
}

/// One visit: accepts until nobody waits, a budget is spent, or there is no place.
pub(crate) fn visit<S>(set: &mut PollSet<S>, key: Key, master: &mut Master<S>, state: &mut S) -> Visited {
    if set.limits.when_full == WhenFull::Shed && master.spare.is_none() {
        master.spare = socket::spare().ok();
    }
    for _ in 0..set.limits.accepts_per_visit.max(1) {
        let full = set.stats.clients >= set.limits.clients;
        if full && set.limits.when_full == WhenFull::Wait && !deadlines::any_half_frame(set) {
            return wait(set, key, master, Some(Limit::Clients), "every place is taken");
        }
        match master.listener.accept() {
            // Nobody loses a place before there is somebody to take it.
            Ok((socket, _)) if full && !deadlines::evict_half_frames(set) => {
                shed(set, master, Limit::Clients, socket)
            }
            Ok((socket, address)) => {
                master.full = false;
                cir(set, key, master, socket, address, state);
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) if set.phase == Phase::Draining => return Visited::closed(Cause::Drain),
                Some(libc::EAGAIN) => return Visited::Drained,
                // This one has left again; the next may still be there.
                Some(libc::ECONNABORTED | libc::EINTR) => set.stats.failed(error.kind()),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    set.stats.failed(error.kind());
                    match master.spare.take() {
                        Some(spare) if set.limits.when_full == WhenFull::Shed => {
                            drop(spare);
                            let waiting = master.listener.accept();
                            if let Ok((socket, _)) = waiting {
                                shed(set, master, Limit::Descriptors, socket);
                            }
                            master.spare = socket::spare().ok();
                            if master.spare.is_none() {
                                return wait(set, key, master, Some(Limit::Descriptors), &error.to_string());
                            }
                        }
                        _ => return wait(set, key, master, Some(Limit::Descriptors), &error.to_string()),
                    }
                }
                // EPERM (a firewall's), EPROTO and the network's own: of this connection, or to pass. Waiting a
                // little is right for either, and the socket stays.
                _ => {
                    set.stats.failed(error.kind());
                    return wait(set, key, master, None, &error.to_string());
                }
            },
        }
    }
    set.tripped(Limit::Accepts);
    Visited::Again(Ready::READABLE)
}

/// Nobody is accepted until a client has left, or for a while. The CIRs wait in the backlog.
#[cold]
fn wait<S>(
    set: &mut PollSet<S>,
    key: Key,
    master: &mut Master<S>,
    limit: Option<Limit>,
    why: &str,
) -> Visited {
    if !master.full {
        master.full = true;
        match limit {
            Some(limit) => set.trip(limit, format_args!("CIRs wait at master socket {key}: {why}")),
            None => set.complain(
                Kind::Accept,
                Level::Warn,
                format_args!("CIRs wait at master socket {key}: {why}"),
            ),
        }
    }
    if !set.paused.iter().any(|&(paused, _)| paused == key) {
        let retry = set.resume_after(key, set.limits.accept_retry);
        set.paused.push((key, retry));
    }
    Visited::Parked(Ready::READABLE)
}

#[cold]
fn shed<S>(set: &mut PollSet<S>, master: &mut Master<S>, limit: Limit, socket: OwnedFd) {
    drop(socket);
    refused(set);
    if master.full {
        set.tripped(limit);
    } else {
        master.full = true;
        set.trip(limit, format_args!("newcomers are turned away"));
    }
}

/// A CIR was refused, for whatever cause.
#[cold]
fn refused<S>(set: &mut PollSet<S>) {
    set.stats.cirs_refused += 1;
    if let Some(master) = set.watched() {
        set.tell(What::CirRefused { master });
    }
}

/// One connection initiation request.
fn cir<S>(
    set: &mut PollSet<S>,
    key: Key,
    master: &mut Master<S>,
    socket: OwnedFd,
    address: Option<SocketAddr>,
    state: &mut S,
) {
    if master.plan.unix && accounts::too_many_of_user(set, &socket) {
        refused(set);
        set.trip(Limit::ClientsPerUid, format_args!("a CIR at master socket {key} was refused"));
        return;
    }
    if let Err(error) = prepare(master, &socket) {
        refused(set);
        return set.complain(
            Kind::Accept,
            Level::Warn,
            format_args!("CIR at master socket {key} dropped: {error}"),
        );
    }
    let peer = Peer::new(socket.as_fd(), master.listener.kind(), address);
    if log_enabled!(target: "ipc_reactor", Level::Debug) {
        log::debug!(target: "ipc_reactor", "CIR at master socket {key} from {peer}");
    }
    if set.tells_messages() {
        set.lap();
    }
    let made = guarded(set, key, |_| (master.factory)(&peer, state));
    let handler_ns = if set.tells_messages() { set.lap() } else { 0 };
    let session = match made {
        Ok(session) => session,
        Err(cause) => {
            refused(set);
            return report(set, key, "CIR refused by the factory of master socket", &cause);
        }
    };
    let hurried = master.plan.expects_request()
        && !master.plan.records
        && set.phase == Phase::Running
        && set.watch.is_none();
    let watched = if hurried { Watched::AfterFirstVisit } else { Watched::AtOnce };
    match client::admit(set, socket, master.plan.clone(), session, None, watched) {
        Ok(client) => {
            set.stats.cirs += 1;
            if hurried {
                set.newcomers.push(client);
            }
            if set.watch.is_some() {
                set.observe_cir(client, master.listener.kind(), address, handler_ns);
            }
        }
        Err(error) => {
            refused(set);
            set.complain(
                Kind::Accept,
                Level::Warn,
                format_args!("CIR at master socket {key} dropped: {error}"),
            );
        }
    }
}

/// What a client does not inherit from its master socket, or may have missed by connecting early.
#[inline]
fn prepare<S>(master: &Master<S>, socket: &OwnedFd) -> io::Result<()> {
    if master.plan.records && !master.listener.marks_records() {
        socket::set_passes_credentials(socket.as_fd(), true)?;
    }
    if master.plan.passes && master.listener.refuses_descriptors() {
        socket::set_passes_rights(socket.as_fd(), true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        reactor::event_loop::{Reactor, Turn},
        set::context::Context,
        types::limits::Limits,
    };
    use std::{os::unix::net::UnixStream, time::Duration};

    struct Mute;

    impl Session<()> for Mute {
        fn on_request(&mut self, _: &[u8], _: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
            Ok(())
        }
    }

    /// Each pause used to set a timer of its own, which a client that left did not cancel.
    #[test]
    fn a_paused_master_socket_has_one_retry_timer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let never = Duration::from_secs(3_600);
        let limits = Limits { clients: 1, accept_retry: never, idle: None, ..Limits::default() };
        let mut reactor = Reactor::<()>::builder().limits(limits).build().unwrap();
        reactor.listen(Listener::unix(&path).unwrap(), Framing::lines(), |_, ()| Ok(Mute)).unwrap();
        for cirs in 1..=20 {
            // At the end of the loop's body it leaves, and makes room for the next.
            let _one = UnixStream::connect(&path).unwrap();
            while reactor.stats().cirs < cirs {
                assert_ne!(reactor.turn(None, &mut ()).unwrap(), Turn::Stopped);
            }
            // A second look at the master socket finds no place.
            let _next = UnixStream::connect(&path).unwrap();
            while reactor.stats().trips(Limit::Clients) < cirs {
                assert_ne!(reactor.turn(None, &mut ()).unwrap(), Turn::Stopped);
            }
            assert_eq!(reactor.timers.deadlines(), 1, "at CIR {cirs}");
        }
    }
}
