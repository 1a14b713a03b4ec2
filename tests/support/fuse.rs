//! A file system whose server stops answering: each call that the kernel sends to it blocks, and SIGKILL does not
//! interrupt it.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const INIT: u32 = 26;
const NO_SUCH_CALL: i32 = -libc::ENOSYS;

/// The file system, mounted where only this process sees it. After [`PATIENCE`] it is aborted, so that what blocks fails.
pub(crate) struct Stuck {
    folder: tempfile::TempDir,
    is_stuck: Arc<AtomicBool>,
    has_blocked: Arc<AtomicBool>,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Stuck {
    /// `None`, and the test is skipped, where there is no FUSE or no right to mount it.
    #[track_caller]
    pub(crate) fn mount() -> Option<Stuck> {
        if !super::needs_root("mounts a file system") {
            return None;
        }
        let device = File::options().read(true).write(true).open("/dev/fuse");
        if !super::can(device.is_ok(), "there is no /dev/fuse") {
            return None;
        }
        let device = device.unwrap();
        let folder = tempfile::tempdir().unwrap();
        // SAFETY: takes no pointer.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        mount("none", Path::new("/"), libc::MS_REC | libc::MS_PRIVATE, "");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount("fuse", folder.path(), libc::MS_NOSUID | libc::MS_NODEV, &options);
        let is_stuck = Arc::new(AtomicBool::new(false));
        let stuck = is_stuck.clone();
        thread::spawn(move || serve(device, &stuck));
        Some(Stuck { folder, is_stuck, has_blocked: Arc::default() })
    }

    /// Opens a file of it. From now on the server answers no call.
    pub(crate) fn file(&self) -> OwnedFd {
        self.is_stuck.store(false, Ordering::SeqCst);
        let file = File::options().read(true).write(true).open(self.folder.path().join("file")).unwrap();
        self.is_stuck.store(true, Ordering::SeqCst);
        file.into()
    }

    /// Fails if `work` does not return by itself.
    #[track_caller]
    pub(crate) fn does_not_block<T>(&self, work: impl FnOnce() -> T) -> T {
        let done = Arc::new(AtomicBool::new(false));
        let (has_ended, has_blocked) = (done.clone(), self.has_blocked.clone());
        let at = self.folder.path().to_owned();
        thread::spawn(move || {
            thread::sleep(PATIENCE);
            if !has_ended.load(Ordering::SeqCst) {
                has_blocked.store(true, Ordering::SeqCst);
                abort(&at);
            }
        });
        let result = work();
        done.store(true, Ordering::SeqCst);
        assert!(!self.has_blocked.load(Ordering::SeqCst), "it has blocked");
        result
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        abort(self.folder.path());
    }
}

/// All calls that wait fail from now on.
fn abort(at: &Path) {
    let at = CString::new(at.as_os_str().as_bytes()).unwrap();
    // SAFETY: a C string that outlives the call.
    unsafe { libc::umount2(at.as_ptr(), libc::MNT_FORCE | libc::MNT_DETACH) };
}

fn mount(kind: &str, at: &Path, flags: libc::c_ulong, options: &str) {
    let kind = CString::new(kind).unwrap();
    let (at, options) = (CString::new(at.as_os_str().as_bytes()).unwrap(), CString::new(options).unwrap());
    // SAFETY: all are C strings that outlive the call.
    let mounted =
        unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
}

/// The protocol, as far as it takes to look up and open one file.
fn serve(mut device: File, is_stuck: &AtomicBool) {
    let mut request = vec![0; 1 << 17];
    while let Ok(len) = device.read(&mut request) {
        if len == 0 {
            return;
        }
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        if is_stuck.load(Ordering::SeqCst) {
            continue;
        }
        let (error, answer) = match word(4) {
            // Version 7.12, which has a short answer.
            INIT => (0, words(&[7, 12, 0, 0, 0, 4096])),
            LOOKUP => {
                (0, [words(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]), attributes(2, libc::S_IFREG | 0o666)].concat())
            }
            GETATTR => (0, [words(&[0; 4]), attributes(1, libc::S_IFDIR | 0o777)].concat()),
            OPEN => (0, words(&[1, 0, 0, 0])),
            _ => (NO_SUCH_CALL, Vec::new()),
        };
        let mut reply = words(&[16 + answer.len() as u32, error.cast_unsigned()]);
        reply.extend_from_slice(&request[8..16]);
        reply.extend(answer);
        let _ = device.write_all(&reply);
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn attributes(inode: u32, mode: u32) -> Vec<u8> {
    // ino, size, blocks, three times; three times' nanoseconds, mode, nlink, uid, gid, rdev, blksize, padding
    words(&[inode, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])
}
