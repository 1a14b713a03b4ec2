//! epoll itself, and the two descriptors that exist only to wake it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libc::{EEXIST, ENOENT, EPERM, EPOLLIN};

use crate::kit::{Edge, Epoll, alone, check, check_len, errno, own, skip};

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

fn ring(doorbell: &OwnedFd) -> io::Result<()> {
    let one = 1_u64;
    // SAFETY: eight bytes that outlive the call.
    check_len(unsafe { libc::write(doorbell.as_raw_fd(), (&raw const one).cast(), 8) }).map(drop)
}

/// The eight bytes that an eventfd or a timerfd holds.
fn count(fd: &OwnedFd) -> io::Result<u64> {
    let mut count = 0_u64;
    // SAFETY: eight bytes that outlive the call.
    check_len(unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), 8) })?;
    Ok(count)
}

fn timerfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })
}

fn arm(timer: &OwnedFd, first: Duration, interval: Duration) -> io::Result<()> {
    let spec = |d: Duration| libc::timespec { tv_sec: 0, tv_nsec: i64::from(d.subsec_nanos()) };
    let new = libc::itimerspec { it_interval: spec(interval), it_value: spec(first) };
    let old = std::ptr::null_mut();
    // SAFETY: the new value outlives the call; a null old one is not written.
    check(unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const new, old) }).map(drop)
}

/// Puts `new` at the number of `old`, as a close and an open would that find the number free; atomic, so that no
/// other thread can take it.
fn reuse_number(old: impl Into<OwnedFd>, new: impl AsFd) -> io::Result<OwnedFd> {
    let number = old.into().into_raw_fd();
    // SAFETY: the number was owned by `old`, and is given up there.
    check(unsafe { libc::dup3(new.as_fd().as_raw_fd(), number, libc::O_CLOEXEC) })?;
    // SAFETY: the number is ours, and open.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Each write to an eventfd makes an edge, though no one reads it. So a doorbell and a waker cost no `read`.
#[test]
fn eventfd_never_read_fires_at_each_write() -> io::Result<()> {
    let (epoll, doorbell) = (Epoll::new()?, eventfd()?);
    epoll.add(&doorbell, EPOLLIN, 7)?;
    for _ in 0..5 {
        ring(&doorbell)?;
        assert_eq!(epoll.one(), Edge { data: 7, mask: EPOLLIN });
        assert_eq!(epoll.now(), []);
    }
    assert_eq!(count(&doorbell)?, 5);
    Ok(())
}

/// A one-shot timerfd fires at each re-arm, though no one reads it. So the one timer under the heap of timers costs a
/// `timerfd_settime`, and no `read`.
#[test]
fn timerfd_never_read_fires_at_each_re_arm() -> io::Result<()> {
    let (epoll, timer) = (Epoll::new()?, timerfd()?);
    epoll.add(&timer, EPOLLIN, 1)?;
    for _ in 0..5 {
        arm(&timer, Duration::from_micros(100), Duration::ZERO)?;
        assert_eq!(epoll.next(), [Edge { data: 1, mask: EPOLLIN }]);
        assert_eq!(epoll.now(), []);
    }
    assert_eq!(count(&timer)?, 1, "a re-arm forgets the expiries before it");
    Ok(())
}

/// A timerfd with an interval fires once and then waits to be read: the kernel arms the next expiry in `read`. So
/// the crate arms its timer one-shot, each time anew, and never with an interval.
#[test]
fn timerfd_with_an_interval_never_read_fires_once() -> io::Result<()> {
    let (epoll, periodic, later) = (Epoll::new()?, timerfd()?, timerfd()?);
    epoll.add(&periodic, EPOLLIN, 1)?;
    epoll.add(&later, EPOLLIN, 2)?;
    arm(&periodic, Duration::from_micros(100), Duration::from_micros(100))?;
    assert_eq!(epoll.next(), [Edge { data: 1, mask: EPOLLIN }]);
    arm(&later, Duration::from_millis(10), Duration::ZERO)?;
    assert_eq!(epoll.next(), [Edge { data: 2, mask: EPOLLIN }], "nothing of the periodic one in between");
    assert!(count(&periodic)? > 1);
    assert_eq!(epoll.next(), [Edge { data: 1, mask: EPOLLIN }], "and again once it was read");
    Ok(())
}

/// epoll watches the open file, not its number: while a duplicate is open, a closed descriptor keeps firing, and no
/// number is left with which to delete the registration. So the crate deletes before every close.
#[test]
fn a_duplicate_keeps_a_closed_descriptor_firing() -> io::Result<()> {
    let (epoll, doorbell) = (Epoll::new()?, eventfd()?);
    epoll.add(&doorbell, EPOLLIN, 3)?;
    let duplicate = doorbell.try_clone()?;
    drop(doorbell);
    ring(&duplicate)?;
    assert_eq!(epoll.one().data, 3);
    assert_eq!(errno(epoll.delete(&duplicate)), ENOENT);
    ring(&duplicate)?;
    assert_eq!(epoll.one().data, 3);
    Ok(())
}

/// A registration that is deleted before its descriptor is closed makes no event, whatever duplicates are open.
#[test]
fn a_delete_before_the_close_ends_it() -> io::Result<()> {
    let (epoll, doorbell) = (Epoll::new()?, eventfd()?);
    epoll.add(&doorbell, EPOLLIN, 3)?;
    let duplicate = doorbell.try_clone()?;
    epoll.delete(&doorbell)?;
    drop(doorbell);
    ring(&duplicate)?;
    assert_eq!(epoll.now(), []);
    Ok(())
}

/// The last close of an open file ends its registration, so that its number can be added at once for another; but
/// the events fetched before still name the old one. So a key carries a generation, never the descriptor's number
/// alone.
#[test]
fn a_fetched_event_outlives_its_descriptor_and_its_number() -> io::Result<()> {
    let (epoll, first, second) = (Epoll::new()?, eventfd()?, eventfd()?);
    epoll.add(&first, EPOLLIN, 1)?;
    epoll.add(&second, EPOLLIN, 2)?;
    assert_eq!(errno(epoll.add(&second, EPOLLIN, 2)), EEXIST);
    ring(&first)?;
    ring(&second)?;
    let batch = epoll.now();
    assert_eq!(batch.len(), 2);
    // As the handler of the first event might do: close the second, accept another at its number.
    let number = second.as_raw_fd();
    let newcomer = reuse_number(second, eventfd()?)?;
    assert_eq!(newcomer.as_raw_fd(), number);
    epoll.add(&newcomer, EPOLLIN, 3)?;
    assert_eq!(batch[1].data, 2, "the batch still tells of the dead one");
    assert_eq!(epoll.now(), [], "the kernel does not");
    ring(&newcomer)?;
    assert_eq!(epoll.one().data, 3);
    Ok(())
}

/// One number may be in a set twice: once for a closed descriptor whose open file a duplicate keeps open, once for
/// the number's next owner. A delete by that number removes the second alone.
#[test]
fn a_reused_number_is_another_registration() -> io::Result<()> {
    let (epoll, doorbell) = (Epoll::new()?, eventfd()?);
    epoll.add(&doorbell, EPOLLIN, 1)?;
    let duplicate = doorbell.try_clone()?;
    let successor = reuse_number(doorbell, eventfd()?)?;
    assert_eq!(errno(epoll.delete(&successor)), ENOENT);
    epoll.add(&successor, EPOLLIN, 2)?;
    ring(&duplicate)?;
    assert_eq!(epoll.one().data, 1);
    ring(&successor)?;
    assert_eq!(epoll.one().data, 2);
    epoll.delete(&successor)?;
    ring(&successor)?;
    ring(&duplicate)?;
    assert_eq!(epoll.one().data, 1);
    Ok(())
}

/// A regular file, or a directory, is always ready, and epoll refuses it with EPERM. So does the crate's open
/// variant for any descriptor, and hands the descriptor back.
#[test]
fn epoll_refuses_regular_files_and_directories() -> io::Result<()> {
    let epoll = Epoll::new()?;
    let folder = tempfile::tempdir()?;
    assert_eq!(errno(epoll.add(tempfile::tempfile()?, EPOLLIN, 0)), EPERM);
    assert_eq!(errno(epoll.add(File::open(folder.path())?, EPOLLIN, 0)), EPERM);
    Ok(())
}

/// Readiness that was there before the registration makes an edge too. So bytes that came between `accept` and
/// the registration are not lost, and no speculative read is needed.
#[test]
fn adding_what_is_ready_already_makes_an_edge() -> io::Result<()> {
    let (epoll, (ours, theirs)) = (Epoll::new()?, UnixStream::pair()?);
    io::Write::write_all(&mut &theirs, b"early")?;
    epoll.add(&ours, EPOLLIN, 4)?;
    assert_eq!(epoll.one(), Edge { data: 4, mask: EPOLLIN });
    assert_eq!(epoll.now(), []);
    Ok(())
}

fn shut_down_reading(socket: &UnixStream) -> io::Result<()> {
    socket.shutdown(std::net::Shutdown::Read)
}

/// Each send to a stream socket makes an edge, though no one reads it; one that fails because the queue is full makes
/// none. So a doorbell made of sockets costs no `read`, and needs another way to ring once it is full.
#[test]
fn a_socket_never_read_fires_at_each_send_until_it_is_full() -> io::Result<()> {
    let (epoll, (mut ours, theirs)) = (Epoll::new()?, UnixStream::pair()?);
    ours.set_nonblocking(true)?;
    epoll.add(&theirs, EPOLLIN, 4)?;
    let mut sent = 0;
    while io::Write::write(&mut ours, &[1]).is_ok() {
        sent += 1;
        assert_eq!(epoll.one(), Edge { data: 4, mask: EPOLLIN });
        assert_eq!(epoll.now(), []);
    }
    assert!(sent > 5);
    assert_eq!(epoll.now(), []);
    Ok(())
}

/// A `shutdown` of a side that is shut down already wakes a poll of the other end, and adds no data: if there is an
/// unread byte, that is a new edge. So a ring can do without a byte.
#[test]
fn a_shutdown_that_changes_nothing_is_an_edge_at_the_other_end() -> io::Result<()> {
    let (epoll, (mut ours, theirs)) = (Epoll::new()?, UnixStream::pair()?);
    ours.set_nonblocking(true)?;
    shut_down_reading(&ours)?;
    epoll.add(&theirs, EPOLLIN | libc::EPOLLRDHUP, 4)?;
    assert_eq!(epoll.now(), []);
    shut_down_reading(&ours)?;
    assert_eq!(epoll.now(), [], "there is nothing to read");
    io::Write::write_all(&mut ours, &[1])?;
    assert_eq!(epoll.one(), Edge { data: 4, mask: EPOLLIN });
    for _ in 0..5 {
        shut_down_reading(&ours)?;
        assert_eq!(epoll.one(), Edge { data: 4, mask: EPOLLIN });
        assert_eq!(epoll.now(), []);
    }
    // And when nothing more can be sent.
    while io::Write::write(&mut ours, &[1]).is_ok() {}
    epoll.now();
    shut_down_reading(&ours)?;
    assert_eq!(epoll.one(), Edge { data: 4, mask: EPOLLIN });
    // What was sent comes before the hang-up.
    drop(ours);
    assert_eq!(epoll.one(), Edge { data: 4, mask: EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP });
    io::Read::read_exact(&mut &theirs, &mut [0; 2])
}

/// A send to a socket whose other end is shut down for receiving fails with EPIPE, with descriptors and without.
#[test]
fn nothing_can_be_sent_to_an_end_that_has_shut_down_reading() -> io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    shut_down_reading(&ours)?;
    assert_eq!(errno(io::Write::write(&mut &theirs, &[1])), libc::EPIPE);
    io::Write::write_all(&mut &ours, &[1])?;
    io::Read::read_exact(&mut &theirs, &mut [0])
}

/// Memory whose page faults block: `userfaultfd(2)`, which stands in for a file of a slow or hostile file system.
struct Absent {
    address: *mut libc::c_void,
    faults: OwnedFd,
}

impl Absent {
    fn new() -> io::Result<Absent> {
        const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
        const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
        const MISSING: u64 = 1;
        // SAFETY: no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let faults = own(fd as libc::c_int)?;
        let mut api = [0xaa_u64, 0, 0];
        // SAFETY: a structure of three words, which outlives the call.
        check(unsafe { libc::ioctl(faults.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) })?;
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the kernel chooses an unused address.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, kind, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mut register = [address as u64, 4096, MISSING, 0];
        // SAFETY: a structure of four words, which outlives the call.
        check(unsafe { libc::ioctl(faults.as_raw_fd(), UFFDIO_REGISTER, register.as_mut_ptr()) })?;
        Ok(Absent { address, faults })
    }

    /// Waits until a thread waits for a page of it.
    fn wait_until_missed(&self) -> io::Result<()> {
        let mut message = [0_u64; 4];
        let (start, len) = (message.as_mut_ptr().cast(), size_of_val(&message));
        // SAFETY: the pointer and the length are those of an array that outlives the call.
        check_len(unsafe { libc::read(self.faults.as_raw_fd(), start, len) }).map(drop)
    }
}

/// A reader that blocks in a page fault holds the pipe's lock meanwhile: a writer waits for that lock, with
/// `O_NONBLOCK` too, and SIGKILL does not interrupt it. A sender to a socket does not wait. So a doorbell for
/// untrusted readers is not a pipe.
#[test]
fn a_reader_whose_memory_does_not_come_holds_up_a_pipes_writer_and_not_a_sockets() -> io::Result<()> {
    alone(|| {
        let (pipe_reader, pipe_writer) = io::pipe()?;
        let (far, near) = UnixStream::pair()?;
        let ends: [(OwnedFd, OwnedFd, bool); 2] =
            [(pipe_reader.into(), pipe_writer.into(), true), (far.into(), near.into(), false)];
        for (reader, writer, is_held_up) in ends {
            let memory = match Absent::new() {
                Err(error)
                    if [EPERM, libc::ENOSYS, libc::EINVAL].contains(&error.raw_os_error().unwrap_or(0)) =>
                {
                    skip("userfaultfd takes CAP_SYS_PTRACE");
                    return Ok(());
                }
                memory => memory?,
            };
            let mut on: libc::c_int = 1;
            // SAFETY: one int, which outlives the call.
            check(unsafe { libc::ioctl(writer.as_raw_fd(), libc::FIONBIO, &raw mut on) })?;
            let write = |fd: &OwnedFd| {
                // SAFETY: one byte, which outlives the call.
                check_len(unsafe { libc::write(fd.as_raw_fd(), [1u8].as_ptr().cast(), 1) })
            };
            write(&writer)?;
            let (raw, address) = (reader.as_raw_fd(), memory.address as usize);
            let reads = std::thread::spawn(move || {
                // SAFETY: the memory is mapped, and nothing else uses it.
                unsafe { libc::read(raw, address as *mut libc::c_void, 1) }
            });
            memory.wait_until_missed()?;
            let (done, written) = std::sync::mpsc::channel();
            let second = writer.try_clone()?;
            let writes = std::thread::spawn(move || {
                let _ = write(&second);
                let _ = done.send(());
            });
            let patience = Duration::from_millis(if is_held_up { 500 } else { 30_000 });
            assert_eq!(written.recv_timeout(patience).is_err(), is_held_up);
            // This lets the page fault return.
            drop(memory);
            writes.join().expect("the writer");
            reads.join().expect("the reader");
        }
        Ok(())
    })
}
