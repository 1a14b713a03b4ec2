//! Limits of this process.
#![allow(unsafe_code)]

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

/// Whether this process may have that many descriptors; the test is skipped otherwise.
#[track_caller]
pub(crate) fn needs_descriptors(wanted: u64) -> bool {
    let limit = descriptors_max();
    super::can(limit >= wanted, &format!("it needs {wanted} descriptors, and the hard limit is {limit}"))
}
