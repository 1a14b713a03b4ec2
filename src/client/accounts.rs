//! Checks the clients' places and buffered bytes against the limits.

use std::os::fd::{AsFd, OwnedFd};

use crate::{
    client::visit_state::io_of,
    set::{accounts::UID_UNKNOWN, client::ClientIo, poll_set::PollSet, source::Source},
    sys::socket,
    types::{cause::Limit, key::Key},
};

/// The uid of all peers for which the kernel has none. No user has it.
const NO_UID: u32 = u32::MAX - 1;

/// Updates the account of a client's buffered bytes. Returns the limit that they exceed.
pub(super) fn account<S>(set: &mut PollSet<S>, key: Key) -> Option<Limit> {
    let limits = &set.limits;
    let io = io_of(&mut set.registry, key);
    let (before, after) = (io.buffered as usize, io.waiting());
    io.buffered = u32::try_from(after).unwrap_or(u32::MAX);
    let (uid, unix, grows) = (io.uid, io.config.unix, after > before);
    let of_user = set.accounts.hold(uid, before, after);
    if set.accounts.buffered() > limits.buffered_max && grows {
        return Some(Limit::Buffered);
    }
    let of_user = match of_user {
        Some(of_user) => of_user,
        // No user can have more than all users together.
        None if unix && set.accounts.buffered() > limits.buffered_per_uid => {
            count_users(set);
            let uid = io_of(&mut set.registry, key).uid;
            set.accounts.buffered_of(uid)
        }
        None => return None,
    };
    (unix && grows && of_user > set.limits.buffered_per_uid).then_some(Limit::BufferedPerUid)
}

/// Whether the user of this new connection has all the clients that it may have.
pub(crate) fn too_many_of_user<S>(set: &mut PollSet<S>, socket: &OwnedFd) -> bool {
    // While all clients together are fewer than one user may have, the credentials are not needed.
    if set.stats.clients < set.limits.clients_per_uid {
        return false;
    }
    if !set.accounts.counts_users() {
        count_users(set);
    }
    let uid = socket::peer_credentials(socket.as_fd()).map_or(NO_UID, |credentials| credentials.uid);
    set.accounts.clients_of(uid) >= set.limits.clients_per_uid
}

/// Reads the credentials of each client, and starts to count by user. Done once, when one user could be over a limit.
fn count_users<S>(set: &mut PollSet<S>) {
    let clients = set.registry.iter_mut().filter_map(|(_, source)| match source {
        Source::Client { io, .. } => {
            io.uid = uid_of(io);
            Some((io.uid, io.buffered as usize))
        }
        _ => None,
    });
    set.accounts.count_users(clients);
}

/// The uid under which a new client is counted.
pub(super) fn uid_for<S>(set: &PollSet<S>, io: &ClientIo) -> u32 {
    if set.accounts.counts_users() { uid_of(io) } else { UID_UNKNOWN }
}

fn uid_of(io: &ClientIo) -> u32 {
    if !io.config.unix {
        return NO_UID;
    }
    match socket::peer_credentials(io.fd()) {
        // A connect in progress has no peer yet: its uid is -1.
        Ok(credentials) if credentials.uid != UID_UNKNOWN => credentials.uid,
        _ => NO_UID,
    }
}
