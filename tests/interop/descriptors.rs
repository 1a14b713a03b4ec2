//! Peers that know nothing of this crate.

use std::{path::Path, process::Command};

use crate::support::clerk::*;
use crate::support::fds::*;

const PYTHON: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.connect(sys.argv[1])
def text(words):
    fd = os.memfd_create("text")
    os.write(fd, words.encode())
    return fd
fds = [text("from"), text("Python")]
socket.send_fds(s, [b"read 2\n"], fds)
print(s.recv(64).decode().strip())
s.sendall(b"b10 d3:20\n")
got, fds = b"", []
while len(got) < 30:
    data, more, flags, address = socket.recv_fds(s, 64, 16)
    assert not flags & socket.MSG_CTRUNC
    got += data
    fds += more
print(*[os.pread(fd, 64, 0).decode() for fd in fds], sep="; ")
"#;

#[test]
fn pythons_send_fds_and_recv_fds() {
    if !have("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let server = clerks(&path, libc::SOCK_STREAM, 4);
    let output = output_of(python(PYTHON).arg(&path));
    assert_eq!(output, "from,Python\n0 at 10; 1 at 10; 2 at 10\n");
    assert_eq!(closed(&server, 1), ["closed by the peer"]);
}

#[test]
fn sendmsg_and_recvmsg_in_c() {
    if !have("cc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (program, path) = (folder.path().join("peer"), folder.path().join("s"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/descriptors.c");
    output_of(Command::new("cc").args(["-Wall", "-Werror", "-o"]).arg(&program).arg(source));
    let server = clerks(&path, libc::SOCK_SEQPACKET, 4);
    assert_eq!(output_of(Command::new(program).arg(&path)), "from C\n0 at 0\n1 at 0\n");
    assert_eq!(closed(&server, 1), ["closed by the peer"]);
}
