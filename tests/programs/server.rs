//! The adder server: its addresses, its queue, its signals.

use crate::support::names::unique;
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    time::Instant,
};

use ipc_reactor::{Queue, Signal};

use crate::running::{PATIENCE, Running, Server, client, example, run, text};

/// Sends 1, 2 and 0, and returns what comes back, like the course's client: one read.
fn add(path: &Path) -> (UnixStream, Vec<u8>) {
    let mut socket = UnixStream::connect(path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // A server that is full may have closed already.
    let _ = socket.write_all(&[1_i32, 2, 0].map(i32::to_ne_bytes).concat());
    let mut answer = [0; 128];
    let count = socket.read(&mut answer).unwrap_or(0);
    (socket, answer[..count].to_vec())
}

#[test]
fn the_server_adds_on_every_address_and_leaves_nothing_behind() {
    let mut server = Server::start(&[]);
    let (_, answer) = add(&server.stream());
    assert_eq!(answer, b"Result = 3", "the answer, with nothing behind it");
    for address in &server.addresses {
        let output = client(&[address, "1", "-5", "2147483647"]);
        assert!(output.status.success(), "{address}: {}", text(&output.stderr));
        if !address.starts_with("mq:") {
            assert_eq!(text(&output.stdout), "Result = 2147483643\n", "{address}");
        }
    }
    Queue::options().write(true).open(&server.queue).unwrap().send(b"forty-two", 0).unwrap();

    let totals = server.totals_after(4);
    assert_eq!(totals["answers"], 4);
    assert_eq!(totals["numbers"], 11);
    assert_eq!(totals["queue"]["sum"], 2_147_483_643);
    assert_eq!(totals["queue"]["refused"], 1);
    server.running.says("forty-two");

    server.running.signal(Signal::TERM);
    assert_eq!(server.running.wait().code(), Some(0));
    assert_eq!(server.running.event("totals")["answers"], 4);
    let left: Vec<_> = fs::read_dir(server.folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(Queue::open(&server.queue).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_queue_that_was_there_before_the_server_stays() {
    let name = format!("/{}", unique());
    let queue = Queue::options().create_new(true).capacity(10).message_size(128).open(&name).unwrap();
    let mut server = Running::start(example("server").arg(format!("mq:{name}")));
    server.event("ready");
    server.signal(Signal::INT);
    let status = server.wait();
    let unlinked = queue.is_unlinked().unwrap();
    let _ = Queue::unlink(&name);
    assert_eq!((status.code(), unlinked), (Some(0), false));
}

#[test]
fn what_the_server_says_at_its_start_can_be_pasted() {
    let server = Server::start(&[]);
    let mut tried = 0;
    while tried < 4 {
        let line = server.running.says("  python3 -c");
        let output = run(Command::new("sh").args(["-c", &line]));
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        let is_queue = line.contains("mq_open");
        assert_eq!(text(&output.stdout), if is_queue { "" } else { "Result = 3\n" }, "{line}");
        tried += 1;
    }
    assert_eq!(server.totals_after(1)["queue"]["sum"], 42);
}

#[test]
fn sighup_puts_good_limits_in_force_and_keeps_the_old_for_bad_ones() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |limits: &str| fs::write(file.path(), limits).unwrap();
    write("clients = 1 # at once\nwhen_full = shed\n");
    let server = Server::start(&["--limits", file.path().to_str().unwrap()]);
    let (_first, answer) = add(&server.stream());
    assert_eq!(answer, b"Result = 3");
    assert_eq!(add(&server.stream()).1, b"", "one client at once");

    write("clients = 2\nwhen_full = shed\n");
    server.running.signal(Signal::HUP);
    server.running.says("in force");
    let (_second, answer) = add(&server.stream());
    assert_eq!(answer, b"Result = 3");

    for (bad, line, why) in [
        ("clients = 9\n\nclients = many\n", "line 3", "number"),
        ("clients = 9\nidle = 30\n", "line 2", "30s"),
        ("clients 9\n", "line 1", "name = value"),
        ("klients = 9\n", "line 1", "clients_per_uid"),
    ] {
        write(bad);
        server.running.signal(Signal::HUP);
        let said = server.running.says("the old limits stay");
        assert!(said.contains(line) && said.contains(why), "{said}");
    }
    assert_eq!(add(&server.stream()).1, b"", "still two at once");

    let output = run(example("server").args(["unix:/nowhere/at/all", "--limits"]).arg(file.path()));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("line 1"), "{}", text(&output.stderr));
}

#[test]
fn a_second_signal_does_not_wait_for_a_client_that_never_reads() {
    let mut server = Server::start(&["--drain", "3600"]);
    let mut deaf = UnixStream::connect(server.stream()).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let start = Instant::now();
    // Until so much is unread that the server stops reading from us.
    while server.totals()["reactor"]["trips"]["output high-water mark"].is_null() {
        let _ = deaf.write(&[0; 1 << 16]);
        assert!(start.elapsed() < PATIENCE);
    }
    server.running.signal(Signal::TERM);
    server.running.says("draining");
    assert!(server.running.child.try_wait().unwrap().is_none(), "it waits for the client");
    server.running.signal(Signal::TERM);
    assert_eq!(server.running.wait().code(), Some(0));
    assert!(!server.stream().exists());
}
