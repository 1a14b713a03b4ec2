//! What became of something that was given to be sent.

/// What became of a message given to [`PollSet::post`](crate::PollSet::post), or of bytes for a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// It is in the queue, or in the pipe.
    Sent,
    /// There is no room. It waits in memory, and goes out as soon as there is.
    Waits,
}
