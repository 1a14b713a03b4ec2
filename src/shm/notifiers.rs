//! Notifications that go another way than by doorbell: over a socket, and through a message queue.

use super::doorbell::Notify;
use crate::queue::Queue;
use crate::sys::socket;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The message "shared memory has been updated", whichever way it goes. It says that something is
/// new, not what: whoever gets it reads the segment.
pub const UPDATED: [u8; 16] = *b"shm was updated\n";

/// Tells a subscriber over a connected socket, by one service request message: [`UPDATED`].
///
/// There is at most one outstanding, because a subscriber is told once for each time that it goes to
/// sleep. It is sent past whatever else the reactor may have to send on that socket, at once and
/// without ever waiting; a socket that is full has a notification in it already.
#[derive(Debug)]
pub struct SocketNotifier(OwnedFd);

impl SocketNotifier {
    /// Takes a descriptor of its own for a stream or seqpacket socket: that of the
    /// [`Peer`](crate::Peer) in a master socket's factory, for one.
    ///
    /// The connection stays open until this is dropped as well, which
    /// [`unsubscribe`](super::Publisher::unsubscribe) does.
    ///
    /// # Errors
    ///
    /// No descriptor is free.
    pub fn new(socket: impl AsFd) -> io::Result<SocketNotifier> {
        socket.as_fd().try_clone_to_owned().map(SocketNotifier)
    }
}

impl Notify for SocketNotifier {
    fn notify(&mut self) -> io::Result<()> {
        match socket::send(self.0.as_fd(), &UPDATED)? {
            len if len == UPDATED.len() => Ok(()),
            // The rest could only be sent by waiting, and half a message is none.
            len => Err(io::Error::new(
                io::ErrorKind::WriteZero,
                format!("only {len} bytes of a notification of {} could be sent", UPDATED.len()),
            )),
        }
    }
}

/// Tells a subscriber through a message queue, by the message [`UPDATED`].
///
/// The queue should be the subscriber's own: if that one is full, the subscriber is bound to wake up. In
/// a queue that others fill, a notification finds no room, and the value waits for the next one's.
#[derive(Debug)]
pub struct QueueNotifier {
    queue: Queue,
    priority: u32,
}

impl QueueNotifier {
    /// Notifies through `queue`, which must be open for writing, with messages of this priority.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the queue's messages are too short, or the priority is over
    /// [`Queue::PRIORITY_MAX`].
    pub fn new(queue: Queue, priority: u32) -> io::Result<QueueNotifier> {
        let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if queue.message_size() < UPDATED.len() {
            return refuse(format!(
                "a notification takes {} bytes, the queue's messages have {} at most",
                UPDATED.len(),
                queue.message_size()
            ));
        }
        if priority > Queue::PRIORITY_MAX {
            return refuse(format!("priority {priority} exceeds the highest, {}", Queue::PRIORITY_MAX));
        }
        Ok(QueueNotifier { queue, priority })
    }
}

impl Notify for QueueNotifier {
    fn notify(&mut self) -> io::Result<()> {
        Ok(self.queue.try_send(&UPDATED, self.priority)?)
    }
}
