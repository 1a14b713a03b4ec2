//! Why a source was closed.

use std::{fmt, io};

/// Why a source left the poll set; given to `on_close`, once.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// The peer closed the connection in order: all it had sent was handled, all our replies were sent.
    Peer,
    /// The peer closed in the middle of a frame; the partial frame was dropped.
    PartialFrame,
    /// The peer went away with bytes of ours unread (`ECONNRESET`, `EPIPE`).
    Reset,
    /// A handler closed it with `close` or `abort`.
    Closed,
    /// The connection could not be made ([`PollSet::connect`](crate::PollSet::connect)).
    Connect(io::Error),
    /// Reading, writing or registering failed.
    Io(io::Error),
    /// The handler returned this error.
    Handler(io::Error),
    /// The peer's bytes are no frame: the framing's own words.
    Malformed(io::Error),
    /// The handler panicked, with this message.
    Panic(String),
    /// A limit was reached ([`Limits`](crate::Limits)).
    Limit(Limit),
    /// A drain found it idle, or when it had become idle.
    Drain,
    /// A drain's deadline passed before it had become idle.
    DrainDeadline,
    /// The reactor stopped.
    Stop,
}

/// A cause is met seldom and is large: in a box, results travel in registers.
pub(crate) type Outcome<T> = Result<T, Box<Cause>>;

impl Cause {
    /// The same for another source that ends with this one.
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
            /// Every limit there is, in the order of their counters.
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
    /// [`Limits::clients`](crate::Limits::clients): the CIR waits, or is shed.
    Clients => "clients",
    /// [`Limits::clients_per_uid`](crate::Limits::clients_per_uid): the CIR is refused.
    ClientsPerUid => "clients per uid",
    /// [`Limits::buffered_max`](crate::Limits::buffered_max): the client is closed.
    Buffered => "buffered bytes",
    /// [`Limits::buffered_per_uid`](crate::Limits::buffered_per_uid): the client is closed.
    BufferedPerUid => "buffered bytes per uid",
    /// The process or the system has no descriptor or memory for another client; the CIR waits, or is shed.
    Descriptors => "descriptors",
    /// [`Limits::accepts_per_visit`](crate::Limits::accepts_per_visit): the rest waits for the next round.
    Accepts => "accepts per visit",
    /// [`Limits::bytes_per_visit`](crate::Limits::bytes_per_visit): the rest waits for the next round.
    Bytes => "bytes per visit",
    /// [`Limits::messages_per_visit`](crate::Limits::messages_per_visit): the rest waits for the next round.
    Messages => "messages per visit",
    /// [`Limits::frame_max`](crate::Limits::frame_max): the client is closed.
    Frame => "largest frame",
    /// [`Framing::descriptors`](crate::Framing::descriptors): the client is closed, and what it passed.
    DescriptorsPerClient => "descriptors per client",
    /// [`Limits::connect`](crate::Limits::connect): the connection was given up.
    Connect => "connect deadline",
    /// [`Limits::output_high_water`](crate::Limits::output_high_water): reading pauses, or the client is closed.
    SlowConsumer => "output high-water mark",
    /// [`Limits::output_max`](crate::Limits::output_max): the reply is refused.
    Output => "unsent bytes of one client",
    /// [`Limits::idle`](crate::Limits::idle): the client is closed.
    Idle => "idle deadline",
    /// [`Limits::frame_timeout`](crate::Limits::frame_timeout): the client is closed.
    PartialFrame => "partial-frame deadline",
    /// [`Limits::flush`](crate::Limits::flush): the closing client did not take its last bytes.
    Flush => "flush deadline",
    /// A client with a half frame made room for a newcomer when all places were taken.
    Evicted => "evicted for a newcomer",
    /// An outbox was full: the message was refused.
    Outbox => "outbox of a queue",
}
