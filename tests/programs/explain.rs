//! `server --explain`: its lines against a file, and against strace; its trace and its picture.

use crate::support::{have, names::unique, skip};
use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use ipc_reactor::{Queue, Signal, signals};
use serde_json::Value;
use tempfile::TempDir;

use crate::running::{PATIENCE, Running, Server, client, example, run, text};

/// A server that has gone through the one scenario of these tests, up to its end.
struct Told {
    folder: TempDir,
    /// What `--explain` has printed.
    lines: Vec<String>,
}

/// The scenario takes each step when the server has reported the one before.
struct Scenario {
    running: Running,
    queue: String,
    lines: Vec<String>,
}

impl Scenario {
    /// The lines of `--explain` up to the one that has this in it.
    fn until(&mut self, wanted: &str) {
        while let Ok(line) = self.running.stderr.recv_timeout(PATIENCE) {
            if line.contains(" → ") {
                self.lines.push(line);
                if self.lines.last().is_some_and(|line| line.contains(wanted)) {
                    return;
                }
            }
        }
        panic!("no {wanted:?} in {:#?}", self.lines);
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        let _ = Queue::unlink(&self.queue);
    }
}

/// A CIR, SRMs in one batch, one in two halves, a half-close, a queue, a signal, a drain.
fn tell(through: Option<Command>, options: &[&str]) -> Told {
    let folder = tempfile::tempdir().unwrap();
    let queue = format!("/{}", unique());
    let path = folder.path().join("socket");
    let server = example("server");
    let mut command = through.map_or_else(
        || example("server"),
        |mut through| {
            through.arg(server.get_program());
            through
        },
    );
    command.current_dir(folder.path()).args([&format!("unix:{}", path.display()), &format!("mq:{queue}")]);
    let running = Running::start(command.args(["--explain", "--explain-times", "false"]).args(options));
    let mut scenario = Scenario { running, queue, lines: Vec::new() };
    let pid = scenario.running.event("ready")["pid"].as_u64().unwrap() as u32;

    let mut client = UnixStream::connect(&path).unwrap();
    scenario.until("→ open");
    client.write_all(&[1_i32, 2, 0].map(i32::to_ne_bytes).concat()).unwrap();
    scenario.until("→ reply");
    let mut answer = [0; 10];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"Result = 3");
    let (first, rest) = (7_i32.to_ne_bytes(), 2);
    client.write_all(&first[..rest]).unwrap();
    scenario.until("→ half");
    client.write_all(&first[rest..]).unwrap();
    scenario.until("\"7\"");
    client.shutdown(Shutdown::Write).unwrap();
    scenario.until("→ closed");
    let jobs = Queue::options().write(true).open(&scenario.queue).unwrap();
    for job in ["42", "nonsense"] {
        jobs.send(job.as_bytes(), 3).unwrap();
        scenario.until("mq_receive = EAGAIN");
    }
    signals::kill(pid, Signal::USR1).unwrap();
    scenario.until("SIGUSR1");
    signals::kill(pid, Signal::TERM).unwrap();
    assert_eq!(scenario.running.wait().code(), Some(0));
    let left: Vec<String> = scenario.running.stderr.iter().filter(|line| line.contains(" → ")).collect();
    scenario.lines.extend(left);
    Told { folder, lines: std::mem::take(&mut scenario.lines) }
}

/// What differs between two runs of the same, made the same: descriptors, the peer, widths.
fn masked(lines: &[String]) -> String {
    let mut descriptors: HashMap<String, String> = HashMap::new();
    let pid = std::process::id().to_string();
    let uid = rustix::process::getuid().as_raw().to_string();
    let mut masked = String::new();
    for line in lines {
        // Where the kernel cannot refuse descriptors, they are received.
        let line = line.replace("recvmsg = ", "recv = ");
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        for at in 1..words.len() {
            let before = words[..at].iter().rev().find(|word| !word.is_empty() && *word != "=").cloned();
            let word = &mut words[at];
            match before.as_deref() {
                Some("fd" | "accept4" | "close") if word.parse::<u32>().is_ok() => {
                    let next = format!("{{{}}}", descriptors.len() + 1);
                    *word = descriptors.entry(word.clone()).or_insert(next).clone();
                }
                Some("pid") if *word == pid => *word = "PID".into(),
                Some("uid") if *word == uid => *word = "UID".into(),
                _ => {}
            }
        }
        let words = words.join(" ");
        let columns: Vec<&str> =
            words.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect();
        masked.push_str(&columns.join("  "));
        masked.push('\n');
    }
    masked
}

/// `BLESS=1 cargo test --test programs explain` writes the file anew.
#[test]
fn the_explanation_of_the_scenario_is_the_one_in_the_file() {
    let told = masked(&tell(None, &[]).lines);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/explain.golden");
    if env::var_os("BLESS").is_some() {
        fs::write(&file, &told).unwrap();
    }
    let golden = fs::read_to_string(&file).unwrap();
    assert!(told == golden, "{}\nis not what stands in {}:\n{told}", golden, file.display());
}

/// How its bytes come together depends on time; what becomes of each does not.
#[test]
fn the_client_of_the_examples_is_followed_from_its_cir_to_its_close() {
    let server = Server::start(&["--explain"]);
    assert_eq!(text(&client(&[&server.addresses[0], "1", "2"]).stdout), "Result = 3\n");
    for (transition, detail) in [
        ("→ CIR", "database of clients: 1"),
        ("→ SRM", "\"1\""),
        ("→ SRM", "\"2\""),
        ("→ SRM", "\"0\""),
        ("→ reply", "send = 10"),
        ("→ closed", "closed by the peer   database of clients: 0"),
    ] {
        let line = server.running.says(transition);
        assert!(line.contains(detail), "{transition} {detail}: {line}");
        assert!(transition == "→ CIR" || line.starts_with("C#1 fd "), "{line}");
    }
}

/// The calls in the column of calls: `recv = 12`, `accept4 = EAGAIN`.
fn calls_explained(lines: &[String]) -> Vec<String> {
    let call = |line: &String| {
        let (_, told) = line.split_once(" → ")?;
        let call = told.get(8..)?.split("  ").next()?;
        let mut words = call.split(' ');
        let (name, equals, result) = (words.next()?, words.next()?, words.next()?);
        (equals == "=").then(|| format!("{name} = {result}"))
    };
    lines.iter().filter_map(call).collect()
}

/// The same calls as strace writes them: `4242 recvfrom(13, …) = 12`.
fn calls_traced(trace: &str) -> Vec<String> {
    let call = |line: &str| {
        let (call, result) = line.rsplit_once(" = ")?;
        let (_, call) = call.split_once(' ')?;
        let name = match call.trim_start().split_once('(')?.0 {
            "recvfrom" => "recv",
            "sendto" => "send",
            "mq_timedreceive" => "mq_receive",
            name => name,
        };
        let mut words = result.split(' ');
        let result = words.next()?;
        Some(format!("{name} = {}", if result == "-1" { words.next()? } else { result }))
    };
    trace.lines().filter_map(call).collect()
}

#[test]
fn the_calls_it_shows_are_those_that_strace_sees() {
    if !have("strace") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-e", "trace=epoll_wait,accept4,recvfrom,recvmsg,sendto,mq_timedreceive", "-o"])
        .arg(&trace);
    let told = tell(Some(strace), &[]);
    let (mut explained, mut traced) =
        (calls_explained(&told.lines), calls_traced(&fs::read_to_string(&trace).unwrap()));
    // Neither the start, where queues are opened, nor a drain's own `accept` on the master socket is reported.
    for calls in [&mut explained, &mut traced] {
        let is_turn = |call: &String| call.starts_with("epoll_wait");
        let (first, last) = (calls.iter().position(is_turn), calls.iter().rposition(is_turn));
        calls.truncate(last.expect("a turn") + 1);
        calls.drain(..first.expect("a turn"));
    }
    let first = ["recv = 12", "recvmsg = 12"].map(str::to_owned);
    assert!(first.iter().any(|first| explained.contains(first)) && explained.len() > 20, "{explained:#?}");
    assert_eq!(explained, traced);
}

#[test]
fn the_trace_keeps_to_the_format_and_has_a_track_for_each_source() {
    let told = tell(None, &["--trace", "trace.json"]);
    let trace: Vec<Value> =
        serde_json::from_slice(&fs::read(told.folder.path().join("trace.json")).unwrap()).unwrap();
    let tracks = check(&trace);
    for (track, slices) in [
        ("loop", &["asleep", "turn 1"][..]),
        ("M", &["visit", "CIR"]),
        ("C#1 fd ", &["visit", "SRM"]),
        ("Q", &["visit", "message"]),
        ("S1", &["visit", "SIGUSR1"]),
    ] {
        let found = tracks.iter().find(|(name, _)| name.starts_with(track));
        let (_, found) = found.unwrap_or_else(|| panic!("no track {track} in {tracks:#?}"));
        assert!(slices.iter().all(|slice| found.iter().any(|found| found == slice)), "{track}: {found:?}");
    }
    let named = |name: &str| trace.iter().filter(|event| event["name"] == name).count();
    // Where the kernel cannot refuse descriptors, they are received.
    let reads = named("recv") + named("recvmsg");
    assert_eq!((named("SRM"), reads, named("send"), named("fault")), (4, 4, 1, 1));
    let clients: Vec<&Value> = trace
        .iter()
        .filter(|event| event["name"] == "clients")
        .map(|event| &event["args"]["clients"])
        .collect();
    assert_eq!(clients, [1, 0]);
}

#[test]
fn a_trace_or_a_picture_that_cannot_be_written_is_said_and_the_service_goes_on() {
    for option in ["--trace", "--timeline"] {
        let mut server = Server::start(&[option, "/dev/full"]);
        assert!(client(&[&server.addresses[0], "1"]).status.success());
        server.running.signal(Signal::TERM);
        assert_eq!(server.running.wait().code(), Some(1), "{option}");
        server.running.says("server: /dev/full: ");
    }
}

/// Its last events are lost, and the bracket; viewers accept it without.
#[test]
fn a_server_that_is_killed_leaves_whole_events() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.json");
    let mut server = Server::start(&["--trace", file.to_str().unwrap()]);
    let numbers: Vec<String> = (1..200).map(|number| number.to_string()).collect();
    let arguments: Vec<&str> =
        [server.addresses[0].as_str()].into_iter().chain(numbers.iter().map(String::as_str)).collect();
    assert!(client(&arguments).status.success());
    server.running.signal(Signal::KILL);
    server.running.wait();
    let trace = fs::read_to_string(file).unwrap();
    let events: Vec<Value> = serde_json::from_str(&format!("{trace}]")).unwrap();
    assert!(events.len() > 20, "{trace}");
}

/// What the published "Trace Event Format" requires of each event, and what viewers require of all: slices of a track
/// are nested, arrows begin and end in slices. Returns the names of each track's slices.
fn check(trace: &[Value]) -> BTreeMap<String, Vec<String>> {
    let number = |event: &Value, field: &str| {
        event[field].as_f64().filter(|number| *number >= 0.0).unwrap_or_else(|| panic!("{field} of {event}"))
    };
    let mut names: HashMap<u64, String> = HashMap::new();
    let mut slices: HashMap<u64, Vec<(f64, f64, String)>> = HashMap::new();
    let mut arrows: HashMap<u64, Vec<(&str, u64, f64)>> = HashMap::new();
    for event in trace {
        let (phase, tid, ts) =
            (event["ph"].as_str().unwrap(), event["tid"].as_u64().unwrap(), number(event, "ts"));
        let name = event["name"].as_str().unwrap();
        assert!(event["pid"].is_u64() && event["cat"].is_string(), "{event}");
        assert_ne!(phase, "", "{event}");
        match phase {
            "M" => match name {
                "thread_name" => {
                    let name = event["args"]["name"].as_str().unwrap();
                    assert!(names.insert(tid, name.into()).is_none(), "a track has one name: {event}");
                }
                "process_name" => assert!(event["args"]["name"].is_string(), "{event}"),
                "thread_sort_index" => assert!(event["args"]["sort_index"].is_u64(), "{event}"),
                _ => panic!("metadata of no such name: {event}"),
            },
            "X" => slices.entry(tid).or_default().push((ts, number(event, "dur"), name.into())),
            "i" => assert!(["g", "p", "t"].map(Value::from).contains(&event["s"]), "{event}"),
            "C" => assert!(event["args"].as_object().unwrap().values().all(Value::is_number), "{event}"),
            "s" | "f" => {
                assert!(phase == "s" || event["bp"] == "e", "{event}");
                arrows.entry(event["id"].as_u64().unwrap()).or_default().push((phase, tid, ts));
            }
            _ => panic!("no phase that is known: {event}"),
        }
    }
    for (tid, slices) in &mut slices {
        assert!(names.contains_key(tid), "track {tid} has no name");
        // The outer of two that begin together is the longer one.
        slices.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut open: Vec<f64> = Vec::new();
        for (ts, dur, name) in slices.iter() {
            // Half a nanosecond between two: more than any viewer's rounding.
            while open.last().is_some_and(|end| *end < ts - 0.0005) {
                open.pop();
            }
            let is_inside = open.last().is_none_or(|end| ts + dur <= *end);
            assert!(is_inside, "{name} at {ts} for {dur} reaches beyond what it began in: {slices:?}");
            open.push(ts + dur);
        }
    }
    assert!(!arrows.is_empty());
    for (id, ends) in &arrows {
        let phases: Vec<&str> = ends.iter().map(|(phase, ..)| *phase).collect();
        assert_eq!(phases, ["s", "f"], "arrow {id}");
        for (phase, tid, ts) in ends {
            let lands = slices[tid].iter().any(|(from, dur, _)| (*from..=from + dur).contains(ts));
            assert!(lands, "arrow {id} {phase} touches no slice of track {tid}");
        }
    }
    let by_name = |(tid, slices): (u64, Vec<(f64, f64, String)>)| {
        (names[&tid].clone(), slices.into_iter().map(|(.., name)| name).collect())
    };
    slices.into_iter().map(by_name).collect()
}

#[test]
fn the_timeline_has_a_row_for_each_source_and_a_browser_draws_it() {
    let told = tell(None, &["--timeline", "turns.svg", "--timeline-turns", "100"]);
    let file = told.folder.path().join("turns.svg");
    let svg = fs::read_to_string(&file).unwrap();
    for name in ["loop", "M", "Q", "S1", "S3", "C#1"] {
        assert!(svg.contains(&format!(">{name}</text>")), "{name}: {svg}");
    }
    let turns = svg.matches("<title>turn ").count();
    assert!(turns > 10, "{turns} turns: {svg}");
    assert!(svg.contains("C#1, turn 3: waited "), "{svg}");

    let few = tell(None, &["--timeline", "turns.svg", "--timeline-turns", "2"]);
    let svg = fs::read_to_string(few.folder.path().join("turns.svg")).unwrap();
    assert_eq!(svg.matches("<title>turn ").count(), 2, "{svg}");
    assert!(!svg.contains("C#1"), "it has left long before: {svg}");

    let Some(renderer) = renderer() else { return };
    let output = run(Command::new(renderer).arg(&file).arg(few.folder.path().join("turns.svg")));
    assert!(output.status.success(), "{} {}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn the_flight_recorder_is_dumped_on_sigusr2_and_by_a_slow_visit() {
    let server = Server::start(&[]);
    assert!(client(&[&server.addresses[0], "1", "2"]).status.success());
    server.running.signal(Signal::USR2);
    server.running.says("flight recorder: the latest ");
    server.running.says("CIR: client ");
    server.running.says("not over yet");

    let slow = Server::start(&["--slow", "0"]);
    slow.running.signal(Signal::USR1);
    let said = slow.running.says(" held up the loop for ");
    assert!(said.starts_with("flight recorder: signals "), "{said}");
    slow.running.says("Drained");
}

/// What has a browser draw pictures, and judges them.
fn renderer() -> Option<PathBuf> {
    let renderer = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/render-svg");
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let has_browser = env::split_paths(&env::var_os("PATH")?)
        .any(|folder| browsers.iter().any(|browser| folder.join(browser).exists()));
    if renderer.exists() && has_browser {
        return Some(renderer);
    }
    skip("no .ci/render-svg, or no browser");
    None
}
