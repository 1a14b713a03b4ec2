//! Which users and groups may connect, and what a peer's process is known by.

use crate::support::names::unique;
use std::{
    io::{self, Read},
    net::TcpStream,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
};

use crate::support::fds::*;
use ipc_reactor::{Address, Allow, Context, Framing, Limits, Listener, Peer, Session};

/// Answers `yes` at once. The state holds why other clients were refused.
struct Yes;

impl Session<Vec<String>> for Yes {
    fn on_open(&mut self, cx: &mut Context<'_, Vec<String>>, _: &mut Vec<String>) -> io::Result<()> {
        cx.reply(b"yes")
    }

    fn on_request(
        &mut self,
        _: &[u8],
        _: &mut Context<'_, Vec<String>>,
        _: &mut Vec<String>,
    ) -> io::Result<()> {
        Ok(())
    }
}

fn guarded(listener: Listener, allow: Allow) -> Running<Vec<String>> {
    Running::start(Limits::default(), Vec::new(), move |reactor| {
        let factory = move |peer: &Peer<'_>, refused: &mut Vec<String>| {
            allow.check(peer).inspect_err(|error| {
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
                refused.push(error.to_string());
            })?;
            Ok(Yes)
        };
        reactor.listen(listener, Framing::raw(), factory).unwrap();
    })
}

/// Whether a connection of `kind` is accepted.
fn let_in(path: &Path, kind: libc::c_int) -> bool {
    let mut answer = [0; 3];
    let (got, _) = recv_with(connect(path, kind).unwrap(), &mut answer).unwrap();
    assert!(got == 0 || answer == *b"yes");
    got > 0
}

fn me() -> (u32, u32) {
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
    get(ours.as_fd(), libc::SO_PEERCRED, &mut who).unwrap();
    (who.uid, who.gid)
}

#[test]
fn who_is_listed_is_let_in_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (uid, gid) = me();
    let lists = [
        (Allow::new(), false),
        (Allow::same_user(), true),
        (Allow::new().uid(uid), true),
        (Allow::new().uid(uid + 1).gid(gid), true),
        (Allow::new().uid(uid + 1), false),
        (Allow::new().uid(uid + 1).gid(gid + 70_000), false),
    ];
    for (index, (allow, expected)) in lists.into_iter().enumerate() {
        for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
            let path = folder.path().join(format!("{index}-{kind}"));
            let options = Listener::options();
            let listener =
                if kind == libc::SOCK_STREAM { options.unix(&path) } else { options.unix_seqpacket(&path) };
            let server = guarded(listener.unwrap(), allow.clone());
            assert_eq!(let_in(&path, kind), expected, "{allow:?}");
            assert_eq!(server.ask(|cx, _| cx.stats().refused), u64::from(!expected));
            let refused = server.stop();
            assert_eq!(refused.len(), usize::from(!expected));
            assert!(
                refused.iter().all(|why| why.contains(&format!("uid {uid}, gid {gid} may not"))),
                "{refused:?}"
            );
        }
    }
}

/// The first of a child's supplementary groups.
const CLUB: u32 = 61_234;

#[test]
fn a_peer_without_rights_is_let_in_by_its_user_or_any_of_its_groups() {
    if let Some(name) = role() {
        // So many that they do not fit the first buffer.
        let groups: Vec<u32> = (0..100).map(|index| CLUB - index).collect();
        let uid = become_a_nobody(&groups);
        println!("\nuid: {uid}");
        for list in 0..5 {
            let path = format!("@{name}-{list}");
            println!("list: {}", let_in(Path::new(&path), libc::SOCK_STREAM));
        }
        return;
    }
    if !can(is_root(), "only root can become somebody else") {
        return;
    }
    let name = unique();
    let test = "allow::a_peer_without_rights_is_let_in_by_its_user_or_any_of_its_groups";
    // The child's user id is made from its process id, which the listeners cannot know: they list the ids that they
    // know.
    let lists = [
        (Allow::same_user().uid(0), false),
        (Allow::new().gid(CLUB), true),
        (Allow::new().gid(CLUB - 99), true),
        (Allow::new().gid(CLUB - 100), false),
        ((40_000..60_000).fold(Allow::new(), Allow::uid), true),
    ];
    let servers: Vec<_> = lists
        .iter()
        .enumerate()
        .map(|(list, (allow, _))| {
            guarded(Listener::unix_abstract(format!("{name}-{list}")).unwrap(), allow.clone())
        })
        .collect();
    let mut child = Role::start(test, &name);
    let uid = child.says("uid: ");
    for (allow, expected) in &lists[..4] {
        assert_eq!(child.says("list: "), expected.to_string(), "{allow:?}");
    }
    assert_eq!(child.says("list: "), "true");
    child.ends_well();
    let refused = servers.into_iter().flat_map(Running::stop).collect::<Vec<_>>();
    assert_eq!(refused.len(), 2);
    assert!(refused[0].contains(&format!("uid {uid}, gid {uid} may not")), "{refused:?}");
}

#[test]
fn a_tcp_peer_is_refused_with_the_reason() {
    let listener = Listener::tcp("127.0.0.1:0").unwrap();
    let Address::Tcp(address) = listener.local_address().unwrap() else { panic!("TCP") };
    let server = guarded(listener, Allow::same_user().uid(0).gid(0));
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    let refused = server.stop();
    assert!(refused.len() == 1 && refused[0].contains("TCP"), "{refused:?}");
}

/// The state is its peers' pidfds.
struct Silent;

impl Session<Vec<OwnedFd>> for Silent {
    fn on_request(
        &mut self,
        _: &[u8],
        cx: &mut Context<'_, Vec<OwnedFd>>,
        _: &mut Vec<OwnedFd>,
    ) -> io::Result<()> {
        cx.reply(b"here\n")
    }
}

const PYTHON: &str = r#"
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"?")
assert s.recv(5) == b"here\n"
print("connected", flush=True)
sys.stdin.read()
"#;

#[test]
fn a_peers_pidfd_tells_when_its_process_ends() {
    if !have("python3") {
        return;
    }
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut pidfd = -1;
    let known = get(socket.as_fd(), libc::SO_PEERPIDFD, &mut pidfd).map(|()| own(pidfd));
    if !can(known.is_ok(), "no SO_PEERPIDFD: the kernel is older than 6.5") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = Listener::unix(&path).unwrap();
    let server = Running::start(Limits::default(), Vec::new(), move |reactor| {
        let factory = |peer: &Peer<'_>, pidfds: &mut Vec<OwnedFd>| {
            pidfds.push(peer.pidfd()?);
            Ok(Silent)
        };
        reactor.listen(listener, Framing::raw(), factory).unwrap();
    });
    let mut command: Command = python(PYTHON);
    let mut child = command.arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut connected = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut connected).unwrap();
    let pidfd = server.ask(|_, pidfds| pidfds.pop()).unwrap();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    assert!(info.lines().any(|line| line == format!("Pid:\t{}", child.id())), "{info}");
    assert!(!readable(pidfd.as_fd(), 0), "it lives");
    drop(child.stdin.take());
    assert!(readable(pidfd.as_fd(), PATIENCE.as_millis() as i32), "it has ended");
    assert!(child.wait().unwrap().success());
    // The number may be another process's now; the pidfd is of the one that ended.
    assert!(readable(pidfd.as_fd(), 0));
}
