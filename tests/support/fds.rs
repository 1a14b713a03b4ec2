//! A reactor in a thread of its own, sockets that pass descriptors, and this binary once more as a child.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    mem::size_of,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::FileExt,
    },
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use ipc_reactor::{Context, Limits, Reactor, Remote};

pub(crate) use super::PATIENCE;

/// A reactor that runs in a thread of its own, and ends with this value.
pub(crate) struct Running<S: Send + 'static> {
    remote: Remote<S>,
    thread: Option<JoinHandle<S>>,
}

impl<S: Send + 'static> Running<S> {
    pub(crate) fn start(
        limits: Limits,
        mut state: S,
        set_up: impl FnOnce(&mut Reactor<S>) + Send + 'static,
    ) -> Running<S> {
        let (told, remote) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut reactor = Reactor::<S>::builder().limits(limits).build().unwrap();
            set_up(&mut reactor);
            told.send(reactor.remote()).unwrap();
            reactor.run(&mut state).unwrap();
            state
        });
        match remote.recv() {
            Ok(remote) => Running { remote, thread: Some(thread) },
            Err(_) => panic!("{:?}", thread.join().err().map(|panic| panic.downcast::<String>())),
        }
    }

    /// Runs `job` in the reactor's thread, and returns its result.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Context<'_, S>, &mut S) -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::channel();
        self.remote.run(move |cx, state| answer.send(job(cx, state)).unwrap()).unwrap();
        answered.recv_timeout(PATIENCE).expect("the reactor answers")
    }

    pub(crate) fn remote(&self) -> &Remote<S> {
        &self.remote
    }

    /// Waits until it has ended by itself; returns its state then.
    pub(crate) fn ended(mut self) -> S {
        self.thread.take().unwrap().join().unwrap()
    }

    /// Ends it; returns its state then.
    pub(crate) fn stop(mut self) -> S {
        self.remote.stop().unwrap();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl<S: Send + 'static> Drop for Running<S> {
    fn drop(&mut self) {
        let _ = self.remote.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for the caller alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A connected pair; a call on either gives up after a while.
pub(crate) fn pair(kind: libc::c_int) -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two and outlives the call.
    checked(unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) })
        .unwrap();
    let [ours, theirs] = fds.map(own);
    be_impatient(ours.as_fd());
    (ours, theirs)
}

/// A connection to a Unix socket at a path, or at an abstract name where it begins with `@`.
pub(crate) fn connect(path: &Path, kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let socket = own(checked(unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) })?);
    let mut name = path.as_os_str().as_encoded_bytes().to_vec();
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as _, sun_path: [0; 108] };
    let mut len = 2 + name.len();
    if name[0] == b'@' {
        name[0] = 0;
    } else {
        len += 1;
    }
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = from as libc::c_char;
    }
    // SAFETY: the pointer is to a sockaddr_un that outlives the call, `len` no more than its size.
    checked(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len as _) })?;
    be_impatient(socket.as_fd());
    Ok(socket)
}

fn be_impatient(socket: BorrowedFd<'_>) {
    let patience = libc::timeval { tv_sec: PATIENCE.as_secs() as i64, tv_usec: 0 };
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        set(socket, option, &patience).unwrap();
    }
}

/// `setsockopt` at `SOL_SOCKET`.
pub(crate) fn set<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    let (fd, len) = (socket.as_raw_fd(), size_of::<T>() as libc::socklen_t);
    // SAFETY: pointer and length describe `value`, which outlives the call.
    checked(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const *value).cast(), len) })
        .map(drop)
}

/// `getsockopt` at `SOL_SOCKET`.
pub(crate) fn get<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &mut T) -> io::Result<()> {
    let (fd, mut len) = (socket.as_raw_fd(), size_of::<T>() as libc::socklen_t);
    // SAFETY: pointer and length describe `value`; both outlive the call.
    checked(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut *value).cast(), &mut len) })
        .map(drop)
}

/// Raises a flag when it is dropped: threads that watch the flag end also where a test fails.
pub(crate) struct Raise<'a>(pub(crate) &'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether `poll(2)` finds it readable within so many milliseconds.
pub(crate) fn readable(fd: BorrowedFd<'_>, within_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one pollfd and outlives the call.
    checked(unsafe { libc::poll(&mut poll, 1, within_ms) }).unwrap() == 1
}

#[repr(align(8))]
struct Control([u8; 4096]);

/// Sends bytes with descriptors.
pub(crate) fn send_with(socket: impl AsFd, bytes: &[u8], passed: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut control = Control([0; 4096]);
    let data = size_of_val(passed);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a value of this plain struct.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&mut part, 1);
    if !passed.is_empty() {
        control.0[..8].copy_from_slice(&(16 + data).to_ne_bytes());
        control.0[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
        control.0[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
        for (place, fd) in control.0[16..].chunks_exact_mut(4).zip(passed) {
            place.copy_from_slice(&fd.as_raw_fd().to_ne_bytes());
        }
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = (16 + data).next_multiple_of(8) as _;
    }
    let end = Instant::now() + PATIENCE;
    loop {
        // SAFETY: the header describes `bytes` and `control`, which outlive the call.
        let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &header, libc::MSG_NOSIGNAL) };
        let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error());
        // A user may have only so many descriptors under way, and other tests have some, too.
        match sent {
            Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) && Instant::now() < end => {
                thread::yield_now();
            }
            sent => return sent,
        }
    }
}

/// Receives bytes with descriptors; no more can come at once than there is room for.
pub(crate) fn recv_with(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control([0; 4096]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a value of this plain struct.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&mut part, 1);
    (header.msg_control, header.msg_controllen) = (control.0.as_mut_ptr().cast(), control.0.len() as _);
    // SAFETY: the header describes `buffer` and `control`, which outlive the call.
    let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    assert_eq!(header.msg_flags & libc::MSG_CTRUNC, 0);
    let mut passed = Vec::new();
    if header.msg_controllen as usize >= 16 {
        let len = usize::from_ne_bytes(control.0[..8].try_into().unwrap());
        let word = |at: usize| i32::from_ne_bytes(control.0[at..at + 4].try_into().unwrap());
        assert_eq!((word(8), word(12)), (libc::SOL_SOCKET, libc::SCM_RIGHTS));
        passed.extend((16..len).step_by(4).map(|at| own(word(at))));
    }
    Ok((got, passed))
}

/// Reads a line, byte by byte: nothing behind it is taken.
pub(crate) fn line(socket: impl AsFd) -> String {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        let (got, passed) = recv_with(&socket, &mut byte).unwrap();
        assert!(passed.is_empty());
        match byte {
            _ if got == 0 => panic!("end of file after {line:?}"),
            [b'\n'] => return String::from_utf8(line).unwrap(),
            [byte] => line.push(byte),
        }
    }
}

/// Waits until the peer closes; returns whether the close was orderly.
pub(crate) fn ends(socket: impl AsFd) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match recv_with(&socket, &mut buffer) {
            Ok((0, _)) => return true,
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A file in memory with a text in it.
pub(crate) fn text_file(text: &str) -> OwnedFd {
    // SAFETY: the name is NUL-terminated and outlives the call.
    let fd = own(checked(unsafe { libc::memfd_create(c"text".as_ptr(), libc::MFD_CLOEXEC) }).unwrap());
    File::from(fd.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
    fd
}

/// The text in such a file, wherever its cursor is; `?` for anything else.
pub(crate) fn text_of(fd: OwnedFd) -> String {
    let mut text = [0; 64];
    let Ok(got) = File::from(fd).read_at(&mut text, 0) else { return "?".into() };
    String::from_utf8(text[..got].to_vec()).unwrap()
}

/// How many descriptors this process has, without the one that is used to count them.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

pub(crate) use super::{can, have, is_root};

/// Limits the descriptors of this process to those below this number.
pub(crate) fn limit_descriptors(below: u64) {
    let limit = libc::rlimit { rlim_cur: below, rlim_max: below };
    // SAFETY: `limit` outlives the call.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).unwrap();
}

/// Makes this process an unprivileged user with no processes but this test's (the kernel counts some things by user),
/// and with these supplementary groups.
pub(crate) fn become_a_nobody(groups: &[u32]) -> u32 {
    let uid = 40_000 + std::process::id() % 20_000;
    // SAFETY: pointer and length describe `groups`, which outlives the call.
    checked(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }).unwrap();
    // SAFETY: takes no pointer; the C library applies it to all threads, as it does the next.
    checked(unsafe { libc::setresgid(uid, uid, uid) }).unwrap();
    // SAFETY: takes no pointer.
    checked(unsafe { libc::setresuid(uid, uid, uid) }).unwrap();
    uid
}

/// Runs a foreign program, which must exit with 0; returns what it prints.
pub(crate) fn output_of(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A Python program.
pub(crate) fn python(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg("-c").arg(script);
    command
}

const ROLE: &str = "FD_KIT_CHILD";

/// In a child: what it was given.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// This test binary once more, running one test alone, which finds its [`role`]; killed with this value.
pub(crate) struct Role {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Role {
    pub(crate) fn start(test: &str, given: &str) -> Role {
        let mut command = super::child::again(test);
        command.env(ROLE, given);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Role { child, lines }
    }

    /// The rest of the next line that begins with this word.
    pub(crate) fn says(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the child ended without saying {word}");
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Gives it a line to read, and so has it go on.
    pub(crate) fn goes_on(&mut self) {
        self.child.stdin.as_mut().expect("it is piped").write_all(b"\n").unwrap();
    }

    /// Lets the child return from [`wait_for_parent`]; it must then exit with 0.
    pub(crate) fn ends_well(mut self) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a child: waits until its parent lets it go on, or is gone.
pub(crate) fn wait_for_parent() {
    let _ = io::stdin().read_to_end(&mut Vec::new());
}
