//! What is to be done.

use std::time::Duration;

use ipc_reactor::Limits;

use crate::{protocol::Protocol, schedule::Arrival, target::Target, values::Sizes};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Load {
    Open {
        rate: f64,
        arrival: Arrival,
    },
    Closed,
    /// A publisher in shared memory sends by its own schedule.
    Published,
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) protocol: Protocol,
    pub(crate) sizes: Sizes,
    pub(crate) connections: u32,
    /// How many of them are loaded.
    pub(crate) active: u32,
    /// Connections a second; None: as fast as the server takes them.
    pub(crate) ramp: Option<f64>,
    pub(crate) load: Load,
    /// Requests under way on a connection at a time.
    pub(crate) pipeline: u32,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    /// For an answer, for a connection, and for room to send.
    pub(crate) timeout: Duration,
    pub(crate) interval: Duration,
    pub(crate) seed: u64,
    pub(crate) server_pid: Option<u32>,
}

impl Plan {
    /// The reactor's limits, which must not limit the load.
    pub(crate) fn limits(&self) -> Limits {
        let defaults = Limits::default();
        let connections = self.connections as usize + 1;
        let (request, answer) = self.protocol.wire_max(self.sizes);
        let output = (request + 64) * self.pipeline as usize * 2;
        Limits {
            clients: connections,
            clients_per_uid: connections,
            idle: None,
            frame_timeout: None,
            connect: self.timeout,
            frame_max: answer.max(defaults.frame_max),
            output_high_water: output.max(defaults.output_high_water),
            output_max: output.max(defaults.output_max),
            buffered_max: usize::MAX,
            buffered_per_uid: usize::MAX,
            ..defaults
        }
    }
}
