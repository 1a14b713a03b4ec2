//! The owner of a socket's path: the lock, the probe, the removal.
//!
//! A path outlives its socket, so a server finds one of three things where it wants to bind: nothing, a living server, or the
//! stale name that a dead one left. The rules here:
//!
//! - **One starter at a time.** `PATH.lock` is held under `flock(2)` from before the path is looked at until the socket is gone. A crash
//!   releases it. The file is removed at the end, so whoever gets the lock checks that the name still means the file
//!   that was locked, and else tries again.
//! - **Only a socket proved dead is removed.** Proof is `ECONNREFUSED`. A full backlog (`EAGAIN`) and a socket of another type
//!   (`EPROTOTYPE`) are living servers; anything that is no socket is somebody's property. Symlinks are not followed.
//! - **A name is removed by identity.** `unlink` takes a name, and between a check and an `unlink` the name can come to
//!   mean something else. So the name is moved aside to one that nobody else knows, looked at there, and only then unlinked; a
//!   stranger is moved back.
//! - **A process that did not bind removes nothing**: not a forked child, which inherits the value.
//!
//! # Taking over a living server's path
//!
//! The lock is then in the old server's hands. The successor locks `PATH.lock.next` instead (one successor at a time), and renames it
//! over `PATH.lock`: the name now means the successor's file, and its lock is the one that starters meet. Only then does the
//! socket change places. The old server, when it ends, finds that neither name is its own any more and leaves both. The order
//! matters: one that is still starting looks at the lock once it has noted its socket's identity, and
//! so cannot have noted its successor's. A successor that dies halfway leaves an unlocked file or a temporary name, and no wrong state.
//!
//! Two servers that do not use this lock (of another program, say) are told apart by the probe alone: a socket bound but
//! not yet listening refuses, as a dead one does.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, Metadata, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sys::path::{flock_exclusive, rename_exchange, rename_noreplace};
use crate::sys::sockaddr::SockAddr;
use crate::sys::socket;

/// Each attempt loses only to somebody else's progress at that very moment.
const ATTEMPTS: usize = 64;

/// A path that a socket of ours is bound to, and the lock that goes with it. Dropping it removes both, as far as
/// they are still ours. Drop it before the socket: the open socket pins its inode, which makes the number good for a proof.
#[derive(Debug)]
pub(crate) struct PathGuard {
    path: PathBuf,
    id: FileId,
    keep: bool,
    lock: LockFile,
}

impl PathGuard {
    /// Binds `socket` to `path` and, unless it is a datagram socket, makes it listen; or says why not.
    pub(crate) fn listen(
        socket: BorrowedFd<'_>,
        path: &Path,
        kind: libc::c_int,
        backlog: u32,
        takeover: bool,
    ) -> io::Result<Self> {
        let address = SockAddr::unix_path(path)?;
        // Absolute, so that a chdir does not make drop look elsewhere; the bind keeps the caller's form, which may be shorter.
        let absolute = std::path::absolute(path)?;
        let Some(name) = absolute.file_name() else {
            return Err(error(io::ErrorKind::InvalidInput, path, "names no file"));
        };
        let absolute = absolute.with_file_name(name);
        if takeover {
            Self::take_over(socket, path, absolute, backlog)
        } else {
            Self::bind(socket, &address, absolute, kind, backlog)
        }
    }

    fn bind(
        socket: BorrowedFd<'_>,
        address: &SockAddr,
        path: PathBuf,
        kind: libc::c_int,
        backlog: u32,
    ) -> io::Result<Self> {
        let lock_path = with_suffix(&path, ".lock");
        let lock = LockFile::acquire(lock_path.clone())?.ok_or_else(|| {
            let why = format!("is served already: its lock file {lock_path:?} is held by a living process");
            error(io::ErrorKind::AddrInUse, &path, &why)
        })?;
        remove_stale(&path, address, kind)?;
        socket::bind(socket, address).map_err(|cause| failed("cannot bind", &path, cause))?;
        let id = FileId::of(&fs::symlink_metadata(&path)?);
        if !lock.is_current() {
            return Err(error(io::ErrorKind::AddrInUse, &path, "was taken over by another server meanwhile"));
        }
        let guard = Self { path, id, keep: false, lock };
        if kind != libc::SOCK_DGRAM {
            socket::listen(socket, backlog)
                .map_err(|cause| failed("cannot listen on", &guard.path, cause))?;
        }
        Ok(guard)
    }

    fn take_over(socket: BorrowedFd<'_>, given: &Path, path: PathBuf, backlog: u32) -> io::Result<Self> {
        let busy = || error(io::ErrorKind::AddrInUse, &path, "is just being taken over by another server");
        let next = LockFile::acquire(with_suffix(&path, ".lock.next"))?.ok_or_else(busy)?;
        Occupant::at(&path)?.refuse_strangers(&path)?;

        let temporary = temporary_name(given);
        let address = SockAddr::unix_path(&temporary)
            .map_err(|cause| failed("no room for a temporary name beside", &path, cause))?;
        socket::bind(socket, &address).map_err(|cause| failed("cannot bind beside", &path, cause))?;
        let id = FileId::of(&fs::symlink_metadata(&temporary)?);
        let change_places = || {
            socket::listen(socket, backlog)?;
            let lock_path = with_suffix(&path, ".lock");
            let lock = match LockFile::acquire(lock_path.clone())? {
                Some(lock) => lock,
                None => next.rename(lock_path)?,
            };
            install(&temporary, &path).map(|()| lock)
        };
        let lock = change_places().inspect_err(|_| drop(remove_exactly(&temporary, id)))?;
        Ok(Self { path, id, keep: false, lock })
    }

    /// Leaves the path in place when the guard is dropped; the lock still goes.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for PathGuard {
    fn drop(&mut self) {
        if self.keep || !self.lock.is_by_this_process() {
            return;
        }
        if let Err(cause) = remove_exactly(&self.path, self.id) {
            log::warn!("socket path {:?} stays: {cause}", self.path);
        }
    }
}

/// Puts the socket `temporary` in the place of `path`, without a moment at which `path` is missing or refuses.
fn install(temporary: &Path, path: &Path) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        match Occupant::at(path)?.refuse_strangers(path)? {
            None => match rename_noreplace(temporary, path) {
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => continue,
                result => return result.map_err(|cause| failed("cannot take over", path, cause)),
            },
            Some(_) => match rename_exchange(temporary, path) {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
                result => result.map_err(|cause| failed("cannot take over", path, cause))?,
            },
        }
        let out = fs::symlink_metadata(temporary)?;
        if !out.file_type().is_socket() {
            rename_exchange(temporary, path)?;
            Occupant::Other(out).refuse_strangers(path)?;
        }
        return fs::remove_file(temporary);
    }
    Err(error(io::ErrorKind::AddrInUse, path, "comes and goes too fast to take it over"))
}

/// Removes what a dead server left at `path`; succeeds also where there is nothing.
fn remove_stale(path: &Path, address: &SockAddr, kind: libc::c_int) -> io::Result<()> {
    let Some(found) = Occupant::at(path)?.refuse_strangers(path)? else { return Ok(()) };
    let probe = socket::socket(libc::AF_UNIX, kind)?;
    let alive = |why| Err(error(io::ErrorKind::AddrInUse, path, why));
    match socket::connect_nonblocking(probe.as_fd(), address).map_err(|cause| (cause.raw_os_error(), cause)) {
        Ok(()) => alive("is served already: a server answers there"),
        Err((Some(libc::EAGAIN), _)) => alive("is served already: a server's backlog there is full"),
        Err((Some(libc::EPROTOTYPE), _)) => alive("is served already, by a socket of another type"),
        // Of a datagram socket only.
        Err((Some(libc::EPERM), _)) => alive("is served already, by a socket connected to another"),
        Err((Some(libc::ENOENT), _)) => Ok(()),
        Err((Some(libc::ECONNREFUSED), _)) => {
            log::info!("removing the stale socket {path:?}");
            remove_exactly(path, FileId::of(&found.metadata()?))
                .map_err(|cause| failed("cannot remove the stale socket", path, cause))
        }
        Err((_, cause)) => Err(failed("cannot tell whether a server lives at", path, cause)),
    }
}

/// Removes the file that `path` named when `id` was taken, and no other.
pub(crate) fn remove_exactly(path: &Path, id: FileId) -> io::Result<()> {
    let stranger =
        || error(io::ErrorKind::AlreadyExists, path, "is another file by now, which is left alone");
    match fs::symlink_metadata(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => {
            if FileId::of(&found?) != id {
                return Err(stranger());
            }
        }
    }
    let aside = temporary_name(path);
    rename_noreplace(path, &aside)?;
    if FileId::of(&fs::symlink_metadata(&aside)?) == id {
        return fs::remove_file(&aside);
    }
    rename_noreplace(&aside, path)
        .map_err(|cause| failed("cannot put back what is now at", &aside, cause))?;
    Err(stranger())
}

/// What is at a path. A socket's inode is pinned by an open descriptor, so that its number cannot be given to another
/// file while it serves as its identity.
enum Occupant {
    Nothing,
    Socket(File),
    Other(Metadata),
}

impl Occupant {
    fn at(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        match options.read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Self::Nothing),
            Err(cause) => Err(failed("cannot look at", path, cause)),
            Ok(file) => {
                let metadata = file.metadata()?;
                Ok(if metadata.file_type().is_socket() { Self::Socket(file) } else { Self::Other(metadata) })
            }
        }
    }

    fn refuse_strangers(self, path: &Path) -> io::Result<Option<File>> {
        let kind = match self {
            Self::Nothing => return Ok(None),
            Self::Socket(file) => return Ok(Some(file)),
            Self::Other(metadata) => metadata.file_type(),
        };
        let what = match kind {
            _ if kind.is_file() => "a regular file",
            _ if kind.is_dir() => "a directory",
            _ if kind.is_symlink() => "a symbolic link",
            _ if kind.is_fifo() => "a FIFO",
            _ => "a device",
        };
        let why = format!("is {what}, not a socket; it was neither followed nor removed");
        Err(error(io::ErrorKind::AlreadyExists, path, &why))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    dev: u64,
    ino: u64,
}

impl FileId {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { dev: metadata.dev(), ino: metadata.ino() }
    }
}

/// A file under `flock(2)` whose name goes when it is dropped, if it is still the file's.
#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    id: FileId,
    /// A forked child inherits the value, not the duty.
    owner_pid: u32,
    /// Never used after `acquire`: the lock is the open file's.
    _file: File,
}

impl LockFile {
    /// `None` if another open file holds the lock.
    fn acquire(path: PathBuf) -> io::Result<Option<Self>> {
        for _ in 0..ATTEMPTS {
            let mut options = OpenOptions::new();
            // O_NONBLOCK: a FIFO at this name must not hang the start.
            options.read(true).write(true).create(true).mode(0o600);
            let file =
                options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path).map_err(|cause| {
                    match cause.raw_os_error() {
                        Some(libc::ELOOP) => error(
                            io::ErrorKind::AlreadyExists,
                            &path,
                            "is a symbolic link in the lock file's place",
                        ),
                        _ => failed("cannot open the lock file", &path, cause),
                    }
                })?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(error(
                    io::ErrorKind::AlreadyExists,
                    &path,
                    "is in the lock file's place but is no file",
                ));
            }
            match flock_exclusive(file.as_fd()) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(|cause| failed("cannot lock", &path, cause))?,
            }
            let id = FileId::of(&metadata);
            if !name_means(&path, id) {
                continue;
            }
            return Ok(Some(Self { path, id, owner_pid: std::process::id(), _file: file }));
        }
        Err(error(io::ErrorKind::AddrInUse, &path, "is a lock file that comes and goes too fast"))
    }

    fn is_current(&self) -> bool {
        name_means(&self.path, self.id)
    }

    fn is_by_this_process(&self) -> bool {
        self.owner_pid == std::process::id()
    }

    fn rename(mut self, path: PathBuf) -> io::Result<Self> {
        fs::rename(&self.path, &path)
            .map_err(|cause| failed("cannot replace the lock file", &path, cause))?;
        self.path = path;
        Ok(self)
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if !self.is_by_this_process() || !self.is_current() {
            return;
        }
        if let Err(cause) = remove_exactly(&self.path, self.id) {
            log::warn!("lock file {:?} stays: {cause}", self.path);
        }
    }
}

fn name_means(path: &Path, id: FileId) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| FileId::of(&metadata) == id)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A name in the same directory that nobody expects.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    // Random, not the pid: servers in several pid namespaces may share the directory. Short, for sun_path.
    let random = RandomState::new().build_hasher().finish();
    path.with_file_name(format!(".ipc-{:08x}", random as u32))
}

pub(crate) fn error(kind: io::ErrorKind, path: &Path, why: &str) -> io::Error {
    io::Error::new(kind, format!("{path:?} {why}"))
}

pub(crate) fn failed(what: &str, path: &Path, cause: io::Error) -> io::Error {
    io::Error::new(cause.kind(), format!("{what} {path:?}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_lock_file_removed_meanwhile_is_nobodys_lock() {
        let folder = tempfile::tempdir().unwrap();
        let (path, holders, held) = (folder.path().join("lock"), AtomicUsize::new(0), AtomicUsize::new(0));
        let churn = || {
            for _ in 0..2000 {
                if let Ok(Some(lock)) = LockFile::acquire(path.clone()) {
                    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two holders at once");
                    held.fetch_add(1, Ordering::Relaxed);
                    std::thread::yield_now();
                    holders.fetch_sub(1, Ordering::SeqCst);
                    drop(lock);
                }
            }
        };
        std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(churn))));
        assert!(held.into_inner() > 0 && !path.exists());
    }
}
