//! Notifications without a doorbell: over a socket, and through a message queue.

use std::{io, os::fd::AsFd};

use super::doorbell::Notify;
use crate::{
    queue::Queue,
    sys::{closer::ClosedElsewhere, socket},
};

/// The message "shared memory has been updated", for a socket or a queue. It says that there is a new value, and not
/// which: the receiver reads the segment.
pub const UPDATED: [u8; 16] = *b"shm was updated\n";

/// Notifies a subscriber over a connected socket, with one message: [`UPDATED`].
///
/// At most one is outstanding, because a subscriber is notified once each time that it goes to sleep. It is sent at
/// once and never waits. It does not wait for output that the reactor has buffered for that socket, either.
#[derive(Debug)]
pub struct SocketNotifier(ClosedElsewhere);

impl SocketNotifier {
    /// Duplicates the descriptor of a stream or seqpacket socket, for example of the [`Peer`](crate::Peer) in a
    /// listener's factory.
    ///
    /// The connection stays open until this value is dropped, too. [`unsubscribe`](super::Publisher::unsubscribe) drops
    /// it.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE`: no descriptor is free.
    pub fn new(socket: impl AsFd) -> io::Result<SocketNotifier> {
        let socket = socket.as_fd().try_clone_to_owned()?;
        // It may be the last descriptor of a connection with unread descriptors, and its close then blocks.
        let elsewhere = !matches!(socket::passes_rights(socket.as_fd()), Ok(false));
        Ok(SocketNotifier(ClosedElsewhere::when(elsewhere, socket)))
    }
}

impl Notify for SocketNotifier {
    fn notify(&mut self) -> io::Result<()> {
        match socket::send(self.0.as_fd(), &UPDATED)? {
            len if len == UPDATED.len() => Ok(()),
            // To send the rest would mean to wait.
            len => Err(io::Error::new(
                io::ErrorKind::WriteZero,
                format!("only {len} bytes of a notification of {} could be sent", UPDATED.len()),
            )),
        }
    }
}

/// Notifies a subscriber through a message queue, with the message [`UPDATED`].
///
/// The queue should be for this subscriber only: if such a queue is full, the subscriber will wake up anyway. In a
/// queue that others fill there may be no room for a notification, and the subscriber is not notified before the next
/// value.
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
    /// `InvalidInput`: the queue's message size is too small, or the priority is above [`Queue::PRIORITY_MAX`].
    pub fn new(queue: Queue, priority: u32) -> io::Result<QueueNotifier> {
        let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if queue.message_size() < UPDATED.len() {
            return refuse(format!(
                "a notification takes {} bytes, and the queue's message size is {}; create it with a larger one",
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
