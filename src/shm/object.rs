//! What can be mapped besides files: a memfd, and a POSIX shared memory object.

use super::mapping::{Access, Mapping};
use crate::sys::shm as sys;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The seals under which a size is final.
const FIXED_SIZE: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
/// And nobody gets write access any more who has not got it mapped.
const PUBLISHED: i32 = FIXED_SIZE | libc::F_SEAL_FUTURE_WRITE;

/// Memory behind a descriptor and without a name ([`memfd_create`]): it goes when its last
/// descriptor and its last map go, so that no crash leaves anything behind.
///
/// [`memfd_create`]: https://man7.org/linux/man-pages/man2/memfd_create.2.html
#[derive(Debug)]
pub struct Memfd(OwnedFd);

impl Memfd {
    /// Makes `len` zeroed and reserved bytes. `name` is for `/proc/self/maps` alone: several may
    /// share one.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a NUL byte in the name; otherwise those of `memfd_create` and
    /// `posix_fallocate`.
    pub fn create(name: &str, len: u64) -> io::Result<Memfd> {
        let fd = sys::memfd_create(&c_name(name)?)?;
        if len != 0 {
            reserve(fd.as_fd(), len, name)?;
        }
        Ok(Memfd(fd))
    }

    /// Makes its size final, for everyone and for good: whoever maps it is safe from SIGBUS.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` where it is sealed already.
    pub fn seal_size(&self) -> io::Result<()> {
        sys::add_seals(self.as_fd(), FIXED_SIZE)
    }

    /// [`seal_size`](Self::seal_size), and lets nobody write from now on but through the writable
    /// maps that exist.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` where it is sealed already; `InvalidInput` before Linux 5.1.
    pub fn seal_published(&self) -> io::Result<()> {
        sys::add_seals(self.as_fd(), PUBLISHED)
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

/// Refuses what could still shrink under a map of it.
pub(super) fn require_fixed_size(fd: BorrowedFd<'_>, what: &str) -> io::Result<()> {
    require_seals(fd, FIXED_SIZE, what)
}

/// Refuses what anyone but its publisher could still get to write.
pub(super) fn require_published(fd: BorrowedFd<'_>, what: &str) -> io::Result<()> {
    require_seals(fd, PUBLISHED, what)
}

fn require_seals(fd: BorrowedFd<'_>, wanted: i32, what: &str) -> io::Result<()> {
    let refuse =
        |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, format!("{what} refused: {why}")));
    match sys::seals(fd) {
        Ok(seals) if seals & wanted == wanted => Ok(()),
        Ok(seals) => refuse(format!("it bears seals {seals:#x} and needs {wanted:#x}")),
        Err(e) => refuse(format!("it is no memfd ({e})")),
    }
}

/// A POSIX shared memory object: memory with a name, which any process with the right permissions
/// can open ([`shm_open`]).
///
/// It lives until [`unlink`](Self::unlink) or reboot, whoever has it open. It cannot be sealed, so
/// a map of it is for processes that trust one another: see [`Mapping`](Mapping#sigbus).
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
    /// Makes an object of `len` zeroed and reserved bytes that did not exist before, with exactly
    /// the permission bits `mode`, whatever the umask.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`, `InvalidInput` for a bad name, `StorageFull` where the memory cannot be
    /// had (the name is free again then); otherwise those of `shm_open`.
    pub fn create(name: &str, len: u64, mode: u32) -> io::Result<SharedObject> {
        let path = posix_name(name)?;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let fd = sys::shm_open(&path, flags, mode).map_err(|e| named(name, "create", &e))?;
        // The umask can only have taken bits, so that nobody got in who should not.
        let made = sys::set_mode(fd.as_fd(), mode).and_then(|()| match len {
            0 => Ok(()),
            _ => reserve(fd.as_fd(), len, name),
        });
        if let Err(e) = made {
            let _ = sys::shm_unlink(&path);
            return Err(e);
        }
        Ok(SharedObject(fd))
    }

    /// Opens an object that is our own or root's, and that nobody else may write.
    ///
    /// Anybody can put an object of any name into `/dev/shm`, and whoever may write it can
    /// truncate it under a map.
    ///
    /// # Errors
    ///
    /// `NotFound`; `PermissionDenied`, also where the object is another user's or others may write
    /// it ([`open_any`](Self::open_any) does not ask); otherwise those of `shm_open`.
    pub fn open(name: &str, access: Access) -> io::Result<SharedObject> {
        let object = Self::open_any(name, access)?;
        let stat = sys::stat(object.as_fd())?;
        let refuse = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        let us = sys::effective_uid();
        if stat.uid != us && stat.uid != 0 {
            return refuse(format!("{name} belongs to uid {}, neither to us ({us}) nor to root", stat.uid));
        }
        if stat.mode & 0o022 != 0 {
            return refuse(format!(
                "{name} has mode {:04o}: others may write it, and truncate it under us",
                stat.mode
            ));
        }
        Ok(object)
    }

    /// [`open`](Self::open) without a question about whose it is: for a name that only trusted
    /// processes could have taken.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the name is a FIFO's or the like; otherwise those of `shm_open`.
    pub fn open_any(name: &str, access: Access) -> io::Result<SharedObject> {
        let flags = match access {
            Access::ReadOnly => libc::O_RDONLY,
            Access::ReadWrite => libc::O_RDWR,
        };
        let fd = sys::shm_open(&posix_name(name)?, flags, 0).map_err(|e| named(name, "open", &e))?;
        if !sys::stat(fd.as_fd())?.regular {
            let what = format!("{name} is no shared memory object, but something else of that name");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(SharedObject(fd))
    }

    /// Frees the name. Those who have the object open or mapped keep it.
    ///
    /// # Errors
    ///
    /// `NotFound`, `PermissionDenied`: see `shm_unlink`.
    pub fn unlink(name: &str) -> io::Result<()> {
        sys::shm_unlink(&posix_name(name)?).map_err(|e| named(name, "unlink", &e))
    }

    /// Its present size in bytes.
    ///
    /// # Errors
    ///
    /// Those of `fstat`.
    #[expect(clippy::len_without_is_empty, reason = "a length that a system call answers")]
    pub fn len(&self) -> io::Result<u64> {
        Ok(sys::stat(self.as_fd())?.len)
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

pub(super) fn reserve(fd: BorrowedFd<'_>, len: u64, name: &str) -> io::Result<()> {
    sys::allocate(fd, 0, len)
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

/// What shm_open(3) calls portable: a slash, then no other.
fn posix_name(name: &str) -> io::Result<CString> {
    let rest = name.strip_prefix('/').unwrap_or("");
    if rest.is_empty() || rest.contains('/') || rest == "." || rest == ".." {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is no shared memory name; one looks like \"/name\" and has no other slash"),
        ));
    }
    c_name(name)
}
