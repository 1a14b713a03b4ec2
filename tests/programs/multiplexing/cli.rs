//! The command line: `list`, addresses, and `compare`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::harness::*;
use crate::support::crowd;

fn run(args: &[&str]) -> Output {
    Command::new(executable()).args(args).output().unwrap()
}

#[test]
fn list_names_the_styles_in_reading_order() {
    let output = run(&["list"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names[..5], ["blocking", "select", "poll", "epoll-level", "epoll-edge"]);
}

#[test]
fn a_wrong_address_or_style_is_named() {
    let long = format!("unix:/{}", "x".repeat(200));
    for (address, said) in [
        ("echo", "none of unix:/path, abstract:name, tcp:host:port"),
        ("unix:", "none of"),
        ("tcp:127.0.0.1", "give host:port"),
        (&long, "shorten it"),
        ("unix:/nowhere/at/all", "cannot listen on unix:/nowhere/at/all"),
    ] {
        let output = run(&["serve", "poll", address]);
        assert!(!output.status.success());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.contains(said), "{address}: {errors}");
    }
    assert!(String::from_utf8_lossy(&run(&["serve", "kqueue", "unix:/x"]).stderr).contains("epoll-edge"));
}

#[test]
fn compare_measures_what_is_possible_and_draws_it() {
    let Some(_alone) = crowd(2_000) else { return };
    let directory = tempfile::tempdir().unwrap();
    let svg = directory.path().join("plots");
    let json = svg.join("m.json");
    let output = Command::new(executable())
        .args(["compare", "--idle", "0,8,1100", "--active", "1,3", "--seconds", "0.03", "--json"])
        .arg(&json)
        .arg("--svg")
        .arg(&svg)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("noise: ") && table.contains("not possible: it serves 1 client at a time"),
        "{table}"
    );

    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["interrupted"], false);
    assert!(report["machine"]["cores"].as_u64().unwrap() > 0);
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 6 * 3 * 2, "six styles, three numbers of idle and two of active clients");
    for cell in results {
        let style = cell["style"].as_str().unwrap();
        let (idle, active) = (cell["idle"].as_u64().unwrap(), cell["active"].as_u64().unwrap());
        let expected = match style {
            "blocking" => idle + active == 1,
            "select" => idle < 1000,
            _ => true,
        };
        assert_eq!(cell["possible"], expected, "{cell}");
        if expected {
            for value in ["messages_per_second", "cpu_us_per_message"] {
                let (low, high) =
                    (cell[value]["low"].as_f64().unwrap(), cell[value]["high"].as_f64().unwrap());
                assert!(0.0 < low && low <= high, "{cell}");
            }
            let (p50, p99) = (&cell["latency_us"]["p50"]["median"], &cell["latency_us"]["p99"]["median"]);
            assert!(p50.as_f64().unwrap() <= p99.as_f64().unwrap(), "{cell}");
        } else if style == "select" {
            assert!(cell["why"].as_str().unwrap().contains("FD_SETSIZE"), "{cell}");
        }
        // Wait, recv, send; and the recv that would block, unless a busy machine let a message overtake it.
        if let Some(calls) = cell["calls_per_message"].as_f64()
            && active == 1
        {
            let expected = match style {
                "blocking" => 2.0,
                "epoll-edge" => 4.0,
                _ => 3.0,
            };
            assert!((1.8..expected + 0.3).contains(&calls), "{cell}");
        }
    }
    if have("strace") {
        assert!(table.contains("under strace"));
        assert!(svg.join("calls.svg").exists());
    }
    for plot in ["rate.svg", "cpu.svg", "latency-p50.svg", "latency-p99.svg"] {
        let text = fs::read_to_string(svg.join(plot)).unwrap();
        for label in ["select", "1,024 descriptors at most", "poll", "epoll-level", "epoll-edge", "noise: "] {
            assert!(text.contains(label), "{plot} does not say {label}");
        }
        assert!(!text.contains("NaN") && !text.contains("inf"), "{plot} has no place for a point");
    }
    assert_eq!(
        circles(&svg.join("rate.svg"), "#c44601"),
        results.iter().filter(|cell| cell["style"] == "select" && cell["possible"] == true).count(),
        "select's line has a point for each measurement, and goes no further"
    );
    let mut plots: Vec<_> = fs::read_dir(&svg).unwrap().map(|entry| entry.unwrap().path()).collect();
    plots.retain(|path| path.extension().is_some_and(|extension| extension == "svg"));
    assert_readable(&plots);
}

/// How many points were drawn in this colour.
fn circles(plot: &Path, colour: &str) -> usize {
    let text = fs::read_to_string(plot).unwrap();
    text.split("<circle").skip(1).filter(|rest| rest[..rest.find('>').unwrap()].contains(colour)).count()
}

/// A browser renders them, and finds every text within the picture and none over another.
fn assert_readable(plots: &[PathBuf]) {
    let render = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/render-svg");
    if !render.exists() {
        return crate::support::skip("the published package has no .ci/render-svg");
    }
    if have("python3") && have("chromium") {
        let output = Command::new(render).args(plots).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn compare_names_a_path_that_it_cannot_write() {
    let output = run(&["compare", "--json", "/nowhere/m.json"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("/nowhere/m.json: "), "{errors}");
}

#[test]
fn interrupting_compare_gives_a_partial_report_and_leaves_no_child() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("m.json");
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut compare = Process(
            Command::new(executable())
                .args(["compare", "--idle", "5", "--active", "1", "--seconds", "3000", "--json"])
                .arg(&json)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let pid = compare.0.id();
        let children = wait_for_server_of(pid);
        compare.signal(signal);
        let mut table = String::new();
        compare.0.stdout.take().unwrap().read_to_string(&mut table).unwrap();
        assert_eq!(compare.wait().code(), Some(130));
        assert!(table.contains("interrupted"), "{table}");
        let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        assert_eq!(report["interrupted"], true);
        for child in children {
            assert!(!Path::new(&format!("/proc/{child}")).exists(), "child {child} is left");
        }
    }
}

/// The children of `pid`, once one of them has opened a socket: then `compare` is past its start.
fn wait_for_server_of(pid: u32) -> BTreeSet<u32> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let children: BTreeSet<u32> = list.split_whitespace().map(|child| child.parse().unwrap()).collect();
        // One may have ended since (`strace -V`, say).
        let serving = children.iter().any(|child| {
            fs::read_to_string(format!("/proc/{child}/cmdline"))
                .is_ok_and(|command| command.contains("abstract:multiplexing-compare"))
        });
        if serving {
            return children;
        }
        assert!(std::time::Instant::now() < deadline, "compare starts no server");
        std::thread::yield_now();
    }
}
