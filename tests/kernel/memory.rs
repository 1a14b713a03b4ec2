//! Shared memory: what can make a reader's access fail with SIGBUS, and what prevents that.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use libc::{EACCES, ENOSPC, EPERM, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, SIGBUS};

use crate::kit::{End, alone, check, errno, fork, own, skip};

const SEGMENT_BYTES: usize = 64 * 1024;

/// A shared mapping of a file's first [`SEGMENT_BYTES`] bytes.
struct Mapping(NonNull<u8>);

impl Mapping {
    fn of(file: &File) -> io::Result<Self> {
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: the kernel chooses an unused address.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), SEGMENT_BYTES, protection, libc::MAP_SHARED, fd, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(NonNull::new(address.cast()).expect("not at zero")))
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < SEGMENT_BYTES);
        // SAFETY: inside the mapping.
        unsafe { self.0.add(offset) }
    }

    fn read(&self, offset: usize) -> u8 {
        let byte = self.at(offset);
        // SAFETY: inside the mapping. That the page may be gone, and the read a SIGBUS, is what the tests are about.
        unsafe { byte.read_volatile() }
    }

    fn write(&self, offset: usize, value: u8) {
        let byte = self.at(offset);
        // SAFETY: as in `read`.
        unsafe { byte.write_volatile(value) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows from it.
        unsafe { libc::munmap(self.0.as_ptr().cast(), SEGMENT_BYTES) };
    }
}

fn memfd(flags: u32) -> io::Result<File> {
    // SAFETY: the name is a C string.
    let fd = own(unsafe { libc::memfd_create(c"kernel-contract".as_ptr(), libc::MFD_CLOEXEC | flags) })?;
    let file = File::from(fd);
    file.set_len(SEGMENT_BYTES as u64)?;
    Ok(file)
}

fn add_seals(file: &File, seals: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}

fn seals(file: &File) -> io::Result<i32> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) })
}

/// A shared-memory object; unlinked when dropped.
struct Named(CString);

impl Named {
    fn create(name: &str) -> io::Result<(Self, File)> {
        let name = Self(CString::new(format!("/{name}-{}", std::process::id())).expect("no NUL"));
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        // SAFETY: the name is a C string that outlives the call.
        let fd: OwnedFd = own(unsafe { libc::shm_open(name.0.as_ptr(), flags, 0o600) })?;
        Ok((name, File::from(fd)))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // SAFETY: the name is a C string that outlives the call.
        unsafe { libc::shm_unlink(self.0.as_ptr()) };
    }
}

fn allocate(file: &File, bytes: usize) -> io::Result<()> {
    // SAFETY: no pointers.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as i64) } {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

fn mount(kind: &CStr, at: &CStr, flags: u64, options: &CStr) -> io::Result<()> {
    let (kind, at, options) = (kind.as_ptr(), at.as_ptr(), options.as_ptr());
    // SAFETY: all are C strings that outlive the call.
    check(unsafe { libc::mount(kind, at, kind, flags, options.cast()) }).map(drop)
}

/// A tmpfs of 16 KiB in a mount namespace of this process; unmounted when dropped.
struct SmallTmpfs(CString);

impl SmallTmpfs {
    fn at(path: &Path) -> io::Result<Self> {
        // SAFETY: no pointers.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE, c"")?;
        let at = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
        mount(c"tmpfs", &at, 0, c"size=16k")?;
        Ok(Self(at))
    }
}

impl Drop for SmallTmpfs {
    fn drop(&mut self) {
        // SAFETY: the path is a C string that outlives the call.
        unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
    }
}

/// On a tmpfs too small for it, `ftruncate` to a size succeeds and the write to the mapping ends with SIGBUS;
/// `posix_fallocate` fails with ENOSPC beforehand. So a segment's memory is allocated before it is mapped.
#[test]
fn ftruncate_on_a_full_tmpfs_succeeds_and_the_write_is_sigbus() -> io::Result<()> {
    alone(|| {
        let folder = tempfile::tempdir()?;
        let mounted = SmallTmpfs::at(folder.path());
        if let Err(error) = &mounted
            && [EPERM, EACCES].contains(&error.raw_os_error().unwrap_or(0))
        {
            skip("a tmpfs of one's own takes CAP_SYS_ADMIN");
            return Ok(());
        }
        let _mounted = mounted?;
        let file = File::create_new(folder.path().join("segment"))?;
        file.set_len(SEGMENT_BYTES as u64)?;
        let mapping = Mapping::of(&file)?;
        mapping.write(0, 1);
        let writer = fork(|| {
            (0..SEGMENT_BYTES).step_by(4096).for_each(|offset| mapping.write(offset, 1));
            Ok(())
        })?;
        assert_eq!(writer.wait()?, End::Signal(SIGBUS));
        file.set_len(0)?;
        assert_eq!(errno(allocate(&file, SEGMENT_BYTES)), ENOSPC);
        allocate(&file, 4096)
    })
}

/// A mapping that another process truncates reads as SIGBUS. So a segment that others may truncate is for trusted
/// peers only.
#[test]
fn a_mapping_truncated_by_another_is_sigbus() -> io::Result<()> {
    alone(|| {
        let file = memfd(0)?;
        let mapping = Mapping::of(&file)?;
        mapping.write(SEGMENT_BYTES - 1, 9);
        assert_eq!(mapping.read(SEGMENT_BYTES - 1), 9);
        assert_eq!(fork(|| file.set_len(0))?.wait()?, End::Exit(0));
        let reader = fork(|| {
            mapping.read(SEGMENT_BYTES - 1);
            Ok(())
        })?;
        assert_eq!(reader.wait()?, End::Signal(SIGBUS));
        Ok(())
    })
}

/// A memfd sealed against shrinking and growing refuses both with EPERM, for every process, and with the seals sealed
/// no process can change that. So a reader that has checked the seals needs no SIGBUS handler.
#[test]
fn a_sealed_memfd_refuses_to_be_truncated() -> io::Result<()> {
    let file = memfd(libc::MFD_ALLOW_SEALING)?;
    let wanted = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    add_seals(&file, wanted)?;
    assert_eq!(seals(&file)?, wanted);
    assert_eq!(errno(file.set_len(0)), EPERM);
    assert_eq!(errno(file.set_len(2 * SEGMENT_BYTES as u64)), EPERM);
    assert_eq!(errno(add_seals(&file, libc::F_SEAL_WRITE)), EPERM);
    let mapping = Mapping::of(&file)?;
    mapping.write(SEGMENT_BYTES - 1, 9);
    assert_eq!(Mapping::of(&file)?.read(SEGMENT_BYTES - 1), 9, "writing is as before");
    Ok(())
}

/// A memfd made without `MFD_ALLOW_SEALING` cannot be sealed later. So the publisher asks for it at the creation.
#[test]
fn a_memfd_not_made_for_sealing_cannot_be_sealed() -> io::Result<()> {
    let file = memfd(0)?;
    assert_eq!(seals(&file)?, F_SEAL_SEAL);
    assert_eq!(errno(add_seals(&file, F_SEAL_SHRINK)), EPERM);
    Ok(())
}

/// Objects of `shm_open` cannot be sealed: they come with the seals sealed. So named segments are a mode for trusted
/// peers, and the crate's documentation says so.
#[test]
fn objects_of_shm_open_cannot_be_sealed() -> io::Result<()> {
    let (_name, file) = Named::create("kernel-contract")?;
    file.set_len(SEGMENT_BYTES as u64)?;
    assert_eq!(errno(add_seals(&file, F_SEAL_SHRINK | F_SEAL_GROW)), EPERM);
    assert_eq!(seals(&file)?, F_SEAL_SEAL);
    file.set_len(0)
}
