//! The limit of open files (RLIMIT_NOFILE), which the number of clients runs into first.

use std::io;

/// What a process needs in addition to one descriptor for each client.
const BESIDES: u64 = 64;

/// Raises the soft limit where `clients` need it; says so if it did.
///
/// # Errors
/// The limit cannot be raised that far; nothing has been changed then.
pub(crate) fn raise_for(clients: u32) -> io::Result<Option<String>> {
    let needed = u64::from(clients) + BESIDES;
    let limit = limit()?;
    if limit.rlim_cur >= needed {
        return Ok(None);
    }
    if let Err(error) = set(libc::rlimit { rlim_cur: needed, rlim_max: limit.rlim_max.max(needed) }) {
        return Err(io::Error::new(
            error.kind(),
            format!(
                "{clients} connections need {needed} descriptors, and RLIMIT_NOFILE allows {} (hard limit {}): raise it with \
                 `ulimit -n {needed}` as root (or LimitNOFILE= in a unit, nofile in /etc/security/limits.conf; \
                 /proc/sys/fs/nr_open bounds all of them), or ask for fewer",
                limit.rlim_cur, limit.rlim_max
            ),
        ));
    }
    Ok(Some(format!("soft descriptor limit raised from {} to {needed}", limit.rlim_cur)))
}

/// Raises the soft limit as far as it goes, for a server that does not know how many will come.
///
/// # Errors
/// Those of the two calls.
pub(crate) fn raise() -> io::Result<()> {
    let limit = limit()?;
    set(libc::rlimit { rlim_cur: limit.rlim_max, ..limit })
}

#[allow(unsafe_code, reason = "getrlimit(2)")]
fn limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call, which writes it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}

#[allow(unsafe_code, reason = "setrlimit(2)")]
fn set(limit: libc::rlimit) -> io::Result<()> {
    // SAFETY: `limit` lives through the call, which reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
