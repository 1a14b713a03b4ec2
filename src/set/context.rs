//! What a handler can reach while it runs.

use std::{
    fmt, io,
    ops::{Deref, DerefMut},
    os::fd::OwnedFd,
    time::Duration,
};

use crate::{
    children::process::ChildProcess,
    set::poll_set::PollSet,
    types::key::{Key, TimerKey},
};

/// The narrow view of the reactor that a handler gets: the whole [`PollSet`], which it dereferences to, and the
/// source whose handler it is. There is no way to run the loop from here.
pub struct Context<'a, S> {
    pub(crate) set: &'a mut PollSet<S>,
    pub(crate) key: Key,
}

impl<S> Context<'_, S> {
    /// The key of the source whose handler runs. In `on_close` it is void already.
    #[inline]
    pub fn key(&self) -> Key {
        self.key
    }

    /// Sends `bytes` to the client whose session runs, as they are. On a seqpacket socket they are a record.
    ///
    /// All replies of one visit leave in one `send` at its end; what the socket does not take then waits in memory.
    ///
    /// # Errors
    /// `WouldBlock`: more than [`Limits::output_max`](crate::Limits::output_max) bytes would wait; nothing of this
    /// reply was taken. `NotConnected`: no client's session runs. `OutOfMemory`.
    #[inline]
    pub fn reply(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.set.reply(bytes)
    }

    /// Sends `payload` to the client whose session runs, as a message in the framing that its requests have: with a
    /// line feed at its end, or its length before it. Raw and fixed frames are sent as they are.
    ///
    /// # Errors
    /// Those of [`reply`](Context::reply), and `InvalidInput` where the payload does not fit the framing.
    pub fn reply_frame(&mut self, payload: &[u8]) -> io::Result<()> {
        match self.set.framing_of(self.key) {
            Some(framing) => framing.encode(payload, |parts| self.set.put(self.key, parts)),
            None => Err(not_connected()),
        }
    }

    /// Closes the client or source whose handler runs, when its handler returns; replies are sent first.
    pub fn finish(&mut self) {
        self.set.close(self.key);
    }

    /// The child whose handler runs, to write to its standard input or to signal it. `None` where that of another source runs,
    /// and once the child has ended.
    pub fn child_process(&mut self) -> Option<&mut ChildProcess> {
        self.set.child_of(self.key)
    }

    /// Has [`Session::on_timer`](crate::Session::on_timer) called for the client whose session runs, once, `after`
    /// from now. A timer of a client that is gone by then does nothing.
    pub fn wake_after(&mut self, after: Duration) -> TimerKey {
        self.set.wake_session(self.key, after)
    }

    /// Takes the oldest descriptor that the running session's client has passed and nobody has taken yet. Only where
    /// its framing allows any: [`Framing::descriptors`](crate::Framing::descriptors). It is `CLOEXEC`.
    ///
    /// It can be of any kind, in any state, and the peer may still share its offset and its flags (`O_NONBLOCK` among
    /// them): look with `fstat(2)` before it is relied on, and never read it in a way that could block. One that is not
    /// taken is closed with its client.
    pub fn descriptor(&mut self) -> Option<OwnedFd> {
        self.set.io.descriptors.pop_front()
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

impl<S> Deref for Context<'_, S> {
    type Target = PollSet<S>;

    fn deref(&self) -> &PollSet<S> {
        self.set
    }
}

impl<S> DerefMut for Context<'_, S> {
    fn deref_mut(&mut self) -> &mut PollSet<S> {
        self.set
    }
}

impl<S> fmt::Debug for Context<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("key", &self.key).finish_non_exhaustive()
    }
}

pub(crate) fn not_connected() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "no client of this key is connected")
}

/// A connected client, reached by its key: [`PollSet::client`].
pub struct ClientHandle<'a, S> {
    pub(crate) set: &'a mut PollSet<S>,
    pub(crate) key: Key,
}

impl<S> ClientHandle<'_, S> {
    /// Its key.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Sends `bytes` to this client, as they are; they leave in the next round at the latest, with all else that is sent
    /// to it by then.
    ///
    /// # Errors
    /// As for [`Context::reply`].
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.set.put(self.key, &[bytes])
    }

    /// Sends `payload` as a message in this client's framing.
    ///
    /// # Errors
    /// As for [`Context::reply_frame`].
    pub fn send_frame(&mut self, payload: &[u8]) -> io::Result<()> {
        match self.set.framing_of(self.key) {
            Some(framing) => framing.encode(payload, |parts| self.set.put(self.key, parts)),
            None => Err(not_connected()),
        }
    }

    /// [`send`](ClientHandle::send) with descriptors, as [`Context::reply_with`].
    ///
    /// # Errors
    /// As for [`Context::reply_with`].
    pub fn send_with(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.set.put_with(self.key, bytes, descriptors)
    }

    /// How many bytes wait to be sent to it.
    pub fn unsent(&self) -> usize {
        self.set.unsent_of(self.key)
    }

    /// Closes it, once it has taken what waits for it.
    pub fn close(self) {
        self.set.close(self.key);
    }

    /// Closes it at once; what waits for it is lost.
    pub fn abort(self) {
        self.set.abort(self.key);
    }
}

impl<S> fmt::Debug for ClientHandle<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientHandle").field("key", &self.key).finish_non_exhaustive()
    }
}
