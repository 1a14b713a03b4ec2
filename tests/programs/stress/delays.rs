//! A server whose delays are known: they must show at the percentiles at which they lie, and nowhere else.

use serde_json::Value;

use crate::stress::program::{Server, report, server_was_right};

/// An echo server that keeps every hundredth answer back for 10 ms.
const DELAYS_EVERY_HUNDREDTH: &str = r#"
import socket, sys, time
master = socket.socket(socket.AF_UNIX)
master.bind(sys.argv[1])
master.listen()
print("ready", flush=True)
client, _ = master.accept()
count = 0
while data := client.recv(64, socket.MSG_WAITALL):
    count += 1
    if count % 100 == 0:
        time.sleep(0.010)
    client.sendall(data)
"#;

fn micros(report: &Value, which: &str, name: &str) -> f64 {
    report[which][name].as_f64().unwrap()
}

/// One request at a time, no warm-up: of n requests, n / 100 are delayed. Nothing can be faster than the server's sleep; whether anything else
/// is slow depends on the machine, so nothing is asserted just below the 99th percentile: `accounting.rs` does that,
/// without a machine.
#[test]
fn delays_of_one_in_a_hundred_lie_above_the_99th_percentile() {
    let server = Server::python(DELAYS_EVERY_HUNDREDTH);
    let (code, closed) =
        report(&format!("run {} -c 1 --closed --size 64 -d 2s --warmup 0s --timeout 30s", server.address));
    server_was_right(code, &closed);
    let count = closed["service_us"]["count"].as_u64().unwrap();
    assert!(count >= 200, "{closed}");
    for name in ["p99.9", "p99.99", "max"] {
        assert!(micros(&closed, "service_us", name) >= 10_000.0, "{name}: {closed}");
    }
    assert!(micros(&closed, "service_us", "p90") < 10_000.0, "{closed}");
    // The mean holds all of the delays, each of them once: one in a hundred, of 10 ms, is 100 µs of it.
    let delayed = (count / 100) as f64;
    assert!(micros(&closed, "service_us", "mean") * count as f64 >= delayed * 10_000.0, "{closed}");
}

/// At 2,000 a second a delay of 10 ms holds up 20 requests, of which a closed loop sees one.
#[test]
fn an_open_loop_counts_those_who_waited_behind_a_delay() {
    let server = Server::python(DELAYS_EVERY_HUNDREDTH);
    let (_, open) =
        report(&format!("run {} -c 1 --rate 2k --size 64 -d 2s --warmup 0s --timeout 30s", server.address));
    assert_eq!((&open["requests"], &open["answers"]), (&4000.into(), &4000.into()), "{open}");
    assert_eq!((&open["missing"], &open["wrong"]), (&0.into(), &0.into()), "{open}");
    // In each hundred the delayed request takes 10 ms or more, and those due 0.5, 1, 1.5, … ms after it 9.5, 9, 8.5, … ms at least, whatever the
    // machine does. So two in a hundred have 9.5 ms or more, and the 99th percentile is one of them (to the histogram's three digits).
    assert!(micros(&open, "latency_us", "p99") >= 9_490.0, "{open}");
    // 10 + 9.5 + … + 0.5 = 105 ms in a hundred requests, but for the last, which has none after it.
    let sum = micros(&open, "latency_us", "mean") * 4000.0;
    assert!(sum >= 0.999 * (39.0 * 105_000.0 + 10_000.0), "{open}");
}
