//! The path of a FIFO: which process may make it, and which removes it.

use super::*;

pub(crate) fn modes() {
    for (umask, mode) in [("077", 0o660), ("000", 0o600), ("022", 0o622), ("000", 0o666)] {
        let (folder, path) = place();
        // The umask belongs to the process, and this one is the case's own.
        let umask = u32::from_str_radix(umask, 8).unwrap();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
        let fifo = Fifo::create(&path, mode).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_fifo());
        assert_eq!(metadata.mode() & 0o7777, mode, "umask {umask:03o}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "and nothing beside it");
        drop(fifo);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "removed on drop");
    }
    let (_folder, path) = place();
    for mode in [0o1600, 0o4600, 0o100_600] {
        assert_eq!(Fifo::create(&path, mode).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

pub(crate) fn occupied() {
    let (folder, path) = place();
    let refused = |what: &str| {
        let before = fs::symlink_metadata(&path).unwrap();
        let error = Fifo::create(&path, 0o600).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{what}: {error}");
        let after = fs::symlink_metadata(&path).unwrap();
        assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()), "{what} stays");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing beside {what}");
        error.to_string()
    };
    fs::write(&path, "precious").unwrap();
    assert!(refused("a file").contains("no FIFO"));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();

    fs::create_dir(&path).unwrap();
    refused("a directory");
    fs::remove_dir(&path).unwrap();

    symlink(folder.path().join("nowhere"), &path).unwrap();
    refused("a dangling link");
    fs::remove_file(&path).unwrap();

    let socket = UnixListener::bind(&path).unwrap();
    refused("a socket");
    drop(socket);
    fs::remove_file(&path).unwrap();

    Shell::run("mkfifo -m 666 \"$1\"", &path);
    assert!(refused("a FIFO that everybody may write").contains("666"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    match std::os::unix::fs::chown(&path, Some(65534), None) {
        Ok(()) => assert!(refused("a FIFO of another user").contains("65534")),
        Err(error) => crate::support::skip(&format!("in part: only root gives files away: {error}")),
    }
    for error in [PipeReader::open("/dev/null").unwrap_err(), PipeWriter::open("/dev/null").unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

pub(crate) fn left_over() {
    let (_folder, path) = place();
    Shell::run("mkfifo -m 600 \"$1\"", &path);
    let before = fs::metadata(&path).unwrap().ino();
    let mut held = PipeReader::open(&path).unwrap();
    let fifo = Fifo::create(&path, 0o600).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), before, "the same one");
    assert_eq!(fifo.path(), path);
    fifo.writer().unwrap().write_all(b"x").unwrap();
    assert_eq!(held.read(&mut [0; 2]).unwrap(), 1, "who has it open is still connected");
    drop(fifo);
    assert!(!path.exists());
}

pub(crate) fn swapped() {
    let (_folder, path) = place();
    let fifo = Fifo::create(&path, 0o600).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(fifo.reader().unwrap_err().kind(), ErrorKind::NotFound);
    Shell::run("mkfifo -m 600 \"$1\"", &path);
    assert_eq!(fifo.reader().unwrap_err().kind(), ErrorKind::NotFound, "a stranger");
    drop(fifo);
    assert!(path.exists(), "it is not ours");

    fs::remove_file(&path).unwrap();
    let fifo = Fifo::create(&path, 0o600).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    drop(fifo);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

pub(crate) fn no_directory() {
    let (folder, _) = place();
    let error = Fifo::create(folder.path().join("missing/fifo"), 0o600).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("missing/fifo"), "{error}");
}
