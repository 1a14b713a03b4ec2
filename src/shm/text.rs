//! A C string at the start of a named object, as the usual example programs exchange it.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use super::{
    mapping::Access,
    object::{SharedObject, reserve},
};
use crate::sys::{self, file};

/// Bytes of the longest text that is read, with its NUL.
const TEXT_MAX: usize = 64 << 10;

/// A string at offset 0 of a POSIX shared memory object, which ends with a NUL byte.
///
/// It is for C programs that call `shm_open("/shm_1", …)`, `ftruncate(fd, 4096)`, `mmap` and then `sprintf` or
/// `printf("%s")`. They have no protocol: a reader may see parts of both texts while a writer writes. If you write both
/// programs, use a [`Publisher`](super::Publisher).
///
/// The object is read and written as a file, which it is on Linux. Mappings in other processes show a change at once.
/// If a process truncates the object, there is no SIGBUS here.
///
/// ```
/// use ipc_reactor::shm::{NamedText, SharedObject};
///
/// let name = format!("/doc-text-{}", std::process::id());
/// let text = NamedText::new(&name);
/// text.write(c"Hello World")?;
/// assert_eq!(text.read()?.as_c_str(), c"Hello World");
/// SharedObject::unlink(&name)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct NamedText {
    name: String,
    mode: u32,
    len: u64,
    any_owner: bool,
}

impl NamedText {
    /// The text under `name`, such as `/shm_1`. Nothing is opened yet.
    #[must_use]
    pub fn new(name: &str) -> NamedText {
        NamedText { name: name.to_owned(), mode: 0o600, len: 4096, any_owner: false }
    }

    /// The permission bits of an object that [`write`](Self::write) makes. Default 0600.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> NamedText {
        self.mode = mode;
        self
    }

    /// The size in bytes that the other side maps. Default 4096. [`write`](Self::write) makes the object at least as
    /// large, because SIGBUS would kill a C reader otherwise.
    #[must_use]
    pub fn size(mut self, bytes: u64) -> NamedText {
        self.len = bytes;
        self
    }

    /// Opens an object of any owner and mode, also one that [`SharedObject::open`] would refuse.
    #[must_use]
    pub fn any_owner(mut self, yes: bool) -> NamedText {
        self.any_owner = yes;
        self
    }

    /// Stores `text` and its NUL byte. Makes the object if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`SharedObject::create`] and [`SharedObject::open`]. `StorageFull`: there is not enough memory, or
    /// files of this process may not be that long (`RLIMIT_FSIZE`).
    pub fn write(&self, text: &CStr) -> io::Result<()> {
        let bytes = text.to_bytes_with_nul();
        let len = self.len.max(bytes.len() as u64);
        let object = match SharedObject::create(&self.name, len, self.mode) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.open(Access::ReadWrite)?,
            made => made?,
        };
        // It is never made shorter, because another process may have mapped it.
        reserve(object.as_fd(), len, &self.name)?;
        // A write counts also where the object is that long already.
        file::check_size_limit(bytes.len() as u64)?;
        File::from(OwnedFd::from(object)).write_all_at(bytes, 0)
    }

    /// The current text.
    ///
    /// # Errors
    ///
    /// Those of [`SharedObject::open`]. `InvalidData`: there is no NUL byte within 64 KiB.
    pub fn read(&self) -> io::Result<CString> {
        let object = self.open(Access::ReadOnly)?;
        let len = object.len()?;
        let mut bytes = vec![0; usize::try_from(len).map_or(TEXT_MAX, |len| len.min(TEXT_MAX))];
        let file = File::from(OwnedFd::from(object));
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        bytes.truncate(filled);
        // A C reader sees zeros between the end of the object and the end of its last page.
        if !filled.is_multiple_of(sys::page_size()) {
            bytes.push(0);
        }
        match CStr::from_bytes_until_nul(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("no NUL ends the text within the first {filled} bytes of {}", self.name),
            )),
        }
    }

    fn open(&self, access: Access) -> io::Result<SharedObject> {
        if self.any_owner {
            SharedObject::open_any(&self.name, access)
        } else {
            SharedObject::open(&self.name, access)
        }
    }
}
