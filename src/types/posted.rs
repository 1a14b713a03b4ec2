//! What became of a message that had to be sent without waiting.

/// What became of a message given to [`PollSet::post`](crate::PollSet::post).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// It is sent: it is in the queue, or the pipe.
    Sent,
    /// The queue or the pipe is full. The message is buffered, and sent as soon as there is room.
    Buffered,
}
