//! Bare mappings, and the objects below them.

use ipc_reactor::shm::{Access, Mapping, Memfd, NamedText, SharedObject};
use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, mknodat};
use rustix::io::Errno;

use crate::support::shm::{ShmName, refused};

const PAGE: u64 = 4096;

#[test]
fn bytes_arrive_at_every_offset_and_length_and_leave_their_neighbours() {
    let map = Mapping::anonymous(4096).unwrap();
    let blank = [0xaa; 200];
    for offset in 0..18 {
        for len in 0..140 {
            map.write(0, &blank).unwrap();
            let value: Vec<u8> = (0..len).map(|i| (i + offset) as u8).collect();
            map.write(offset, &value).unwrap();

            let mut whole = [0; 200];
            map.read(0, &mut whole).unwrap();
            let mut expected = blank;
            expected[offset..offset + len].copy_from_slice(&value);
            assert_eq!(whole, expected, "offset {offset} length {len}");

            let mut part = vec![0; len];
            map.read(offset, &mut part).unwrap();
            assert_eq!(part, value, "offset {offset} length {len}");
        }
    }
}

#[test]
fn access_ends_where_the_mapping_does() {
    let map = Mapping::anonymous(10).unwrap();
    map.write(3, b"1234567").unwrap();
    map.write(10, b"").unwrap();
    for (offset, len) in [(3, 8), (10, 1), (11, 0), (usize::MAX, 1), (1, usize::MAX >> 1)] {
        let mut bytes = vec![0; len.min(16)];
        if len <= 16 {
            refused(map.read(offset, &mut bytes), ErrorKind::InvalidInput, "leave the mapping's 10");
            refused(map.write(offset, &bytes), ErrorKind::InvalidInput, "leave the mapping's 10");
        }
    }
}

#[test]
fn two_threads_do_not_lose_each_others_bytes_of_a_word() {
    let map = Mapping::anonymous(8).unwrap();
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let map = &map;
            scope.spawn(move || {
                for i in 0..20_000u16 {
                    map.write(lane * 2, &i.to_ne_bytes()).unwrap();
                    let mut back = [0; 2];
                    map.read(lane * 2, &mut back).unwrap();
                    assert_eq!(u16::from_ne_bytes(back), i);
                }
            });
        }
    });
}

#[test]
fn a_file_is_shared_from_any_page_on_and_its_descriptor_may_go() {
    let file = tempfile::tempfile().unwrap();
    let writer = Mapping::of(&file, PAGE, 100, Access::ReadWrite).unwrap();
    assert_eq!(file.metadata().unwrap().len(), PAGE + 100, "a read-write map makes the file grow");
    let reader = Mapping::of(file.try_clone().unwrap(), 0, PAGE as usize + 100, Access::ReadOnly).unwrap();
    let kept = file.try_clone().unwrap();
    drop(file);

    writer.write(7, b"update").unwrap();
    let (mut mapped, mut read) = ([0; 6], [0; 6]);
    reader.read(PAGE as usize + 7, &mut mapped).unwrap();
    kept.read_exact_at(&mut read, PAGE + 7).unwrap();
    assert_eq!((&mapped, &read), (b"update", b"update"));

    refused(reader.write(0, b"x"), ErrorKind::PermissionDenied, "read-only");
}

#[test]
fn impossible_mappings_say_why() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(100).unwrap();
    let read_only = File::open(file.path()).unwrap();
    let map = |offset, len, access| Mapping::of(&read_only, offset, len, access);

    refused(map(100, 1, Access::ReadOnly), ErrorKind::InvalidInput, "map from 0 instead");
    refused(map(PAGE + 1, 1, Access::ReadOnly), ErrorKind::InvalidInput, "map from 4096 instead");
    refused(map(0, 0, Access::ReadOnly), ErrorKind::InvalidInput, "at least one byte");
    refused(Mapping::anonymous(0), ErrorKind::InvalidInput, "at least one byte");
    refused(
        map(u64::MAX / PAGE * PAGE, 4096, Access::ReadOnly),
        ErrorKind::InvalidInput,
        "ends past every file",
    );
    refused(map(0, 101, Access::ReadOnly), ErrorKind::UnexpectedEof, "0..101 of an object of 100 bytes");
    refused(map(0, 100, Access::ReadWrite), ErrorKind::PermissionDenied, "not open for writing");
    assert!(map(0, 100, Access::ReadOnly).is_ok());
    let (pipe, _other) = std::io::pipe().unwrap();
    assert!(Mapping::of(pipe, 0, 1, Access::ReadOnly).is_err());
}

#[test]
fn a_sealed_memfd_cannot_change_its_size_nor_get_another_writer() {
    let memfd = Memfd::create("test", PAGE).unwrap();
    let ours = Mapping::of(&memfd, 0, 4096, Access::ReadWrite).unwrap();
    memfd.seal_published().unwrap();
    refused(memfd.seal_size(), ErrorKind::PermissionDenied, "");

    let file = File::from(OwnedFd::from(memfd));
    for len in [0, PAGE - 1, PAGE + 1] {
        assert_eq!(file.set_len(len).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    assert_eq!(file.write_at(b"x", 0).unwrap_err().kind(), ErrorKind::PermissionDenied);
    refused(Mapping::of(&file, 0, 4096, Access::ReadWrite), ErrorKind::PermissionDenied, "cannot map");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched = rustix::fs::fallocate(&file, punch, 0, 4096);
    assert_eq!(punched.unwrap_err(), Errno::PERM, "a hole was punched into sealed memory");

    ours.write(0, b"still").unwrap();
    let mut copy = [0; 5];
    Mapping::of(&file, 0, 4096, Access::ReadOnly).unwrap().read(0, &mut copy).unwrap();
    assert_eq!(&copy, b"still");
}

#[test]
fn a_named_object_is_new_private_and_gone_when_unlinked() {
    let name = ShmName::new();
    let object = SharedObject::create(&name.0, 100, 0o600).unwrap();
    assert_eq!(object.len().unwrap(), 100);
    let metadata = std::fs::metadata(name.path()).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    assert!(metadata.blocks() > 0, "its memory is reserved");
    refused(SharedObject::create(&name.0, 100, 0o600), ErrorKind::AlreadyExists, "cannot create");

    let map = object.map(Access::ReadWrite).unwrap();
    drop(object);
    SharedObject::unlink(&name.0).unwrap();
    refused(SharedObject::open(&name.0, Access::ReadOnly), ErrorKind::NotFound, "cannot open");
    refused(SharedObject::unlink(&name.0), ErrorKind::NotFound, "cannot unlink");
    map.write(0, b"alive").unwrap();
}

#[test]
fn the_mode_is_exact_whatever_the_umask() {
    let name = ShmName::new();
    SharedObject::create(&name.0, 1, 0o666).unwrap();
    assert_eq!(std::fs::metadata(name.path()).unwrap().mode() & 0o7777, 0o666);
    refused(SharedObject::open(&name.0, Access::ReadOnly), ErrorKind::PermissionDenied, "mode 0666");
    SharedObject::open_any(&name.0, Access::ReadOnly).unwrap();
    std::fs::set_permissions(name.path(), Permissions::from_mode(0o644)).unwrap();
    SharedObject::open(&name.0, Access::ReadWrite).unwrap();
}

#[test]
fn names_are_a_slash_and_no_other() {
    for name in ["", "/", "name", "/a/b", "/..", "//x", "/."] {
        refused(SharedObject::create(name, 1, 0o600), ErrorKind::InvalidInput, "no shared memory name");
        refused(SharedObject::open(name, Access::ReadOnly), ErrorKind::InvalidInput, "no shared memory name");
        refused(SharedObject::unlink(name), ErrorKind::InvalidInput, "no shared memory name");
    }
    refused(SharedObject::create("/a\0b", 1, 0o600), ErrorKind::InvalidInput, "NUL");
    refused(Memfd::create("a\0b", 1), ErrorKind::InvalidInput, "NUL");
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let (name, target) = (ShmName::new(), ShmName::new());
    SharedObject::create(&target.0, 1, 0o600).unwrap();
    std::os::unix::fs::symlink(target.path(), name.path()).unwrap();
    assert!(SharedObject::open_any(&name.0, Access::ReadOnly).is_err());
    assert!(SharedObject::create(&name.0, 1, 0o600).is_err());
}

#[test]
fn a_fifo_of_that_name_does_not_hang_us() {
    let name = ShmName::new();
    mknodat(CWD, name.path(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    refused(
        SharedObject::open(&name.0, Access::ReadOnly),
        ErrorKind::InvalidInput,
        "no shared memory object",
    );
    let text = NamedText::new(&name.0).any_owner(true);
    refused(text.read(), ErrorKind::InvalidInput, "no shared memory object");
    assert!(text.write(c"x").is_err());
}
