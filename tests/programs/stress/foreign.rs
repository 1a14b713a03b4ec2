//! Servers that are not ours.

use std::{
    os::unix::net::UnixStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::running::{PATIENCE, Running};
use crate::stress::program::{Server, report, server_was_right};

/// Waits until a server listens there: neither of these programs reports it.
fn wait_for_listener(path: &std::path::Path) {
    let start = Instant::now();
    while UnixStream::connect(path).is_err() {
        assert!(start.elapsed() < PATIENCE, "nobody listens at {}", path.display());
        thread::sleep(Duration::from_millis(2));
    }
}

fn good(line: &str) {
    let (code, report) = report(&format!("{line} -d 500ms --warmup 100ms --timeout 30s"));
    server_was_right(code, &report);
    assert!(report["answers"].as_u64() >= Some(1), "{report}");
    assert_eq!((&report["wrong"], &report["missing"]), (&0.into(), &0.into()), "{report}");
}

#[test]
fn socat_echoes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echo");
    let listen = format!("UNIX-LISTEN:{},fork,backlog=64", path.display());
    let _socat = Running::start(Command::new("socat").args([&listen, "PIPE"]));
    wait_for_listener(&path);
    let address = format!("unix:{}", path.display());
    good(&format!("run {address} -c 4 --rate 400 --size 1..3k"));
    good(&format!("run {address} -c 2 --rate 200 --protocol lines --size 2..200"));
    good(&format!("run {address} -c 2 --rate 200 --protocol prefixed --prefix u16le --pipeline 4"));
}

#[test]
fn redis_answers_pings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis");
    let mut redis = Command::new("redis-server");
    redis.args(["--port", "0", "--save", "", "--daemonize", "no", "--unixsocket"]).arg(&path);
    let _redis = Running::start(redis.arg("--dir").arg(folder.path()));
    wait_for_listener(&path);
    let address = format!("unix:{}", path.display());
    good(&format!(r"run {address} -c 20 --rate 1k --request PING\r\n --expect +PONG\r\n"));
    good(&format!(r"run {address} -c 5 --rate 500 --request PING\r\n --response-length 7 --pipeline 3"));
    good(&format!(r"run {address} -c 5 --rate 500 --request ECHO\x20hello\r\n --expect $5\r\nhello\r\n"));
    good(&format!(r"run {address} -c 5 --rate 500 --request INCR\x20n\r\n --response-line"));
    let (code, wrong) =
        report(&format!(r"run {address} -c 1 --rate 100 -d 200ms --request PING\r\n --expect +PANG\r\n"));
    assert_eq!(code, 1, "{wrong}");
    assert!(wrong["failed"].to_string().contains("instead of"), "{wrong}");
}

#[test]
fn a_server_in_python_echoes() {
    const ECHO: &str = r#"
import socketserver, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
with Server(sys.argv[1], Echo) as server:
    print("ready", flush=True)
    server.serve_forever()
"#;
    let server = Server::python(ECHO);
    good(&format!("run {} -c 10 --rate 500 --arrival poisson --size 64..64k", server.address));
}
