//! The other commands, against `stress server`: what they report, and with which exit code.

use crate::support::crowd;
use std::fs;

use serde_json::Value;

use crate::running::{example, run, text};
use crate::stress::{
    program::{Server, count, report, stress},
    schema,
};

#[test]
fn find_ends_at_its_bound_or_says_that_nothing_holds() {
    let server = Server::echo("unix");
    let brief = "-c 5 -d 300ms --warmup 50ms --timeout 30s";
    let (code, found) =
        report(&format!("find {} --slo p50=30s,max=1m --from 200 --to 400 {brief}", server.address));
    if found["valid"] == true {
        assert_eq!((code, &found["rate"]), (0, &400.0.into()), "{found}");
        assert_eq!(found["probes"].as_array().map(Vec::len), Some(2));
    }
    let (code, found) = report(&format!("find {} --slo p50=1ns --from 200 {brief}", server.address));
    assert_eq!((code, &found["rate"]), (if found["valid"] == true { 1 } else { 3 }, &0.0.into()), "{found}");
}

#[test]
fn churn_connects_at_its_rate_and_asks_if_told() {
    let Some(_alone) = crowd(1_100) else { return };
    let server = Server::echo("unix");
    for more in ["", r"--ask hello\n"] {
        let load = "--connects 1k/s -d 300ms --warmup 50ms --timeout 30s";
        let (_, report) = report(&format!("churn {} {load} {more}", server.address));
        assert_eq!((count(&report, "requests"), count(&report, "answers")), (300, 300), "{report}");
        assert_eq!(count(&report, "missing"), 0);
    }
}

#[test]
fn idle_holds_all_and_loads_some() {
    let Some(_alone) = crowd(1_100) else { return };
    let server = Server::echo("unix");
    let (_, report) = report(&format!(
        "idle {} -c 1000 --active 10 --ramp 20k/s --rate 500 -d 300ms --warmup 0s --timeout 30s",
        server.address
    ));
    assert_eq!((count(&report, "connections"), count(&report, "connections_loaded")), (1000, 10));
    assert_eq!(report["connect"]["connected"], 1000);
    assert_eq!(report["connect"]["connected_at_end"], 1000);
    assert_eq!((count(&report, "answers"), count(&report, "missing")), (150, 0), "{report}");
    let memory = &report["server_memory"];
    assert!(memory["connected_bytes"].as_u64() >= memory["before_bytes"].as_u64(), "{report}");
}

#[test]
fn matrix_measures_each_transport_and_names_what_is_not_possible() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("matrix.json");
    let output = run(example("stress")
        .args([
            "matrix",
            "unix,unix-seq,abstract-dgram,udp,mq,shm",
            "--size",
            "8,64k",
            "-c",
            "3",
            "--rate",
            "500",
        ])
        .args(["-d", "200ms", "--warmup", "50ms", "--timeout", "30s", "--json"])
        .arg(&file)
        .env("TMPDIR", folder.path()));
    let matrix: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    schema::check(&matrix);
    let cells = matrix["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 12, "{}", text(&output.stderr));
    for cell in cells {
        let refused = cell["refused"].as_str();
        let is_large = cell["size"]["max"] != 8;
        let transport = cell["transport"].as_str().unwrap();
        match (transport, is_large) {
            ("shm", false) => assert!(refused.unwrap().contains("stamps"), "{cell}"),
            ("udp", true) => assert!(refused.unwrap().contains("65507"), "{cell}"),
            // Where the system allows such messages it is measured.
            ("mq", true) if refused.is_some() => assert!(refused.unwrap().contains("msgsize_max"), "{cell}"),
            _ => assert_eq!((&cell["missing"], &cell["wrong"]), (&0.into(), &0.into()), "{cell}"),
        }
    }
    fs::remove_file(&file).unwrap();
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn compare_judges_two_reports() {
    let server = Server::echo("unix");
    let (before, after) = (server.file("before.json"), server.file("after.json"));
    let (before_text, after_text) = (before.display().to_string(), after.display().to_string());
    let output = stress(&format!(
        "run {} -c 2 --rate 500 -d 300ms --warmup 0s --max-lag 10s --timeout 30s --json {before_text}",
        server.address
    ));
    let read = fs::read(&before).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    let mut changed: Value = serde_json::from_slice(&read).unwrap();
    changed["valid"] = true.into();
    fs::write(&before, changed.to_string()).unwrap();
    let slower = changed["latency_us"]["p99"].as_f64().unwrap() * 1.2;
    changed["latency_us"]["p99"] = slower.into();
    fs::write(&after, changed.to_string()).unwrap();
    for (condition, code) in
        [("p99+10%", 1), ("p99+30%", 0), ("rate-5%", 0), ("p99.9+0%,p99+10%", 1), ("p99-10%", 0)]
    {
        let (got, compared) = report(&format!("compare {before_text} {after_text} --fail-if {condition}"));
        assert_eq!((got, &compared["ok"]), (code, &(code == 0).into()), "{condition}: {compared}");
    }
    changed["valid"] = false.into();
    fs::write(&after, changed.to_string()).unwrap();
    assert_eq!(report(&format!("compare {before_text} {after_text}")).0, 3);
    for wrong in
        [format!("compare {before_text}"), format!("compare {before_text} {after_text} --fail-if p98+1%")]
    {
        assert_eq!(stress(&wrong).status.code(), Some(2));
    }
    fs::write(&after, "{}").unwrap();
    assert_eq!(stress(&format!("compare {before_text} {after_text}")).status.code(), Some(3));
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    for (wrong, why) in [
        ("run unix:/nobody", "--rate"),
        ("run unix:/nobody --rate 1k --closed", "cannot be used"),
        ("run nonsense --closed", "shm:unix:PATH"),
        ("run mq:/x --closed -c 2", "--pipeline"),
        ("run mq:/x --closed --protocol echo", "--reply"),
        ("run unix:/nobody --closed --protocol one-way", "datagrams and queues"),
        ("run unix:/nobody --closed --request PING", "--expect"),
        ("run unix:/nobody --closed --protocol adder --size 10", "multiple of 4"),
        ("run unix:/nobody --closed --protocol prefixed --prefix u8 --size 300", "prefix"),
        ("run unix:/nobody --closed -d 5", "unit"),
        ("find unix:/nobody", "--slo"),
        ("run unix:/nobody --closed --request PING --expect x --size 9", "--size"),
        ("idle unix:/nobody -c 10 --active 11", "more connections"),
        ("churn udp:127.0.0.1:9", "connections"),
    ] {
        let output = stress(wrong);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {said}");
        assert!(said.contains(why), "{wrong}: {said}");
    }
}
