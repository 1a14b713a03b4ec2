//! Datagram sockets and programs that are not ours: Python, socat, netcat, C; and a child that counts its own descriptors.

use crate::support::PATIENCE;
use crate::support::child::{KillOnDrop, again, succeeds};
use crate::support::have;
use crate::support::names::unique;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipc_reactor::{Address, Datagram, Limits, PeerAddress, Reactor, SocketAddress, Turn};

#[derive(Debug, Default)]
struct Heard(Vec<(Vec<u8>, PeerAddress)>);

/// Serves on `socket`: answers each datagram from a bound socket with "re: " and its bytes, until `peer` has ended
/// and all `count` datagrams have come.
#[track_caller]
fn serve(socket: Datagram, mut peer: Command, count: usize) -> (Heard, String) {
    let mut reactor = Reactor::<Heard>::new().unwrap();
    reactor
        .datagram(socket, |datagram, _, heard| {
            heard.0.push((datagram.bytes.to_vec(), datagram.from.to_address()));
            assert_eq!(datagram.truncated, None);
            if datagram.from.is_unnamed() {
                return Ok(());
            }
            datagram.reply(&[b"re: ", datagram.bytes].concat())
        })
        .unwrap();
    let mut peer = KillOnDrop(peer.stdout(Stdio::piped()).spawn().unwrap());
    let (mut heard, start) = (Heard::default(), Instant::now());
    let mut ended = false;
    while !ended || heard.0.len() < count {
        assert_ne!(reactor.turn(Some(Duration::from_millis(20)), &mut heard).unwrap(), Turn::Stopped);
        ended = ended || peer.0.try_wait().unwrap().is_some();
        assert!(start.elapsed() < PATIENCE, "{count} datagrams wanted, ended {ended}: {heard:?}");
    }
    assert!(peer.0.wait().unwrap().success(), "{heard:?}");
    let said = io::read_to_string(peer.0.stdout.take().unwrap()).unwrap();
    assert_eq!((reactor.stats().handler_errors, reactor.stats().panics), (0, 0));
    (heard, said)
}

fn bytes(heard: &Heard) -> Vec<&[u8]> {
    heard.0.iter().map(|(bytes, _)| &bytes[..]).collect()
}

const PYTHON: &str = r#"
import socket, sys
kind, to, own = sys.argv[1:]
named = lambda text: "\0" + text[1:] if text.startswith("@") else text
if kind == "udp":
    host, port = to.rsplit(":", 1)
    family, to, own = (socket.AF_INET6 if "[" in host else socket.AF_INET), (host.strip("[]"), int(port)), None
else:
    family, to = socket.AF_UNIX, named(to)
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(15)
if own:
    s.bind(named(own))
elif kind == "udp":
    s.bind((to[0], 0))
for message in [b"one", b"", b"three" * 1000]:
    s.sendto(message, to)
    if kind == "udp" or own:
        reply, sender = s.recvfrom(65536)
        assert reply == b"re: " + message, reply
print(s.getsockname()[1] if kind == "udp" else "done")
"#;

#[test]
fn python_over_every_kind_of_address() {
    if !have("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, own) = (folder.path().join("s"), folder.path().join("own"));
    let (name, own_name) = (unique(), unique());
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let own_address = PeerAddress::Path(own.clone());
    let cases = [
        (Datagram::unix(&path).unwrap(), "unix", text(&path), text(&own), Some(own_address)),
        (
            Datagram::unix_abstract(&name).unwrap(),
            "unix",
            format!("@{name}"),
            format!("@{own_name}"),
            Some(PeerAddress::Abstract(own_name.into_bytes())),
        ),
        (
            Datagram::unix_abstract(unique()).unwrap(),
            "unix",
            String::new(),
            String::new(),
            Some(PeerAddress::Unnamed),
        ),
        (Datagram::udp("127.0.0.1:0").unwrap(), "udp", String::new(), String::new(), None),
        (Datagram::udp("[::1]:0").unwrap(), "udp", String::new(), String::new(), None),
    ];
    for (socket, kind, to, own, sender) in cases {
        let to = match socket.local_address().unwrap() {
            Address::Udp(at) => at,
            Address::AbstractDatagram(name) => format!("@{}", String::from_utf8(name).unwrap()),
            _ => to,
        };
        let mut python = Command::new("python3");
        python.args(["-c", PYTHON, kind, &to, &own]);
        let (heard, said) = serve(socket, python, 3);
        assert_eq!(bytes(&heard), [&b"one"[..], b"", &b"three".repeat(1000)]);
        for (_, from) in &heard.0 {
            match (&sender, from) {
                (Some(sender), from) => assert_eq!(from, sender),
                (None, PeerAddress::Inet(from)) => assert_eq!(from.port().to_string(), said.trim()),
                (None, from) => panic!("{from}"),
            }
        }
    }
}

#[test]
fn socat_and_netcat() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    // Fed by a shell, which ends its input: they end when they have nothing more to send.
    let shell = |line: String| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]);
        shell
    };
    if have("socat") {
        let line = format!("printf hello | socat -t0.1 - UNIX-SENDTO:{}", path.display());
        let (heard, _) = serve(Datagram::unix(&path).unwrap(), shell(line), 1);
        assert_eq!((bytes(&heard), &heard.0[0].1), (vec![&b"hello"[..]], &PeerAddress::Unnamed));

        let udp = Datagram::udp("127.0.0.1:0").unwrap();
        let Address::Udp(at) = udp.local_address().unwrap() else { panic!("UDP") };
        let line = format!("printf hello | socat -t2 - UDP4-DATAGRAM:{at},bind=127.0.0.1:0");
        let (heard, said) = serve(udp, shell(line), 1);
        assert_eq!((bytes(&heard), &*said), (vec![&b"hello"[..]], "re: hello"));
    }
    if have("nc") {
        let udp = Datagram::udp("127.0.0.1:0").unwrap();
        let Address::Udp(at) = udp.local_address().unwrap() else { panic!("UDP") };
        let line = format!("printf hello | nc -u -w1 {}", at.replace(':', " "));
        let (heard, said) = serve(udp, shell(line), 1);
        assert_eq!((bytes(&heard), &*said), (vec![&b"hello"[..]], "re: hello"));
    }
}

const C: &str = r#"
#include <sys/socket.h>
#include <sys/un.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    sa_family_t own = AF_UNIX;
    char reply[64];
    int s = socket(AF_UNIX, SOCK_DGRAM, 0);
    strncpy(to.sun_path, argv[1], sizeof to.sun_path - 1);
    if (bind(s, (struct sockaddr *)&own, sizeof own)) return 1;
    if (connect(s, (struct sockaddr *)&to, sizeof to)) return 2;
    for (int i = 0; i < 1000; i++) {
        if (send(s, &i, sizeof i, 0) != sizeof i) return 3;
        if (recv(s, reply, sizeof reply, 0) != 4 + sizeof i || memcmp(reply + 4, &i, sizeof i)) return 4;
    }
    return puts("done") < 0;
}
"#;

#[test]
fn a_c_program_asks_and_is_answered() {
    if !have("cc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, program, path) =
        (folder.path().join("peer.c"), folder.path().join("peer"), folder.path().join("s"));
    fs::write(&source, C).unwrap();
    assert!(Command::new("cc").arg("-o").arg(&program).arg(&source).status().unwrap().success());
    let mut peer = Command::new(program);
    peer.arg(&path);
    let (heard, said) = serve(Datagram::unix(&path).unwrap(), peer, 1000);
    assert!(bytes(&heard).into_iter().eq((0..1000_i32).map(|n| n.to_ne_bytes()).collect::<Vec<_>>()));
    assert_eq!(said, "done\n");
    let PeerAddress::Abstract(name) = &heard.0[0].1 else { panic!("autobound") };
    assert_eq!(name.len(), 5);
}

const PASSER: &str = r#"
import array, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
refused = 0
fds = array.array("i", [0, 1, 2])
for _ in range(500):
    try:
        s.sendmsg([b"take these"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], 0, sys.argv[1])
    except PermissionError:
        refused += 1
        s.sendto(b"take these", sys.argv[1])
print(refused)
"#;

const CHILD: &str = "DATAGRAM_PEERS_CHILD";

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn nothing_leaks_and_no_descriptor_gets_in() {
    if !have("python3") {
        return;
    }
    if std::env::var_os(CHILD).is_none() {
        return succeeds(again("datagram::nothing_leaks_and_no_descriptor_gets_in").env(CHILD, "1"));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let before = descriptors();
    for _ in 0..2 {
        let mut python = Command::new("python3");
        python.args(["-c", PASSER, path.to_str().unwrap()]);
        let (heard, refused) = serve(Datagram::unix(&path).unwrap(), python, 500);
        // Before Linux 6.16 the kernel takes them, and closes them.
        assert!(["500", "0"].contains(&refused.trim()), "{refused} of 500 refused");
        assert!(bytes(&heard).iter().all(|bytes| *bytes == b"take these"));
        assert_eq!(descriptors(), before);
    }
    for round in 0..200 {
        let limits = Limits { messages_per_visit: 1 + round % 3, ..Limits::default() };
        let mut reactor = Reactor::<()>::builder().limits(limits).build().unwrap();
        for socket in [Datagram::unix(&path).unwrap(), Datagram::udp("127.0.0.1:0").unwrap()] {
            let address = socket.local_address().unwrap();
            let client = Datagram::connected(&address).unwrap();
            let name = SocketAddress::try_from(&client.local_address().unwrap()).unwrap();
            let key = reactor.datagram(socket, |datagram, _, _| datagram.reply(b"z")).unwrap();
            client.send(b"x").unwrap();
            reactor.send_to(key, b"y", &name).unwrap();
            if round % 2 == 0 {
                reactor.close(key);
            }
        }
        let _ = reactor.turn(Some(Duration::ZERO), &mut ()).unwrap();
    }
    assert_eq!(descriptors(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "paths and locks are gone");
}
