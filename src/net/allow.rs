//! A list of the users and groups that may connect.

use std::io;

use crate::{net::peer::Peer, sys::process};

/// A list of users and groups that may connect. Connections of all others are refused.
///
/// The factory given to [`listen`](crate::PollSet::listen) checks each peer, and refuses the connection with the error:
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
/// // The path's mode must admit them, too: by default it admits this user only.
/// let listener = Listener::options().mode(0o666).unix(&path)?;
/// reactor.listen(listener, Framing::fixed(4), move |peer, ()| {
///     allow.check(peer)?;
///     Ok(Adder)
/// })?;
/// # io::Result::Ok(())
/// ```
///
/// The check uses the peer's effective user, effective group and supplementary groups at the time of its `connect(2)`
/// (`SO_PEERCRED`, `SO_PEERGROUPS`, `unix(7)`). A process that gets the connection later, by `fork(2)` or over a
/// socket, is not checked. Root may connect only if it is listed. A peer from another user namespace, whose ids do not
/// exist here, has the user and the group 65534: do not list those.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl Allow {
    /// An empty list, which refuses every peer.
    #[must_use]
    pub fn new() -> Allow {
        Allow::default()
    }

    /// A list of the effective user of this process.
    #[must_use]
    pub fn same_user() -> Allow {
        Allow::new().uid(process::effective_uid())
    }

    /// Adds a user.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Allow {
        self.uids.push(uid);
        self
    }

    /// Adds a group: peers with this effective group, and peers that have it among their supplementary groups.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Allow {
        self.gids.push(gid);
        self
    }

    /// Checks whether this peer may connect. It makes one system call, and a second one where only the supplementary
    /// groups can decide.
    ///
    /// # Errors
    ///
    /// `PermissionDenied`: it may not. So for every TCP peer, whose user the kernel does not know.
    pub fn check(&self, peer: &Peer<'_>) -> io::Result<()> {
        let denied = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        if peer.transport().is_tcp() {
            let why = "the user of a TCP peer is unknown; listen on a Unix socket to check users and groups";
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
