//! Starts `stress`, its servers and others', and reads its reports.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::running::{PATIENCE, Running, example, run, text};
use crate::stress::schema;

/// A server that is gone at the end of its test.
pub(crate) struct Server {
    pub(crate) running: Running,
    pub(crate) address: String,
    pub(crate) folder: TempDir,
}

impl Server {
    /// `stress server`, at this kind of address.
    pub(crate) fn echo(kind: &str) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let at = match kind {
            "tcp" | "udp" => format!("{kind}:127.0.0.1:0"),
            _ => format!("{kind}:{}", folder.path().join("socket").display()),
        };
        Server::ready(example("stress").args(["server", &at]), folder)
    }

    /// A program in Python, which gets the socket's path, and says "ready".
    pub(crate) fn python(program: &str) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut server = Server::ready(Command::new("python3").args(["-c", program]).arg(&path), folder);
        server.address = format!("unix:{}", path.display());
        server
    }

    fn ready(command: &mut Command, folder: TempDir) -> Server {
        let running = Running::start(command);
        let line = running.stdout.recv_timeout(PATIENCE).expect("it says that it is ready");
        let address = line.strip_prefix("ready").expect("it is ready").trim().to_owned();
        Server { running, address, folder }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.child.id()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Runs it with the words of a line.
pub(crate) fn stress(line: &str) -> Output {
    run(example("stress").args(line.split_whitespace()))
}

/// Runs it with the words of a line and `--json`; its exit code and its report, which fits the schema.
///
/// These tests do not check whether this machine is fast enough now, so lags are allowed unless the command sets a
/// limit.
pub(crate) fn report(line: &str) -> (i32, Value) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let mut stress = example("stress");
    stress.args(line.split_whitespace()).arg("--json").arg(&file);
    if !line.starts_with("compare") && !line.contains("--max-lag") {
        stress.args(["--max-lag", "10s"]);
    }
    let output = run(&mut stress);
    let read = fs::read(&file).unwrap_or_default();
    let report = serde_json::from_slice(&read)
        .unwrap_or_else(|error| panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr)));
    schema::check(&report);
    (output.status.code().unwrap(), report)
}

pub(crate) fn count(report: &Value, what: &str) -> u64 {
    report[what].as_u64().unwrap_or_else(|| panic!("{what}: {report}"))
}

/// Nothing was wrong with the server. That this machine was too busy for valid figures is not an error of the server.
pub(crate) fn server_was_right(code: i32, report: &Value) {
    assert_eq!(report["failed"], Value::Array(vec![]), "{report}");
    assert_eq!(code, if report["valid"] == true { 0 } else { 3 }, "{report}");
}
