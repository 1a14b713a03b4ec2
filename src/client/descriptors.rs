//! Descriptors passed over Unix sockets, in both directions.
//!
//! On a stream, descriptors travel with bytes, not with messages: they arrive no later than the first of the bytes they
//! were sent with. So they wait in a line of their own, and a session takes from it as its protocol says ("the next
//! message comes with two").

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use crate::{
    set::{
        client::Plan,
        context::{ClientHandle, Context, not_connected},
        poll_set::PollSet,
    },
    sys::{scm, socket::Record},
    types::key::Key,
};

/// Descriptors that leave with the byte at this place of the stream, or with this record.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) at: u64,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl<S> Context<'_, S> {
    /// Takes the oldest descriptor that the running session's client has passed and nobody has taken yet. Only where
    /// its framing allows any: [`Framing::descriptors`](crate::Framing::descriptors). It is `CLOEXEC`.
    ///
    /// It can be of any kind, in any state, and the peer may still share its offset and its flags (`O_NONBLOCK` among
    /// them): look with `fstat(2)` before it is relied on, and never read it in a way that could block. One that is not
    /// taken is closed with its client.
    pub fn descriptor(&mut self) -> Option<OwnedFd> {
        self.set.descriptors.pop_front()
    }

    /// [`reply`](Context::reply) with descriptors: they arrive with the first of `bytes`. They are closed here once
    /// they are sent, or cannot be. While the kernel has too many of this user's descriptors under way (`ETOOMANYREFS`,
    /// `unix(7)`), they wait with what comes after them.
    ///
    /// A peer that lets none in (`SO_PASSRIGHTS`) makes the sending fail: it is closed, with
    /// [`Cause::Io`](crate::Cause::Io) and `PermissionDenied`.
    ///
    /// # Errors
    /// Those of [`reply`](Context::reply). `InvalidInput`: more than 253 descriptors, no bytes for them to travel with,
    /// or no Unix socket.
    pub fn reply_with(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.set.put_with(self.key, bytes, descriptors)
    }
}

impl<S> ClientHandle<'_, S> {
    /// [`send`](ClientHandle::send) with descriptors, as [`Context::reply_with`].
    ///
    /// # Errors
    /// As for [`Context::reply_with`].
    pub fn send_with(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.set.put_with(self.key, bytes, descriptors)
    }
}

impl<S> PollSet<S> {
    fn put_with(&mut self, key: Key, bytes: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let Some(plan) = self.plan_of(key) else { return Err(not_connected()) };
        if descriptors.is_empty() {
            return self.put(key, &[bytes]);
        }
        let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if !plan.unix {
            return refuse("descriptors can only be passed over a Unix socket");
        }
        if descriptors.len() > scm::AT_ONCE {
            return refuse("more than 253 descriptors in one message (SCM_MAX_FD)");
        }
        if bytes.is_empty() && !plan.records {
            return refuse("descriptors travel with bytes: there must be at least one");
        }
        self.put_attached(key, &[bytes], Some(descriptors))
    }
}

/// Reads bytes, or a record, of a client that may pass descriptors; those that came wait in `set.descriptors`.
#[cold]
pub(crate) fn receive<S>(
    set: &mut PollSet<S>,
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<Record> {
    let record = scm::recv(socket, buffer, &mut set.descriptors)?;
    if record.ctrunc {
        // Which of them are missing nobody can tell: none can be used.
        set.descriptors.clear();
        let why = "descriptors were lost on their way in (MSG_CTRUNC): the process has no room for them";
        return Err(io::Error::other(why));
    }
    Ok(record)
}

/// Whether more wait than a client may hold; then they are closed.
#[cold]
pub(crate) fn too_many<S>(set: &mut PollSet<S>, plan: &Plan) -> bool {
    let too_many = set.descriptors.len() > plan.framing.descriptors_max();
    if too_many {
        set.descriptors.clear();
    }
    too_many
}
