//! The limits of a reactor.

use std::time::Duration;

/// What the reactor does with a client that does not read its replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowConsumer {
    /// Read no more requests from it until it has read half of what waits for it.
    Pause,
    /// Close it, with [`Limit::SlowConsumer`](crate::Limit::SlowConsumer) as its cause.
    Disconnect,
}

/// What happens to a connection (CIR) for which there is no place or no descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits in the listener's backlog until a client is closed.
    Wait,
    /// It is accepted, on a spare descriptor if there is no other, and closed at once: the peer sees an end of file
    /// instead of waiting.
    Shed,
}

/// The limits of a reactor. All are on by default. [`Stats::limit_count`](crate::Stats::limit_count) counts how often
/// each was reached.
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
    /// Clients at once, of all listeners together. Default 65,536.
    pub clients: usize,
    /// Clients at once of one user (Unix sockets only, where the kernel reports the uid). Default 57,344: no single
    /// user can take the last eighth of the places.
    pub clients_per_uid: usize,
    /// Bytes buffered for all clients together: partial frames and unsent replies. A client that exceeds it is
    /// closed. Default 256 MiB.
    pub buffered_max: usize,
    /// Bytes buffered for the clients of one user (Unix sockets only). Default 224 MiB.
    pub buffered_per_uid: usize,
    /// What happens to a connection for which there is no place. Default: it waits.
    pub when_full: WhenFull,
    /// Connections accepted in one visit to a listener. Default 64.
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
    /// Unsent bytes of one client. A reply that would exceed it is refused. Default 8 MiB.
    pub output_max: usize,
    /// How long a client may neither send nor read a byte. Default one hour.
    pub idle: Option<Duration>,
    /// How long the rest of a frame may take after its first byte. Default 30 s.
    pub frame_timeout: Option<Duration>,
    /// How long [`PollSet::connect`](crate::PollSet::connect) may take to establish a connection. Default 10 s.
    pub connect: Duration,
    /// How long a client that is being closed may take to read its last bytes. Default 30 s.
    pub flush: Duration,
    /// How long a drain may take at most, whatever its caller allows. Default 5 minutes.
    pub drain: Duration,
    /// The pause after `accept(2)` failed for lack of a descriptor or memory. It ends early when a client is closed.
    /// Default 100 ms.
    pub accept_retry: Duration,
    /// How often the reactor checks that a queue still has its name: nothing can open an unlinked queue.
    /// `None`: never. Default 10 s.
    pub queue_check: Option<Duration>,
    /// Messages buffered for a full queue, per queue. Default 1,024.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_no_user_can_take_all_and_no_limit_defeats_another() {
        let limits = Limits::default();
        assert!(limits.clients_per_uid < limits.clients);
        assert!(limits.buffered_per_uid < limits.buffered_max);
        assert!(limits.frame_max <= limits.output_max, "a reply as long as the longest request can be sent");
        assert!(limits.output_high_water < limits.output_max, "a slow client is paused before it is closed");
        assert!(
            limits.output_max < limits.buffered_per_uid,
            "one slow client does not use up its user's share"
        );
        assert!(limits.frame_timeout < limits.idle, "a partial frame is no activity");
    }
}
