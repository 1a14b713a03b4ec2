//! Limits of this process.
#![allow(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The C library calls this before `main`: a test crate has no other place that comes before all its tests.
#[used]
#[unsafe(link_section = ".init_array")]
static RAISE: extern "C" fn() = raise;

/// Raises the soft limit of descriptors to the hard one. The usual soft limit of 1,024 is too low for a thousand clients.
extern "C" fn raise() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// How many descriptors this process may have.
pub(crate) fn descriptors_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Whether a process may have that many descriptors; the test is skipped otherwise.
#[track_caller]
pub(crate) fn needs_descriptors(wanted: u64) -> bool {
    let limit = descriptors_max();
    super::can(limit >= wanted, &format!("it needs {wanted} descriptors, and the hard limit is {limit}"))
}

/// Waits until no other test of this process has many clients: together they could need more descriptors than there
/// are. `None` if there are not enough for this one, which is skipped then.
#[track_caller]
pub(crate) fn crowd(descriptors: u64) -> Option<MutexGuard<'static, ()>> {
    /// For the tests beside it.
    const OTHERS: u64 = 500;
    static CROWD: Mutex<()> = Mutex::new(());
    needs_descriptors(descriptors + OTHERS).then(|| CROWD.lock().unwrap_or_else(PoisonError::into_inner))
}

/// What this process's umask leaves of a mode.
pub(crate) fn masked(mode: u32) -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap().trim();
    mode & !u32::from_str_radix(umask, 8).unwrap()
}
