//! Common claims about these mechanisms, checked against the kernel. The guide names these tests where it corrects a
//! claim.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::ptr;
use std::thread;

use libc::{EINVAL, EOPNOTSUPP, SIGABRT, SIGBUS, SIGKILL, SIGUSR1};

use crate::kit::{End, Limit, alone, check, check_len, errno, fork, own, set_limit, skip};
use crate::queues::{self, Name};
use crate::signals::{block, record, records};

/// Descriptors are numbers from 0 on: 0 is standard input's by custom alone, and the next to be given out once it is
/// closed.
#[test]
fn zero_is_a_descriptor() -> io::Result<()> {
    alone(|| {
        // SAFETY: nothing in this process uses standard input.
        drop(unsafe { OwnedFd::from_raw_fd(0) });
        assert_eq!(File::open("/dev/null")?.as_raw_fd(), 0);
        Ok(())
    })
}

/// A network socket joins two processes of one machine as well.
#[test]
fn a_network_socket_joins_two_processes_of_one_machine() -> io::Result<()> {
    alone(|| {
        let master = TcpListener::bind("127.0.0.1:0")?;
        let address = master.local_addr()?;
        let client = fork(|| TcpStream::connect(address)?.write_all(b"from next door"))?;
        let (mut handle, peer) = master.accept()?;
        assert_eq!(peer.ip(), address.ip());
        let mut heard = String::new();
        handle.read_to_string(&mut heard)?;
        assert_eq!(heard, "from next door");
        assert_eq!(client.wait()?, End::Exit(0));
        Ok(())
    })
}

/// A connection is established when `connect` returns, and bytes can be sent, before the server calls `accept`: that
/// only returns its descriptor.
#[test]
fn a_connection_stands_before_it_is_accepted() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s");
    let master = UnixListener::bind(&path)?;
    let mut client = UnixStream::connect(&path)?;
    client.write_all(b"early")?;
    drop(client);
    let (mut handle, _) = master.accept()?;
    let mut heard = String::new();
    handle.read_to_string(&mut heard)?;
    assert_eq!(heard, "early");
    Ok(())
}

/// The master socket carries no data; a datagram socket accepts no connection.
#[test]
fn a_master_socket_does_not_read_and_a_datagram_socket_does_not_accept() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let master = UnixListener::bind(folder.path().join("s"))?;
    let datagram = UnixDatagram::unbound()?;
    let mut byte = 0_u8;
    // SAFETY: pointer and length are the byte's.
    let read = unsafe { libc::recv(master.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_DONTWAIT) };
    assert_eq!(errno(check_len(read)), EINVAL);
    // SAFETY: null is "do not tell the peer's address".
    let handle = unsafe { libc::accept(datagram.as_raw_fd(), ptr::null_mut(), ptr::null_mut()) };
    assert_eq!(errno(check(handle)), EOPNOTSUPP);
    Ok(())
}

/// A stream joins two short messages, a datagram socket keeps them apart and takes a long one: what differs is the
/// boundaries, not the size.
#[test]
fn boundaries_and_not_size_tell_a_datagram_from_a_stream() -> io::Result<()> {
    let mut buffer = vec![0; 200_000];
    let (mut sender, mut receiver) = UnixStream::pair()?;
    sender.write_all(b"one")?;
    sender.write_all(b"two")?;
    let len = receiver.read(&mut buffer)?;
    assert_eq!(&buffer[..len], b"onetwo");

    let (sender, receiver) = UnixDatagram::pair()?;
    let long = vec![7; 100_000];
    for message in [&b"one"[..], b"two", &long] {
        sender.send(message)?;
    }
    for message in [&b"one"[..], b"two", &long] {
        let len = receiver.recv(&mut buffer)?;
        assert!(buffer[..len] == *message);
    }
    Ok(())
}

/// A send to a peer that does not read takes a part, then nothing: the sender must keep the rest until there is room.
#[test]
fn a_send_to_one_who_does_not_read_takes_a_part() -> io::Result<()> {
    let (mut sender, mut receiver) = UnixStream::pair()?;
    sender.set_nonblocking(true)?;
    let bytes = vec![7; 8 << 20];
    let taken = sender.write(&bytes)?;
    assert!(0 < taken && taken < bytes.len(), "{taken} bytes");
    assert_eq!(errno(sender.write(&bytes[taken..])), libc::EAGAIN);
    receiver.read_exact(&mut vec![0; taken])?;
    assert!(sender.write(&bytes[taken..])? > 0);
    Ok(())
}

/// Without multiplexing it is one *thread* that serves one client: while it waits for that one, another thread serves
/// the next.
#[test]
fn while_one_thread_waits_for_its_client_another_serves_the_next() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s");
    let master = UnixListener::bind(&path)?;
    let silent = UnixStream::connect(&path)?;
    let (mut first, _) = master.accept()?;
    let waiting = thread::spawn(move || first.read(&mut [0]));

    let mut asking = UnixStream::connect(&path)?;
    let (mut second, _) = master.accept()?;
    let mut byte = [0];
    asking.write_all(b"?")?;
    second.read_exact(&mut byte)?;
    second.write_all(b"!")?;
    asking.read_exact(&mut byte)?;
    assert_eq!(byte, *b"!");

    assert!(!waiting.is_finished(), "the first one has said nothing");
    drop(silent);
    assert_eq!(waiting.join().expect("it does not panic")?, 0);
    Ok(())
}

/// The end of `select` is the C library's `fd_set` of 1,024 bits. The kernel's call takes any descriptor, if the set
/// has enough bits.
#[test]
fn the_end_of_select_is_the_librarys_and_not_the_kernels() -> io::Result<()> {
    alone(|| {
        const NUMBER: i32 = 1500;
        assert_eq!(8 * size_of::<libc::fd_set>(), libc::FD_SETSIZE);
        assert_eq!(libc::FD_SETSIZE, 1024);
        if let Err(error) = set_limit(Limit::Descriptors, 2048) {
            skip(&format!("2048 descriptors are not allowed: {error}"));
            return Ok(());
        }
        let (ours, mut theirs) = UnixStream::pair()?;
        // SAFETY: no pointers.
        let ours = own(unsafe { libc::fcntl(ours.as_raw_fd(), libc::F_DUPFD_CLOEXEC, NUMBER) })?;
        assert_eq!(ours.as_raw_fd(), NUMBER);
        theirs.write_all(b"x")?;

        let mut set = [0_u64; 2048 / 64];
        set[NUMBER as usize / 64] = 1 << (NUMBER % 64);
        let (asked, bits, none) = (set, (&raw mut set).cast(), ptr::null_mut());
        let mut at_once = libc::timeval { tv_sec: 0, tv_usec: 0 };
        // SAFETY: the kernel reads and writes as many bits as the first argument says, and `set` has more.
        let ready = check(unsafe { libc::select(NUMBER + 1, bits, none, none, &raw mut at_once) })?;
        assert_eq!((ready, set), (1, asked));
        Ok(())
    })
}

/// `mq_receive` writes the priority through its last argument; it selects nothing by it, and the highest comes first
/// whatever the value was before.
#[test]
fn mq_receive_gives_the_priority_back_through_a_pointer() -> io::Result<()> {
    let name = Name::new();
    let queue = name.create(4)?;
    for (message, priority) in [(b"low ", 1_u32), (b"high", 9)] {
        // SAFETY: pointer and length are the message's.
        check(unsafe { libc::mq_send(queue.as_raw_fd(), message.as_ptr().cast(), message.len(), priority) })?;
    }
    for expected in [9, 1] {
        let (mut buffer, mut priority) = ([0_u8; 64], 1_u32);
        let (bytes, len) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: pointer and length are the buffer's, and the priority outlives the call.
        check(unsafe { libc::mq_receive(queue.as_raw_fd(), bytes, len, &raw mut priority) } as i32)?;
        assert_eq!(priority, expected);
    }
    Ok(())
}

/// Two processes receive from one queue, and each message goes to one of them.
#[test]
fn two_processes_receive_from_one_queue() -> io::Result<()> {
    alone(|| {
        let name = Name::new();
        let queue = name.create(4)?;
        queues::send(&queue, b"one")?;
        queues::send(&queue, b"two")?;
        let other = fork(|| {
            assert_eq!(queues::receive(&name.open(libc::O_NONBLOCK)?)?, b"one");
            Ok(())
        })?;
        assert_eq!(other.wait()?, End::Exit(0));
        assert_eq!(queues::receive(&queue)?, b"two");
        Ok(())
    })
}

/// A queue's name can be removed while the queue is open, and by another process than its creator, if the user is the
/// same. The name is gone at once; the queue goes with its last descriptor.
#[test]
fn another_process_unlinks_a_queue_that_is_open() -> io::Result<()> {
    alone(|| {
        let name = Name::new();
        let queue = name.create(4)?;
        assert_eq!(fork(|| name.unlink())?.wait()?, End::Exit(0));
        assert_eq!(errno(name.open(0)), libc::ENOENT);
        queues::send(&queue, b"still here")?;
        assert_eq!(queues::receive(&queue)?, b"still here");
        Ok(())
    })
}

/// The mode that is given to `mq_open` passes through the umask, as a file's does: 0660 is seldom the result.
#[test]
fn the_umask_takes_bits_from_a_queues_mode() -> io::Result<()> {
    alone(|| {
        // SAFETY: no pointers; this process is the test's own.
        unsafe { libc::umask(0o027) };
        let name = Name::new();
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
        // SAFETY: the name is a C string; null attributes are the defaults.
        let queue =
            own(unsafe { libc::mq_open(name.0.as_ptr(), flags, 0o660, ptr::null::<libc::mq_attr>()) })?;
        assert_eq!(File::from(queue).metadata()?.permissions().mode() & 0o777, 0o640);
        Ok(())
    })
}

const PAGE_BYTES: usize = 64 * 1024;

fn map(file: &File, len: usize, sharing: i32) -> io::Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses an unused address.
    let address = unsafe { libc::mmap(ptr::null_mut(), len, protection, sharing, file.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
}

/// No other process sees what is written to a private mapping; only `MAP_SHARED` is shared memory.
#[test]
fn a_private_mapping_shares_nothing() -> io::Result<()> {
    for (sharing, seen) in [(libc::MAP_SHARED, b'x'), (libc::MAP_PRIVATE, 0)] {
        let mut file = tempfile::tempfile()?;
        file.set_len(PAGE_BYTES as u64)?;
        let address = map(&file, PAGE_BYTES, sharing)?;
        // SAFETY: the first byte of a mapping that the file covers.
        unsafe { address.write_volatile(b'x') };
        // SAFETY: the mapping is ours, and no longer used.
        unsafe { libc::munmap(address.cast(), PAGE_BYTES) };
        let mut byte = [1];
        file.read_exact(&mut byte)?;
        assert_eq!(byte, [seen]);
    }
    Ok(())
}

/// `mmap` reads nothing: more can be mapped than the file has, the descriptor may be closed, and what is written to the
/// file afterwards is seen. An access past the file's last page is SIGBUS.
#[test]
fn mmap_reads_nothing_until_a_page_is_touched() -> io::Result<()> {
    alone(|| {
        let path = tempfile::NamedTempFile::new()?.into_temp_path();
        let file = File::options().read(true).write(true).open(&path)?;
        file.set_len(1)?;
        let address = map(&file, 2 * PAGE_BYTES, libc::MAP_SHARED)?;
        drop(file);
        File::options().write(true).open(&path)?.write_all(b"later")?;
        // SAFETY: within the mapping, and within the file.
        assert_eq!(unsafe { address.wrapping_add(4).read_volatile() }, b'r');
        let beyond = fork(|| {
            // SAFETY: within the mapping; that there is no file is what the test is about.
            unsafe { address.wrapping_add(PAGE_BYTES).read_volatile() };
            Ok(())
        })?;
        assert_eq!(beyond.wait()?, End::Signal(SIGBUS));
        Ok(())
    })
}

/// A signal has a fourth state: blocked, it stays pending, and causes neither its default action nor a handler.
#[test]
fn a_blocked_signal_waits() -> io::Result<()> {
    alone(|| {
        let signals = block(&[SIGUSR1])?;
        // SAFETY: no pointers.
        unsafe { libc::raise(SIGUSR1) };
        assert_eq!(records(&signals)?, [SIGUSR1], "this process is still here, and can read it");
        Ok(())
    })
}

/// `abort` ends the process though SIGABRT is blocked: the function does that, not the signal.
#[test]
fn abort_ends_the_process_though_sigabrt_is_blocked() -> io::Result<()> {
    alone(|| {
        let _signals = block(&[SIGABRT])?;
        assert_eq!(fork(|| std::process::abort())?.wait()?, End::Signal(SIGABRT));
        Ok(())
    })
}

/// SIGKILL comes from a process, as any signal can; what the kernel does is deliver it.
#[test]
fn sigkill_is_sent_by_a_process() -> io::Result<()> {
    alone(|| {
        let victim = fork(|| {
            loop {
                // SAFETY: no pointers.
                unsafe { libc::pause() };
            }
        })?;
        // SAFETY: no pointers; the victim is not reaped, so that the pid is still its own.
        check(unsafe { libc::kill(victim.pid(), SIGKILL) })?;
        assert_eq!(victim.wait()?, End::Signal(SIGKILL));
        Ok(())
    })
}

/// A signal can carry a number, if it is sent with `sigqueue`.
#[test]
fn sigqueue_sends_a_number_along() -> io::Result<()> {
    alone(|| {
        let signals = block(&[SIGUSR1])?;
        let (me, value) =
            (std::process::id().cast_signed(), libc::sigval { sival_ptr: ptr::without_provenance_mut(42) });
        // SAFETY: the value is a number; it is not used as a pointer.
        check(unsafe { libc::sigqueue(me, SIGUSR1, value) })?;
        assert_eq!(record(&signals)?.ssi_int, 42);
        Ok(())
    })
}
