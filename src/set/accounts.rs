//! Counts of the clients' places and buffered bytes, in all and by user.

use std::collections::HashMap;

/// The uid of a client whose credentials have not been read yet. No user has this uid: for `chown(2)` it means "no
/// change".
pub(crate) const UID_UNKNOWN: u32 = u32::MAX;

#[derive(Debug, Default, Clone, Copy)]
struct Usage {
    clients: usize,
    buffered: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Accounts {
    buffered: usize,
    /// `None` until one user could be over a limit: until then no credentials are read.
    users: Option<HashMap<u32, Usage>>,
}

impl Accounts {
    /// Bytes buffered for all clients.
    pub(crate) fn buffered(&self) -> usize {
        self.buffered
    }

    pub(crate) fn counts_users(&self) -> bool {
        self.users.is_some()
    }

    /// Starts to count by user, from the uid and the buffered bytes of each client.
    pub(crate) fn count_users(&mut self, clients: impl Iterator<Item = (u32, usize)>) {
        let mut users: HashMap<u32, Usage> = HashMap::new();
        for (uid, buffered) in clients {
            let usage = users.entry(uid).or_default();
            usage.clients += 1;
            usage.buffered += buffered;
        }
        self.users = Some(users);
    }

    pub(crate) fn clients_of(&self, uid: u32) -> usize {
        self.users.as_ref().and_then(|users| users.get(&uid)).map_or(0, |usage| usage.clients)
    }

    /// Bytes buffered for the clients of one user.
    pub(crate) fn buffered_of(&self, uid: u32) -> usize {
        self.users.as_ref().and_then(|users| users.get(&uid)).map_or(0, |usage| usage.buffered)
    }

    pub(crate) fn admit(&mut self, uid: u32) {
        if let Some(users) = &mut self.users {
            users.entry(uid).or_default().clients += 1;
        }
    }

    /// The buffered bytes of a client have changed from `before` to `after`. Returns those of its user, if they are
    /// counted.
    pub(crate) fn hold(&mut self, uid: u32, before: usize, after: usize) -> Option<usize> {
        self.buffered = self.buffered - before + after;
        let usage = self.users.as_mut()?.get_mut(&uid)?;
        usage.buffered = usage.buffered - before + after;
        Some(usage.buffered)
    }

    /// A client with this many buffered bytes is closed.
    pub(crate) fn release(&mut self, uid: u32, buffered: usize) {
        self.hold(uid, buffered, 0);
        if let Some(users) = &mut self.users
            && let Some(usage) = users.get_mut(&uid)
        {
            usage.clients -= 1;
            if usage.clients == 0 {
                users.remove(&uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_once_and_given_back() {
        let mut accounts = Accounts::default();
        accounts.admit(7);
        assert_eq!(accounts.hold(7, 0, 100), None, "users are not counted yet");
        accounts.count_users([(7, 100), (8, 0)].into_iter());
        assert_eq!((accounts.buffered(), accounts.clients_of(7), accounts.clients_of(8)), (100, 1, 1));
        accounts.admit(7);
        assert_eq!(accounts.hold(7, 0, 50), Some(150));
        accounts.release(7, 50);
        accounts.release(7, 100);
        assert_eq!((accounts.buffered(), accounts.clients_of(7)), (0, 0));
        assert_eq!(accounts.users.as_ref().map(HashMap::len), Some(1), "a user who has left takes no memory");
    }
}
