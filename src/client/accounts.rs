//! What clients and their users hold of the reactor's memory and places.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
};

use crate::{
    set::{
        client::Client,
        poll_set::{PollSet, Usage},
        source::{Slot, Source},
    },
    sys::socket,
    types::cause::Limit,
};

/// The uid of a client that nobody has asked the kernel about yet; no user has it (`chown(2)` takes -1 for "leave it").
pub(crate) const UID_UNKNOWN: u32 = u32::MAX;
/// Stands for all the peers of whom the kernel knows no uid (the overflow uid minus one is nobody's either).
const NO_UID: u32 = u32::MAX - 1;

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

pub(crate) fn uid_of<S>(client: &Client<S>) -> u32 {
    if !client.plan.unix {
        return NO_UID;
    }
    match socket::peer_credentials(client.socket.as_fd()) {
        // A connection of ours that does not stand yet has no peer, and the uid -1.
        Ok(credentials) if credentials.uid != UID_UNKNOWN => credentials.uid,
        _ => NO_UID,
    }
}
