//! How many descriptors this process may have: every client costs one.
#![allow(unsafe_code)]

use std::io;

/// The soft limit before and after [`raise_descriptors`].
pub(crate) struct Raised {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Raised {
    pub(crate) fn say(&self) {
        if self.to > self.from {
            eprintln!(
                "raised the limit of open descriptors from {} to {} (RLIMIT_NOFILE)",
                self.from, self.to
            );
        }
    }
}

/// Raises the soft limit to the hard one, which needs no privilege (getrlimit(2)).
pub(crate) fn raise_descriptors() -> io::Result<Raised> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let from = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above; the kernel only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(Raised { from, to: limit.rlim_cur })
}
