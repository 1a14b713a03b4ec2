//! The path of a listening socket: the lock, the test whether a server runs, the removal.
//!
//! A path outlives its socket. So a server finds one of three things at the path where it wants to bind: nothing, the
//! socket of a running server, or a stale socket that an ended server left. The rules here:
//!
//! - **One server starts at a time.** It holds `PATH.lock` under `flock(2)` from before it looks at the path until its
//!   socket is closed. A crash releases the lock. The lock file is removed at the end. So a process that gets the lock
//!   checks that the name still belongs to the file that it locked, and tries again if not.
//! - **Only a stale socket is removed.** The proof is `ECONNREFUSED`. A full backlog (`EAGAIN`) and a socket of another
//!   type (`EPROTOTYPE`) belong to a running server. A file of another kind is never removed. Symbolic links are not
//!   followed.
//! - **A name is removed by identity.** `unlink(2)` takes a name, and between a check and the `unlink` another file can
//!   get the name. So the file is first renamed to a random temporary name, checked there, and only then unlinked. If
//!   it turns out to be another file, it is renamed back.
//! - **A process that did not bind removes nothing.** A forked child, for example, inherits the value.
//!
//! # Taking over a running server's path
//!
//! Then the old server holds the lock. The successor locks `PATH.lock.next` instead (one successor at a time), and
//! renames it over `PATH.lock`. From now on the name belongs to the successor's file, and a starting server meets the
//! successor's lock. Only then do the sockets exchange their names. When the old server ends, it finds that neither
//! name belongs to its own files any more, and removes neither. The order matters: a starting server notes its socket's
//! identity and checks its lock after that, so it cannot have noted the identity of its successor's socket. A successor
//! that dies halfway leaves an unlocked file or a temporary name, and no wrong state.
//!
//! Against a server that does not use this lock (another program's, say) there is only the test connection: a socket
//! that is bound but does not listen yet refuses it, as a stale one does.

use std::{
    collections::hash_map::RandomState,
    fs::{self, File, Metadata, OpenOptions},
    hash::{BuildHasher, Hasher},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use crate::{
    net::failure,
    sys::{
        closer::ClosedElsewhere,
        file::{flock_exclusive, rename_exchange, rename_noreplace},
        sockaddr::SockAddr,
        socket,
    },
};

/// How often to try again. An attempt fails only if another process changes the same names at that moment.
const ATTEMPTS: usize = 64;

/// The path that a socket of this process is bound to, and its lock file. Drop removes both, unless they belong to
/// another server by now. Drop it before the socket: while the socket is open, its inode number is not used again, so
/// an equal number proves that it is the same file.
#[derive(Debug)]
pub(crate) struct PathGuard {
    path: PathBuf,
    id: FileId,
    keep: bool,
    lock: LockFile,
}

impl PathGuard {
    /// Binds `socket`, which has the type `kind`, to `path`. Unless it is a datagram socket, makes it listen.
    pub(crate) fn listen(
        socket: BorrowedFd<'_>,
        path: &Path,
        kind: libc::c_int,
        backlog: u32,
        takeover: bool,
    ) -> io::Result<Self> {
        let address = SockAddr::unix_path(path)?;
        // Absolute, so that drop finds it after a chdir. The bind uses the caller's form, which may be shorter.
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
        Occupant::at(&path)?.require_socket(&path)?;

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

    /// Makes drop keep the path. The lock file is still removed.
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
            log::warn!(target: "ipc_reactor", "cannot remove the socket path {:?}: {cause}", self.path);
        }
    }
}

/// Gives the socket at `temporary` the name `path`. There is no moment at which `path` does not exist or refuses.
fn install(temporary: &Path, path: &Path) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        match Occupant::at(path)?.require_socket(path)? {
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
            Occupant::Other(out).require_socket(path)?;
        }
        return fs::remove_file(temporary);
    }
    Err(error(io::ErrorKind::AddrInUse, path, "is created and removed too fast to take it over"))
}

/// Removes the stale socket at `path`, if there is one. `AddrInUse` if a server runs there.
fn remove_stale(path: &Path, address: &SockAddr, kind: libc::c_int) -> io::Result<()> {
    let Some(found) = Occupant::at(path)?.require_socket(path)? else { return Ok(()) };
    // A foreign server may send descriptors before this is closed.
    let probe = ClosedElsewhere::when(true, socket::socket(libc::AF_UNIX, kind)?);
    let _ = socket::set_passes_rights(probe.as_fd(), false);
    let in_use = |why| Err(error(io::ErrorKind::AddrInUse, path, why));
    match socket::connect_nonblocking(probe.as_fd(), address).map_err(|cause| (cause.raw_os_error(), cause)) {
        Ok(()) => in_use("is served already: a server answers there"),
        Err((Some(libc::EAGAIN), _)) => in_use("is served already: a server's backlog there is full"),
        Err((Some(libc::EPROTOTYPE), _)) => in_use("is served already, by a socket of another type"),
        // A datagram socket only.
        Err((Some(libc::EPERM), _)) => in_use("is served already, by a socket connected to another"),
        Err((Some(libc::ENOENT), _)) => Ok(()),
        Err((Some(libc::ECONNREFUSED), _)) => {
            log::info!(target: "ipc_reactor", "removing the stale socket {path:?}");
            remove_exactly(path, FileId::of(&found.metadata()?))
                .map_err(|cause| failed("cannot remove the stale socket", path, cause))
        }
        Err((_, cause)) => Err(failed("cannot tell whether a server runs at", path, cause)),
    }
}

/// Removes the file `id` if `path` is still its name, and no other file. No error if there is no such name any more.
pub(crate) fn remove_exactly(path: &Path, id: FileId) -> io::Result<()> {
    let other = || error(io::ErrorKind::AlreadyExists, path, "is another file by now, and was not removed");
    match fs::symlink_metadata(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => {
            if FileId::of(&found?) != id {
                return Err(other());
            }
        }
    }
    let aside = temporary_name(path);
    rename_noreplace(path, &aside)?;
    if FileId::of(&fs::symlink_metadata(&aside)?) == id {
        return fs::remove_file(&aside);
    }
    rename_noreplace(&aside, path)
        .map_err(|cause| failed("cannot rename back the file that is now at", &aside, cause))?;
    Err(other())
}

/// The file at a path. The open descriptor of a socket's path keeps its inode number from being used again, so that the
/// number is its identity.
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

    fn require_socket(self, path: &Path) -> io::Result<Option<File>> {
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
        let why = format!("is {what}, not a socket; it was not removed");
        Err(error(io::ErrorKind::AlreadyExists, path, &why))
    }
}

/// The identity of a file, whatever its name.
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

/// A file under `flock(2)`. Drop removes its name, if that still belongs to it.
#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    id: FileId,
    /// Only this process removes the file, and not a forked child, which inherits the value.
    owner_pid: u32,
    /// Kept open, because the lock belongs to the open file.
    _file: File,
}

impl LockFile {
    /// `None` if another open file holds the lock.
    fn acquire(path: PathBuf) -> io::Result<Option<Self>> {
        for _ in 0..ATTEMPTS {
            let mut options = OpenOptions::new();
            // O_NONBLOCK: opening a FIFO of this name must not block.
            options.read(true).write(true).create(true).mode(0o600);
            let file =
                options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path).map_err(|cause| {
                    match cause.raw_os_error() {
                        Some(libc::ELOOP) => error(
                            io::ErrorKind::AlreadyExists,
                            &path,
                            "is a symbolic link; a lock file is needed there",
                        ),
                        _ => failed("cannot open the lock file", &path, cause),
                    }
                })?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(error(
                    io::ErrorKind::AlreadyExists,
                    &path,
                    "is no regular file; a lock file is needed there",
                ));
            }
            match flock_exclusive(file.as_fd()) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(|cause| failed("cannot lock", &path, cause))?,
            }
            let id = FileId::of(&metadata);
            if !is_name_of(&path, id) {
                continue;
            }
            return Ok(Some(Self { path, id, owner_pid: std::process::id(), _file: file }));
        }
        Err(error(io::ErrorKind::AddrInUse, &path, "is a lock file that is created and removed too fast"))
    }

    fn is_current(&self) -> bool {
        is_name_of(&self.path, self.id)
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
            log::warn!(target: "ipc_reactor", "cannot remove the lock file {:?}: {cause}", self.path);
        }
    }
}

/// Whether `path` is a name of the file `id`.
fn is_name_of(path: &Path, id: FileId) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| FileId::of(&metadata) == id)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A random name in the same directory.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    // Random, not the pid: servers in several pid namespaces may share the directory. Short, for sun_path.
    let random = RandomState::new().build_hasher().finish() >> 32;
    path.with_file_name(format!(".ipc-{random:08x}"))
}

/// An error that says what is wrong with `path`.
pub(crate) fn error(kind: io::ErrorKind, path: &Path, why: &str) -> io::Error {
    io::Error::new(kind, format!("{path:?} {why}"))
}

/// An error that says what could not be done with `path`.
pub(crate) fn failed(what: &str, path: &Path, cause: io::Error) -> io::Error {
    failure::failed(what, format_args!("{path:?}"), cause)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_lock_file_that_was_removed_is_no_lock() {
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
