//! The owner of a FIFO's path.

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

/// A FIFO at a path, which it removes when it is dropped, if the path still means that FIFO. See fifo(7).
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
    /// Pins the inode, so that its number cannot be given to another file while it serves as its identity.
    _pin: File,
    /// A forked child inherits the value, not the duty.
    owner_pid: u32,
}

impl Fifo {
    /// Makes a FIFO at `path` with the permissions `mode`, whatever the umask; no instant has wider ones. The path is
    /// absolute from then on.
    ///
    /// A FIFO that is there already is taken over if it is this user's and has this mode: what a crash has left, with those who
    /// have it open. Anything else is left as it is.
    ///
    /// # Errors
    /// `AlreadyExists`: something else is there, named in the error; a symbolic link is not followed. `InvalidInput`: `mode` has more than
    /// the nine permission bits. Those of mkfifo(3) and rename(2).
    pub fn create(path: impl AsRef<Path>, mode: u32) -> io::Result<Fifo> {
        if mode & !0o777 != 0 {
            let why = format!("{mode:#o} are no permissions: only the bits of 0o777 are");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let path = std::path::absolute(path)?;
        let adopted = Fifo::find(&path, mode)?;
        if let Some(fifo) = adopted {
            return Ok(fifo);
        }
        // Made under a name that nobody expects: its mode is right before anyone can find it.
        let temporary = path::temporary_name(&path);
        sys::pipe::mkfifo(&temporary, 0o600)
            .map_err(|cause| path::failed("cannot make a FIFO beside", &path, cause))?;
        let made = set_mode(&temporary, mode).and_then(|()| sys::path::rename_noreplace(&temporary, &path));
        if let Err(cause) = made {
            fs::remove_file(&temporary)?;
            if cause.kind() != io::ErrorKind::AlreadyExists {
                return Err(path::failed("cannot make the FIFO", &path, cause));
            }
        }
        // Made by us, or by another since we looked.
        let gone = || path::error(io::ErrorKind::NotFound, &path, "was removed as soon as it was made");
        Fifo::find(&path, mode)?.ok_or_else(gone)
    }

    /// A FIFO of ours at `path`; None if nothing is there.
    fn find(path: &Path, mode: u32) -> io::Result<Option<Fifo>> {
        let pin = match pin(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(path::failed("cannot look at", path, cause)),
            Ok(pin) => pin,
        };
        let found = pin.metadata()?;
        let occupied = |why: &str| Err(path::error(io::ErrorKind::AlreadyExists, path, why));
        if !found.file_type().is_fifo() {
            return occupied("is there already and is no FIFO; it was neither followed nor removed");
        }
        if found.uid() != sys::mq::effective_uid() {
            return occupied(&format!("is a FIFO of another user, {}", found.uid()));
        }
        if found.mode() & 0o7777 != mode {
            let is = found.mode() & 0o7777;
            return occupied(&format!("is a FIFO with mode {is:03o}, not {mode:03o}; remove it first"));
        }
        let (path, id) = (path.to_owned(), FileId::of(&found));
        Ok(Some(Fifo { path, id, _pin: pin, owner_pid: process::id() }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for reading. There is an end of file (`Ok(0)`) whenever the last writer has left, and before the
    /// first has come; the next writer's bytes come on the same reader.
    ///
    /// # Errors
    /// `NotFound`: the path means another file by now, or nothing. Those of open(2).
    pub fn reader(&self) -> io::Result<PipeReader> {
        Ok(PipeReader { file: self.open(OpenOptions::new().read(true))?, _writer: None })
    }

    /// Opens it for reading, and holds it open for writing too: there never is an end of file, and writers come and go
    /// unnoticed.
    ///
    /// # Errors
    /// As for [`reader`](Fifo::reader).
    pub fn reader_kept_open(&self) -> io::Result<PipeReader> {
        let reader = self.reader()?;
        let writer = self.open(OpenOptions::new().write(true))?;
        Ok(PipeReader { _writer: Some(writer), ..reader })
    }

    /// Opens it for writing.
    ///
    /// # Errors
    /// `NotConnected`: nobody has it open for reading. Those of [`reader`](Fifo::reader).
    pub fn writer(&self) -> io::Result<PipeWriter> {
        Ok(PipeWriter { file: self.open(OpenOptions::new().write(true))? })
    }

    fn open(&self, options: &mut OpenOptions) -> io::Result<File> {
        let file = options
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW)
            .open(&self.path)
            .map_err(|cause| explain_open(&self.path, cause))?;
        if FileId::of(&file.metadata()?) != self.id {
            return Err(path::error(io::ErrorKind::NotFound, &self.path, "means another file by now"));
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
            log::warn!(target: "ipc_reactor", "FIFO {:?} stays: {cause}", self.path);
        }
    }
}

fn pin(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// chmod(2) of a file of ours that nobody else knows.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
