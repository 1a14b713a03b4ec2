//! Sockets: addresses, connecting, closing. What a single read gives is in `ancillary.rs`.
#![allow(unsafe_code)]

use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use libc::{EADDRINUSE, EAGAIN, ECONNREFUSED, ECONNRESET, EMFILE, ENOENT, EPIPE, EPOLLIN, EPOLLOUT, SIGPIPE};

use crate::kit::{Edge, End, Epoll, Limit, alone, check, check_len, errno, fork, own, set_limit};

fn unix_socket(kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })
}

fn address(path: &Path) -> libc::sockaddr_un {
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: [0; 108] };
    let bytes = path.as_os_str().as_bytes();
    assert!(bytes.len() < address.sun_path.len(), "{path:?} is too long for a socket's address");
    for (to, &from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from as libc::c_char;
    }
    address
}

fn bind(socket: &OwnedFd, path: &Path) -> io::Result<()> {
    let (address, len) = (address(path), size_of::<libc::sockaddr_un>() as u32);
    // SAFETY: pointer and length are the address's.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

fn listen(socket: OwnedFd, backlog: i32) -> io::Result<UnixListener> {
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(UnixListener::from(socket))
}

/// A non-blocking connect.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = unix_socket(libc::SOCK_STREAM)?;
    let (address, len) = (address(path), size_of::<libc::sockaddr_un>() as u32);
    // SAFETY: pointer and length are the address's.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(UnixStream::from(socket))
}

fn listener(path: &Path) -> io::Result<UnixListener> {
    let socket = unix_socket(libc::SOCK_STREAM)?;
    bind(&socket, path)?;
    listen(socket, 4096)
}

/// `write(2)`, as it is done for a file, a pipe or a socket.
fn write(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are the slice's.
    check_len(unsafe { libc::write(fd.as_fd().as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) })
}

fn send_no_signal(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let (pointer, flags) = (bytes.as_ptr().cast(), libc::MSG_NOSIGNAL);
    // SAFETY: pointer and length are the slice's.
    check_len(unsafe { libc::send(fd.as_fd().as_raw_fd(), pointer, bytes.len(), flags) })
}

fn fchmod(fd: &OwnedFd, mode: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }).map(drop)
}

/// A burst of connects before the wait is one edge. A server that accepts one and waits again is not woken for the
/// others, though they are there. So the crate's listener stays ready until `accept` fails with EAGAIN.
#[test]
fn a_burst_of_connects_is_one_edge() -> io::Result<()> {
    let (epoll, folder) = (Epoll::new()?, tempfile::tempdir()?);
    let path = folder.path().join("s");
    let listener = listener(&path)?;
    epoll.add(&listener, EPOLLIN, 0)?;
    let clients = (0..5).map(|_| connect(&path)).collect::<io::Result<Vec<_>>>()?;
    assert_eq!(epoll.one(), Edge { data: 0, mask: EPOLLIN });
    listener.accept()?;
    assert_eq!(epoll.now(), [], "stopped early: four wait, and no edge follows");
    for _ in 1..clients.len() {
        listener.accept()?;
    }
    assert_eq!(errno(listener.accept()), EAGAIN);
    connect(&path)?;
    assert_eq!(epoll.one(), Edge { data: 0, mask: EPOLLIN }, "the next connect makes the next edge");
    Ok(())
}

/// An `accept` refused with EMFILE takes nothing from the backlog, and no edge follows, not even when descriptors
/// are free again: the client waits until another one connects. So the listener stays ready, and tries again at a
/// close or by a timer.
#[test]
fn emfile_from_accept_strands_the_client() -> io::Result<()> {
    alone(|| {
        let (epoll, folder) = (Epoll::new()?, tempfile::tempdir()?);
        let path = folder.path().join("s");
        let listener = listener(&path)?;
        epoll.add(&listener, EPOLLIN, 0)?;
        let _client = connect(&path)?;
        assert_eq!(epoll.one().mask, EPOLLIN);
        let next_free = listener.try_clone()?.as_raw_fd();
        let before = set_limit(Limit::Descriptors, next_free as u64)?;
        assert_eq!(errno(listener.accept()), EMFILE);
        assert_eq!(epoll.now(), []);
        set_limit(Limit::Descriptors, before)?;
        assert_eq!(epoll.now(), [], "descriptors are to be had again, and nobody says so");
        listener.accept().map(drop)
    })
}

/// A full backlog refuses a non-blocking connect with EAGAIN, and a path whose server is gone with ECONNREFUSED. So
/// only the second shows a stale socket; the first is a live server.
#[test]
fn a_full_backlog_is_eagain_and_a_stale_path_is_econnrefused() -> io::Result<()> {
    alone(|| {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("s");
        let socket = unix_socket(libc::SOCK_STREAM)?;
        bind(&socket, &path)?;
        assert_eq!(errno(connect(&path)), ECONNREFUSED, "bound, and not listening yet");
        let listener = listen(socket, 0)?;
        let _first = connect(&path)?;
        assert_eq!(errno(connect(&path)), EAGAIN);
        assert_eq!(errno(bind(&unix_socket(libc::SOCK_STREAM)?, &path)), EADDRINUSE);
        drop(listener);
        assert_eq!(errno(connect(&path)), ECONNREFUSED);
        assert_eq!(errno(bind(&unix_socket(libc::SOCK_STREAM)?, &path)), EADDRINUSE, "the path stays");
        std::fs::remove_file(&path)?;
        assert_eq!(errno(connect(&path)), ENOENT);
        Ok(())
    })
}

/// A connect to a regular file is refused as by a stale socket. So ECONNREFUSED alone is no reason to unlink: the
/// path must be a socket, too.
#[test]
fn a_regular_file_refuses_like_a_stale_socket() -> io::Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    assert_eq!(errno(connect(file.path())), ECONNREFUSED);
    Ok(())
}

/// `fchmod` on the socket before `bind` is the mode that the path is created with. So there is no moment in which
/// others may connect, as there is with a `chmod` after.
#[test]
fn fchmod_before_bind_sets_the_mode_of_the_path() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    for mode in [0o600, 0o700] {
        let path = folder.path().join(format!("{mode:o}"));
        let socket = unix_socket(libc::SOCK_STREAM)?;
        fchmod(&socket, mode)?;
        bind(&socket, &path)?;
        assert_eq!(path.metadata()?.permissions().mode() & 0o777, mode);
    }
    // After the bind the descriptor's mode is its own again.
    let path = folder.path().join("after");
    let socket = unix_socket(libc::SOCK_STREAM)?;
    bind(&socket, &path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o640))?;
    fchmod(&socket, 0o600)?;
    assert_eq!(path.metadata()?.permissions().mode() & 0o777, 0o640);
    Ok(())
}

/// A socket bound to a temporary name, listening, then renamed over a live address takes it over: each client
/// connects to one server or the other, and none is refused. So the crate never unlinks an address before it binds.
#[test]
fn rename_takes_an_address_over_with_no_refused_connect() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let (path, temporary) = (folder.path().join("s"), folder.path().join("s.new"));
    let mut servers = vec![listener(&path)?];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let connector = scope.spawn(|| {
            let mut connects = 0;
            while !done.load(Ordering::Relaxed) || connects == 0 {
                match errno(connect(&path)) {
                    0 | EAGAIN => connects += 1,
                    refused => return Err(io::Error::from_raw_os_error(refused)),
                }
            }
            Ok(())
        });
        let taken = (0..100).try_for_each(|_| {
            servers.push(listener(&temporary)?);
            std::fs::rename(&temporary, &path)
        });
        done.store(true, Ordering::Relaxed);
        connector.join().expect("the connector").and(taken)
    })?;
    let (newest, older) = servers.split_last().expect("servers");
    for server in &servers {
        while server.accept().is_ok() {}
    }
    let _client = connect(&path)?;
    newest.accept()?;
    assert!(older.iter().all(|server| errno(server.accept()) == EAGAIN));
    Ok(())
}

/// An interest in EPOLLOUT makes an edge each time a Unix peer reads, though no one waits for room. So the crate asks
/// for it only after an EAGAIN.
#[test]
fn standing_interest_in_writing_fires_each_time_a_unix_peer_reads() -> io::Result<()> {
    let (epoll, (ours, theirs)) = (Epoll::new()?, UnixStream::pair()?);
    epoll.add(&ours, EPOLLIN | EPOLLOUT, 0)?;
    assert_eq!(epoll.one(), Edge { data: 0, mask: EPOLLOUT });
    for _ in 0..5 {
        write(&ours, b"reply")?;
        assert_eq!(epoll.now(), []);
        (&theirs).read_exact(&mut [0; 5])?;
        assert_eq!(epoll.one(), Edge { data: 0, mask: EPOLLOUT });
    }
    Ok(())
}

/// How a process ends that has SIGPIPE at its default action and writes to a peer that has closed.
fn broken_pipe(write: impl FnOnce() -> i32) -> io::Result<End> {
    let process = fork(|| {
        // SAFETY: no handler is given.
        unsafe { libc::signal(SIGPIPE, libc::SIG_DFL) };
        assert_eq!(write(), EPIPE);
        Ok(())
    })?;
    process.wait()
}

fn without_reader() -> io::Result<UnixStream> {
    UnixStream::pair().map(|(ours, _)| ours)
}

/// Only `MSG_NOSIGNAL` makes a write to a closed peer the error EPIPE; `write`, to a socket or to a pipe, ends the
/// process where SIGPIPE has its default action. So the crate sends with the flag, and suppresses SIGPIPE when it
/// writes to pipes.
#[test]
fn only_msg_nosignal_spares_the_writer_sigpipe() -> io::Result<()> {
    alone(|| {
        let (socket, (_, pipe)) = (without_reader()?, io::pipe()?);
        assert_eq!(broken_pipe(|| errno(send_no_signal(&socket, b"x")))?, End::Exit(0));
        assert_eq!(broken_pipe(|| errno(write(&socket, b"x")))?, End::Signal(SIGPIPE));
        assert_eq!(broken_pipe(|| errno(write(&pipe, b"x")))?, End::Signal(SIGPIPE));
        Ok(())
    })
}

/// std's `UnixStream` sends with the flag, and its pipes cannot: a plain `write` of std to a pipe ends the process.
#[test]
fn std_spares_the_writer_of_a_socket_and_not_of_a_pipe() -> io::Result<()> {
    alone(|| {
        let (socket, (_, pipe)) = (without_reader()?, io::pipe()?);
        assert_eq!(broken_pipe(|| errno((&socket).write(b"x")))?, End::Exit(0));
        assert_eq!(broken_pipe(|| errno((&pipe).write(b"x")))?, End::Signal(SIGPIPE));
        Ok(())
    })
}

/// A peer that closes with our data unread: its own data can still be read, then comes ECONNRESET once, then the
/// end of file. So the crate reads all before it reports how a connection ended.
#[test]
fn a_close_with_unread_data_gives_data_then_reset_then_end() -> io::Result<()> {
    alone(|| {
        let (mut ours, mut theirs) = UnixStream::pair()?;
        ours.write_all(b"never read")?;
        theirs.write_all(b"last words")?;
        drop(theirs);
        let mut buffer = [0; 64];
        assert_eq!(ours.read(&mut buffer)?, 10);
        assert_eq!(errno(ours.read(&mut buffer)), ECONNRESET);
        assert_eq!(ours.read(&mut buffer)?, 0);
        Ok(())
    })
}

/// A peer that shuts its writing side shows EPOLLRDHUP, our read ends, and our answer still arrives. So the end of
/// the requests is not the end of the connection: answer, flush, then close.
#[test]
fn half_close_leaves_the_other_way_open() -> io::Result<()> {
    let (epoll, (mut ours, mut theirs)) = (Epoll::new()?, UnixStream::pair()?);
    epoll.add(&ours, EPOLLIN | libc::EPOLLRDHUP, 0)?;
    theirs.write_all(b"request")?;
    theirs.shutdown(Shutdown::Write)?;
    assert_eq!(epoll.one(), Edge { data: 0, mask: EPOLLIN | libc::EPOLLRDHUP }, "and no EPOLLHUP");
    let mut request = String::new();
    ours.read_to_string(&mut request)?;
    assert_eq!(request, "request");
    ours.write_all(b"answer")?;
    drop(ours);
    let mut answer = String::new();
    theirs.read_to_string(&mut answer)?;
    assert_eq!(answer, "answer");
    Ok(())
}
