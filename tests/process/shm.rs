//! Shared memory of a writer that is killed, and where there is no memory. `IPC_TORTURE=1` makes the run long.

use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use ipc_reactor::shm::{
    Access, Mapping, Memfd, NamedText, Publisher, SharedObject, Subscriber, Ticket, Update,
};

use crate::support::child::{KillOnDrop, again};
use crate::support::isolated::{Case, cases};
use crate::support::needs_root;
use crate::support::shm::{ShmName, fill, refused, torture, whole};

pub(crate) const CASES: &[Case] = cases![
    a_writer_killed_at_any_moment_harms_no_reader,
    a_full_tmpfs_is_an_error,
    a_limit_of_file_sizes_is_an_error,
    a_forked_child_is_no_second_publisher,
];

pub(crate) const ROLES: &[Case] = cases![child_publishing_until_killed, child_in_a_small_tmpfs];

const KILLED_WORDS: usize = 512;
const KILLED_CAPACITY: usize = 15;

/// Its place in the segment, as the module's documentation has it.
fn half_written(segment: &OwnedFd) -> bool {
    let len = File::from(segment.try_clone().unwrap()).metadata().unwrap().len() as usize;
    let map = Mapping::of(segment, 0, len, Access::ReadOnly).unwrap();
    let word = |at: usize| {
        let mut bytes = [0; 8];
        map.read(at * 8, &mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    };
    let published = word(16);
    let slots = word(3) as usize;
    let slot_words = (len / 8 - 32) / slots;
    let payload = 32 + (published + 1) as usize % slots * slot_words;
    // The last words of a value may be an older one's: lengths differ by up to two.
    word(payload) == published + 1 && word(payload + KILLED_WORDS - 3) != published + 1
}

fn a_writer_killed_at_any_moment_harms_no_reader() {
    let kills = if torture() { 2000 } else { 50 };
    let mut half_written_count = 0;
    let mut seed = u64::from(std::process::id());
    for round in 0..kills {
        let mut child = KillOnDrop(
            again("shm::child_publishing_until_killed")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let line = loop {
            let line = lines.next().expect("the child ended early").unwrap();
            if let Some((_, ticket)) = line.split_once("ticket ") {
                break ticket.to_owned();
            }
        };
        let open = |fd: &str, write| {
            File::options().read(true).write(write).open(format!("/proc/{}/fd/{fd}", child.0.id())).unwrap()
        };
        let [segment, page, description] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let segment = OwnedFd::from(open(segment, false));
        let fds = vec![segment.try_clone().unwrap(), open(page, true).into()];
        let description: Vec<u8> = description.split(',').map(|byte| byte.parse().unwrap()).collect();
        let mut subscriber = Subscriber::open(Ticket::from_fds(&description, fds).unwrap()).unwrap();

        // A different moment each time, and never before there is something to lose.
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut left = 1 + (seed >> 33) % 50;
        let mut newest = 0;
        while left > 0 {
            let value = match round % 2 {
                0 => subscriber.latest().unwrap_or(None),
                _ => match subscriber.recv().unwrap() {
                    Some(Update::Value(value)) => Some(value),
                    _ => None,
                },
            };
            match value {
                Some(value) => (newest, left) = (whole(value, KILLED_WORDS), left - 1),
                None => std::thread::yield_now(),
            }
        }
        child.0.kill().unwrap();
        child.0.wait().unwrap();

        half_written_count += u32::from(half_written(&segment));
        while let Some(update) = subscriber.recv().unwrap() {
            if let Update::Value(value) = update {
                newest = whole(value, KILLED_WORDS);
            }
        }
        assert_eq!(newest, subscriber.position(), "the newest value is readable to the last");
        assert_eq!(subscriber.latest().unwrap(), None);
        assert!(subscriber.arm(), "a dead publisher has no news");
    }
    eprintln!("{half_written_count} of {kills} writers died in the middle of a value");
    assert!(half_written_count > 0, "no kill hit the middle of a value: this test proved nothing");
}

fn child_publishing_until_killed() {
    let mut publisher = Publisher::every(KILLED_WORDS * 8, KILLED_CAPACITY).unwrap();
    let (_, ticket) = publisher.subscribe_via(|| Ok(())).unwrap();
    let (description, fds) = ticket.into_fds();
    let description: Vec<_> = description.iter().map(u8::to_string).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "ticket {} {} {}", fds[0].as_raw_fd(), fds[1].as_raw_fd(), description.join(",")).unwrap();
    out.flush().unwrap();
    let parent = std::os::unix::process::parent_id();
    let mut buffer = vec![0; KILLED_WORDS * 8];
    for number in 1u64.. {
        publisher.publish(fill(&mut buffer, number)).unwrap();
        // Orphaned if the test itself was killed.
        if number % 10_000 == 0 && std::os::unix::process::parent_id() != parent {
            return;
        }
    }
}

/// Memory that is not there is an error at the call, not a SIGBUS at a write.
fn a_full_tmpfs_is_an_error() {
    if !needs_root("mounts a small tmpfs over /dev/shm") {
        return;
    }
    let child = again("shm::child_in_a_small_tmpfs");
    let mount = "mount -t tmpfs -o size=16k tmpfs /dev/shm && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", mount, "sh"]).arg(child.get_program()).args(child.get_args());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn child_in_a_small_tmpfs() {
    assert!(std::fs::read_dir("/dev/shm").unwrap().next().is_none(), "not the child: /dev/shm is in use");
    let name = ShmName::new();
    refused(
        SharedObject::create(&name.0, 64 << 10, 0o600),
        ErrorKind::StorageFull,
        "cannot reserve 65536 bytes",
    );
    refused(SharedObject::open(&name.0, Access::ReadOnly), ErrorKind::NotFound, "");

    let file = File::create_new("/dev/shm/file").unwrap();
    file.set_len(64 << 10).expect("a hole costs nothing");
    let file = File::options().read(true).write(true).open("/dev/shm/file").unwrap();
    refused(
        Mapping::of(&file, 0, 64 << 10, Access::ReadWrite),
        ErrorKind::StorageFull,
        "cannot reserve bytes 0..65536",
    );
    let map = Mapping::of(&file, 0, 8 << 10, Access::ReadWrite).unwrap();
    map.write(0, &[1; 8 << 10]).unwrap();
}

/// The kernel's answer is SIGXFSZ, which ends the process.
fn a_limit_of_file_sizes_is_an_error() {
    let (name, large) = (ShmName::new(), ShmName::new());
    let object = SharedObject::create(&name.0, 100, 0o600).unwrap();
    SharedObject::create(&large.0, 8192, 0o600).unwrap();
    let file = tempfile::tempfile().unwrap();
    let mut publisher = Publisher::latest(8).unwrap();
    for limit in [8000, 4095, 100, 0] {
        rustix::process::setrlimit(
            rustix::process::Resource::Fsize,
            rustix::process::Rlimit { current: Some(limit), maximum: None },
        )
        .unwrap();
        let full = ErrorKind::StorageFull;
        refused(Publisher::latest(8192), full, "RLIMIT_FSIZE");
        refused(Memfd::create("memory", limit + 1), full, "RLIMIT_FSIZE");
        let new = ShmName::new();
        refused(SharedObject::create(&new.0, limit + 1, 0o600), full, "RLIMIT_FSIZE");
        refused(SharedObject::open(&new.0, Access::ReadOnly), ErrorKind::NotFound, "");
        refused(Mapping::of(&file, 0, 8001, Access::ReadWrite), full, "RLIMIT_FSIZE");
        refused(Mapping::of(&file, 4096, 4096, Access::ReadWrite), full, "RLIMIT_FSIZE");
        let text = CString::new(vec![b'x'; limit as usize]).unwrap();
        refused(NamedText::new(&large.0).size(8192).write(&text), full, "RLIMIT_FSIZE");
        refused(NamedText::new(&new.0).size(limit + 1).write(c""), full, "RLIMIT_FSIZE");
        // What is there already can be mapped and written.
        if limit < 4096 {
            refused(publisher.subscribe(), full, "RLIMIT_FSIZE");
        }
        object.map(Access::ReadWrite).unwrap().write(0, b"x").unwrap();
        publisher.publish(b"value").unwrap();
    }
}

/// Two writers of one ring would tear its values.
#[allow(unsafe_code)]
fn a_forked_child_is_no_second_publisher() {
    let mut publisher = Publisher::every(8, 7).unwrap();
    let mut subscriber = Subscriber::open(publisher.subscribe().unwrap().1).unwrap();
    let mut loan = publisher.loan();
    loan.write_all(b"before").unwrap();
    drop(loan);
    publisher.publish(b"one").unwrap();
    // SAFETY: this process has one thread, and the child ends below.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let what = "made before a fork";
            refused(publisher.publish(b"child"), ErrorKind::Unsupported, what);
            refused(publisher.write(|loan| loan.write_all(b"child")), ErrorKind::Unsupported, what);
            refused(publisher.loan().write_at(0, b"child"), ErrorKind::Unsupported, what);
            refused(publisher.loan().publish(), ErrorKind::Unsupported, what);
            refused(publisher.subscribe(), ErrorKind::Unsupported, what);
            refused(subscriber.wait(None), ErrorKind::Unsupported, "opened before a fork");
            // To read takes nothing away from the parent.
            assert_eq!(subscriber.recv().unwrap(), Some(Update::Value(&b"one"[..])));
            drop((publisher, subscriber));
            let mut own = Publisher::latest(8).unwrap();
            let mut reader = Subscriber::open(own.subscribe().unwrap().1).unwrap();
            own.publish(b"own").unwrap();
            assert!(reader.wait(None).unwrap());
        }));
        // SAFETY: ends this process, with nothing of the parent's run or flushed.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the child's own assertions hold");
    assert_eq!(subscriber.recv().unwrap(), Some(Update::Value(&b"one"[..])));
    assert!(subscriber.arm());
    publisher.publish(b"two").unwrap();
    assert!(subscriber.wait(None).unwrap(), "the child has not closed the parent's doorbell");
    assert_eq!(subscriber.recv().unwrap(), Some(Update::Value(&b"two"[..])));
    assert!(!subscriber.wait(Some(std::time::Duration::from_millis(1))).unwrap());
}
