//! Who may connect, by user and group.

use std::io;

use crate::{net::peer::Peer, sys::process};

/// A list of users and groups whose connections are accepted; everybody else's are refused.
///
/// It is asked by the factory given to [`listen`](crate::PollSet::listen), which refuses the CIR with its error:
///
/// ```
/// # use ipc_reactor::{Context, Framing, Listener, Reactor, Session};
/// # use std::io;
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("adder.sock");
/// # struct Adder;
/// # impl<S> Session<S> for Adder {
/// #     fn on_request(&mut self, _: &[u8], _: &mut Context<'_, S>, _: &mut S) -> io::Result<()> { Ok(()) }
/// # }
/// use ipc_reactor::Allow;
///
/// let allow = Allow::same_user().uid(0).gid(100);
/// let mut reactor = Reactor::<()>::new()?;
/// // The path's mode must let them in, too: by default it is for this user alone.
/// let master = Listener::options().mode(0o666).unix(&path)?;
/// reactor.listen(master, Framing::fixed(4), move |peer, ()| {
///     allow.check(peer)?;
///     Ok(Adder)
/// })?;
/// # io::Result::Ok(())
/// ```
///
/// What counts is who the peer was when it connected: the kernel noted its effective user, its effective group and its
/// supplementary groups then (`SO_PEERCRED`, `SO_PEERGROUPS`, `unix(7)`). Whoever is given the connection afterwards has it.
/// Root is let in only if it is listed. A peer from another user namespace, whose ids mean nothing here, shows as
/// user and group 65534; do not list that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl Allow {
    /// Nobody, yet.
    #[must_use]
    pub fn new() -> Allow {
        Allow::default()
    }

    /// The user whose rights this process has.
    #[must_use]
    pub fn same_user() -> Allow {
        Allow::new().uid(process::effective_uid())
    }

    /// And this user.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Allow {
        self.uids.push(uid);
        self
    }

    /// And whoever is in this group, as its effective group or as a supplementary one.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Allow {
        self.gids.push(gid);
        self
    }

    /// Whether this peer may connect. One system call; one more for a peer that only its supplementary groups can
    /// let in.
    ///
    /// # Errors
    ///
    /// `PermissionDenied`: it may not. That is so for every TCP peer: the kernel vouches for nobody there.
    pub fn check(&self, peer: &Peer<'_>) -> io::Result<()> {
        let denied = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        if peer.kind().is_tcp() {
            let why = "a TCP peer cannot be checked by user or group: only a Unix socket tells who connected";
            return denied(why.to_owned());
        }
        let who = peer.credentials()?;
        if self.uids.contains(&who.uid) || self.gids.contains(&who.gid) {
            return Ok(());
        }
        if !self.gids.is_empty() && peer.groups()?.iter().any(|group| self.gids.contains(group)) {
            return Ok(());
        }
        denied(format!(
            "uid {}, gid {} may not connect; allowed are the users {:?} and the groups {:?}",
            who.uid, who.gid, self.uids, self.gids
        ))
    }
}
