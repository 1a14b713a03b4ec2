//! Everything that is bounded, in one value.

use std::time::Duration;

/// What the reactor does with a client that does not read its replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowConsumer {
    /// Read no more requests from it until it has taken half of what waits for it.
    Pause,
    /// Close it, with [`Limit::SlowConsumer`](crate::Limit::SlowConsumer) as its cause.
    Disconnect,
}

/// What happens to a CIR for which there is no place or no descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits in the master socket's backlog; a client that leaves makes room for it.
    Wait,
    /// It is accepted on a descriptor kept in reserve, and closed at once: the peer sees an end of file
    /// instead of silence.
    Shed,
}

/// The bounds of a reactor. All are on by default; each trip is counted in [`Stats`](crate::Stats).
///
/// ```
/// use ipc_reactor::{Limits, Reactor};
///
/// let limits = Limits { clients: 1_000, frame_max: 4_096, ..Limits::default() };
/// let reactor: Reactor<()> = Reactor::<()>::builder().limits(limits).build()?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Clients at once, over all master sockets. Default 65,536.
    pub clients: usize,
    /// Clients at once of one user (Unix sockets only: the kernel vouches for the uid). Default 57,344:
    /// an eighth of the places is out of the reach of any one user.
    pub clients_per_uid: usize,
    /// Bytes held for all clients: half frames and unsent replies. A client whose share would grow past it is
    /// closed. Default 256 MiB.
    pub buffered_max: usize,
    /// Bytes held for the clients of one user (Unix sockets only). Default 224 MiB.
    pub buffered_per_uid: usize,
    /// What happens to a CIR for which there is no place. Default: it waits.
    pub when_full: WhenFull,
    /// Connections accepted in one visit to a master socket. Default 64.
    pub accepts_per_visit: usize,
    /// Bytes read in one visit to a client. Default 256 KiB.
    pub bytes_per_visit: usize,
    /// Messages handled in one visit to a client, a queue or the signals. Default 1,024.
    pub messages_per_visit: usize,
    /// The largest frame, in bytes of payload. Default 1 MiB; a framing can set its own.
    pub frame_max: usize,
    /// Unsent bytes at which a client counts as a slow consumer. Default 256 KiB.
    pub output_high_water: usize,
    /// What to do with a slow consumer. Default: pause.
    pub slow_consumer: SlowConsumer,
    /// Unsent bytes of one client past which a reply to it is refused. Default 8 MiB.
    pub output_max: usize,
    /// How long a client may neither send nor take a byte. Default one hour.
    pub idle: Option<Duration>,
    /// How long the rest of a frame may take after its first byte. Default 30 s.
    pub frame_timeout: Option<Duration>,
    /// How long a connection of our own may take to stand. Default 10 s.
    pub connect: Duration,
    /// How long a client that is being closed may take over its last bytes. Default 30 s.
    pub flush: Duration,
    /// The longest that a drain may take, whatever its caller allows. Default 5 minutes.
    pub drain: Duration,
    /// The pause after `accept` failed for want of a descriptor or memory. A client that leaves ends it
    /// sooner. Default 100 ms.
    pub accept_retry: Duration,
    /// How often a queue's name is checked (a queue that was unlinked under us gets no more senders).
    /// Default 10 s.
    pub queue_check: Option<Duration>,
    /// Messages that wait for room in a full queue, per queue. Default 1,024.
    pub outbox: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        const MIB: usize = 1 << 20;
        Limits {
            clients: 65_536,
            clients_per_uid: 57_344,
            buffered_max: 256 * MIB,
            buffered_per_uid: 224 * MIB,
            when_full: WhenFull::Wait,
            accepts_per_visit: 64,
            bytes_per_visit: MIB / 4,
            messages_per_visit: 1_024,
            frame_max: MIB,
            output_high_water: MIB / 4,
            slow_consumer: SlowConsumer::Pause,
            output_max: 8 * MIB,
            idle: Some(Duration::from_secs(3_600)),
            frame_timeout: Some(Duration::from_secs(30)),
            connect: Duration::from_secs(10),
            flush: Duration::from_secs(30),
            drain: Duration::from_secs(300),
            accept_retry: Duration::from_millis(100),
            queue_check: Some(Duration::from_secs(10)),
            outbox: 1_024,
        }
    }
}
