//! `run`, against `stress server` and servers that misbehave.

use crate::support::names::QueueName;
use std::{
    fs,
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use ipc_reactor::Signal;
use serde_json::Value;

use crate::running::{self, PATIENCE, Running, example, text};
use crate::stress::{
    program::{Server, count, report, server_was_right, stress},
    schema,
};

#[test]
fn an_open_loop_asks_what_was_asked_for_over_every_socket() {
    for kind in ["unix", "unix-seq", "unix-dgram", "tcp", "udp"] {
        let server = Server::echo(kind);
        let (_, report) = report(&format!(
            "run {} -c 7 --rate 1k --size 1..2000 -d 500ms --warmup 100ms --timeout 30s",
            server.address
        ));
        assert_eq!(report["load"], "open");
        // One a millisecond, for half a second: no more and no less, however late.
        assert_eq!((count(&report, "requests"), count(&report, "answers")), (500, 500), "{kind}: {report}");
        assert_eq!((count(&report, "wrong"), count(&report, "missing")), (0, 0), "{kind}: {report}");
        assert_eq!(report["latency_us"]["count"], 500);
        assert_eq!(report["errors"], Value::Array(vec![]), "{kind}");
        assert_eq!(report["connect"]["connected"], 7);
        let knows_pid = kind == "unix" || kind == "unix-seq";
        assert_eq!(report["cpu"]["server_pid"].as_u64(), knows_pid.then_some(server.pid().into()), "{kind}");
    }
}

#[test]
fn a_closed_loop_over_every_socket() {
    for kind in ["unix", "unix-seq", "unix-dgram", "tcp", "udp"] {
        let server = Server::echo(kind);
        let (code, report) = report(&format!(
            "run {} -c 5 --closed --pipeline 3 --size 8..64 -d 300ms --warmup 50ms --timeout 30s",
            server.address
        ));
        server_was_right(code, &report);
        assert_eq!(report["load"], "closed");
        assert_eq!(count(&report, "requests"), count(&report, "answers"), "{kind}: {report}");
        assert!(count(&report, "answers") > 15, "{kind}: {report}");
        assert_eq!((count(&report, "wrong"), count(&report, "missing")), (0, 0), "{kind}: {report}");
    }
}

/// Without a warm-up every request is answered rightly, wrongly or not at all.
fn all_accounted_for(report: &Value) {
    let ends = ["answers", "wrong", "missing"].map(|end| count(report, end));
    assert_eq!(count(report, "requests"), ends.iter().sum::<u64>(), "{report}");
}

#[test]
fn queues_with_answers_and_without() {
    let (asked, answers) = (QueueName::new(), QueueName::new());
    let (at, reply) = (format!("mq:{}", asked.0), format!("mq:{}", answers.0));
    let server = Running::start(example("stress").args(["server", &at, "--reply", &reply, "--size", "1k"]));
    server.stdout.iter().next().expect("it is ready");
    let brief = "-d 300ms --warmup 50ms --timeout 30s";
    let run = |more: &str| report(&format!("run {at} --reply {reply} {more} {brief}"));

    let (_, open) = run("--rate 1k --size 8..1k");
    assert_eq!((count(&open, "requests"), count(&open, "answers")), (300, 300), "{open}");
    let (_, closed) = run("--closed --pipeline 5");
    assert_eq!((count(&closed, "wrong"), count(&closed, "missing")), (0, 0), "{closed}");
    assert!(count(&closed, "answers") > 5);

    let output = stress(&format!("run {at} --reply {reply} --rate 1k --size 1k..2k"));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("2048 are asked for") && said.contains("msgsize_max"), "{said}");

    let sink = QueueName::new();
    let at = format!("mq:{}", sink.0);
    let server = Running::start(example("stress").args(["server", &at]));
    server.stdout.iter().next().expect("it is ready");
    let (_, one_way) = report(&format!("run {at} --rate 1k {brief}"));
    assert_eq!((&one_way["protocol"], count(&one_way, "answers")), (&"one-way".into(), 300), "{one_way}");
}

#[test]
fn shared_memory_is_measured_from_its_stamps() {
    let folder = tempfile::tempdir().unwrap();
    let at = format!("shm:unix:{}", folder.path().join("socket").display());
    let server = Running::start(example("stress").args(["server", &at, "--rate", "1k", "--size", "64"]));
    server.stdout.iter().next().expect("it is ready");
    let (code, report) = report(&format!("run {at} -c 3 -d 300ms --warmup 100ms"));
    server_was_right(code, &report);
    assert_eq!((&report["load"], count(&report, "missing")), (&"published".into(), 0), "{report}");
    // Three subscribers, one value a millisecond; the first and the last may fall on either side of the boundary.
    assert!((891..=909).contains(&count(&report, "answers")), "{report}");

    let output = stress(&format!("run {at} --rate 1k"));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));

    let echo = Server::echo("unix");
    let output = stress(&format!("run shm:{} --timeout 100ms", echo.address));
    assert_eq!(output.status.code(), Some(3), "no publisher: {}", text(&output.stderr));
}

#[test]
fn a_silent_server_times_out_and_that_is_in_the_percentiles() {
    const SILENT: &str = r#"
import socket, sys, time
master = socket.socket(socket.AF_UNIX)
master.bind(sys.argv[1])
master.listen(64)
print("ready", flush=True)
clients = []
while True:
    clients.append(master.accept())
"#;
    let server = Server::python(SILENT);
    let (code, report) =
        report(&format!("run {} -c 2 --rate 100 -d 500ms --warmup 0s --timeout 200ms", server.address));
    assert_eq!(code, 1, "{report}");
    assert_eq!(
        (count(&report, "requests"), count(&report, "answers"), count(&report, "missing")),
        (50, 0, 50),
        "{report}"
    );
    // No request was given up before its deadline.
    assert!(report["latency_us"]["p50"].as_f64() >= Some(200_000.0), "{report}");
    let errors = report["errors"].to_string();
    assert!(
        errors.contains("no answer within 200ms") && errors.contains("not sent within 200ms"),
        "{errors}"
    );
}

#[test]
fn a_connection_that_is_lost_is_told_and_made_again() {
    const ANSWERS_THREE: &str = r#"
import socket, sys
master = socket.socket(socket.AF_UNIX)
master.bind(sys.argv[1])
master.listen(64)
print("ready", flush=True)
while True:
    client, _ = master.accept()
    for _ in range(3):
        client.sendall(client.recv(64, socket.MSG_WAITALL))
    client.close()
"#;
    let server = Server::python(ANSWERS_THREE);
    let (code, report) =
        report(&format!("run {} -c 1 --rate 50 -d 1s --warmup 0s --timeout 10s", server.address));
    let errors = report["errors"].to_string();
    assert!(errors.contains("connection lost") || errors.contains("no answer: "), "{errors}");
    assert!(count(&report, "answers") > 3, "the second connection answers, too: {report}");
    assert_eq!(code == 1, count(&report, "missing") > 0 && report["valid"] == true, "{report}");
    all_accounted_for(&report);
}

#[test]
fn ctrl_c_ends_a_run_early_with_a_full_report_and_all_its_files() {
    let server = Server::echo("unix");
    let (json, hdr, plot) = (server.file("report.json"), server.file("log.hlog"), server.file("plot.svg"));
    let mut stress = example("stress");
    stress.args([
        "run",
        &server.address,
        "-c",
        "5",
        "--rate",
        "1k",
        "-d",
        "1h",
        "--warmup",
        "10ms",
        "--interval",
        "50ms",
    ]);
    stress
        .args(["--max-lag", "10s", "--timeout", "30s", "--json"])
        .arg(&json)
        .arg("--hdr")
        .arg(&hdr)
        .arg("--plot")
        .arg(&plot);
    let mut stress = Running::start(&mut stress);
    // An interval in the log: the load is being measured.
    let start = Instant::now();
    while fs::read(&hdr).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count() < 8 {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
    stress.signal(Signal::INT);
    let code = stress.wait().code().unwrap();
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    schema::check(&report);
    server_was_right(code, &report);
    assert_eq!((&report["interrupted"], count(&report, "missing")), (&true.into(), 0), "{report}");
    assert!(count(&report, "answers") > 0);
    let plot = fs::read_to_string(&plot).unwrap();
    assert!(plot.contains("percentile") && plot.trim_end().ends_with("</svg>"));
}

#[test]
fn a_generator_that_lags_says_that_its_figures_do_not_count() {
    let server = Server::echo("unix");
    // Nothing goes out within a nanosecond.
    let output =
        stress(&format!("run {} -c 2 --rate 500 -d 200ms --warmup 0s --max-lag 1ns", server.address));
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).contains("INVALID      the generator lagged"), "{}", text(&output.stdout));
}

#[test]
fn a_generator_that_never_rests_is_the_bottleneck() {
    // No one reads from it, so there is always room: what does not fit is dropped.
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = sink.local_addr().unwrap();
    let (code, report) =
        report(&format!("run udp:{at} -c 1 --protocol one-way --closed -d 300ms --warmup 0s --timeout 30s"));
    let cpu = ["client", "client_waited"].map(|share| report["cpu"][share].as_f64().unwrap_or_default());
    let wanted = cpu.iter().sum::<f64>();
    // Time that another machine on this hardware took is in neither.
    assert!(wanted > 0.5, "{report}");
    assert_eq!(
        (report["valid"] == false, code),
        if wanted >= 0.95 { (true, 3) } else { (false, 0) },
        "{report}"
    );
}

#[test]
fn syscalls_of_the_server_are_counted() {
    let server = Server::echo("unix");
    let (_, report) = report(&format!(
        "run {} -c 2 --rate 500 -d 300ms --warmup 0s --timeout 30s --syscalls",
        server.address
    ));
    let calls = &report["syscalls"]["calls"];
    let answers = report["syscalls"]["answers"].as_u64().unwrap();
    assert_eq!(answers, 150, "{report}");
    // The second where the kernel cannot refuse descriptors.
    let reads = ["recvfrom", "recvmsg"].iter().filter_map(|call| calls[call].as_u64()).sum::<u64>();
    assert!(reads >= answers / 2, "{report}");
}

#[test]
fn an_adder_adds_on_streams_and_records() {
    let server = running::Server::start(&[]);
    for address in server.addresses.iter().filter(|address| !address.starts_with("mq:")) {
        let load =
            "--protocol adder --size 40 --pipeline 4 -c 3 --rate 500 -d 300ms --warmup 0s --timeout 30s";
        let (_, report) = report(&format!("run {address} {load}"));
        assert_eq!((count(&report, "answers"), count(&report, "wrong")), (150, 0), "{address}: {report}");
    }
    assert_eq!(server.totals()["answers"], 450);
}

#[test]
fn a_wrong_answer_is_shown_and_counts_whatever_else_is_the_matter() {
    const LIAR: &str = r#"
import socket, sys
master = socket.socket(socket.AF_UNIX)
master.bind(sys.argv[1])
master.listen(64)
print("ready", flush=True)
while True:
    client, _ = master.accept()
    count = 0
    while data := client.recv(64, socket.MSG_WAITALL):
        count += 1
        if count == 5:
            data = data[:50] + bytes([data[50] ^ 1]) + data[51:]
        client.sendall(data[:20])
        client.sendall(data[20:])
"#;
    let server = Server::python(LIAR);
    let load = "-c 1 --rate 100 --size 64 -d 300ms --warmup 0s --timeout 30s --max-lag 1ns";
    let (code, report) = report(&format!("run {} {load}", server.address));
    assert_eq!((code, &report["valid"]), (1, &false.into()), "{report}");
    assert!(count(&report, "wrong") >= 1 && count(&report, "answers") >= 4, "{report}");
    all_accounted_for(&report);
    assert!(report["failed"].to_string().contains("instead of"), "{report}");
}

#[test]
fn a_wrong_datagram_is_an_answer_of_its_own() {
    const LIAR: &str = r#"
import socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind(sys.argv[1])
print("ready", flush=True)
count = 0
while True:
    data, sender = server.recvfrom(65536)
    count += 1
    if count == 7:
        data = data[:-1] + bytes([data[-1] ^ 1])
    if count == 9:
        server.sendto(data, sender)
    server.sendto(data, sender)
"#;
    let server = Server::python(LIAR);
    let address = server.address.replace("unix:", "unix-dgram:");
    let (code, report) = report(&format!("run {address} -c 2 --rate 200 -d 200ms --warmup 0s --timeout 30s"));
    assert_eq!((code, count(&report, "wrong"), count(&report, "missing")), (1, 1, 0), "{report}");
    assert!(report["errors"].to_string().contains("came too late, or twice"), "{report}");
    all_accounted_for(&report);
}
