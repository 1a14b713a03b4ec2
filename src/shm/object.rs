//! Memory objects that can be mapped: a memfd, and a POSIX shared memory object.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::{
    foreign::Foreign,
    mapping::{Access, Mapping},
};
use crate::sys::{
    self,
    file::{self, FileSystem},
    process, shm,
};

/// The file system of a memfd of usual pages: one of huge pages has another (`statfs(2)`).
const TMPFS_MAGIC: u32 = 0x0102_1994;

/// The seals that make a size final.
const FIXED_SIZE: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
/// The seals that also forbid new write access, except through mappings that exist.
const PUBLISHED: i32 = FIXED_SIZE | libc::F_SEAL_FUTURE_WRITE;

/// Memory with a descriptor and without a name ([`memfd_create`]). The kernel frees it when its last descriptor and its
/// last mapping are closed, so a crash leaves nothing behind.
///
/// [`memfd_create`]: https://man7.org/linux/man-pages/man2/memfd_create.2.html
#[derive(Debug)]
pub struct Memfd(OwnedFd);

impl Memfd {
    /// Makes `len` zeroed and reserved bytes. `name` is only shown in `/proc/self/maps`, and need not be unique.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: the name contains a NUL byte. `StorageFull`: files of this process may not be that long
    /// (`RLIMIT_FSIZE`). Those of `memfd_create(2)` and `posix_fallocate(3)`.
    pub fn create(name: &str, len: u64) -> io::Result<Memfd> {
        let fd = shm::memfd_create(&c_name(name)?)?;
        if len != 0 {
            reserve(fd.as_fd(), len, name)?;
        }
        Ok(Memfd(fd))
    }

    /// Makes its size final, in all processes. A process that maps it is safe from SIGBUS.
    ///
    /// # Errors
    ///
    /// `PermissionDenied`: it is sealed already.
    pub fn seal_size(&self) -> io::Result<()> {
        shm::add_seals(self.as_fd(), FIXED_SIZE)
    }

    /// [`seal_size`](Self::seal_size), and also makes the memory read-only, except through writable mappings that exist
    /// already.
    ///
    /// # Errors
    ///
    /// `PermissionDenied`: it is sealed already. `InvalidInput`: before Linux 5.1.
    pub fn seal_published(&self) -> io::Result<()> {
        shm::add_seals(self.as_fd(), PUBLISHED)
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Memfd> for OwnedFd {
    fn from(memfd: Memfd) -> OwnedFd {
        memfd.0
    }
}

/// `InvalidData` if the object could still shrink while it is mapped.
pub(super) fn require_fixed_size(foreign: Foreign, what: &str) -> io::Result<OwnedFd> {
    require_seals(foreign, FIXED_SIZE, what)
}

/// `InvalidData` if another process than the publisher could still get write access.
pub(super) fn require_published(foreign: Foreign, what: &str) -> io::Result<OwnedFd> {
    require_seals(foreign, PUBLISHED, what)
}

fn require_seals(foreign: Foreign, wanted: i32, what: &str) -> io::Result<OwnedFd> {
    let refuse =
        |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, format!("{what} refused: {why}")));
    // The kernel answers this by itself, and for a file of any other kind with an error. `fstat(2)`, for one, asks the
    // file system, which can be another process.
    match shm::seals(foreign.as_fd()) {
        Ok(seals) if seals & wanted == wanted => {
            // The seals of a memfd of huge pages do not keep another process from punching holes into it, with which a
            // read of the mapping is SIGBUS.
            let FileSystem { magic, block } = file::fstatfs(foreign.as_fd())?;
            if magic == TMPFS_MAGIC && block == sys::page_size() as u64 {
                return Ok(foreign.into_inner());
            }
            refuse(format!("its pages have {block} bytes, on file system {magic:#x}"))
        }
        Ok(seals) => refuse(format!("it bears seals {seals:#x} and needs {wanted:#x}")),
        Err(e) => refuse(format!("it is no memfd ({e})")),
    }
}

/// A POSIX shared memory object: memory with a name, which any process with the permission can open ([`shm_open`]).
///
/// It exists until [`unlink`](Self::unlink) or the end of the system, even if no process has it open. It cannot be
/// sealed, so map it only in processes that trust one another: see [`Mapping`](Mapping#sigbus).
///
/// ```
/// use ipc_reactor::shm::{Access, SharedObject};
///
/// let name = format!("/doc-{}", std::process::id());
/// let object = SharedObject::create(&name, 4096, 0o600)?;
/// let ours = object.map(Access::ReadWrite)?;
/// let theirs = SharedObject::open(&name, Access::ReadOnly)?.map(Access::ReadOnly)?;
/// SharedObject::unlink(&name)?;
///
/// ours.write(0, b"hello")?;
/// let mut copy = [0; 5];
/// theirs.read(0, &mut copy)?;
/// assert_eq!(&copy, b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// [`shm_open`]: https://man7.org/linux/man-pages/man3/shm_open.3.html
#[derive(Debug)]
pub struct SharedObject(OwnedFd);

impl SharedObject {
    /// Makes a new object of `len` zeroed and reserved bytes, with exactly the permission bits `mode`, whatever the
    /// umask.
    ///
    /// # Errors
    ///
    /// - `AlreadyExists`: there is an object of that name.
    /// - `InvalidInput`: no object can have that name.
    /// - `StorageFull`: there is not enough memory, or files of this process may not be that long (`RLIMIT_FSIZE`). The
    ///   name is removed again.
    /// - Those of `shm_open(3)`.
    pub fn create(name: &str, len: u64, mode: u32) -> io::Result<SharedObject> {
        let path = posix_name(name)?;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let fd = shm::shm_open(&path, flags, mode).map_err(|e| named(name, "create", &e))?;
        // The umask can only remove bits, so no process could open the object before this that may not do so after it.
        let made = file::fchmod(fd.as_fd(), mode).and_then(|()| match len {
            0 => Ok(()),
            _ => reserve(fd.as_fd(), len, name),
        });
        if let Err(e) = made {
            let _ = shm::shm_unlink(&path);
            return Err(e);
        }
        Ok(SharedObject(fd))
    }

    /// Opens an object that belongs to this user or to root, and that no other user can write to.
    ///
    /// Any user can create an object of any name in `/dev/shm`, and a process that can write to it can truncate it
    /// while it is mapped.
    ///
    /// # Errors
    ///
    /// - `NotFound`: there is no such object.
    /// - `PermissionDenied`: the mode forbids it, or the object belongs to another user, or others can write to it
    ///   ([`open_any`](Self::open_any) does not check the last two).
    /// - Those of `shm_open(3)`.
    pub fn open(name: &str, access: Access) -> io::Result<SharedObject> {
        let object = Self::open_any(name, access)?;
        let stat = file::fstat(object.as_fd())?;
        let refuse = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        let this_user = process::effective_uid();
        if stat.uid != this_user && stat.uid != 0 {
            return refuse(format!(
                "{name} belongs to uid {}, and neither to this user ({this_user}) nor to root",
                stat.uid
            ));
        }
        if stat.mode & 0o022 != 0 {
            return refuse(format!(
                "{name} has mode {:04o}: other users can write to it, and truncate it while it is mapped",
                stat.mode
            ));
        }
        Ok(object)
    }

    /// [`open`](Self::open) without a check of owner and mode: for a name that only trusted processes can create.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: a file of another kind has the name, such as a FIFO. Those of `shm_open(3)`.
    pub fn open_any(name: &str, access: Access) -> io::Result<SharedObject> {
        let flags = match access {
            Access::ReadOnly => libc::O_RDONLY,
            Access::ReadWrite => libc::O_RDWR,
        };
        let fd = shm::shm_open(&posix_name(name)?, flags, 0).map_err(|e| named(name, "open", &e))?;
        if !file::fstat(fd.as_fd())?.is_regular {
            let what = format!("{name} is no shared memory object, but another kind of file");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(SharedObject(fd))
    }

    /// Removes the name: `shm_unlink(3)`. Processes that have the object open or mapped keep it.
    ///
    /// # Errors
    ///
    /// `NotFound`: there is no such object. `PermissionDenied`: it belongs to another user.
    pub fn unlink(name: &str) -> io::Result<()> {
        shm::shm_unlink(&posix_name(name)?).map_err(|e| named(name, "unlink", &e))
    }

    /// Its current size in bytes: `fstat(2)`.
    ///
    /// # Errors
    ///
    /// None is expected.
    #[expect(clippy::len_without_is_empty, reason = "a length that a system call returns")]
    pub fn len(&self) -> io::Result<u64> {
        Ok(file::fstat(self.as_fd())?.len)
    }

    /// Maps the whole object.
    ///
    /// # Errors
    ///
    /// Those of [`Mapping::of`].
    pub fn map(&self, access: Access) -> io::Result<Mapping> {
        let len = usize::try_from(self.len()?).unwrap_or(usize::MAX);
        Mapping::of(self, 0, len, access)
    }
}

impl AsFd for SharedObject {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<SharedObject> for OwnedFd {
    fn from(object: SharedObject) -> OwnedFd {
        object.0
    }
}

/// Reserves the first `len` bytes of an object.
pub(super) fn reserve(fd: BorrowedFd<'_>, len: u64, name: &str) -> io::Result<()> {
    shm::allocate(fd, 0, len)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot reserve {len} bytes for {name}: {e}")))
}

fn named(name: &str, verb: &str, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot {verb} shared memory object {name}: {e}"))
}

fn c_name(name: &str) -> io::Result<CString> {
    CString::new(name).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("name {name:?} contains a NUL byte"))
    })
}

/// A name that `shm_open(3)` calls portable: a slash, and no other slash after it.
fn posix_name(name: &str) -> io::Result<CString> {
    let rest = name.strip_prefix('/').unwrap_or("");
    if rest.is_empty() || rest.contains('/') || rest == "." || rest == ".." {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is no shared memory name; write \"/name\", with no other slash"),
        ));
    }
    c_name(name)
}
