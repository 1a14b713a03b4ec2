//! Memory objects: memfds, and POSIX shared memory. The mapping itself is made in `shm/mapping.rs`.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use super::{check, file, own};

/// `memfd_create(2)`, close-on-exec and sealable. It can never be made executable where the kernel supports that
/// (`MFD_NOEXEC_SEAL`, Linux 6.3).
///
/// Its mode is 0600. The kernel's own is 0666, with which every process that is given the descriptor may also open it
/// again for writing, and set extended attributes: memory that belongs to the object, and stays when that process ends.
pub(crate) fn memfd_create(name: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` ends with a NUL byte and outlives the call.
    let mut fd = unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_NOEXEC_SEAL) };
    if fd == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        // SAFETY: as above.
        fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    }
    let fd = own(fd)?;
    file::fchmod(fd.as_fd(), 0o600)?;
    Ok(fd)
}

/// `F_ADD_SEALS` of `fcntl(2)`.
pub(crate) fn add_seals(fd: BorrowedFd<'_>, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: F_ADD_SEALS takes an int.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}

/// `F_GET_SEALS` of `fcntl(2)`.
pub(crate) fn seals(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: F_GET_SEALS takes no argument.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) })
}

/// `posix_fallocate(3)`: reserves storage for the whole range, or fails. `StorageFull` also where the file may not
/// become that long.
pub(crate) fn allocate(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    if let Some(end) = offset.checked_add(len)
        && end > file::fstat(fd)?.len
    {
        file::check_size_limit(end)?;
    }
    let range = |n: u64| libc::off_t::try_from(n).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG));
    let (offset, len) = (range(offset)?, range(len)?);
    loop {
        // SAFETY: the call takes no pointer. It returns an errno instead of setting it.
        match unsafe { libc::posix_fallocate(fd.as_raw_fd(), offset, len) } {
            0 => return Ok(()),
            libc::EINTR => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// `shm_open(3)`, close-on-exec. glibc and musl follow no symbolic link here.
pub(crate) fn shm_open(name: &CStr, flags: libc::c_int, mode: u32) -> io::Result<OwnedFd> {
    // Any user can put a FIFO under that name, and opening one may block for ever.
    let flags = flags | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: `name` ends with a NUL byte and outlives the call.
    own(unsafe { libc::shm_open(name.as_ptr(), flags, mode) })
}

/// `shm_unlink(3)`.
pub(crate) fn shm_unlink(name: &CStr) -> io::Result<()> {
    // SAFETY: `name` ends with a NUL byte and outlives the call.
    check(unsafe { libc::shm_unlink(name.as_ptr()) }).map(drop)
}
