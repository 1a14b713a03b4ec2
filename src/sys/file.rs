//! What any descriptor or path can be asked, beyond `std::fs`.

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Duration,
};

use super::{check, check_long, time::timeout_ms};

/// A path as the kernel takes it, ending with a NUL byte. A path that contains one is `InvalidInput`.
pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// What [`fstat`] says of a file, a queue or a memory object, as far as the callers ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    /// Its size in bytes.
    pub(crate) len: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The permission bits, at most `0o7777`.
    pub(crate) mode: u32,
    /// It is a regular file.
    pub(crate) is_regular: bool,
    /// It has no name (any more).
    pub(crate) is_unlinked: bool,
}

/// `fstat(2)`.
pub(crate) fn fstat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is writable and has the size that the call fills.
    check(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, so the kernel has filled it in.
    let stat = unsafe { stat.assume_init() };
    Ok(Stat {
        len: u64::try_from(stat.st_size).unwrap_or(0),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        is_regular: stat.st_mode & libc::S_IFMT == libc::S_IFREG,
        is_unlinked: stat.st_nlink == 0,
    })
}

/// What [`fstatfs`] says of the file system that a file is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// Its magic number: `TMPFS_MAGIC` and so on (`statfs(2)`).
    pub(crate) magic: u32,
    /// Bytes of a block.
    pub(crate) block: u64,
}

/// `fstatfs(2)`.
pub(crate) fn fstatfs(fd: BorrowedFd<'_>) -> io::Result<FileSystem> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `stat` is writable and has the size that the call fills.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, so the kernel has filled it in.
    let stat = unsafe { stat.assume_init() };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "all magic numbers have 32 bits"
    )]
    let magic = stat.f_type as u32;
    Ok(FileSystem { magic, block: u64::try_from(stat.f_bsize).unwrap_or(0) })
}

/// `fchmod(2)`. On a socket that is not bound yet it sets the mode that `bind(2)` gives the path, less the umask.
pub(crate) fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }).map(drop)
}

/// `flock(2)` with `LOCK_EX | LOCK_NB`. `WouldBlock`: another open file holds the lock.
pub(crate) fn flock_exclusive(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Sets or clears `O_NONBLOCK` in one call, and leaves the other status flags alone: `FIONBIO` of `ioctl(2)`.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    let mut on = libc::c_int::from(nonblocking);
    // SAFETY: FIONBIO reads one int through the pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut on) }).map(drop)
}

/// Sets `FD_CLOEXEC` in one call: `FIOCLEX` of `ioctl(2)`.
pub(crate) fn set_cloexec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FIOCLEX takes no argument.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIOCLEX) }).map(drop)
}

/// `StorageFull` if a file of this process may not have `len` bytes (`RLIMIT_FSIZE` of `getrlimit(2)`). A write past
/// that limit, and to make a file longer than it, is SIGXFSZ, which ends the process.
pub(crate) fn check_size_limit(len: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to room for the limit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) })?;
    if len <= limit.rlim_cur {
        return Ok(());
    }
    let what = format!("{len} bytes are more than RLIMIT_FSIZE allows, which is {}", limit.rlim_cur);
    Err(io::Error::new(io::ErrorKind::StorageFull, what))
}

/// `poll(2)` of one descriptor. True: there is something to read, an end of file or an error. False: the time is up.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    let mut asked = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the pointer is to one pollfd, which outlives the call.
    check(unsafe { libc::poll(&mut asked, 1, timeout_ms(timeout)) }).map(|count| count == 1)
}

/// Renames. `AlreadyExists` where `rename(2)` would replace the other file.
pub(crate) fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    renameat2(from, to, libc::RENAME_NOREPLACE)
}

/// Exchanges the files of two names in one step.
pub(crate) fn rename_exchange(from: &Path, to: &Path) -> io::Result<()> {
    renameat2(from, to, libc::RENAME_EXCHANGE)
}

/// `renameat2(2)`, relative to the working directory. Not every C library has a function for it.
fn renameat2(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    let (call, here) = (libc::SYS_renameat2, libc::AT_FDCWD);
    // SAFETY: both paths end with a NUL byte and outlive the call.
    check_long(unsafe { libc::syscall(call, here, from.as_ptr(), here, to.as_ptr(), flags) }).map(drop)
}

/// How many bytes are there to be read from a pipe or a stream: `FIONREAD` of `ioctl(2)`.
pub(crate) fn unread(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int through the pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd};

    use super::*;

    #[test]
    fn fstat_shows_what_fchmod_sets() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(12).unwrap();
        fchmod(file.as_file().as_fd(), 0o640).unwrap();
        let stat = fstat(file.as_file().as_fd()).unwrap();
        assert_eq!((stat.len, stat.mode, stat.is_regular), (12, 0o640, true));
        assert_eq!(stat.uid, crate::sys::process::effective_uid());
        assert!(!stat.is_unlinked);
        fs::remove_file(file.path()).unwrap();
        assert!(fstat(file.as_file().as_fd()).unwrap().is_unlinked);
        let (reader, _writer) = io::pipe().unwrap();
        assert!(!fstat(reader.as_fd()).unwrap().is_regular);
    }

    #[test]
    fn a_second_open_file_does_not_get_the_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        flock_exclusive(file.as_file().as_fd()).unwrap();
        let second = file.reopen().unwrap();
        assert_eq!(flock_exclusive(second.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn waiting_ends_with_a_byte_an_end_or_the_time() {
        let (reader, mut writer) = io::pipe().unwrap();
        assert!(!wait_readable(reader.as_fd(), Some(Duration::ZERO)).unwrap());
        assert!(!wait_readable(reader.as_fd(), Some(Duration::from_nanos(1))).unwrap());
        io::Write::write_all(&mut writer, b"x").unwrap();
        assert!(wait_readable(reader.as_fd(), None).unwrap());
        io::Read::read_exact(&mut &reader, &mut [0]).unwrap();
        drop(writer);
        assert!(wait_readable(reader.as_fd(), None).unwrap());
    }

    #[test]
    fn the_flags_take() {
        let (reader, _writer) = io::pipe().unwrap();
        // SAFETY: F_GETFL and F_GETFD take no argument.
        let flags = |call| check(unsafe { libc::fcntl(reader.as_raw_fd(), call) }).unwrap();
        for on in [true, false] {
            set_nonblocking(reader.as_fd(), on).unwrap();
            assert_eq!(flags(libc::F_GETFL) & libc::O_NONBLOCK != 0, on);
        }
        // SAFETY: F_SETFD takes an int.
        check(unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFD, 0) }).unwrap();
        set_cloexec(reader.as_fd()).unwrap();
        assert_eq!(flags(libc::F_GETFD), libc::FD_CLOEXEC);
    }

    #[test]
    fn renaming_replaces_nothing_and_exchanges_both() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        fs::write(&one, "1").unwrap();
        fs::write(&two, "2").unwrap();
        assert_eq!(rename_noreplace(&one, &two).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        rename_exchange(&one, &two).unwrap();
        assert_eq!((fs::read(&one).unwrap(), fs::read(&two).unwrap()), (b"2".to_vec(), b"1".to_vec()));
        let with_nul = Path::new("a\0b");
        assert_eq!(rename_noreplace(&one, with_nul).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
