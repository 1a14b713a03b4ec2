//! The MAC table (IP address to MAC address, as ARP resolves them), which is in shared memory.
//!
//! The manager publishes the whole table at each change; each process that maps it reads the newest. It is one value of
//! a fixed size, in the machine's byte order:
//!
//! | bytes | content |
//! |---|---|
//! | 0 to 7 | revision: how many changes there have been |
//! | 8 to 15 | how many entries are used |
//! | 16 and on | [`MACS_MAX`] entries of 12 bytes: IP address 4, MAC address 6, zero 2; those in use first, by IP address |

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, str::FromStr};

use bytemuck::{Pod, Zeroable};

use crate::table::{Refused, refuse};

pub(crate) const MACS_MAX: usize = 256;

/// Identifies this layout in the segment's header, so that a reader of another version rejects it.
pub(crate) const LAYOUT: u64 = u64::from_be_bytes(*b"MACTABL1");

/// The address of one network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac([u8; 6]);

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    ip: [u8; 4],
    mac: [u8; 6],
    zero: [u8; 2],
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Layout {
    revision: u64,
    used: u64,
    entries: [Entry; MACS_MAX],
}

/// The MAC table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Macs {
    entries: BTreeMap<Ipv4Addr, Mac>,
    revision: u64,
}

impl Macs {
    /// The size of the table in shared memory, in bytes.
    pub(crate) const BYTES: usize = size_of::<Layout>();

    pub(crate) fn add(&mut self, ip: Ipv4Addr, mac: Mac) -> Result<u64, Refused> {
        if let Some(known) = self.entries.get(&ip) {
            return refuse(format!("{ip} has the MAC address {known} already; MAC-DELETE it first"));
        }
        if self.entries.len() >= MACS_MAX {
            return refuse(format!("the MAC table is full: it holds {MACS_MAX} addresses"));
        }
        self.entries.insert(ip, mac);
        Ok(self.changed())
    }

    pub(crate) fn delete(&mut self, ip: Ipv4Addr) -> Result<u64, Refused> {
        if self.entries.remove(&ip).is_none() {
            return refuse(format!("no MAC address is known for {ip}"));
        }
        Ok(self.changed())
    }

    pub(crate) fn flush(&mut self) {
        self.entries.clear();
        self.changed();
    }

    fn changed(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (Ipv4Addr, Mac)> + '_ {
        self.entries.iter().map(|(&ip, &mac)| (ip, mac))
    }

    /// The bytes that the manager publishes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut layout = Layout::zeroed();
        (layout.revision, layout.used) = (self.revision, self.entries.len() as u64);
        for (entry, (ip, mac)) in layout.entries.iter_mut().zip(&self.entries) {
            (entry.ip, entry.mac) = (ip.octets(), mac.0);
        }
        bytemuck::bytes_of(&layout).to_vec()
    }

    /// Parses published bytes, and checks them.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Macs, Refused> {
        let Ok(layout) = bytemuck::try_pod_read_unaligned::<Layout>(bytes) else {
            return refuse(format!("a MAC table has {} bytes, this one has {}", Macs::BYTES, bytes.len()));
        };
        let used = usize::try_from(layout.used).ok().and_then(|used| layout.entries.get(..used));
        let Some(used) = used else {
            return refuse(format!("a MAC table has {MACS_MAX} entries, this one claims {}", layout.used));
        };
        let entries = used.iter().map(|entry| (entry.ip.into(), Mac(entry.mac))).collect();
        Ok(Macs { entries, revision: layout.revision })
    }
}

impl FromStr for Mac {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Mac, Refused> {
        let wrong =
            || Refused(format!("{text:?} is no MAC address, which is written as in 02:00:5e:10:00:01"));
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part =
                parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(wrong)?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return refuse(format!("{text} is no single card's address"));
        }
        Ok(Mac(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
