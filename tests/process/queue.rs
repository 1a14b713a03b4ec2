//! What a `Queue` does in a process of another user, with other limits, or under a tracer.
//!
//! Each such process is this test program again; environment variables make it run one test in another role.

use crate::support::names::QueueName;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::Command;

use ipc_reactor::queue::{Queue, QueueOptions};

use crate::support::child::{alone, succeeds};
use crate::support::isolated::{Case, cases};
use crate::support::{have, needs_root};

pub(crate) const CASES: &[Case] = cases![
    the_systems_limits_are_named,
    the_users_memory_limit_is_not_taken_for_a_lack_of_descriptors,
    a_lack_of_descriptors_stays_itself,
    a_squatters_queue_is_not_trusted,
    a_private_queue_is_private,
    the_mode_is_exact_under_any_umask,
    interrupted_calls_are_repeated_and_a_drain_costs_one_call_more_than_its_messages
];

const NOBODY: u32 = 65_534;
const ROLE: &str = "IPC_REACTOR_TEST_ROLE";
const NAME: &str = "IPC_REACTOR_TEST_QUEUE";

fn small() -> QueueOptions {
    Queue::options().create(true).capacity(4).message_size(64).clone()
}

fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

fn name_from_parent() -> String {
    std::env::var(NAME).unwrap()
}

/// Has `command`, this program or a wrapper of it, run a case of this file in a role.
fn again(mut command: Command, test: &str, role: &str) -> Command {
    command.args(alone(&format!("queue::{test}"))).env(ROLE, role);
    command
}

fn wrapped(wrapper: &[&str]) -> Command {
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(std::env::current_exe().unwrap());
    command
}

/// By the link in /proc, as another user may lack the right to reach the program's path.
fn as_user(uid: u32) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.uid(uid).gid(uid).current_dir("/");
    command
}

/// Sets a limit of this process, which std cannot.
fn prlimit(limit: &str) {
    let status = Command::new("prlimit").args(["--pid", &std::process::id().to_string(), limit]).status();
    assert!(status.unwrap().success(), "prlimit {limit}");
}

fn may_exceed_limits() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    u64::from_str_radix(effective, 16).unwrap() >> CAP_SYS_RESOURCE & 1 == 1
}

fn the_systems_limits_are_named() {
    const TEST: &str = "the_systems_limits_are_named";
    match role().as_deref() {
        // An IPC namespace of their own separates the queues counted here from all others.
        None if needs_root("may do what this test needs") => {
            succeeds(&mut again(wrapped(&["unshare", "--ipc"]), TEST, "privileged"))
        }
        None => {}
        Some("privileged") => {
            let name = QueueName::new();
            let big = small().capacity(64).message_size(20_000).open(&name.0);
            let sizes = big.map(|queue| (queue.attributes().unwrap().capacity, queue.message_size()));
            // What the kernel allows is not refused beforehand. Root in a container may lack the capability.
            let expected = if may_exceed_limits() { Ok((64, 20_000)) } else { Err(ErrorKind::InvalidInput) };
            assert_eq!(sizes.map_err(|error| error.kind()), expected);
            drop(name);
            fs::write("/proc/sys/fs/mqueue/queues_max", "2").unwrap();
            succeeds(&mut again(as_user(NOBODY), TEST, "unprivileged"));
        }
        Some(_) => {
            let (a, b, c) = (QueueName::new(), QueueName::new(), QueueName::new());
            let refused = |options: &mut QueueOptions| {
                let error = options.open(&c.0).unwrap_err();
                (error.kind(), error.to_string())
            };
            for (mut options, complaint) in [
                (
                    small().capacity(64).clone(),
                    "queue capacity 64 exceeds msg_max 10; raise /proc/sys/fs/mqueue/msg_max",
                ),
                (
                    small().message_size(9000).clone(),
                    "queue message size 9000 exceeds msgsize_max 8192; raise /proc/sys/fs/mqueue/msgsize_max",
                ),
            ] {
                assert_eq!(refused(&mut options), (ErrorKind::InvalidInput, complaint.to_string()));
                assert_eq!(refused(options.create_new(true)).0, ErrorKind::InvalidInput);
            }
            small().open(&a.0).unwrap();
            small().open(&b.0).unwrap();
            let (kind, complaint) = refused(&mut small());
            assert_eq!(kind, ErrorKind::StorageFull);
            assert!(complaint.contains("queues_max 2 is reached; raise /proc/sys/fs/mqueue/queues_max"));
            small().open(&a.0).expect("an existing queue counts no second time");
        }
    }
}

fn the_users_memory_limit_is_not_taken_for_a_lack_of_descriptors() {
    const TEST: &str = "the_users_memory_limit_is_not_taken_for_a_lack_of_descriptors";
    if role().is_some() {
        let name = QueueName::new();
        let options = Queue::options().create(true).capacity(10).message_size(8192).clone();
        prlimit("--msgqueue=82879:82880");
        let error = options.open(&name.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
        assert!(error.to_string().contains("needs 82880 bytes, and RLIMIT_MSGQUEUE allows 82879"), "{error}");
        prlimit("--msgqueue=82880");
        options.open(&name.0).expect("the figure is exact");
    } else if needs_root("may do what this test needs") {
        // The limit counts all queues of a user, so this must be one who has no others.
        succeeds(&mut again(as_user(20_000 + std::process::id() % 40_000), TEST, "child"));
    }
}

fn a_lack_of_descriptors_stays_itself() {
    const TEST: &str = "a_lack_of_descriptors_stays_itself";
    if role().is_none() {
        return succeeds(&mut again(wrapped(&["env"]), TEST, "child"));
    }
    let (existing, new) = (QueueName::new(), QueueName::new());
    drop(small().open(&existing.0).unwrap());
    prlimit("--nofile=64");
    let hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let errors = [Queue::open(&existing.0), small().open(&new.0), small().create_new(true).open(&new.0)];
    drop(hoard);
    assert_eq!(errors.map(|error| error.unwrap_err().raw_os_error()), [Some(libc::EMFILE); 3]);
}

fn a_squatters_queue_is_not_trusted() {
    const TEST: &str = "a_squatters_queue_is_not_trusted";
    if role().is_some() {
        small().mode(0o666).open(&name_from_parent()).unwrap();
        return;
    }
    if !needs_root("may do what this test needs") {
        return;
    }
    let name = QueueName::new();
    let mut squatter = again(as_user(NOBODY), TEST, "squatter");
    squatter.env(NAME, &name.0);
    succeeds(&mut squatter);

    let open = |options: &mut QueueOptions| options.open(&name.0).map_err(|e| (e.kind(), e.to_string()));
    let (kind, complaint) = open(small().mode(0o666)).unwrap_err();
    assert_eq!(kind, ErrorKind::PermissionDenied);
    assert!(complaint.contains("belongs to user 65534, who is not trusted"), "{complaint}");
    assert_eq!(open(small().create_new(true)).unwrap_err().0, ErrorKind::AlreadyExists);
    assert_eq!(open(Queue::options().trusted_owner(1)).unwrap_err().0, ErrorKind::PermissionDenied);

    let owner = open(&mut Queue::options()).unwrap().owner().unwrap();
    assert_eq!((owner.uid, owner.gid, owner.mode), (NOBODY, NOBODY, 0o666));
    open(Queue::options().trusted_owner(NOBODY)).unwrap();
    open(small().mode(0o666).trusted_owner(NOBODY)).unwrap();
    assert!(
        open(small().trusted_owner(NOBODY)).unwrap_err().1.contains("looser"),
        "trust is not in the mode"
    );
}

fn a_private_queue_is_private() {
    const TEST: &str = "a_private_queue_is_private";
    if role().is_some() {
        let name = name_from_parent();
        for error in [Queue::open(&name).unwrap_err(), Queue::unlink(&name).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(error.to_string().contains(&name), "{error}");
        }
    } else if needs_root("may do what this test needs") {
        let name = QueueName::new();
        let _private = small().open(&name.0).unwrap();
        let mut child = again(as_user(NOBODY), TEST, "child");
        child.env(NAME, &name.0);
        succeeds(&mut child);
    }
}

fn the_mode_is_exact_under_any_umask() {
    const TEST: &str = "the_mode_is_exact_under_any_umask";
    if let Some(role) = role() {
        let name = QueueName::new();
        let queue = small().mode(u32::from_str_radix(&role, 8).unwrap()).open(&name.0).unwrap();
        assert_eq!(format!("{:03o}", queue.owner().unwrap().mode), role);
        return;
    }
    for (umask, mode) in [("077", "666"), ("000", "600"), ("777", "622")] {
        let shell = format!("umask {umask}; exec \"$0\" \"$@\"");
        succeeds(&mut again(wrapped(&["sh", "-c", &shell]), TEST, mode));
    }
}

fn interrupted_calls_are_repeated_and_a_drain_costs_one_call_more_than_its_messages() {
    const TEST: &str = "interrupted_calls_are_repeated_and_a_drain_costs_one_call_more_than_its_messages";
    if role().is_some() {
        let name = QueueName::new();
        let queue = small().nonblocking(true).open(&name.0).unwrap();
        for n in 0..3 {
            queue.send(&[n], 0).unwrap();
        }
        let mut buffer = [0; 64];
        for n in 0..3 {
            assert_eq!((queue.recv(&mut buffer).unwrap().len, buffer[0]), (1, n));
        }
        assert_eq!(queue.recv(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
        return;
    }
    if !have("strace") {
        return;
    }
    let trace = tempfile::NamedTempFile::new().unwrap();
    let path = trace.path().to_str().unwrap();
    let mut strace = vec!["strace", "-f", "-qq", "-o", path];
    strace.extend(["-e", "trace=mq_timedsend,mq_timedreceive"]);
    strace.extend(["-e", "inject=mq_timedsend:error=EINTR:when=2"]);
    strace.extend(["-e", "inject=mq_timedreceive:error=EINTR:when=1"]);
    succeeds(&mut again(wrapped(&strace), TEST, "traced"));
    let trace = fs::read_to_string(path).unwrap();
    let count = |what: &str| trace.lines().filter(|line| line.contains(what)).count();
    assert_eq!((count("mq_timedsend("), count("mq_timedreceive("), count("EINTR")), (3 + 1, 3 + 1 + 1, 2));
}
