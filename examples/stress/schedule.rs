//! When requests are due, independent of the server: the arrivals of an open loop.

use std::{fmt, str::FromStr};

use crate::random::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Evenly spaced.
    Constant,
    /// Independent of one another, like those of many users: the gaps are exponentially distributed.
    Poisson,
}

impl FromStr for Arrival {
    type Err = String;

    fn from_str(text: &str) -> Result<Arrival, String> {
        match text {
            "constant" => Ok(Arrival::Constant),
            "poisson" => Ok(Arrival::Poisson),
            _ => Err("constant or poisson is wanted".into()),
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arrival::Constant => "constant",
            Arrival::Poisson => "poisson",
        })
    }
}

/// The times themselves, one after the other.
pub(crate) struct Schedule {
    arrival: Arrival,
    start_ns: u64,
    gap_ns: f64,
    /// How many arrivals there were.
    count: u64,
    /// Since the start.
    next_ns: f64,
    random: Random,
}

impl Schedule {
    /// `rate` arrivals a second, from `start_ns` on. The first of a constant rate is due at once.
    pub(crate) fn new(arrival: Arrival, rate: f64, start_ns: u64, seed: u64) -> Schedule {
        let mut schedule = Schedule {
            arrival,
            start_ns,
            gap_ns: 1e9 / rate,
            count: 0,
            next_ns: 0.0,
            random: Random::new(seed),
        };
        if arrival == Arrival::Poisson {
            schedule.next_ns = schedule.gap();
        }
        schedule
    }

    /// When the next is due.
    pub(crate) fn next_ns(&self) -> u64 {
        self.start_ns + self.next_ns as u64
    }

    pub(crate) fn advance(&mut self) {
        self.count += 1;
        self.next_ns = match self.arrival {
            // Not a sum, which would drift.
            Arrival::Constant => self.count as f64 * self.gap_ns,
            Arrival::Poisson => self.next_ns + self.gap(),
        };
    }

    fn gap(&mut self) -> f64 {
        -self.random.unit().ln() * self.gap_ns
    }
}
