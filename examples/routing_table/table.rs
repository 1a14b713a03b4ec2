//! The routing table itself: its operations, and their results. It does not use sockets.

use std::{collections::BTreeMap, error::Error, fmt, net::Ipv4Addr, str::FromStr};

/// The most routes: the whole table must fit into the output buffer of one subscriber.
pub(crate) const ROUTES_MAX: usize = 1_024;

/// The longest name of an interface that the kernel allows, without its NUL (`IFNAMSIZ`).
const INTERFACE_MAX: usize = 15;

/// Why a change or a line was refused, as a message to its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) String);

/// An IPv4 network such as `10.0.0.0/8`: no bit of the address is set beyond the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Destination {
    network: Ipv4Addr,
    mask: u8,
}

/// One entry: packets to `destination` go to `gateway`, out of `interface`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: Destination,
    pub(crate) hop: Hop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    gateway: Ipv4Addr,
    interface: String,
}

/// A change of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Create(Route),
    Update(Route),
    Delete(Destination),
    /// Every route is deleted.
    Flush,
}

/// The routes, and the number of the last change. Two tables with the same history of changes are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    routes: BTreeMap<Destination, Hop>,
    sequence: u64,
}

impl Table {
    /// A table that was received, with the number of its last change.
    pub(crate) fn restored(sequence: u64, routes: impl IntoIterator<Item = Route>) -> Table {
        let routes = routes.into_iter().map(|route| (route.destination, route.hop)).collect();
        Table { routes, sequence }
    }

    /// Makes a change, and returns its number. A refused change alters nothing and gets no number.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<u64, Refused> {
        match change {
            Change::Create(route) => {
                if self.routes.contains_key(&route.destination) {
                    return refuse(format!("there is a route to {} already; UPDATE it", route.destination));
                }
                if self.routes.len() >= ROUTES_MAX {
                    return refuse(format!("the table is full: it holds {ROUTES_MAX} routes"));
                }
                self.routes.insert(route.destination, route.hop.clone());
            }
            Change::Update(route) => match self.routes.get_mut(&route.destination) {
                Some(hop) => hop.clone_from(&route.hop),
                None => {
                    return refuse(format!(
                        "there is no route to {} to update; CREATE it",
                        route.destination
                    ));
                }
            },
            Change::Delete(destination) => {
                if self.routes.remove(destination).is_none() {
                    return refuse(format!("there is no route to {destination} to delete"));
                }
            }
            Change::Flush => self.routes.clear(),
        }
        self.sequence += 1;
        Ok(self.sequence)
    }

    /// The route for a packet to `address`: of those whose network contains it, the one with the longest mask.
    pub(crate) fn lookup(&self, address: Ipv4Addr) -> Option<Route> {
        (0..=32).rev().find_map(|mask| {
            let destination = Destination::around(address, mask);
            self.routes.get(&destination).map(|hop| Route { destination, hop: hop.clone() })
        })
    }

    /// The number of changes so far.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) fn len(&self) -> usize {
        self.routes.len()
    }

    /// In the order of their networks.
    pub(crate) fn routes(&self) -> impl Iterator<Item = Route> + '_ {
        self.routes.iter().map(|(&destination, hop)| Route { destination, hop: hop.clone() })
    }
}

impl Destination {
    pub(crate) fn new(network: Ipv4Addr, mask: u8) -> Result<Destination, Refused> {
        if mask > 32 {
            return refuse(format!("mask {mask} of {network}/{mask} exceeds the 32 bits of an address"));
        }
        let around = Destination::around(network, mask);
        if around.network != network {
            return refuse(format!("{network}/{mask} has bits beyond its mask; the network is {around}"));
        }
        Ok(around)
    }

    /// The network with this mask that contains the address.
    fn around(address: Ipv4Addr, mask: u8) -> Destination {
        // `<<` by all 32 bits would overflow.
        let bits = u32::MAX.checked_shl(32 - u32::from(mask)).unwrap_or(0);
        Destination { network: Ipv4Addr::from_bits(address.to_bits() & bits), mask }
    }
}

impl FromStr for Destination {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Destination, Refused> {
        let Some((network, mask)) = text.split_once('/') else {
            return refuse(format!("{text:?} has no mask; write ADDRESS/BITS, as in 10.0.0.0/8"));
        };
        // Rust parses a plus sign before a number; other tools do not.
        match mask.parse::<u8>() {
            Ok(bits) if !mask.starts_with('+') => Destination::new(address(network)?, bits),
            _ => refuse(format!("mask {mask:?} is no number from 0 to 32")),
        }
    }
}

impl FromStr for Route {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Route, Refused> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let &[destination, gateway, interface] = words.as_slice() else {
            return refuse(format!(
                "a route has 3 words, not {}: DESTINATION/MASK GATEWAY INTERFACE",
                words.len()
            ));
        };
        let (destination, gateway) = (destination.parse()?, address(gateway)?);
        if gateway.is_unspecified() || gateway.is_multicast() || gateway.is_broadcast() {
            return refuse(format!("gateway {gateway} is no single host's address"));
        }
        if interface.len() > INTERFACE_MAX || !interface.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
            return refuse(format!(
                "interface {interface:?} has more than {INTERFACE_MAX} bytes, or one that is no plain letter, digit or sign"
            ));
        }
        Ok(Route { destination, hop: Hop { gateway, interface: interface.into() } })
    }
}

/// An IPv4 address as people write it.
pub(crate) fn address(text: &str) -> Result<Ipv4Addr, Refused> {
    text.parse().map_err(|_| Refused(format!("{text:?} is no IPv4 address, which is written as in 10.1.2.3")))
}

pub(crate) fn refuse<T>(why: String) -> Result<T, Refused> {
    Err(Refused(why))
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.mask)
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.gateway, self.interface)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.destination, self.hop)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Refused {}
