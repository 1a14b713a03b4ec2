//! The client, the C program of the README, and what all examples print for `--help` and for a wrong address.

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::Command,
};

use ipc_reactor::Signal;

use crate::running::{PATIENCE, Running, Server, client, example, run, text};

#[test]
fn the_c_program_of_the_readme_prints_the_answer() {
    let server = Server::start(&[]);
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let program = readme.split("```c\n").nth(1).unwrap().split("```").next().unwrap();
    let (source, binary) = (server.folder.path().join("client.c"), server.folder.path().join("client"));
    fs::write(&source, program).unwrap();
    let built = run(Command::new("cc").args(["-Wall", "-Werror", "-o"]).args([&binary, &source]));
    assert!(built.status.success(), "{}", text(&built.stderr));
    let mut client = Running::start(Command::new(binary).arg(server.stream()));
    client.stdin().write_all(b"20\n22\n0\n").unwrap();
    assert!(client.wait().success());
    assert_eq!(client.stdout.iter().last().as_deref(), Some("Result = 42"));
}

#[test]
fn the_client_relays_and_echoes() {
    let folder = tempfile::tempdir().unwrap();
    let addresses = ["unix", "unix-seq"].map(|kind| format!("{kind}:{}", folder.path().join(kind).display()));
    let mut echo = Running::start(example("echo").args(&addresses));
    assert_eq!(echo.stdout.recv_timeout(PATIENCE).as_deref(), Ok("ready"));
    for address in &addresses {
        assert_eq!(text(&client(&[address, "--echo", "hello"]).stdout), "hello\n", "{address}");
        let mut relay = Running::start(example("client").args([address, "--raw"]));
        relay.stdin().write_all(b"to and fro\n").unwrap();
        assert_eq!(relay.stdout.recv_timeout(PATIENCE).as_deref(), Ok("to and fro"), "{address}");
        drop(relay.child.stdin.take());
        assert!(relay.wait().success(), "{address}");
    }
    echo.signal(Signal::INT);
    assert!(echo.wait().success());
}

#[test]
fn the_client_takes_series_from_standard_input_and_tells_what_is_missing() {
    let server = Server::start(&[]);
    let mut adding = Running::start(example("client").arg(&server.addresses[1]));
    adding.stdin().write_all(b"1 2 0\n3\n").unwrap();
    drop(adding.child.stdin.take());
    assert!(adding.wait().success());
    assert_eq!(adding.stdout.iter().collect::<Vec<_>>(), ["Result = 3", "Result = 3"]);

    let nobody = format!("unix:{}", server.folder.path().join("nobody").display());
    let output = client(&[&nobody, "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is the server running"), "{}", text(&output.stderr));

    // A server that closes without an answer: a record that is no number.
    let output = client(&[&server.addresses[1], "--echo", "abc"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("without an answer"), "{}", text(&output.stderr));
    let mut half = UnixStream::connect(server.stream()).unwrap();
    half.write_all(&[1]).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(half.read(&mut [0; 8]).unwrap(), 0, "half a number has no answer");
}

#[test]
fn help_is_no_error_and_a_bad_address_is_a_usage_error() {
    for name in ["echo", "server", "client", "stress"] {
        let output = run(example(name).arg("--help"));
        assert_eq!(output.status.code(), Some(0), "{name}");
        assert!(text(&output.stdout).contains("Usage:"), "{name}");
        assert!(!text(&output.stdout).contains("serve "), "the child's command is nobody's business");
    }
    for arguments in [&["echo", "gopher:70"][..], &["server", "gopher:70"], &["client", "gopher:70", "1"]] {
        let output = run(example(arguments[0]).args(&arguments[1..]));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains("unix:PATH") && said.contains("tcp:HOST:PORT"), "{said}");
    }
    for arguments in [
        &["server", "udp:127.0.0.1:1"][..],
        &["client", "unix-dgram:/tmp/x", "1"],
        &["stress", "--connect", "mq:/x"],
    ] {
        let output = run(example(arguments[0]).args(&arguments[1..]));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains("unix:PATH"), "{arguments:?}");
    }
}
