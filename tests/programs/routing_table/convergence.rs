//! Everything at once: commands from all sides, and subscribers that are killed and come back.

use ipc_reactor::Signal;
use serde_json::{Value, json};

use crate::routing_table::system::{Foreign, Log, Subscriber, System, answers, has, start_logger};
use crate::running::PATIENCE;

const SUBSCRIBERS: usize = 5;
const ROUNDS: usize = 60;

/// The same series each time: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }

    /// A command on one of few entries, so that many meet; some are refused.
    fn command(&mut self) -> String {
        let (net, gateway) = (self.below(12), self.below(250) + 1);
        match self.below(20) {
            0..6 => format!("CREATE 10.{net}.0.0/16 10.1.1.{gateway} eth{}\n", net % 3),
            6..10 => format!("UPDATE 10.{net}.0.0/16 10.1.2.{gateway} eth{}\n", net % 2),
            10..13 => format!("DELETE 10.{net}.0.0/16\n"),
            13..16 => format!("MAC-ADD 10.1.1.{net} 02:00:00:00:{net:02x}:{gateway:02x}\n"),
            16..18 => format!("MAC-DELETE 10.1.1.{net}\n"),
            18 => format!("CREATE 10.{net}.0.1/16 10.1.1.1 eth0\n"),
            _ => format!("LOOKUP 10.{net}.3.4\n"),
        }
    }

    fn commands(&mut self) -> (String, usize) {
        let count = self.below(6) as usize + 1;
        ((0..count).map(|_| self.command()).collect(), count)
    }
}

/// The manager's tables as a subscriber would print them.
fn tables(system: &System) -> Value {
    let (mut show, mac_show) = (system.command("SHOW"), system.command("MAC-SHOW"));
    show.retain(|line| line.starts_with("ROUTE "));
    let routes: Vec<_> = show.iter().map(|line| line.strip_prefix("ROUTE ").unwrap()).collect();
    let macs = mac_show.iter().filter_map(|line| line.strip_prefix("MAC ")?.split_once(' '));
    let macs: serde_json::Map<_, _> = macs.map(|(ip, mac)| (ip.to_owned(), mac.into())).collect();
    let revision: u64 = mac_show.last().unwrap().strip_prefix("OK ").unwrap().parse().unwrap();
    json!({ "sequence": system.status("sequence"), "routes": routes, "mac_revision": revision, "macs": macs })
}

/// Waits until all of them have what the manager has, and compares it entry by entry.
fn assert_converged(system: &System, subscribers: &mut [Subscriber]) -> Value {
    let expected = tables(system);
    let number = |name: &str| expected[name].as_u64().unwrap();
    for (at, subscriber) in subscribers.iter_mut().enumerate() {
        subscriber.await_changes(number("sequence"), number("mac_revision"));
        let found = subscriber.tables();
        for part in ["sequence", "routes", "mac_revision", "macs"] {
            assert_eq!(found[part], expected[part], "{part} of subscriber {at}");
        }
        assert_eq!(found["missed"], 0, "subscriber {at}");
        assert_eq!(found["connections"], 1, "subscriber {at} was never sent away");
    }
    expected
}

#[test]
fn subscribers_killed_at_random_converge_to_the_managers_tables() {
    if !has("python3") || !has("socat") {
        return;
    }
    let mut random = Random(20_240_607);
    let mut system = System::start();
    let mut logger = start_logger(&system);
    let mut subscribers: Vec<_> = (0..SUBSCRIBERS).map(|_| Subscriber::start(&system)).collect();
    let (mut python, mut socat) = (Foreign::python(&system), Foreign::socat(&system));

    for round in 0..ROUNDS {
        let [a, b, c] = [(); 3].map(|()| random.commands());
        python.send(&a.0);
        socat.send(&b.0);
        system.type_in(&c.0);
        // In the midst of it.
        let victim = random.below(SUBSCRIBERS as u64) as usize;
        match random.below(4) {
            0 => subscribers[victim] = Subscriber::start(&system), // the old one is killed when it is dropped
            1 => subscribers[victim].await_tables(),
            2 if round % 8 == 0 => system.manager.signal(Signal::USR1),
            _ => {}
        }
        python.answers(a.1);
        socat.answers(b.1);
        answers(&system.manager, c.1);
    }
    let expected = assert_converged(&system, &mut subscribers);
    assert!(expected["sequence"].as_u64() > Some(100), "there were changes: {expected}");
    system.await_status("subscribers", |count| count == SUBSCRIBERS as u64);

    // Each kind of MAC change is reported by itself; then something is in both tables, and then no more.
    for command in ["MAC-ADD 172.16.0.1 02:00:00:00:00:01", "MAC-DELETE 172.16.0.1"] {
        assert!(system.command(command)[0].starts_with("OK "));
        assert_converged(&system, &mut subscribers);
    }
    python.send("CREATE 172.16.0.0/12 10.1.1.1 eth0\nMAC-ADD 172.16.0.1 02:00:00:00:00:01\n");
    assert!(python.answers(2).iter().all(|answer| answer.starts_with("OK ")));
    let full = assert_converged(&system, &mut subscribers);
    system.manager.signal(Signal::USR1);
    for subscriber in &mut subscribers {
        subscriber.await_changes(
            full["sequence"].as_u64().unwrap() + 1,
            full["mac_revision"].as_u64().unwrap() + 1,
        );
    }
    let flushed = assert_converged(&system, &mut subscribers);
    assert_eq!((&flushed["routes"], &flushed["macs"]), (&json!([]), &json!({})));

    let last = flushed["sequence"].as_u64().unwrap();
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.end()["sequence"], last);
    }
    let [written, dropped, untold] = system.end();
    // It ends with the manager, whose queue it was.
    assert_eq!(logger.wait().code(), Some(0));
    let mut log = Log::default();
    while let Ok(line) = logger.stdout.recv_timeout(PATIENCE) {
        log.take(&line);
    }
    assert_eq!(log.lines.len() as u64 + dropped, written, "every line was printed or is said to be dropped");
    assert_eq!(log.told + untold, dropped);
    if dropped == 0 {
        let mut changes = log.changes();
        changes.sort_unstable();
        assert!(changes.into_iter().eq(1..=last), "every change was logged");
    }
    system.assert_nothing_left();
}
