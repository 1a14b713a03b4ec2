//! A directory's changes: inotify(7).

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};

/// Reports what is created, written, renamed and deleted in a directory, or the changes of one file.
pub(crate) fn watch(path: &Path) -> io::Result<OwnedFd> {
    let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let events = WatchFlags::CREATE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF;
    add_watch(&inotify, path, events)?;
    Ok(inotify)
}

/// Calls the closure with each change of one read. `WouldBlock` means that there is none.
pub(crate) fn each(inotify: impl AsFd, mut tell: impl FnMut(&str, &str)) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(inotify, &mut buffer);
    loop {
        let event = reader.next()?;
        let name = event.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        for (flag, what) in [
            (ReadFlags::CREATE, "created"),
            (ReadFlags::CLOSE_WRITE, "written"),
            (ReadFlags::MOVED_FROM, "renamed from"),
            (ReadFlags::MOVED_TO, "renamed to"),
            (ReadFlags::DELETE, "deleted"),
            (ReadFlags::DELETE_SELF, "deleted itself"),
            (ReadFlags::MOVE_SELF, "renamed itself"),
            (ReadFlags::QUEUE_OVERFLOW, "lost: look at the directory anew"),
        ] {
            if event.events().contains(flag) {
                tell(what, &name);
            }
        }
        // Events that remain in the buffer would be lost with the reader.
        if reader.is_buffer_empty() {
            return Ok(());
        }
    }
}
