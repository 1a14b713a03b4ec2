//! Clients that are not ours: Python, socat, and a program in C.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::harness::*;

pub(crate) fn serves_a_python_client(style: &str) {
    if !have("python3") {
        return;
    }
    for address in [unique_abstract(), "tcp:127.0.0.1:0".to_owned()] {
        let server = Server::start_on(style, &address);
        python(&server);
        server.end(libc::SIGTERM);
    }
    let server = Server::start(style);
    python(&server);
    server.end(libc::SIGTERM);
}

pub(crate) fn python(server: &Server) {
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/multiplexing/client.py");
    let output = Command::new("python3").args([client, &server.address]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn serves_socat(style: &str) {
    if !have("socat") {
        return;
    }
    let server = Server::start(style);
    let mut socat = Process(
        Command::new("socat")
            .args(["-t", "30", "-", &format!("UNIX-CONNECT:{}", server.path().display())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    // Closing its standard input makes socat shut down its sending side and await the rest.
    socat.0.stdin.take().unwrap().write_all(b"through socat\n").unwrap();
    let mut answer = String::new();
    socat.0.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "through socat\n");
    assert!(socat.wait().success());
    server.end(libc::SIGTERM);
}

pub(crate) fn serves_a_c_client(style: &str) {
    if !have("cc") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let client = directory.path().join("client");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/multiplexing/client.c");
    assert!(
        Command::new("cc")
            .args(["-Wall", "-Werror", "-o"])
            .arg(&client)
            .arg(source)
            .status()
            .unwrap()
            .success()
    );
    let server = Server::start(style);
    let output = Command::new(&client).arg(server.path()).arg("from C").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"from C");
    server.end(libc::SIGTERM);
}
