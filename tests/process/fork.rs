//! Forked children and started ones: a reactor works only in the process that made it, and no other process gets its
//! descriptors.

#![allow(unsafe_code)]

use crate::support::names::unique;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ipc_reactor::{
    Context, Framing, Interest, Key, Limits, Listener, Progress, Queue, Reactor, Session, Signal, Turn,
    WhenFull,
};

use crate::support::isolated::Case;

pub(crate) const CASES: &[Case] = &[
    ("a_forked_child_cannot_turn_its_parents_reactor", child_cannot_turn),
    ("a_forked_child_cannot_change_its_parents_poll_set", child_cannot_change),
    ("a_reactor_dropped_in_a_forked_child_harms_nobody", dropped_in_child),
    ("a_forked_child_makes_a_reactor_of_its_own", child_makes_its_own),
    ("a_started_child_inherits_no_descriptor", started_child_inherits_none),
    ("every_descriptor_is_close_on_exec", all_close_on_exec),
];

pub(crate) const ROLES: &[Case] = &[("descriptors", print_descriptors)];

struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, line: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply_frame(line)
    }
}

/// A reactor with a master socket and a client.
struct Service {
    reactor: Option<Reactor<()>>,
    master: Key,
    client: UnixStream,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Service {
    fn new() -> Service {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (reactor, master) = reactor(&path);
        let client = UnixStream::connect(&path).unwrap();
        let mut service = Service { reactor: Some(reactor), master, client, path, _folder: folder };
        service.assert_serves();
        service
    }

    fn reactor(&mut self) -> &mut Reactor<()> {
        self.reactor.as_mut().unwrap()
    }

    /// The old client and a new one are answered.
    fn assert_serves(&mut self) {
        let mut new = UnixStream::connect(&self.path).unwrap();
        let reactor = self.reactor.as_mut().unwrap();
        exchange(reactor, &mut self.client);
        exchange(reactor, &mut new);
    }
}

fn reactor(path: &Path) -> (Reactor<()>, Key) {
    let mut reactor = Reactor::new().unwrap();
    let master = reactor.listen(Listener::unix(path).unwrap(), Framing::lines(), |_, ()| Ok(Echo)).unwrap();
    (reactor, master)
}

fn exchange(reactor: &mut Reactor<()>, client: &mut UnixStream) {
    client.write_all(b"hello\n").unwrap();
    client.set_nonblocking(true).unwrap();
    let mut reply = [0; 6];
    loop {
        match client.read(&mut reply) {
            Ok(count) => break assert_eq!(&reply[..count], b"hello\n"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let _ = reactor.turn(Some(Duration::from_secs(20)), &mut ()).unwrap();
    }
    client.set_nonblocking(false).unwrap();
}

/// Runs `work` in a forked child, and waits for it. This process has one thread, so the child may call any function.
fn in_child(work: impl FnOnce()) {
    assert_eq!(fs::read_dir("/proc/self/task").unwrap().count(), 1);
    // SAFETY: there is no other thread that could hold a lock, and the child ends in this function.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let outcome = catch_unwind(AssertUnwindSafe(work));
        // SAFETY: ends this process, with nothing of the parent's run or flushed.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0, "the child's own assertions hold");
}

#[track_caller]
fn is_told_of_the_fork<T: std::fmt::Debug>(result: io::Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("before a fork"), "{error}");
}

fn child_cannot_turn() {
    let mut service = Service::new();
    service.client.write_all(b"hello\n").unwrap();
    in_child(|| {
        is_told_of_the_fork(service.reactor().turn(Some(Duration::ZERO), &mut ()));
        is_told_of_the_fork(service.reactor().run(&mut ()));
    });
    // Events from before the fork are the parent's.
    let mut reply = [0; 6];
    while service.reactor().stats().requests < 3 {
        assert_ne!(service.reactor().turn(None, &mut ()).unwrap(), Turn::Stopped);
    }
    service.client.read_exact(&mut reply).unwrap();
    service.assert_serves();
}

fn child_cannot_change() {
    let mut service = Service::new();
    let another = service.path.with_file_name("another");
    in_child(|| {
        let master = service.master;
        let reactor = service.reactor();
        let listener = Listener::unix(another).unwrap();
        is_told_of_the_fork(
            reactor.listen(listener, Framing::lines(), |_, ()| Ok(Echo)).map_err(io::Error::from),
        );
        let (ours, _theirs) = UnixStream::pair().unwrap();
        is_told_of_the_fork(reactor.adopt(ours, Framing::lines(), Echo));
        assert!(reactor.close(master));
        reactor.clients().collect::<Vec<_>>().into_iter().for_each(|key| assert!(reactor.abort(key)));
    });
    service.assert_serves();
}

fn dropped_in_child() {
    let mut service = Service::new();
    in_child(|| {
        drop(service.reactor.take());
        assert!(service.path.exists());
    });
    assert!(service.path.exists());
    service.assert_serves();
}

fn child_makes_its_own() {
    let mut service = Service::new();
    let path = service.path.with_file_name("of-the-child");
    in_child(|| {
        let (mut own, _) = reactor(&path);
        exchange(&mut own, &mut UnixStream::connect(&path).unwrap());
        drop(service.reactor.take());
        exchange(&mut own, &mut UnixStream::connect(&path).unwrap());
    });
    assert!(!path.exists(), "the child has removed its own path");
    service.assert_serves();
}

/// This process's descriptors and what each of them is, less the one that reads the directory.
fn descriptors() -> BTreeMap<i32, PathBuf> {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let file = fs::read_link(entry.path()).ok()?;
            let is_the_directory = file.to_string_lossy().ends_with("/fd");
            (!is_the_directory).then(|| (entry.file_name().to_str().unwrap().parse().unwrap(), file))
        })
        .collect()
}

fn print_descriptors() {
    descriptors().iter().for_each(|(fd, file)| println!("{fd} {}", file.display()));
}

fn descriptors_of_a_child() -> String {
    let output = crate::support::isolated::this_binary("fork::descriptors")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Where its output goes is a new pipe each time.
    text.lines().filter(|line| !line.starts_with("1 ")).collect::<Vec<_>>().join("\n")
}

struct Queues(Vec<String>);

impl Drop for Queues {
    fn drop(&mut self) {
        self.0.iter().for_each(|name| drop(Queue::unlink(name)));
    }
}

/// Calls `look` from a session of a reactor that holds a source of every kind.
fn with_every_source(look: impl Fn() + Clone + 'static) {
    struct Looks<F>(F);
    impl<F: Fn()> Session<()> for Looks<F> {
        fn on_request(&mut self, line: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
            (self.0)();
            cx.reply_frame(line)
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    let limits = Limits { when_full: WhenFull::Shed, ..Limits::default() };
    let mut reactor = Reactor::<()>::builder().limits(limits).build().unwrap();
    let listeners = [
        Listener::unix(path("stream")).unwrap(),
        Listener::unix_seqpacket(path("records")).unwrap(),
        Listener::tcp("127.0.0.1:0").unwrap(),
        Listener::unix_abstract(unique()).unwrap(),
    ];
    for listener in listeners {
        let look = look.clone();
        reactor.listen(listener, Framing::lines(), move |_, ()| Ok(Looks(look.clone()))).unwrap();
    }
    let queues = Queues(vec![format!("/{}", unique())]);
    let queue = Queue::options().create_new(true).capacity(4).message_size(64).open(&queues.0[0]).unwrap();
    reactor.queue(queue, |_, _, ()| Ok(())).unwrap();
    reactor.signals([Signal::USR1], |_, _, ()| Ok(())).unwrap();
    let (_writer, reader) = UnixStream::pair().unwrap();
    reactor.fd(reader, Interest::READABLE, |_, _, _, ()| Ok(Progress::Drained)).unwrap();
    reactor.every(Duration::from_secs(60), |_, ()| Ok(()));
    exchange(&mut reactor, &mut UnixStream::connect(path("stream")).unwrap());
}

fn started_child_inherits_none() {
    let none = descriptors_of_a_child();
    assert!(none.lines().count() >= 2, "{none}");
    with_every_source(move || assert_eq!(descriptors_of_a_child(), none));
}

fn all_close_on_exec() {
    let before = descriptors();
    with_every_source(move || {
        let added: Vec<i32> = descriptors().into_keys().filter(|fd| !before.contains_key(fd)).collect();
        assert!(added.len() >= 12, "{added:?}");
        for fd in added {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
            let flags = i32::from_str_radix(flags, 8).unwrap();
            assert_ne!(flags & libc::O_CLOEXEC, 0, "descriptor {fd}: {info}");
        }
    });
}
