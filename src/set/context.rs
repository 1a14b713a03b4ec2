//! The context: what a handler can use while it runs.

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

/// What a handler can use while it runs: the [`PollSet`], to which it dereferences, and the handler's own source. It
/// cannot run the loop.
pub struct Context<'a, S> {
    pub(crate) set: &'a mut PollSet<S>,
}

impl<S> Context<'_, S> {
    /// The key of the source whose handler runs. In `on_close` it names nothing any more.
    #[inline]
    pub fn key(&self) -> Key {
        self.set.call.key()
    }

    /// Sends `bytes`, unframed, to the client whose session runs. On a seqpacket socket they are one record.
    ///
    /// All replies of one visit are sent with one `send(2)` at its end. What the socket does not accept is buffered.
    ///
    /// # Errors
    /// `WouldBlock`: more than [`Limits::output_max`](crate::Limits::output_max) bytes would be buffered; nothing of
    /// this reply is. `NotConnected`: no client's session runs. `OutOfMemory`.
    #[inline]
    pub fn reply(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.set.reply(bytes)
    }

    /// Sends `payload` to the client whose session runs, as a message in the client's framing: with a line feed at its
    /// end, or its length before it. Raw and fixed frames are the payload itself.
    ///
    /// # Errors
    /// Those of [`reply`](Context::reply), and `InvalidInput` where the payload does not fit the framing.
    pub fn reply_frame(&mut self, payload: &[u8]) -> io::Result<()> {
        match self.set.framing_of(self.key()) {
            Some(framing) => framing.encode(payload, |parts| self.set.put_current(parts)),
            None => Err(not_connected()),
        }
    }

    /// Closes the source whose handler runs, when the handler returns. A client's replies are sent first.
    pub fn finish(&mut self) {
        self.set.close(self.key());
    }

    /// The child whose handler runs, to write to its standard input or to signal it. `None` if another source's handler
    /// runs, or the child has ended.
    pub fn child_process(&mut self) -> Option<&mut ChildProcess> {
        self.set.child_of(self.key())
    }

    /// Sets a one-shot timer that calls [`Session::on_timer`](crate::Session::on_timer) of the client whose session
    /// runs, `after` from now. If the client is closed by then, it does nothing.
    pub fn wake_after(&mut self, after: Duration) -> TimerKey {
        self.set.wake_session(self.key(), after)
    }

    /// Takes the oldest descriptor that the client of the running session has passed and the session has not taken.
    /// Only if the framing allows descriptors: [`Framing::descriptors`](crate::Framing::descriptors). It is `CLOEXEC`.
    ///
    /// It can be of any type and in any state, and the peer may still share its offset and its flags (`O_NONBLOCK`
    /// among them). With some types, a file of a FUSE mount for example, also `fstat(2)`, a read and the close block
    /// for as long as the peer likes. So prove the type first, by `getsockopt(2)` or the seals of `fcntl(2)`, and give
    /// anything else to another thread to close. A descriptor that is not taken is closed with its client, off the
    /// loop.
    pub fn descriptor(&mut self) -> Option<OwnedFd> {
        self.set.io.inbox.descriptors.pop_front()
    }

    /// [`reply`](Context::reply) with descriptors (`SCM_RIGHTS`, `unix(7)`): they arrive with the first of `bytes`. The
    /// reactor closes them after they are sent, or when the client is closed. While too many descriptors of this user
    /// are in flight (`ETOOMANYREFS`), they and all later replies stay buffered.
    ///
    /// If the peer does not accept descriptors (`SO_PASSRIGHTS`), the send fails, and the client is closed with
    /// [`Cause::Io`](crate::Cause::Io) and `PermissionDenied`.
    ///
    /// # Errors
    /// Those of [`reply`](Context::reply). `InvalidInput`: more than 253 descriptors, no bytes to attach them to, or no
    /// Unix socket.
    pub fn reply_with(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.set.put_with(self.key(), bytes, descriptors)
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
        f.debug_struct("Context").field("key", &self.key()).finish_non_exhaustive()
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

    /// Sends `bytes`, unframed, to this client. The client's next visit sends them, in the next round at the latest.
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

    /// How many bytes are not sent to it yet.
    pub fn unsent(&self) -> usize {
        self.set.unsent_of(self.key)
    }

    /// Closes it after its output is sent.
    pub fn close(self) {
        self.set.close(self.key);
    }

    /// Closes it at once; unsent output is lost.
    pub fn abort(self) {
        self.set.abort(self.key);
    }
}

impl<S> fmt::Debug for ClientHandle<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientHandle").field("key", &self.key).finish_non_exhaustive()
    }
}
