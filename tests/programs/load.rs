//! The load generator: its results and exit codes.

use std::{
    fs,
    process::{Command, Output},
    time::Instant,
};

use ipc_reactor::{Signal, children::PidFd};
use serde_json::Value;

use crate::running::{PATIENCE, Running, Server, example, run, text, wait_for};

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr));
    })
}

#[test]
fn a_run_against_its_own_server_checks_every_answer_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut stress = example("stress");
    stress.args(["--clients", "50", "--requests", "2000", "--json", "-"]).env("TMPDIR", folder.path());
    let output = run(&mut stress);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report = json(&output);
    assert_eq!(report["ok"], true);
    assert_eq!(report["connections"], 50);
    assert_eq!(report["requests"], 2000);
    assert_eq!(report["answers"], 2000);
    assert_eq!(report["server"]["answers"], 2000);
    assert_eq!(report["server"]["reactor"]["srms"], 2000 * 9);
    assert!(report["queue"]["messages"].as_u64() >= Some(10), "{report}");
    assert_eq!(report["queue"]["sum"], report["server"]["queue"]["sum"]);
    let latency = |name: &str| report["latency_us"][name].as_f64().unwrap();
    assert!(0.0 < latency("p50") && latency("p50") <= latency("p99.99"), "{report}");
    assert!(latency("p99.99") <= latency("max") * 1.01, "{report}");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_run_against_a_server_that_runs_already() {
    let server = Server::start(&[]);
    for address in server.addresses.iter().filter(|address| !address.starts_with("mq:")) {
        let file = server.folder.path().join("report.json");
        let mut stress = example("stress");
        stress.args(["--connect", address, "--clients", "20", "--requests", "500", "--size", "3", "--json"]);
        let output = run(stress.arg(&file));
        assert_eq!(output.status.code(), Some(0), "{address}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("500 right, 0 wrong, 0 missing"), "{}", text(&output.stdout));
        let report: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        assert_eq!((&report["answers"], &report["address"]), (&500.into(), &address.as_str().into()));
    }
    assert_eq!(server.totals()["answers"], 1500);
}

#[test]
fn a_lie_is_found_out() {
    const LIAR: &str = r#"
import socket, struct, sys
master = socket.socket(socket.AF_UNIX)
master.bind(sys.argv[1])
master.listen()
print("ready", flush=True)
client, _ = master.accept()
sum = requests = 0
while piece := client.recv(4, socket.MSG_WAITALL):
    number = struct.unpack("=i", piece)[0]
    sum += number
    if number == 0:
        requests += 1
        answer = b"Result = %d" % (sum + (requests == 7))
        client.sendall(answer[:5])
        client.sendall(answer[5:])
        sum = 0
"#;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("liar");
    let liar = Running::start(Command::new("python3").args(["-c", LIAR]).arg(&path));
    assert_eq!(liar.stdout.recv_timeout(PATIENCE).as_deref(), Ok("ready"));
    let address = format!("unix:{}", path.display());
    let output =
        run(example("stress").args(["--connect", &address, "--clients", "1", "--requests", "100", "--json"]));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report = json(&output);
    assert_eq!(report["answers"], 6, "those in two pieces are whole: {report}");
    assert_eq!((&report["wrong"], &report["missing"], &report["ok"]), (&1.into(), &0.into(), &false.into()));
    assert!(text(&output.stderr).contains("instead of"), "{}", text(&output.stderr));
}

#[test]
fn nobody_to_connect_to_is_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", folder.path().join("nobody").display());
    let output = run(example("stress").args(["--connect", &address, "--clients", "10"]));
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(said.contains(&address) && said.contains("is the server running"), "{said}");
}

#[test]
fn too_low_a_descriptor_limit_is_raised_or_named_and_never_worked_around() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -Sn 64 && exec \"$0\" \"$@\""]).arg(example("stress").get_program());
    let output = run(shell.args(["--clients", "100", "--requests", "200", "--json"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("raised from 64 to"), "{}", text(&output.stderr));
    assert_eq!(json(&output)["connections"], 100);

    // More than /proc/sys/fs/nr_open allows any process.
    let output = run(example("stress").args(["--clients", "4000000000"]));
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(said.contains("RLIMIT_NOFILE") && said.contains("ulimit -n 4000000064"), "{said}");
}

/// Starts a run that has no end of its own; returns when its server has sent an answer.
fn endless_run(server: &Server) -> Running {
    let address = &server.addresses[0];
    let stress = Running::start(example("stress").args([
        "--connect",
        address,
        "--clients",
        "10",
        "--seconds",
        "3600",
        "--json",
    ]));
    let start = Instant::now();
    while server.totals()["answers"] == 0 {
        assert!(start.elapsed() < PATIENCE);
    }
    stress
}

#[test]
fn ctrl_c_ends_a_run_early_with_a_full_report() {
    let server = Server::start(&[]);
    let mut stress = endless_run(&server);
    stress.signal(Signal::INT);
    assert_eq!(stress.wait().code(), Some(0));
    let report: Value = serde_json::from_str(&stress.stdout.iter().collect::<String>()).unwrap();
    assert_eq!((&report["interrupted"], &report["missing"]), (&true.into(), &0.into()), "{report}");
    assert_eq!(report["answers"], server.totals()["answers"]);
}

#[test]
fn a_server_that_dies_leaves_answers_missing() {
    let server = Server::start(&[]);
    let mut stress = endless_run(&server);
    server.running.signal(Signal::KILL);
    assert_eq!(stress.wait().code(), Some(1));
    let report: Value = serde_json::from_str(&stress.stdout.iter().collect::<String>()).unwrap();
    assert_eq!((&report["missing"], &report["wrong"]), (&10.into(), &0.into()), "{report}");
}

#[test]
fn a_run_that_is_killed_takes_its_server_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut stress = example("stress");
    stress.args(["--clients", "1", "--seconds", "3600"]);
    let mut stress = Running::start(stress.env("TMPDIR", folder.path()).env("RUST_LOG", "ipc_reactor=debug"));
    stress.says("connection at listener");
    let pid = stress.child.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let server = PidFd::open(children.trim().parse().unwrap()).unwrap();
    stress.signal(Signal::KILL);
    stress.wait();
    wait_for(server);
    let run = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap();
    let left: Vec<_> = fs::read_dir(run.path()).unwrap().collect();
    assert!(left.is_empty(), "socket and lock are gone: {left:?}");
}
