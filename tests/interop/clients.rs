//! Clients that share nothing with this crate but the kernel: Python's sockets, `socat`, and a C program.

use crate::support::names::unique;
use crate::support::{can, have};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread::{self, JoinHandle};

use ipc_reactor::{Address, Context, Framing, Listener, Prefix, Reactor, Remote, Session};

// ---- The services ----

/// Adds up native `int`s, and answers a 0 with the sum.
#[derive(Default)]
struct Adder {
    sum: i32,
}

impl Session<()> for Adder {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        match i32::from_ne_bytes(request.try_into().unwrap()) {
            0 => cx.reply(format!("Result = {}", self.sum).as_bytes()),
            number => {
                self.sum += number;
                Ok(())
            }
        }
    }
}

/// Answers each message with the same in capitals, framed as it came.
#[derive(Default)]
struct Capitals;

impl Session<()> for Capitals {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply_frame(&request.to_ascii_uppercase())
    }
}

/// A reactor in a thread of its own, stopped when dropped.
struct Service {
    address: Address,
    remote: Remote<()>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    fn start<T: Session<()> + Default + 'static>(
        listener: io::Result<Listener>,
        framing: Framing,
    ) -> Service {
        let listener = listener.unwrap();
        let address = listener.local_address().unwrap();
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut reactor = Reactor::new().unwrap();
            reactor.listen(listener, framing, |_, ()| Ok(T::default())).unwrap();
            sender.send(reactor.remote()).unwrap();
            reactor.run(&mut ()).unwrap();
        });
        Service { address, remote: receiver.recv().unwrap(), thread: Some(thread) }
    }

    fn port(&self) -> String {
        let address = self.address.to_string();
        address.rsplit_once(':').unwrap().1.to_owned()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.remote.stop();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking(), "the service panicked");
    }
}

// ---- The clients ----

/// The interpreter itself, where `python3` is a script that looks for one.
fn python() -> Option<&'static str> {
    static PYTHON: OnceLock<Option<String>> = OnceLock::new();
    let found = PYTHON.get_or_init(|| {
        let output =
            Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().ok()?;
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    });
    can(found.is_some(), "python3 is not installed").then(|| found.as_deref().unwrap())
}

/// A command that ends by itself, whatever the service does.
fn limited(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "40", program]);
    command
}

#[track_caller]
fn text(output: &Output) -> String {
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{}: {out}{err}", output.status);
    out
}

#[track_caller]
fn run_python(python: &str, script: &str, arguments: &[&str]) -> String {
    let script = format!("import socket, struct, sys\n{script}");
    text(&limited(python).args(["-I", "-S", "-c", &script]).args(arguments).output().unwrap())
}

#[track_caller]
fn run_socat(address: &str, input: &[u8]) -> String {
    let mut child = limited("socat")
        .args(["-t30", "-T30", "-", address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    text(&child.wait_with_output().unwrap())
}

fn path_of(folder: &tempfile::TempDir) -> String {
    folder.path().join("DemoSocket").to_str().unwrap().to_owned()
}

// ---- C ----

/// The client of many courses: it assumes that one `read` gives the whole reply, and that the reply is text that ends
/// with a NUL.
const C_CLIENT: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BUFFER_SIZE 128

int main(int argc, char *argv[])
{
    struct sockaddr_un addr;
    char buffer[BUFFER_SIZE];
    int i, data_socket;

    data_socket = socket(AF_UNIX, SOCK_STREAM, 0);
    if (data_socket == -1) { perror("socket"); exit(EXIT_FAILURE); }
    memset(&addr, 0, sizeof addr);
    addr.sun_family = AF_UNIX;
    strncpy(addr.sun_path, argv[1], sizeof addr.sun_path - 1);
    if (connect(data_socket, (const struct sockaddr *) &addr, sizeof addr) == -1) {
        fprintf(stderr, "The server is down.\n");
        exit(EXIT_FAILURE);
    }
    for (i = 2; i < argc; ++i) {
        int number = atoi(argv[i]);
        if (write(data_socket, &number, sizeof number) == -1) { perror("write"); exit(EXIT_FAILURE); }
    }
    i = 0;
    if (write(data_socket, &i, sizeof i) == -1) { perror("write"); exit(EXIT_FAILURE); }
    memset(buffer, 0, BUFFER_SIZE);
    if (read(data_socket, buffer, BUFFER_SIZE) == -1) { perror("read"); exit(EXIT_FAILURE); }
    printf("%s\n", buffer);
    close(data_socket);
    return 0;
}
"#;

#[test]
fn the_course_client_in_c_gets_its_sum() {
    if !have("cc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("client");
    let source = program.with_extension("c");
    fs::write(&source, C_CLIENT).unwrap();
    text(&Command::new("cc").args([&source, Path::new("-o"), &program]).output().unwrap());
    let path = path_of(&folder);
    let _service = Service::start::<Adder>(Listener::unix(&path), Framing::fixed(4));
    let client = |numbers: &[&str]| {
        text(&limited(program.to_str().unwrap()).arg(&path).args(numbers).output().unwrap())
    };
    assert_eq!(client(&["1", "2", "3"]), "Result = 6\n");
    assert_eq!(client(&["-5", "2000000000"]), "Result = 1999999995\n");
    assert_eq!(client(&[]), "Result = 0\n");
    let many: Vec<String> = (1..=1_000).map(|number| number.to_string()).collect();
    assert_eq!(client(&many.iter().map(String::as_str).collect::<Vec<_>>()), "Result = 500500\n");
}

// ---- Python ----

const ADD: &str = "
s = socket.socket(getattr(socket, sys.argv[1]), socket.SOCK_STREAM)
s.settimeout(20)
where = sys.argv[2]
if sys.argv[1] == 'AF_UNIX':
    s.connect('\\0' + where[1:] if where[0] == '@' else where)
else:
    s.connect((where, int(sys.argv[3])))
for number in 40, 3, -1, 0:
    s.sendall(struct.pack('=i', number))
print(s.recv(128).decode())
";

#[test]
fn python_adds_over_every_stream() {
    let Some(python) = python() else { return };
    let add = |arguments: &[&str]| run_python(python, ADD, arguments);
    let fixed = || Framing::fixed(4);

    let folder = tempfile::tempdir().unwrap();
    let path = path_of(&folder);
    let _by_path = Service::start::<Adder>(Listener::unix(&path), fixed());
    assert_eq!(add(&["AF_UNIX", &path]), "Result = 42\n");

    let name = unique();
    let _by_name = Service::start::<Adder>(Listener::unix_abstract(&name), fixed());
    assert_eq!(add(&["AF_UNIX", &format!("@{name}")]), "Result = 42\n");

    let v4 = Service::start::<Adder>(Listener::tcp("127.0.0.1:0"), fixed());
    assert_eq!(add(&["AF_INET", "127.0.0.1", &v4.port()]), "Result = 42\n");

    if can(std::net::TcpListener::bind("[::1]:0").is_ok(), "there is no IPv6 here") {
        let v6 = Service::start::<Adder>(Listener::tcp("[::1]:0"), fixed());
        assert_eq!(add(&["AF_INET6", "::1", &v6.port()]), "Result = 42\n");
    }
}

#[test]
fn python_keeps_its_records_on_seqpacket() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = path_of(&folder);
    let _service = Service::start::<Capitals>(Listener::unix_seqpacket(&path), Framing::raw());
    let script = "
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.settimeout(20)
s.connect(sys.argv[1])
records = [b'one', b'', b'three' * 1000, b'x']
for record in records:
    s.send(record)
for record in records:
    got = s.recv(65536)
    assert got == record.upper(), (got, record)
s.shutdown(socket.SHUT_WR)
assert s.recv(65536) == b''
print('all')
";
    assert_eq!(run_python(python, script, &[&path]), "all\n");
}

#[test]
fn python_packs_length_prefixes() {
    let Some(python) = python() else { return };
    let script = "
form = sys.argv[2]
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
s.connect(sys.argv[1])
messages = [b'one', b'', b'x' * 200]
def pack(messages):
    return b''.join(struct.pack(form, len(message)) + message for message in messages)
frames = pack(messages)
s.sendall(frames)
for byte in frames:
    s.sendall(bytes([byte]))
wanted = pack([message.upper() for message in messages]) * 2
got = b''
while len(got) < len(wanted):
    piece = s.recv(65536)
    assert piece, got
    got += piece
assert got == wanted, got
print('all')
";
    let prefixes = [
        (Prefix::U8, "B"),
        (Prefix::U16Be, ">H"),
        (Prefix::U16Le, "<H"),
        (Prefix::U32Be, ">I"),
        (Prefix::U32Le, "<I"),
    ];
    for (prefix, form) in prefixes {
        let folder = tempfile::tempdir().unwrap();
        let path = path_of(&folder);
        let _service = Service::start::<Capitals>(Listener::unix(&path), Framing::prefixed(prefix));
        assert_eq!(run_python(python, script, &[&path, form]), "all\n", "{prefix:?}");
    }
}

struct Clients(Vec<Child>);

impl Drop for Clients {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn fifty_python_clients_at_once_get_each_its_own_sum() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = path_of(&folder);
    let _service = Service::start::<Adder>(Listener::unix(&path), Framing::fixed(4));
    // Each waits, connected, until all are, and then sends its numbers between those of the others.
    let script = "
import socket, struct, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(30)
s.connect(sys.argv[1])
print('connected', flush=True)
sys.stdin.read(1)
for _ in range(100):
    s.sendall(struct.pack('=i', int(sys.argv[2])))
s.sendall(struct.pack('=i', 0))
print(s.recv(128).decode())
";
    let mut clients = Clients(Vec::new());
    for number in 1..=50 {
        let client = Command::new(python)
            .args(["-I", "-S", "-c", script, &path, &number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        clients.0.push(client.unwrap());
    }
    let mut replies: Vec<_> =
        clients.0.iter_mut().map(|client| BufReader::new(client.stdout.take().unwrap())).collect();
    for reply in &mut replies {
        let mut line = String::new();
        reply.read_line(&mut line).unwrap();
        assert_eq!(line, "connected\n");
    }
    for client in &mut clients.0 {
        client.stdin.take().unwrap().write_all(b"!").unwrap();
    }
    for (number, reply) in (1..=50).zip(&mut replies) {
        let mut line = String::new();
        reply.read_to_string(&mut line).unwrap();
        assert_eq!(line, format!("Result = {}\n", 100 * number));
    }
}

// ---- socat ----

#[test]
fn socat_speaks_in_lines() {
    if !have("socat") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = path_of(&folder);
    let _by_path = Service::start::<Capitals>(Listener::unix(&path), Framing::lines());
    let unix = format!("UNIX-CONNECT:{path}");
    assert_eq!(run_socat(&unix, b"one\ntwo\r\nthree\n"), "ONE\nTWO\nTHREE\n");
    assert_eq!(run_socat(&unix, b"one\n\nlast, with no line feed"), "ONE\n\nLAST, WITH NO LINE FEED\n");
    let long = "x".repeat(100_000) + "\n";
    assert_eq!(run_socat(&unix, long.as_bytes()), long.to_uppercase());

    let name = unique();
    let _by_name = Service::start::<Capitals>(Listener::unix_abstract(&name), Framing::lines());
    assert_eq!(run_socat(&format!("ABSTRACT-CONNECT:{name}"), b"abstract\n"), "ABSTRACT\n");

    let v4 = Service::start::<Capitals>(Listener::tcp("127.0.0.1:0"), Framing::lines());
    assert_eq!(run_socat(&format!("TCP4:127.0.0.1:{}", v4.port()), b"four\n"), "FOUR\n");

    if can(std::net::TcpListener::bind("[::1]:0").is_ok(), "there is no IPv6 here") {
        let v6 = Service::start::<Capitals>(Listener::tcp("[::1]:0"), Framing::lines());
        assert_eq!(run_socat(&format!("TCP6:[::1]:{}", v6.port()), b"six\n"), "SIX\n");
    }
}
