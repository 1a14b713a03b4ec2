//! What several of these files need.

use ipc_reactor::shm::{Publisher, SharedObject, Subscriber};
use std::io;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

/// A name for a POSIX object that no other test, process or run has; freed when dropped.
pub(crate) struct Name(pub(crate) String);

impl Name {
    pub(crate) fn new() -> Name {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Name(format!("/ipc-reactor-test-{}-{count}", std::process::id()))
    }

    pub(crate) fn path(&self) -> String {
        format!("/dev/shm{}", self.0)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = SharedObject::unlink(&self.0);
    }
}

/// A child process that does not outlive its test.
pub(crate) struct Reaped(pub(crate) Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This test program again, to run one of its ignored tests as a child process.
pub(crate) fn child_test(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
    command
}

/// Says that something could not be tested; not an option where CI is set.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot be skipped in CI: {why}");
    eprintln!("SKIPPED: {why}");
}

pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap() == 0
}

/// A subscriber of this process.
pub(crate) fn subscribe(publisher: &mut Publisher) -> Subscriber {
    Subscriber::open(publisher.subscribe().unwrap().1).unwrap()
}

/// Holds an error to its kind and to saying what was wrong.
#[track_caller]
pub(crate) fn refused<T>(result: io::Result<T>, kind: io::ErrorKind, says: &str) {
    let Err(e) = result else { panic!("not refused, should have said {says:?}") };
    assert!(
        e.kind() == kind && e.to_string().contains(says),
        "{:?}: {e}; wanted {kind:?}: …{says}…",
        e.kind()
    );
}
