//! The result of a send that does not wait.

/// What happened to a message that was sent without waiting: [`PollSet::post`](crate::PollSet::post),
/// [`Outbox::send`](crate::pipe::Outbox::send), [`ChildProcess::write`](crate::ChildProcess::write).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// It is sent: it is in the queue, or the pipe.
    Sent,
    /// The queue or the pipe is full. The message is buffered, and sent as soon as there is room.
    Buffered,
}
