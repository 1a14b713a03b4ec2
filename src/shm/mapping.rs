//! The memory map itself: the only unsafe code outside `sys`.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering, fence},
};

use super::protocol::{Word, copy_in_at, copy_out_at};
use crate::sys::{
    self,
    file::{self, FileSystem},
    shm,
};

impl Word for AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        AtomicU64::load(self, Ordering::Relaxed)
    }

    #[inline]
    fn store(&self, value: u64) {
        AtomicU64::store(self, value, Ordering::Relaxed);
    }

    fn merge(&self, mask: u64, bits: u64) {
        let merged = |old: u64| Some(old & !mask | bits & mask);
        let _ = self.fetch_update(Ordering::Relaxed, Ordering::Relaxed, merged);
    }

    #[inline]
    fn fence(order: Ordering) {
        fence(order);
    }
}

/// The words of a cache line.
pub(super) type Line = [AtomicU64; 8];

/// What a [`Mapping`] may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only to read: `PROT_READ`.
    ReadOnly,
    /// To read and to write: `PROT_READ | PROT_WRITE`.
    ReadWrite,
}

/// Memory that other processes may read and change: a shared [`mmap`].
///
/// There are no references into the memory, because another process does not keep Rust's aliasing rules. Bytes are
/// copied in and out, and every access is an atomic one of a whole 64-bit word. A copy of more than one aligned word
/// may be torn by a concurrent writer, but is never undefined behaviour. [`Publisher`](super::Publisher) and
/// [`Subscriber`](super::Subscriber) exchange whole values.
///
/// The descriptor may be closed as soon as the mapping exists. Drop unmaps the memory.
///
/// # SIGBUS
///
/// If another process *truncates* the object, an access past its new end kills this process with SIGBUS. So map by name
/// only objects that only trusted processes can write. Pass others as sealed [`Memfd`](super::Memfd)s, which cannot be
/// truncated.
///
/// # Example
///
/// ```
/// use ipc_reactor::shm::{Access, Mapping};
///
/// let file = tempfile::tempfile()?;
/// let mapping = Mapping::of(&file, 0, 4096, Access::ReadWrite)?;
/// drop(file);
///
/// mapping.write(10, b"update")?;
/// let mut copy = [0; 6];
/// mapping.read(10, &mut copy)?;
/// assert_eq!(&copy, b"update");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// [`mmap`]: https://man7.org/linux/man-pages/man2/mmap.2.html
#[derive(Debug)]
pub struct Mapping {
    lines: NonNull<[Line]>,
    len: usize,
    access: Access,
}

// SAFETY: the memory belongs to no thread, and every access to it is atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above, and the fields do not change before the value is dropped.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of zeroed memory without an object. Only children made by `fork(2)` share it.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a length of 0; otherwise those of `mmap(2)`.
    pub fn anonymous(len: usize) -> io::Result<Mapping> {
        Mapping::map(None, 0, len, Access::ReadWrite)
    }

    /// Maps `len` bytes of `object` from byte `offset` on. It is a regular file, a [`Memfd`](super::Memfd), a
    /// [`SharedObject`](super::SharedObject) or a device.
    ///
    /// A read-write mapping of anything but a device first reserves its range (`posix_fallocate(3)`), and so makes a
    /// shorter object grow. If there is not enough memory, that is an error here, and not a SIGBUS at a later write.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: the length is 0, the offset is no multiple of the page size, or their sum overflows; or the
    ///   object has huge pages, and this is a part of one.
    /// - `UnexpectedEof`: the object is too short for a read-only mapping.
    /// - `StorageFull`: the range cannot be reserved, or files of this process may not be that long (`RLIMIT_FSIZE`).
    /// - `PermissionDenied`: the descriptor is not open for this access, or the object is sealed against it.
    /// - Those of `mmap(2)`.
    pub fn of(object: impl AsFd, offset: u64, len: usize, access: Access) -> io::Result<Mapping> {
        let fd = object.as_fd();
        let page = sys::page_size() as u64;
        if !offset.is_multiple_of(page) {
            let down = offset / page * page;
            return Err(invalid(format!(
                "mapping offset {offset} is not a multiple of the page size {page}; map from {down} instead"
            )));
        }
        let end =
            offset.checked_add(len as u64).filter(|&end| libc::off_t::try_from(end).is_ok()).ok_or_else(
                || invalid(format!("mapping of {len} bytes from offset {offset} ends past every file")),
            )?;
        let stat = file::fstat(fd)?;
        if stat.is_regular && len != 0 {
            require_whole_blocks(fd, offset, len)?;
            match access {
                Access::ReadWrite => shm::allocate(fd, offset, len as u64).map_err(|e| {
                    let (kind, why) = match e.raw_os_error() {
                        Some(libc::EBADF) => {
                            (io::ErrorKind::PermissionDenied, "the descriptor is not open for writing".into())
                        }
                        _ => (e.kind(), e.to_string()),
                    };
                    io::Error::new(kind, format!("cannot reserve bytes {offset}..{end} for a mapping: {why}"))
                })?,
                Access::ReadOnly if end > stat.len => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("mapping needs bytes {offset}..{end} of an object of {} bytes", stat.len),
                    ));
                }
                Access::ReadOnly => {}
            }
        }
        Mapping::map(Some(fd), offset, len, access)
    }

    /// Maps a sealed object from its start, which has at least `len` bytes. Nothing is reserved: `fallocate(2)` waits
    /// for a lock of the object, and another process that has it can hold that lock for as long as it likes.
    pub(super) fn of_sealed(object: impl AsFd, len: usize, access: Access) -> io::Result<Mapping> {
        Mapping::map(Some(object.as_fd()), 0, len, access)
    }

    fn map(fd: Option<BorrowedFd<'_>>, offset: u64, len: usize, access: Access) -> io::Result<Mapping> {
        if len == 0 {
            return Err(invalid("a mapping needs at least one byte".into()));
        }
        let protection = match access {
            Access::ReadOnly => libc::PROT_READ,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        let (raw, kind) = match fd {
            Some(fd) => (fd.as_raw_fd(), libc::MAP_SHARED),
            None => (-1, libc::MAP_SHARED | libc::MAP_ANONYMOUS),
        };
        let offset =
            libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // SAFETY: without MAP_FIXED the kernel chooses addresses that nothing else uses.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, kind, raw, offset) };
        if base == libc::MAP_FAILED {
            let e = io::Error::last_os_error();
            return Err(io::Error::new(e.kind(), format!("cannot map {len} bytes as {access:?}: {e}")));
        }
        let base = NonNull::new(base.cast()).expect("mmap returns null only if it is asked to");
        // Whole pages are mapped, so the last line is whole, too.
        let lines = NonNull::slice_from_raw_parts(base, len.div_ceil(size_of::<Line>()));
        Ok(Mapping { lines, len, access })
    }

    /// Its length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty mapping does not exist")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What it may be used for.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Copies the bytes from `offset` on to `into`.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: the range is not within the mapping.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> io::Result<()> {
        self.check_range(offset, into.len())?;
        copy_out_at(self.words(), offset, into);
        Ok(())
    }

    /// Copies `from` to the bytes from `offset` on. It does not undo what other threads of this process write to the
    /// bytes around them at the same time.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: the range is not within the mapping. `PermissionDenied`: the mapping is read-only.
    pub fn write(&self, offset: usize, from: &[u8]) -> io::Result<()> {
        self.check_range(offset, from.len())?;
        if self.access == Access::ReadOnly {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the mapping is read-only"));
        }
        copy_in_at(self.words(), offset, from);
        Ok(())
    }

    fn check_range(&self, offset: usize, len: usize) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(invalid(format!("{len} bytes from offset {offset} leave the mapping's {}", self.len))),
        }
    }

    /// The whole mapping. A store to a word of a read-only mapping faults.
    #[inline]
    pub(super) fn lines(&self) -> &[Line] {
        // SAFETY: the memory is mapped as long as `self` exists, and aligned to a page. Any bits are a u64, and this
        // process accesses this memory in whole words only.
        unsafe { self.lines.as_ref() }
    }

    /// The whole mapping as words.
    #[inline]
    pub(super) fn words(&self) -> &[AtomicU64] {
        self.lines().as_flattened()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the range that `map` has mapped, and no reference into it outlives `self`.
        let unmapped = unsafe { libc::munmap(self.lines.as_ptr().cast(), self.len) };
        if unmapped == -1 {
            let (len, e) = (self.len, io::Error::last_os_error());
            log::error!(target: "ipc_reactor", "{len} bytes of memory stay mapped: {e}");
        }
    }
}

/// `InvalidInput` if the object has huge pages and this is a part of one: the kernel maps the whole page, and refuses
/// to unmap the part.
fn require_whole_blocks(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<()> {
    const HUGETLBFS_MAGIC: u32 = 0x9584_58f6;
    let FileSystem { magic, block } = file::fstatfs(fd)?;
    let is_whole = |bytes: u64| block == 0 || bytes.is_multiple_of(block);
    if magic != HUGETLBFS_MAGIC || is_whole(offset) && is_whole(len as u64) {
        return Ok(());
    }
    Err(invalid(format!(
        "{len} bytes from offset {offset} of an object whose pages have {block} bytes; map whole pages"
    )))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
