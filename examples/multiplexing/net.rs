//! The socket calls that every style shares: those of the master socket, and `recv` and `send`.
//!
//! In the order in which a server calls them: `socket`, `bind`, `listen` ([`Master::listen`]), `accept`
//! ([`Master::accept`]), `recv` and `send` on the client handle, `close` (Rust does it when an
//! [`OwnedFd`] goes out of scope), and the removal of the path (when [`Master`] goes out of scope).
#![allow(unsafe_code)]

use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::address::{Address, KernelAddress};

/// Whether calls on a socket wait (`Blocking`) or return `WouldBlock` at once.
///
/// With multiplexing every socket is `NonBlocking`. "Readable" was true when the kernel reported it; a
/// client may have disconnected since, and then a blocking `accept` would delay all others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Blocking,
    NonBlocking,
}

impl Mode {
    fn flags(self) -> libc::c_int {
        libc::SOCK_CLOEXEC | if self == Self::NonBlocking { libc::SOCK_NONBLOCK } else { 0 }
    }
}

/// How many CIRs one visit to the master socket accepts, so that many new connections do not starve the
/// clients that are already connected.
pub(crate) const ACCEPTS_PER_VISIT: usize = 64;

/// The result of one `accept`.
pub(crate) enum Cir {
    /// A client was accepted: its handle.
    Accepted(OwnedFd),
    /// A client could not be served; its connection was closed.
    Refused,
    /// No CIR waits.
    None,
    /// The kernel lacks a resource. The client still waits in the backlog: try again later.
    TryLater,
}

/// The master socket M. It accepts connections, each of which gets a client handle, and carries no data itself.
pub(crate) struct Master {
    handle: OwnedFd,
    mode: Mode,
    address: Address,
    /// Device and inode of our path, so that we remove only a path that is still ours.
    ours: Option<(u64, u64)>,
    /// Closed when descriptors run out, to accept a client and close it: otherwise it would stay in the
    /// backlog, M would stay ready, and a level-triggered loop would spin.
    spare: Option<OwnedFd>,
    complained: bool,
}

impl Master {
    /// `socket`, `bind`, `listen`.
    pub(crate) fn listen(address: &Address, mode: Mode) -> io::Result<Self> {
        let name = address.to_kernel()?;
        if let Address::Path(path) = address {
            remove_if_dead(path, &name)?;
        }
        let handle = socket(&name, mode)?;
        match address {
            // Before `bind`, so that the path never exists with wider permissions.
            Address::Path(_) => set_owner_only(handle.as_fd())?,
            Address::Tcp(_) => reuse_address(handle.as_fd())?,
            Address::Abstract(_) => {}
        }
        let (raw, len) = name.as_raw();
        // SAFETY: `raw` and `len` describe `name`, which outlives the call.
        check(unsafe { libc::bind(handle.as_raw_fd(), raw, len) })
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
        // SAFETY: no pointers.
        check(unsafe { libc::listen(handle.as_raw_fd(), libc::SOMAXCONN) })?;

        let mut address = address.clone();
        let mut ours = None;
        match &mut address {
            Address::Path(path) => {
                let meta = fs::symlink_metadata(path)?;
                ours = Some((meta.dev(), meta.ino()));
            }
            // Port 0 requests a free port: find out which one the kernel chose (`local_addr` calls `getsockname`).
            Address::Tcp(tcp) => *tcp = TcpListener::from(handle.try_clone()?).local_addr()?,
            Address::Abstract(_) => {}
        }
        Ok(Self { handle, mode, address, ours, spare: spare(), complained: false })
    }

    /// Prints on standard output that clients may connect.
    pub(crate) fn announce(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "listening on {}", self.address)?;
        out.flush()
    }

    /// Accepts the next CIR. An error means that M itself failed (or, in `blocking`, that a signal shut it down).
    pub(crate) fn accept(&mut self) -> io::Result<Cir> {
        loop {
            let error = match accept(self.handle.as_fd(), self.mode) {
                Ok(handle) => {
                    self.complained = false;
                    return Ok(Cir::Accepted(handle));
                }
                Err(error) => error,
            };
            match error.raw_os_error().unwrap_or(0) {
                libc::EAGAIN => return Ok(Cir::None),
                // That client disconnected before `accept`; another one may wait.
                libc::EINTR | libc::ECONNABORTED => {}
                libc::EMFILE | libc::ENFILE if self.spare.take().is_some() => {
                    self.complain(&format!("refused a client: {error}; raise RLIMIT_NOFILE (ulimit -n)"));
                    drop(accept(self.handle.as_fd(), self.mode));
                    self.spare = spare();
                    return Ok(Cir::Refused);
                }
                // M itself is broken or was shut down.
                libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP => return Err(error),
                _ => {
                    self.complain(&format!("cannot accept now, will try again: {error}"));
                    return Ok(Cir::TryLater);
                }
            }
        }
    }

    fn complain(&mut self, what: &str) {
        if !self.complained {
            eprintln!("{what}");
        }
        self.complained = true;
    }
}

impl AsFd for Master {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl AsRawFd for Master {
    fn as_raw_fd(&self) -> RawFd {
        self.handle.as_raw_fd()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if let (Address::Path(path), Some(ours)) = (&self.address, self.ours)
            && fs::symlink_metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) == ours)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// `recv`: 0 bytes mean that the client sends nothing more (though it may still receive).
pub(crate) fn recv(handle: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    retry(|| {
        // SAFETY: the pointer and the length are those of `buffer`, which we hold mutably.
        check_len(unsafe { libc::recv(handle.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) })
    })
}

/// `send`: returns how many bytes the kernel took, which may be fewer than given.
pub(crate) fn send(handle: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    retry(|| {
        // MSG_NOSIGNAL: a closed connection is an error of this client, not SIGPIPE for the whole server.
        // SAFETY: the pointer and the length are those of `bytes`.
        check_len(unsafe {
            libc::send(handle.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL)
        })
    })
}

/// The C library's convention: -1 means that `errno` has the reason.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Repeats the call for as long as a signal (or a debugger) interrupts it.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn socket(name: &KernelAddress, mode: Mode) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(name.family(), libc::SOCK_STREAM | mode.flags(), 0) })?;
    // SAFETY: `socket` has just made it, and it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn accept(master: BorrowedFd<'_>, mode: Mode) -> io::Result<OwnedFd> {
    let nowhere = std::ptr::null_mut();
    // SAFETY: null says that we do not ask for the peer's address.
    let fd =
        check(unsafe { libc::accept4(master.as_raw_fd(), nowhere, std::ptr::null_mut(), mode.flags()) })?;
    // SAFETY: `accept4` has just made it, and it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_owner_only(handle: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fchmod(handle.as_raw_fd(), 0o600) }).map(drop)
}

/// Without it a restarted server cannot bind its TCP port while old connections are in TIME_WAIT (tcp(7)).
fn reuse_address(handle: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (value, len) = ((&raw const on).cast(), size_of_val(&on) as libc::socklen_t);
    // SAFETY: `value` and `len` describe `on`, which outlives the call.
    check(unsafe { libc::setsockopt(handle.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, value, len) })
        .map(drop)
}

/// Removes the socket of a killed server: only a socket, and only if no process listens on it.
fn remove_if_dead(path: &Path, name: &KernelAddress) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.file_type().is_socket() => {
            let message = format!("{} exists and is not a socket; choose another path", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        Ok(_) => {}
    }
    let probe = socket(name, Mode::NonBlocking)?;
    let (raw, len) = name.as_raw();
    // SAFETY: `raw` and `len` describe `name`, which outlives the call.
    match check(unsafe { libc::connect(probe.as_raw_fd(), raw, len) }) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Connected; or EAGAIN, which is a running server with a full backlog; or unknown.
        _ => {
            let message = format!("{} is in use by another server", path.display());
            Err(io::Error::new(io::ErrorKind::AddrInUse, message))
        }
    }
}

fn spare() -> Option<OwnedFd> {
    fs::File::open("/dev/null").ok().map(OwnedFd::from)
}
