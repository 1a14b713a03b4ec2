//! A FIFO with the path that it owns.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
};

use super::{PipeReader, PipeWriter, explain_open};
use crate::{
    net::path::{self, FileId},
    sys,
};

/// A FIFO at a path: see `fifo(7)`. Drop removes the path, if it still belongs to this FIFO.
///
/// ```
/// use ipc_reactor::pipe::{Fifo, PipeWriter};
/// use std::io::{ErrorKind, Read, Write};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("jobs");
/// let fifo = Fifo::create(&path, 0o600)?;
/// assert_eq!(PipeWriter::open(&path).unwrap_err().kind(), ErrorKind::NotConnected);
///
/// let mut reader = fifo.reader()?;
/// let mut writer = PipeWriter::open(&path)?; // or `echo job > jobs` in a shell
/// writer.write_all(b"job\n")?;
/// let mut buffer = [0; 16];
/// assert_eq!(reader.read(&mut buffer)?, 4);
///
/// drop(fifo);
/// assert!(!path.exists());
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct Fifo {
    path: PathBuf,
    id: FileId,
    /// Kept open, so that no other file gets the inode number, which is part of its identity.
    _pin: File,
    /// Only this process removes the path, and not a forked child, which inherits the value.
    owner_pid: u32,
}

impl Fifo {
    /// Makes a FIFO at `path` with the permissions `mode`, whatever the umask. It never has wider ones. The path is
    /// made absolute.
    ///
    /// An existing FIFO is adopted if it belongs to this user and has this mode: a crash may have left it, and other
    /// processes may have it open. Any other file is not changed.
    ///
    /// # Errors
    /// `AlreadyExists`: another file is there, which the text describes; a symbolic link is not followed.
    /// `InvalidInput`: `mode` has more than the nine permission bits. Those of `mkfifo(3)` and `rename(2)`.
    pub fn create(path: impl AsRef<Path>, mode: u32) -> io::Result<Fifo> {
        if mode & !0o777 != 0 {
            let why = format!("mode {mode:#o} has more than permission bits (0o777)");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let path = std::path::absolute(path)?;
        let adopted = Fifo::find(&path, mode)?;
        if let Some(fifo) = adopted {
            return Ok(fifo);
        }
        // Made under a random name, so that it has its mode before another process can open it.
        let temporary = path::temporary_name(&path);
        sys::pipe::mkfifo(&temporary, 0o600)
            .map_err(|cause| path::failed("cannot make a FIFO beside", &path, cause))?;
        let made = set_mode(&temporary, mode).and_then(|()| sys::file::rename_noreplace(&temporary, &path));
        if let Err(cause) = made {
            fs::remove_file(&temporary)?;
            if cause.kind() != io::ErrorKind::AlreadyExists {
                return Err(path::failed("cannot make the FIFO", &path, cause));
            }
        }
        // Made here, or by another process after the check above.
        let gone = || path::error(io::ErrorKind::NotFound, &path, "was removed just after it was made");
        Fifo::find(&path, mode)?.ok_or_else(gone)
    }

    /// The FIFO at `path`, if it belongs to this user and has this mode. `None`: no file is there.
    fn find(path: &Path, mode: u32) -> io::Result<Option<Fifo>> {
        let pin = match pin(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(path::failed("cannot look at", path, cause)),
            Ok(pin) => pin,
        };
        let found = pin.metadata()?;
        let occupied = |why: &str| Err(path::error(io::ErrorKind::AlreadyExists, path, why));
        if !found.file_type().is_fifo() {
            return occupied("exists already and is no FIFO; it was not removed");
        }
        if found.uid() != sys::process::effective_uid() {
            return occupied(&format!("is a FIFO of another user, {}; choose another path", found.uid()));
        }
        if found.mode() & 0o7777 != mode {
            let has = found.mode() & 0o7777;
            return occupied(&format!("is a FIFO with mode {has:03o}, not {mode:03o}; remove it first"));
        }
        let (path, id) = (path.to_owned(), FileId::of(&found));
        Ok(Some(Fifo { path, id, _pin: pin, owner_pid: process::id() }))
    }

    /// Its path, which is absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for reading. A read returns the end of file (`Ok(0)`) while there is no writer. The next writer's bytes
    /// come on the same reader.
    ///
    /// # Errors
    /// `NotFound`: the path belongs to another file by now, or was removed. Those of `open(2)`.
    pub fn reader(&self) -> io::Result<PipeReader> {
        Ok(PipeReader { file: self.open(OpenOptions::new().read(true))?, _writer: None })
    }

    /// Opens it for reading, and keeps it open for writing, too. So there is never an end of file, and a writer's
    /// closing is not reported.
    ///
    /// # Errors
    /// Those of [`reader`](Fifo::reader).
    pub fn reader_kept_open(&self) -> io::Result<PipeReader> {
        let reader = self.reader()?;
        let writer = self.open(OpenOptions::new().write(true))?;
        Ok(PipeReader { _writer: Some(writer), ..reader })
    }

    /// Opens it for writing.
    ///
    /// # Errors
    /// `NotConnected`: it has no reader. Those of [`reader`](Fifo::reader).
    pub fn writer(&self) -> io::Result<PipeWriter> {
        Ok(PipeWriter { file: self.open(OpenOptions::new().write(true))? })
    }

    fn open(&self, options: &mut OpenOptions) -> io::Result<File> {
        let file = options
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW)
            .open(&self.path)
            .map_err(|cause| explain_open(&self.path, cause))?;
        if FileId::of(&file.metadata()?) != self.id {
            return Err(path::error(
                io::ErrorKind::NotFound,
                &self.path,
                "is the name of another file by now",
            ));
        }
        Ok(file)
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        if self.owner_pid != process::id() {
            return;
        }
        if let Err(cause) = path::remove_exactly(&self.path, self.id) {
            log::warn!(target: "ipc_reactor", "cannot remove the FIFO {:?}: {cause}", self.path);
        }
    }
}

/// Opens whatever is at `path` with `O_PATH`, and does not follow a symbolic link.
fn pin(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// `chmod(2)`.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
