//! A C string at the start of a named object, as the classic example programs exchange it.

use super::mapping::Access;
use super::object::{SharedObject, reserve};
use crate::sys::shm as sys;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The longest text that is read, in bytes with its NUL.
const TEXT_MAX: u64 = 64 << 10;

/// A NUL-terminated string at offset 0 of a POSIX shared memory object.
///
/// This is what a C program means with `shm_open("/shm_1", …)`, `ftruncate(fd, 4096)`, `mmap` and
/// then `sprintf` or `printf("%s")`, and it is for talking to such programs. They have no protocol:
/// a reader that looks while a writer writes sees some of both texts. Between programs of one's
/// own, [`Publisher`](super::Publisher) is better in every way.
///
/// The object is read and written as the file that it is on Linux, which the mappings of others
/// see at once. So it matters not whether some process truncates it: there is no SIGBUS here.
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

    /// The permission bits of an object that [`write`](Self::write) makes: 0600 unless told
    /// otherwise.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> NamedText {
        self.mode = mode;
        self
    }

    /// The size in bytes that the other side maps: 4096 unless told otherwise.
    /// [`write`](Self::write) sees to it that the object is no smaller, because a C reader
    /// would be killed by SIGBUS.
    #[must_use]
    pub fn size(mut self, bytes: u64) -> NamedText {
        self.len = bytes;
        self
    }

    /// Takes an object of any owner and mode, which [`SharedObject::open`] would refuse.
    #[must_use]
    pub fn any_owner(mut self, yes: bool) -> NamedText {
        self.any_owner = yes;
        self
    }

    /// Stores `text` and its NUL, in a new object where there is none.
    ///
    /// # Errors
    ///
    /// Those of [`SharedObject::create`] and [`SharedObject::open`].
    pub fn write(&self, text: &CStr) -> io::Result<()> {
        let bytes = text.to_bytes_with_nul();
        let len = self.len.max(bytes.len() as u64);
        let object = match SharedObject::create(&self.name, len, self.mode) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.open(Access::ReadWrite)?,
            made => made?,
        };
        // Never made shorter: it may be mapped.
        reserve(object.as_fd(), len, &self.name)?;
        File::from(OwnedFd::from(object)).write_all_at(bytes, 0)
    }

    /// The present text.
    ///
    /// # Errors
    ///
    /// Those of [`SharedObject::open`]; `InvalidData` where no NUL ends the text.
    pub fn read(&self) -> io::Result<CString> {
        let object = self.open(Access::ReadOnly)?;
        let len = object.len()?;
        let mut bytes = vec![0; len.min(TEXT_MAX) as usize];
        let file = File::from(OwnedFd::from(object));
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        bytes.truncate(filled);
        // A C reader sees zeros between the object's end and its last page's.
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
