//! Why a source was closed.

use std::{fmt, io};

/// Why a source was removed from the poll set: the argument of `on_close`, which is called once.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// The peer closed the connection in order: every request was handled, every reply sent.
    Peer,
    /// The peer closed in the middle of a frame; the partial frame was dropped.
    PartialFrame,
    /// The peer closed without reading all that was sent to it (`ECONNRESET`, `EPIPE`).
    Reset,
    /// A handler closed it with [`close`](crate::PollSet::close) or [`abort`](crate::PollSet::abort).
    Closed,
    /// The connection could not be made ([`PollSet::connect`](crate::PollSet::connect)).
    Connect(io::Error),
    /// Reading, writing or registering failed.
    Io(io::Error),
    /// The handler returned this error.
    Handler(io::Error),
    /// The peer's bytes cannot become a frame. The error is the framing's.
    Malformed(io::Error),
    /// The handler panicked, with this message.
    Panic(String),
    /// A limit was reached ([`Limits`](crate::Limits)).
    Limit(Limit),
    /// A drain closed it when it had nothing left to do.
    Drain,
    /// A drain's deadline passed while it still had something to do.
    DrainDeadline,
    /// The reactor stopped.
    Stop,
}

/// A cause is rare and large. In a box, it leaves the result small enough for registers.
pub(crate) type Outcome<T> = Result<T, Box<Cause>>;

impl Cause {
    /// A copy, for another source that ends for the same cause.
    pub(crate) fn copy(&self) -> Cause {
        let error = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        match self {
            Cause::Peer => Cause::Peer,
            Cause::PartialFrame => Cause::PartialFrame,
            Cause::Reset => Cause::Reset,
            Cause::Closed => Cause::Closed,
            Cause::Connect(e) => Cause::Connect(error(e)),
            Cause::Io(e) => Cause::Io(error(e)),
            Cause::Handler(e) => Cause::Handler(error(e)),
            Cause::Malformed(e) => Cause::Malformed(error(e)),
            Cause::Panic(message) => Cause::Panic(message.clone()),
            Cause::Limit(limit) => Cause::Limit(*limit),
            Cause::Drain => Cause::Drain,
            Cause::DrainDeadline => Cause::DrainDeadline,
            Cause::Stop => Cause::Stop,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Peer => f.write_str("closed by the peer"),
            Cause::PartialFrame => f.write_str("closed by the peer in the middle of a frame"),
            Cause::Reset => f.write_str("the peer left with bytes unread"),
            Cause::Closed => f.write_str("closed by a handler"),
            Cause::Connect(error) => write!(f, "connecting failed: {error}"),
            Cause::Io(error) => write!(f, "input or output failed: {error}"),
            Cause::Handler(error) => write!(f, "the handler failed: {error}"),
            Cause::Malformed(error) => write!(f, "malformed frame: {error}"),
            Cause::Panic(message) => write!(f, "the handler panicked: {message}"),
            Cause::Limit(limit) => write!(f, "limit reached: {limit}"),
            Cause::Drain => f.write_str("drained"),
            Cause::DrainDeadline => f.write_str("the drain's deadline passed"),
            Cause::Stop => f.write_str("the reactor stopped"),
        }
    }
}

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Which limit was reached; [`Stats::limit_count`](crate::Stats::limit_count) counts each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Limit { $($(#[$doc])* $name,)* }

        impl Limit {
            /// Every limit, in the order of declaration.
            pub const ALL: &'static [Limit] = &[$(Limit::$name,)*];
        }

        impl fmt::Display for Limit {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Limit::$name => $text,)* })
            }
        }
    };
}

limits! {
    /// [`Limits::clients`](crate::Limits::clients): the connection waits, or is closed
    /// ([`WhenFull`](crate::WhenFull)).
    Clients => "clients",
    /// [`Limits::clients_per_uid`](crate::Limits::clients_per_uid): the connection is refused.
    ClientsPerUid => "clients per uid",
    /// [`Limits::buffered_max`](crate::Limits::buffered_max): the client is closed.
    Buffered => "buffered bytes",
    /// [`Limits::buffered_per_uid`](crate::Limits::buffered_per_uid): the client is closed.
    BufferedPerUid => "buffered bytes per uid",
    /// The process or the system has no descriptor or no memory for another client: the connection waits, or is
    /// closed ([`WhenFull`](crate::WhenFull)).
    Descriptors => "descriptors",
    /// [`Limits::accepts_per_visit`](crate::Limits::accepts_per_visit): the rest waits for the next round.
    Accepts => "accepts per visit",
    /// [`Limits::bytes_per_visit`](crate::Limits::bytes_per_visit): the rest waits for the next round.
    Bytes => "bytes per visit",
    /// [`Limits::messages_per_visit`](crate::Limits::messages_per_visit): the rest waits for the next round.
    Messages => "messages per visit",
    /// [`Limits::frame_max`](crate::Limits::frame_max): the client is closed.
    Frame => "largest frame",
    /// [`Framing::descriptors`](crate::Framing::descriptors): the client is closed, and so are the descriptors.
    DescriptorsPerClient => "descriptors per client",
    /// [`Limits::connect`](crate::Limits::connect): the connection was not established in time.
    Connect => "connect deadline",
    /// [`Limits::output_high_water`](crate::Limits::output_high_water): reading pauses, or the client is closed.
    SlowConsumer => "output high-water mark",
    /// [`Limits::output_max`](crate::Limits::output_max): the reply is refused.
    Output => "unsent bytes of one client",
    /// [`Limits::idle`](crate::Limits::idle): the client is closed.
    Idle => "idle deadline",
    /// [`Limits::frame_timeout`](crate::Limits::frame_timeout): the client is closed.
    PartialFrame => "partial-frame deadline",
    /// [`Limits::flush`](crate::Limits::flush): a client that was being closed did not read its last bytes.
    Flush => "flush deadline",
    /// All places were taken: a client with a partial frame was closed to make room for a new one.
    Evicted => "evicted for a new client",
    /// [`Limits::outbox`](crate::Limits::outbox): the message was refused.
    Outbox => "outbox of a queue",
}
