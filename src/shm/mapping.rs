//! The memory map itself: the one place beside `sys` with unsafe code.
#![allow(unsafe_code)]

use super::protocol::{Word, copy_in_at, copy_out_at};
use crate::sys::shm as sys;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering, fence};

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
    /// Reads alone: `PROT_READ`.
    ReadOnly,
    /// Reads and writes: `PROT_READ | PROT_WRITE`.
    ReadWrite,
}

/// Memory that other processes may see and change: a shared [`mmap`].
///
/// No reference into the memory is ever handed out, because nothing would hold another process to
/// Rust's aliasing rules. Bytes are copied in and out, and every access is an atomic one of a
/// whole 64-bit word: a copy of more than one aligned word may be torn by a concurrent writer, and
/// is never undefined behaviour. [`Publisher`](super::Publisher) and
/// [`Subscriber`](super::Subscriber) are what makes whole values of it.
///
/// The descriptor may be closed as soon as the map exists. The map ends when this is dropped.
///
/// # SIGBUS
///
/// Where another process *truncates* the object below, an access past its new end kills this one
/// with SIGBUS. So map by name only what none but trusted processes may write, and have the rest
/// come as sealed [`Memfd`](super::Memfd)s, which cannot be truncated.
///
/// # Example
///
/// ```
/// use ipc_reactor::shm::{Access, Mapping};
///
/// let file = tempfile::tempfile()?;
/// let map = Mapping::of(&file, 0, 4096, Access::ReadWrite)?;
/// drop(file);
///
/// map.write(10, b"update")?;
/// let mut copy = [0; 6];
/// map.read(10, &mut copy)?;
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

// SAFETY: the memory belongs to no thread, and every access to it is an atomic one.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing else of the value changes before it is dropped.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of zeroed memory with no object behind it. Only children made by `fork`
    /// share it.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a length of 0; otherwise those of `mmap`.
    pub fn anonymous(len: usize) -> io::Result<Mapping> {
        Mapping::map(None, 0, len, Access::ReadWrite)
    }

    /// Maps `len` bytes of `object`, a regular file, a [`Memfd`](super::Memfd), a
    /// [`SharedObject`](super::SharedObject) or a device, from byte `offset` on.
    ///
    /// A read-write map of anything but a device first reserves its range (`posix_fallocate`), and
    /// so makes a shorter object grow: memory that cannot be had is an error here, not a SIGBUS
    /// at some later write.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: the length is 0, the offset is no multiple of the page size, or their sum
    ///   overflows.
    /// - `UnexpectedEof`: the object is shorter than a read-only map would need.
    /// - `StorageFull`: the range cannot be reserved.
    /// - `PermissionDenied`: the descriptor is not open for such access, or the object is sealed
    ///   against it.
    /// - otherwise those of `mmap`.
    pub fn of(object: impl AsFd, offset: u64, len: usize, access: Access) -> io::Result<Mapping> {
        let fd = object.as_fd();
        let page = sys::page_size() as u64;
        if !offset.is_multiple_of(page) {
            let down = offset / page * page;
            return Err(invalid(format!(
                "mapping offset {offset} is not a multiple of the page size {page}; map from {down} instead"
            )));
        }
        let end = offset.checked_add(len as u64).filter(|&end| end <= i64::MAX as u64).ok_or_else(|| {
            invalid(format!("mapping of {len} bytes from offset {offset} ends past every file"))
        })?;
        let stat = sys::stat(fd)?;
        if stat.regular && len != 0 {
            match access {
                Access::ReadWrite => sys::allocate(fd, offset, len as u64).map_err(|e| {
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
        // SAFETY: without MAP_FIXED the kernel picks addresses that nothing else uses.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, kind, raw, offset as libc::off_t) };
        if base == libc::MAP_FAILED {
            let e = io::Error::last_os_error();
            return Err(io::Error::new(e.kind(), format!("cannot map {len} bytes as {access:?}: {e}")));
        }
        let base = NonNull::new(base.cast()).expect("mmap never answers with null unless asked to");
        // Whole pages are mapped, so that the last line is whole as well.
        let lines = NonNull::slice_from_raw_parts(base, len.div_ceil(size_of::<Line>()));
        Ok(Mapping { lines, len, access })
    }

    /// Its length in bytes, as asked for.
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

    /// Copies the bytes from `offset` on into `into`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the range does not lie within the mapping.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> io::Result<()> {
        self.check_range(offset, into.len())?;
        copy_out_at(self.words(), offset, into);
        Ok(())
    }

    /// Copies `from` to the bytes from `offset` on. The bytes around it keep what any thread of
    /// this process writes to them meanwhile.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the range does not lie within the mapping, `PermissionDenied` where the
    /// mapping is read-only.
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
            _ => Err(invalid(format!("{len} bytes from {offset} on leave the mapping's {}", self.len))),
        }
    }

    /// All of it, the last line whole. Storing to a word of a read-only mapping faults.
    #[inline]
    pub(super) fn lines(&self) -> &[Line] {
        // SAFETY: mapped for as long as `self` lives, and page-aligned. Any bits are a u64, and within
        // this process no access to this memory is of another size.
        unsafe { self.lines.as_ref() }
    }

    /// The same as words.
    #[inline]
    pub(super) fn words(&self) -> &[AtomicU64] {
        self.lines().as_flattened()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` got; no reference into it outlives `self`.
        unsafe { libc::munmap(self.lines.as_ptr().cast(), self.len) };
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
