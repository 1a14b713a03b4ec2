//! The tables against models that are too simple to be wrong.

use std::{collections::BTreeMap, net::Ipv4Addr};

use proptest::{collection::vec, prelude::*};

use crate::routing_table::{
    macs::{MACS_MAX, Mac, Macs},
    protocol::{Command, Line},
    table::{Change, Destination, ROUTES_MAX, Route, Table},
};

/// Networks that are near each other, so that they meet.
fn destinations() -> impl Strategy<Value = Destination> {
    (0..=32_u8, 0..4_u32).prop_map(|(mask, near)| {
        let bits = u32::MAX.checked_shl(32 - u32::from(mask)).unwrap_or(0);
        Destination::new(Ipv4Addr::from_bits((0x0A00_0000 | near << 30 | near) & bits), mask).unwrap()
    })
}

fn routes() -> impl Strategy<Value = Route> {
    (destinations(), 1..4_u8, 0..3_u8).prop_map(|(destination, gateway, card)| {
        format!("{destination} 10.1.1.{gateway} eth{card}").parse().unwrap()
    })
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => routes().prop_map(Change::Create),
        4 => routes().prop_map(Change::Update),
        3 => destinations().prop_map(Change::Delete),
        1 => Just(Change::Flush),
    ]
}

/// What a change does to a plain map; false where it cannot be.
fn model(map: &mut BTreeMap<Destination, Route>, change: &Change) -> bool {
    match change {
        Change::Create(route) if map.contains_key(&route.destination) => return false,
        Change::Update(route) if !map.contains_key(&route.destination) => return false,
        Change::Create(route) | Change::Update(route) => drop(map.insert(route.destination, route.clone())),
        Change::Delete(destination) => return map.remove(destination).is_some(),
        Change::Flush => map.clear(),
    }
    true
}

/// Whether a packet to `address` may take a route to this destination, by comparing bit for bit.
fn is_in(address: Ipv4Addr, destination: Destination) -> bool {
    let text = destination.to_string();
    let (network, mask) = text.split_once('/').unwrap();
    let network: Ipv4Addr = network.parse().unwrap();
    let bits = |ip: Ipv4Addr| format!("{:032b}", ip.to_bits());
    let mask: usize = mask.parse().unwrap();
    bits(address)[..mask] == bits(network)[..mask]
}

fn mask_of(destination: Destination) -> u8 {
    destination.to_string().split_once('/').unwrap().1.parse().unwrap()
}

proptest! {
    #[test]
    fn a_table_does_what_a_map_does_and_a_refused_change_leaves_no_trace(changes in vec(changes(), 0..60)) {
        let (mut table, mut map, mut made) = (Table::default(), BTreeMap::new(), 0);
        for change in &changes {
            let before = table.clone();
            let done = table.apply(change);
            prop_assert_eq!(done.is_ok(), model(&mut map, change), "{}", change);
            match done {
                Ok(sequence) => {
                    made += 1;
                    prop_assert_eq!(sequence, made, "numbered without a gap");
                }
                Err(_) => prop_assert_eq!(&table, &before),
            }
            prop_assert!(table.routes().eq(map.values().cloned()));
        }
    }

    #[test]
    fn whoever_gets_the_table_and_the_changes_after_it_has_the_same_table(
        changes in vec(changes(), 0..60),
        joins in 0..60_usize,
    ) {
        let mut table = Table::default();
        let mut copy = None;
        for (at, change) in changes.iter().enumerate() {
            if at == joins {
                copy = Some(Table::restored(table.sequence(), table.routes()));
            }
            if table.apply(change).is_ok() && let Some(copy) = &mut copy {
                // As it is sent.
                let line = Line::Change { sequence: table.sequence(), change: change.clone() }.to_string();
                let Ok(Line::Change { sequence, change }) = line.parse() else { panic!("{line}") };
                prop_assert_eq!(copy.apply(&change), Ok(sequence));
            }
        }
        if let Some(copy) = copy {
            prop_assert_eq!(copy, table);
        }
    }

    #[test]
    fn lookup_finds_the_longest_mask(changes in vec(changes(), 0..40), near in any::<u32>(), far in any::<bool>()) {
        let address = Ipv4Addr::from_bits(if far { near } else { 0x0A00_0000 | (near & 0xC000_0003) });
        let mut table = Table::default();
        for change in &changes {
            let _ = table.apply(change);
        }
        let best = table.routes().filter(|r| is_in(address, r.destination)).max_by_key(|r| mask_of(r.destination));
        prop_assert_eq!(table.lookup(address), best);
    }

    #[test]
    fn a_destination_has_no_bits_beyond_its_mask(bits in any::<u32>(), mask in 0..=40_u8) {
        let network = Ipv4Addr::from_bits(bits);
        let fits = mask <= 32 && (mask == 32 || bits.trailing_zeros() >= 32 - u32::from(mask));
        prop_assert_eq!(Destination::new(network, mask).is_ok(), fits);
        prop_assert_eq!(format!("{network}/{mask}").parse::<Destination>().is_ok(), fits);
    }

    #[test]
    fn what_is_written_reads_as_it_was(change in changes(), sequence in any::<u64>()) {
        let text = change.to_string();
        prop_assert_eq!(text.parse::<Change>(), Ok(change.clone()));
        prop_assert_eq!(Command::parse(text.to_lowercase().as_bytes()), Ok(Some(Command::Change(change.clone()))));
        let line = Line::Change { sequence, change };
        prop_assert_eq!(line.to_string().parse::<Line>(), Ok(line));
    }

    #[test]
    fn no_line_is_too_strange(line in vec(any::<u8>(), 0..400), text in "[A-Z-]{0,11}[ 0-9./:a-z]{0,40}") {
        for line in [line.as_slice(), text.as_bytes()] {
            if let Err(why) = Command::parse(line) {
                prop_assert!(!why.to_string().contains('\n'), "an answer is one line: {}", why);
            }
        }
        let _ = text.parse::<Line>();
    }

    #[test]
    fn macs_read_from_shared_memory_are_those_that_were_written(entries in vec((any::<u32>(), any::<[u8; 5]>()), 0..40)) {
        let mut macs = Macs::default();
        for (ip, [a, b, c, d, e]) in entries {
            let mac: Mac = format!("02:{a:02x}:{b:02X}:{c:02x}:{d:02x}:{e:02x}").parse().unwrap();
            let known = macs.entries().any(|(other, _)| other == Ipv4Addr::from_bits(ip));
            prop_assert_eq!(macs.add(ip.into(), mac).is_err(), known);
        }
        prop_assert_eq!(Macs::from_bytes(&macs.to_bytes()), Ok(macs.clone()));
        for (ip, _) in macs.clone().entries() {
            prop_assert!(macs.delete(ip).is_ok() && macs.delete(ip).is_err());
        }
        prop_assert_eq!(macs.len(), 0);
    }

    #[test]
    fn a_publisher_that_lies_is_found_out(used in MACS_MAX as u64 + 1.., length in 0..Macs::BYTES) {
        let mut bytes = Macs::default().to_bytes();
        prop_assert!(Macs::from_bytes(&bytes[..length]).is_err());
        bytes[8..16].copy_from_slice(&used.to_ne_bytes());
        prop_assert!(Macs::from_bytes(&bytes).is_err());
    }
}

#[test]
fn tables_are_bounded() {
    let (mut table, mut macs) = (Table::default(), Macs::default());
    for n in 0..ROUTES_MAX as u32 + 1 {
        let route = format!("{}/32 10.1.1.1 eth0", Ipv4Addr::from_bits(n)).parse().unwrap();
        assert_eq!(table.apply(&Change::Create(route)).is_ok(), n < ROUTES_MAX as u32);
    }
    for n in 0..MACS_MAX as u32 + 1 {
        let added = macs.add(Ipv4Addr::from_bits(n), "02:00:00:00:00:01".parse().unwrap());
        assert_eq!(added.is_ok(), n < MACS_MAX as u32);
    }
    assert_eq!(Macs::from_bytes(&macs.to_bytes()), Ok(macs));
}
