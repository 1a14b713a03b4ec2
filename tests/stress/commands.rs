//! The commands, against `stress server`: what they report, and with which exit code.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

use ipc_reactor::{Queue, Signal};
use serde_json::Value;

use crate::{
    kit::{Running, example, text},
    program::{Server, report, stress},
};

fn count(report: &Value, what: &str) -> u64 {
    report[what].as_u64().unwrap_or_else(|| panic!("{what}: {report}"))
}

#[test]
fn an_open_loop_asks_what_was_asked_for_over_every_socket() {
    for kind in ["unix", "unix-seq", "unix-dgram", "tcp", "udp"] {
        let server = Server::echo(kind);
        let (_, report) = report(&[
            "run",
            &server.address,
            "-c",
            "7",
            "--rate",
            "1k",
            "--size",
            "1..2000",
            "-d",
            "500ms",
            "--warmup",
            "100ms",
            "--timeout",
            "30s",
        ]);
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
        let (code, report) = report(&[
            "run",
            &server.address,
            "-c",
            "5",
            "--closed",
            "--pipeline",
            "3",
            "--size",
            "8..64",
            "-d",
            "300ms",
            "--warmup",
            "50ms",
            "--timeout",
            "30s",
        ]);
        // 3: the generator took all of its core, which says nothing against the answers.
        assert!(code == 0 || code == 3 && report["valid"] == false, "{kind}: {report}");
        assert_eq!(report["load"], "closed");
        assert_eq!(count(&report, "requests"), count(&report, "answers"), "{kind}: {report}");
        assert!(count(&report, "answers") > 15, "{kind}: {report}");
        assert_eq!((count(&report, "wrong"), count(&report, "missing")), (0, 0), "{kind}: {report}");
    }
}

/// Names that no other test has.
fn queue_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("/ipc-reactor-stress-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Removes a queue also where its server was killed.
struct Gone(String);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = Queue::unlink(&self.0);
    }
}

#[test]
fn queues_with_answers_and_without() {
    let (asked, answers) = (Gone(queue_name()), Gone(queue_name()));
    let (at, reply) = (format!("mq:{}", asked.0), format!("mq:{}", answers.0));
    let server = Running::start(example("stress").args(["server", &at, "--reply", &reply, "--size", "1k"]));
    server.stdout.iter().next().expect("it is ready");
    let brief = ["-d", "300ms", "--warmup", "50ms", "--timeout", "30s"];
    let run = |more: &[&str]| report(&[&["run", &at], more, &brief].concat());

    let (_, open) = run(&["--reply", &reply, "--rate", "1k", "--size", "8..1k"]);
    assert_eq!((count(&open, "requests"), count(&open, "answers")), (300, 300), "{open}");
    let (_, closed) = run(&["--reply", &reply, "--closed", "--pipeline", "5"]);
    assert_eq!((count(&closed, "wrong"), count(&closed, "missing")), (0, 0), "{closed}");
    assert!(count(&closed, "answers") > 5);

    let output = stress(&["run", &at, "--reply", &reply, "--rate", "1k", "--size", "1k..2k"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("2048 are asked for") && said.contains("msgsize_max"), "{said}");

    let sink = Gone(queue_name());
    let at = format!("mq:{}", sink.0);
    let server = Running::start(example("stress").args(["server", &at]));
    server.stdout.iter().next().expect("it is ready");
    let (_, one_way) = report(&[&["run", &at, "--rate", "1k"][..], &brief].concat());
    assert_eq!((&one_way["protocol"], count(&one_way, "answers")), (&"one-way".into(), 300), "{one_way}");
}

#[test]
fn shared_memory_is_measured_from_its_stamps() {
    let folder = tempfile::tempdir().unwrap();
    let at = format!("shm:unix:{}", folder.path().join("socket").display());
    let server = Running::start(example("stress").args(["server", &at, "--rate", "1k", "--size", "64"]));
    server.stdout.iter().next().expect("it is ready");
    let (code, report) = report(&["run", &at, "-c", "3", "-d", "300ms", "--warmup", "100ms"]);
    assert_eq!(code, 0, "{report}");
    assert_eq!((&report["load"], count(&report, "missing")), (&"published".into(), 0), "{report}");
    // Three subscribers, one value a millisecond; the first and the last may fall on either side of the boundary.
    assert!((891..=909).contains(&count(&report, "answers")), "{report}");

    let output = stress(&["run", &at, "--rate", "1k"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
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
    let (code, report) = report(&[
        "run",
        &server.address,
        "-c",
        "2",
        "--rate",
        "100",
        "-d",
        "500ms",
        "--warmup",
        "0s",
        "--timeout",
        "200ms",
    ]);
    assert_eq!(code, 1, "{report}");
    assert_eq!(
        (count(&report, "requests"), count(&report, "answers"), count(&report, "missing")),
        (50, 0, 50),
        "{report}"
    );
    // Nobody was given up before his time.
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
    let (code, report) = report(&[
        "run",
        &server.address,
        "-c",
        "1",
        "--rate",
        "50",
        "-d",
        "1s",
        "--warmup",
        "0s",
        "--timeout",
        "10s",
    ]);
    let errors = report["errors"].to_string();
    assert!(errors.contains("connection lost") || errors.contains("no answer: "), "{errors}");
    assert!(count(&report, "answers") > 3, "the second connection answers, too: {report}");
    assert_eq!(code == 0, count(&report, "missing") == 0, "{report}");
}

#[test]
fn find_ends_at_its_bound_or_says_that_nothing_holds() {
    let server = Server::echo("unix");
    let brief = ["-c", "5", "-d", "300ms", "--warmup", "50ms", "--timeout", "30s"];
    let (code, found) = report(
        &[&["find", &server.address, "--slo", "p50=30s,max=1m", "--from", "200", "--to", "400"], &brief[..]]
            .concat(),
    );
    assert_eq!((code, &found["rate"]), (0, &400.0.into()), "{found}");
    assert_eq!(found["probes"].as_array().map(Vec::len), Some(2));
    let (code, found) =
        report(&[&["find", &server.address, "--slo", "p50=1ns", "--from", "200"], &brief[..]].concat());
    assert_eq!((code, &found["rate"]), (1, &0.0.into()), "{found}");
}

#[test]
fn churn_connects_at_its_rate_and_asks_if_told() {
    let server = Server::echo("unix");
    let brief = ["--connects", "1k/s", "-d", "300ms", "--warmup", "50ms", "--timeout", "30s"];
    for more in [&[][..], &["--ask", r"hello\n"]] {
        let (_, report) = report(&[&["churn", &server.address], &brief[..], more].concat());
        assert_eq!((count(&report, "requests"), count(&report, "answers")), (300, 300), "{report}");
        assert_eq!(count(&report, "missing"), 0);
    }
}

#[test]
fn idle_holds_all_and_loads_some() {
    let server = Server::echo("unix");
    let (_, report) = report(&[
        "idle",
        &server.address,
        "-c",
        "1000",
        "--active",
        "10",
        "--ramp",
        "20k/s",
        "--rate",
        "500",
        "-d",
        "300ms",
        "--warmup",
        "0s",
        "--timeout",
        "30s",
    ]);
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
    let output = crate::kit::run(
        example("stress")
            .args([
                "matrix",
                "unix,unix-seq,abstract-dgram,udp,mq,shm",
                "--size",
                "64,64k",
                "-c",
                "3",
                "--rate",
                "500",
            ])
            .args(["-d", "200ms", "--warmup", "50ms", "--json"])
            .arg(&file)
            .env("TMPDIR", folder.path()),
    );
    let matrix: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    crate::schema::check(&matrix);
    let cells = matrix["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 12, "{}", text(&output.stderr));
    for cell in cells {
        let refused = cell["refused"].as_str();
        let is_large = cell["size"]["max"] != 64;
        let transport = cell["transport"].as_str().unwrap();
        match (transport, is_large) {
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
    let output = stress(&[
        "run",
        &server.address,
        "-c",
        "2",
        "--rate",
        "500",
        "-d",
        "300ms",
        "--warmup",
        "0s",
        "--max-lag",
        "10s",
        "--timeout",
        "30s",
        "--json",
        &before_text,
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let mut report: Value = serde_json::from_slice(&fs::read(&before).unwrap()).unwrap();
    let slower = report["latency_us"]["p99"].as_f64().unwrap() * 1.2;
    report["latency_us"]["p99"] = slower.into();
    fs::write(&after, report.to_string()).unwrap();
    for (condition, code) in
        [("p99+10%", 1), ("p99+30%", 0), ("rate-5%", 0), ("p99.9+0%,p99+10%", 1), ("p99-10%", 0)]
    {
        let (got, compared) =
            crate::program::report(&["compare", &before_text, &after_text, "--fail-if", condition]);
        assert_eq!((got, &compared["ok"]), (code, &(code == 0).into()), "{condition}: {compared}");
    }
    report["valid"] = false.into();
    fs::write(&after, report.to_string()).unwrap();
    assert_eq!(crate::program::report(&["compare", &before_text, &after_text]).0, 3);
    for wrong in
        [&["compare", &before_text][..], &["compare", &before_text, &after_text, "--fail-if", "p98+1%"]]
    {
        assert_eq!(stress(wrong).status.code(), Some(2));
    }
    fs::write(&after, "{}").unwrap();
    assert_eq!(stress(&["compare", &before_text, &after_text]).status.code(), Some(3));
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
    let start = std::time::Instant::now();
    while fs::read(&hdr).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count() < 8 {
        assert!(start.elapsed() < crate::kit::PATIENCE);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    stress.signal(Signal::INT);
    assert_eq!(stress.wait().code(), Some(0), "{:?}", stress.stderr.iter().collect::<Vec<_>>());
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    crate::schema::check(&report);
    assert_eq!((&report["interrupted"], count(&report, "missing")), (&true.into(), 0), "{report}");
    assert!(count(&report, "answers") > 0);
    let plot = fs::read_to_string(&plot).unwrap();
    assert!(plot.contains("percentile") && plot.trim_end().ends_with("</svg>"));
}

#[test]
fn a_generator_that_lags_says_that_its_figures_do_not_count() {
    let server = Server::echo("unix");
    // Nothing goes out within a nanosecond.
    let output = stress(&[
        "run",
        &server.address,
        "-c",
        "2",
        "--rate",
        "500",
        "-d",
        "200ms",
        "--warmup",
        "0s",
        "--max-lag",
        "1ns",
    ]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).contains("INVALID      the generator lagged"), "{}", text(&output.stdout));
}

#[test]
fn syscalls_of_the_server_are_counted() {
    let server = Server::echo("unix");
    let (_, report) = report(&[
        "run",
        &server.address,
        "-c",
        "2",
        "--rate",
        "500",
        "-d",
        "300ms",
        "--warmup",
        "0s",
        "--timeout",
        "30s",
        "--syscalls",
    ]);
    let calls = &report["syscalls"]["calls"];
    let answers = report["syscalls"]["answers"].as_u64().unwrap();
    assert_eq!(answers, 150, "{report}");
    assert!(calls["recvfrom"].as_u64() >= Some(answers / 2), "{report}");
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    for (wrong, why) in [
        (&["run", "unix:/nobody"][..], "--rate"),
        (&["run", "unix:/nobody", "--rate", "1k", "--closed"], "cannot be used"),
        (&["run", "nonsense", "--closed"], "shm:unix:PATH"),
        (&["run", "mq:/x", "--closed", "-c", "2"], "--pipeline"),
        (&["run", "mq:/x", "--closed", "--protocol", "echo"], "--reply"),
        (&["run", "unix:/nobody", "--closed", "--protocol", "one-way"], "datagrams and queues"),
        (&["run", "unix:/nobody", "--closed", "--request", "PING"], "--expect"),
        (&["run", "unix:/nobody", "--closed", "--protocol", "adder", "--size", "10"], "multiple of 4"),
        (
            &["run", "unix:/nobody", "--closed", "--protocol", "prefixed", "--prefix", "u8", "--size", "300"],
            "prefix",
        ),
        (&["run", "unix:/nobody", "--closed", "-d", "5"], "unit"),
        (&["find", "unix:/nobody"], "--slo"),
        (&["churn", "udp:127.0.0.1:9"], "connections"),
    ] {
        let output = stress(wrong);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {said}");
        assert!(said.contains(why), "{wrong:?}: {said}");
    }
}
