//! The system calls under [`crate::shm`]; the mapping itself is made in `shm/mapping.rs`.

use super::{check, check_len};
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What `fstat` says of an object, as far as the callers ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) len: u64,
    pub(crate) uid: u32,
    /// Permission bits alone.
    pub(crate) mode: u32,
    pub(crate) regular: bool,
}

fn own(result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: `fd` was just returned by a call that makes a new descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// memfd_create(2), sealable, never executable where the kernel knows how to say that (6.3).
pub(crate) fn memfd_create(name: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` is NUL-terminated and outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_NOEXEC_SEAL) };
    if fd == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        // SAFETY: as above.
        return own(unsafe { libc::memfd_create(name.as_ptr(), flags) });
    }
    own(fd)
}

/// fcntl(2) F_ADD_SEALS.
pub(crate) fn add_seals(fd: BorrowedFd<'_>, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: F_ADD_SEALS takes an int and touches no memory of ours.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}

/// fcntl(2) F_GET_SEALS.
pub(crate) fn seals(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: F_GET_SEALS takes no argument.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) })
}

/// posix_fallocate(3): the range is backed by real storage, or the call fails.
pub(crate) fn allocate(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let range = |n: u64| libc::off_t::try_from(n).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG));
    let (offset, len) = (range(offset)?, range(len)?);
    loop {
        // SAFETY: plain integers; the call answers with an errno instead of setting it.
        match unsafe { libc::posix_fallocate(fd.as_raw_fd(), offset, len) } {
            0 => return Ok(()),
            libc::EINTR => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// fstat(2).
pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is writable and large enough.
    check(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded and so filled it.
    let stat = unsafe { stat.assume_init() };
    Ok(Stat {
        len: stat.st_size.max(0) as u64,
        uid: stat.st_uid,
        mode: stat.st_mode & 0o7777,
        regular: stat.st_mode & libc::S_IFMT == libc::S_IFREG,
    })
}

/// fchmod(2).
pub(crate) fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }).map(drop)
}

/// shm_open(3), which follows no symbolic link in glibc and musl.
pub(crate) fn shm_open(name: &CStr, flags: libc::c_int, mode: u32) -> io::Result<OwnedFd> {
    // Anybody can put a FIFO under that name, and opening one may block for ever.
    let flags = flags | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: `name` is NUL-terminated and outlives the call.
    own(unsafe { libc::shm_open(name.as_ptr(), flags, mode) })
}

/// shm_unlink(3).
pub(crate) fn shm_unlink(name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated and outlives the call.
    check(unsafe { libc::shm_unlink(name.as_ptr()) }).map(drop)
}

/// geteuid(2).
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

/// sysconf(3) _SC_PAGESIZE.
pub(crate) fn page_size() -> usize {
    // SAFETY: a constant question.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// eventfd(2), non-blocking.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// write(2) of 1 to an eventfd.
pub(crate) fn eventfd_add_one(fd: BorrowedFd<'_>) -> io::Result<()> {
    let one = 1u64;
    // SAFETY: eight readable bytes.
    check_len(unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), 8) }).map(drop)
}

/// epoll_create1(2).
pub(crate) fn epoll_create() -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

/// epoll_ctl(2) EPOLL_CTL_ADD, for reading, edge-triggered.
pub(crate) fn epoll_add_edge(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
    // SAFETY: `event` is a valid epoll_event for the time of the call.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) })
        .map(drop)
}

/// epoll_wait(2) for one event; says whether there was one. A negative timeout is for ever.
pub(crate) fn epoll_wait_one(epoll: BorrowedFd<'_>, timeout_ms: libc::c_int) -> io::Result<bool> {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: room for exactly the one event asked for.
    check(unsafe { libc::epoll_wait(epoll.as_raw_fd(), &mut event, 1, timeout_ms) }).map(|n| n == 1)
}
