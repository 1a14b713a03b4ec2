//! What one read of a socket gives: where it stops early, what it drops, and how it reports that.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use libc::{
    EAGAIN, ENOPROTOOPT, EOPNOTSUPP, EPERM, EPOLLIN, EPOLLPRI, EPOLLRDHUP, MSG_CTRUNC, MSG_TRUNC, SOCK_DGRAM,
    SOCK_SEQPACKET, SOCK_STREAM,
};

use crate::kit::{End, Epoll, alone, check, check_len, errno, fork, skip};

/// Newer than the `libc` crate; other numbers on alpha, mips, parisc and sparc.
const SO_PASSRIGHTS: i32 = 83;
/// The header before the descriptors in a control message: length, level, type.
const HEADER_BYTES: usize = 16;

fn pair(kind: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the array holds two descriptors and outlives the call.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    // SAFETY: the call made both descriptors for us.
    Ok(ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into())
}

fn send_flags(fd: impl AsFd, bytes: &[u8], flags: i32) -> io::Result<usize> {
    let pointer = bytes.as_ptr().cast();
    // SAFETY: pointer and length are the slice's.
    check_len(unsafe { libc::send(fd.as_fd().as_raw_fd(), pointer, bytes.len(), flags | libc::MSG_NOSIGNAL) })
}

fn send(fd: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    send_flags(fd, bytes, 0).map(drop)
}

fn receive_into(fd: impl AsFd, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
    let (pointer, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: pointer and length are the slice's.
    check_len(unsafe { libc::recv(fd.as_fd().as_raw_fd(), pointer, len, flags | libc::MSG_DONTWAIT) })
}

/// One `recv`, into more room than there can be data.
fn receive(fd: impl AsFd) -> io::Result<String> {
    let mut buffer = [0; 64];
    let len = receive_into(fd, &mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

fn message(bytes: &mut [libc::iovec; 1], control: &mut [u8]) -> libc::msghdr {
    // SAFETY: all-zero is a `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = bytes.as_mut_ptr();
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len() as _;
    message
}

/// Sends bytes with `count` descriptors, all of them `/dev/null`.
fn send_with_descriptors(fd: impl AsFd, bytes: &[u8], count: usize) -> io::Result<()> {
    let null = File::open("/dev/null")?;
    send_copies(fd, bytes, null.as_fd(), count)
}

fn send_descriptor(fd: impl AsFd, bytes: &[u8], passed: BorrowedFd<'_>) -> io::Result<()> {
    send_copies(fd, bytes, passed, 1)
}

fn send_copies(fd: impl AsFd, bytes: &[u8], passed: BorrowedFd<'_>, count: usize) -> io::Result<()> {
    let mut control = (HEADER_BYTES + 4 * count).to_ne_bytes().to_vec();
    control.extend([libc::SOL_SOCKET, libc::SCM_RIGHTS].iter().flat_map(|n| n.to_ne_bytes()));
    control.extend((0..count).flat_map(|_| passed.as_raw_fd().to_ne_bytes()));
    control.resize(control.len().next_multiple_of(8), 0);
    let mut iov = [libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }];
    let message = message(&mut iov, &mut control);
    let flags = libc::MSG_NOSIGNAL;
    // SAFETY: all that the message points to outlives the call, which writes to none of it.
    check_len(unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &raw const message, flags) }).map(drop)
}

struct Received {
    len: usize,
    flags: i32,
    descriptors: Vec<OwnedFd>,
}

/// One `recvmsg` with that much room for bytes and for control data.
fn receive_message(fd: impl AsFd, room: usize, control_room: usize) -> io::Result<Received> {
    receive_message_with(fd, room, control_room, 0)
}

fn receive_message_with(fd: impl AsFd, room: usize, control_room: usize, flags: i32) -> io::Result<Received> {
    let (mut buffer, mut control) = (vec![0_u8; room], vec![0_u8; control_room]);
    let mut iov = [libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: room }];
    let mut message = message(&mut iov, &mut control);
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: all that the message points to outlives the call, with the lengths that it says.
    let len = check_len(unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut message, flags) })?;
    let flags = message.msg_flags & (MSG_CTRUNC | MSG_TRUNC);
    let mut descriptors = Vec::new();
    if let Some(bytes) = control.first_chunk::<8>() {
        let end = usize::from_ne_bytes(*bytes).max(HEADER_BYTES);
        for number in control[HEADER_BYTES..end].chunks_exact(4) {
            let number = i32::from_ne_bytes(number.try_into().expect("four bytes"));
            // SAFETY: the kernel has just made this descriptor for us.
            descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
    Ok(Received { len, flags, descriptors })
}

fn set_option(fd: impl AsFd, option: i32, value: i32) -> io::Result<()> {
    let (pointer, len) = ((&raw const value).cast(), size_of_val(&value) as u32);
    // SAFETY: pointer and length are the value's.
    check(unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), libc::SOL_SOCKET, option, pointer, len) })
        .map(drop)
}

/// A `recv` on a Unix stream stops at a passed descriptor, with data behind it and no further edge. So a short read
/// shows no drained socket where descriptors may come.
#[test]
fn a_read_stops_short_at_a_passed_descriptor() -> io::Result<()> {
    let (epoll, (ours, theirs)) = (Epoll::new()?, pair(SOCK_STREAM)?);
    epoll.add(&ours, EPOLLIN, 0)?;
    send(&theirs, b"before,")?;
    send_with_descriptors(&theirs, b"with,", 1)?;
    send(&theirs, b"behind")?;
    assert_eq!(epoll.one().mask, EPOLLIN);
    assert_eq!(receive(&ours)?, "before,with,");
    assert_eq!(epoll.now(), []);
    assert_eq!(receive(&ours)?, "behind");
    assert_eq!(errno(receive(&ours)), EAGAIN);
    Ok(())
}

/// Sends an out-of-band byte; false where the kernel has none on Unix sockets.
fn send_out_of_band(fd: &OwnedFd) -> io::Result<bool> {
    let sent = send_flags(fd, b"!", libc::MSG_OOB);
    if errno(sent) == EOPNOTSUPP {
        skip("no out-of-band bytes on Unix sockets: the kernel is built without CONFIG_AF_UNIX_OOB");
        return Ok(false);
    }
    Ok(true)
}

/// A `recv` on a Unix stream stops at an out-of-band byte too, with data behind it and no further edge; the event
/// that brought the bytes carries EPOLLPRI. So PRI seen means: read to EAGAIN.
#[test]
fn a_read_stops_short_at_an_out_of_band_byte_and_pri_tells() -> io::Result<()> {
    let (epoll, (ours, theirs)) = (Epoll::new()?, pair(SOCK_STREAM)?);
    epoll.add(&ours, EPOLLIN | EPOLLPRI, 0)?;
    send(&theirs, b"before")?;
    if !send_out_of_band(&theirs)? {
        return Ok(());
    }
    send(&theirs, b"behind")?;
    assert_eq!(epoll.one().mask, EPOLLIN | EPOLLPRI);
    assert_eq!(receive(&ours)?, "before");
    assert_eq!(epoll.now(), []);
    assert_eq!(receive(&ours)?, "behind");
    Ok(())
}

/// PRI comes with the event that brings the out-of-band byte, and with no event before it. So its absence is the
/// proof that a short read needs.
#[test]
fn pri_comes_with_the_event_that_brings_the_byte() -> io::Result<()> {
    let (epoll, (ours, theirs)) = (Epoll::new()?, pair(SOCK_STREAM)?);
    epoll.add(&ours, EPOLLIN | EPOLLPRI, 0)?;
    send(&theirs, b"before")?;
    assert_eq!(epoll.one().mask, EPOLLIN);
    if !send_out_of_band(&theirs)? {
        return Ok(());
    }
    assert_eq!(epoll.one().mask, EPOLLIN | EPOLLPRI);
    Ok(())
}

/// `SO_PASSRIGHTS` switched off on a listener holds for all who connect, also before `accept`: the sender of a
/// descriptor gets EPERM, and plain bytes pass. So one call a listener proves that no descriptor cuts a read short.
#[test]
fn passing_switched_off_on_the_listener_is_inherited() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path)?;
    let switched_off = set_option(&listener, SO_PASSRIGHTS, 0);
    if errno(switched_off) == ENOPROTOOPT {
        skip("no SO_PASSRIGHTS: the kernel is older than 6.16");
        return Ok(());
    }
    let client = UnixStream::connect(&path)?;
    assert_eq!(errno(send_with_descriptors(&client, b"x", 1)), EPERM, "before accept");
    let (server, _) = listener.accept()?;
    assert_eq!(errno(send_with_descriptors(&client, b"x", 1)), EPERM, "after accept");
    send(&client, b"plain")?;
    assert_eq!(receive(&server)?, "plain");
    send_with_descriptors(&server, b"x", 1)?;
    assert_eq!(
        receive_message(&client, 8, 64)?.descriptors.len(),
        1,
        "the client's own side still takes them"
    );
    Ok(())
}

/// Descriptors that do not fit are closed, and `MSG_CTRUNC` reports it; it is the only sign that the bytes came with
/// some. So a read without room for descriptors still detects them.
#[test]
fn ctrunc_tells_of_dropped_descriptors() -> io::Result<()> {
    let (ours, theirs) = pair(SOCK_STREAM)?;
    send(&theirs, b"plain")?;
    assert_eq!(receive_message(&ours, 8, 0)?.flags, 0);
    send_with_descriptors(&theirs, b"with", 1)?;
    let received = receive_message(&ours, 8, 0)?;
    assert_eq!((received.len, received.flags), (4, MSG_CTRUNC));
    Ok(())
}

/// A control buffer of `CMSG_SPACE` for one descriptor has padding in which a second one fits: two come without
/// `MSG_CTRUNC`, three give two and `MSG_CTRUNC`. So every descriptor is owned before any is counted, and after
/// `MSG_CTRUNC` all are closed.
#[test]
fn room_for_one_descriptor_receives_two() -> io::Result<()> {
    let (ours, theirs) = pair(SOCK_STREAM)?;
    // SAFETY: plain arithmetic.
    let room_for_one = unsafe { libc::CMSG_SPACE(4) } as usize;
    for (sent, received, flags) in [(1, 1, 0), (2, 2, 0), (3, 2, MSG_CTRUNC)] {
        send_with_descriptors(&theirs, b"x", sent)?;
        let got = receive_message(&ours, 8, room_for_one)?;
        assert_eq!((got.descriptors.len(), got.flags), (received, flags), "{sent} sent");
    }
    // SAFETY: plain arithmetic.
    let unpadded = unsafe { libc::CMSG_LEN(4) } as usize;
    send_with_descriptors(&theirs, b"x", 2)?;
    let got = receive_message(&ours, 8, unpadded)?;
    assert_eq!((got.descriptors.len(), got.flags), (1, MSG_CTRUNC), "without the padding");
    Ok(())
}

/// What the first of two reads gives after two processes wrote to one stream.
fn first_read_of_two_senders(pass_credentials: i32) -> io::Result<String> {
    let (ours, theirs) = pair(SOCK_STREAM)?;
    set_option(&ours, libc::SO_PASSCRED, pass_credentials)?;
    send(&theirs, b"parent,")?;
    assert_eq!(fork(|| send(&theirs, b"child"))?.wait()?, End::Exit(0));
    receive(&ours)
}

/// Under `SO_PASSCRED` a change of the sender's credentials ends a read, with data behind it; without, nothing
/// shows. So the crate asks `SO_PEERCRED` once, at the connect, and leaves the option off.
#[test]
fn a_change_of_the_senders_credentials_splits_a_read_only_under_passcred() -> io::Result<()> {
    alone(|| {
        assert_eq!(first_read_of_two_senders(1)?, "parent,");
        assert_eq!(first_read_of_two_senders(0)?, "parent,child");
        Ok(())
    })
}

/// A read of records gives one record, however many wait, and no further edge follows. So on seqpacket and datagram
/// sockets a short read shows nothing, and only EAGAIN shows that all is read.
#[test]
fn a_short_read_of_a_record_says_nothing_of_those_behind() -> io::Result<()> {
    for kind in [SOCK_SEQPACKET, SOCK_DGRAM] {
        let (epoll, (ours, theirs)) = (Epoll::new()?, pair(kind)?);
        epoll.add(&ours, EPOLLIN, 0)?;
        send(&theirs, b"one")?;
        send(&theirs, b"two")?;
        assert_eq!(epoll.one().mask, EPOLLIN);
        assert_eq!(receive(&ours)?, "one");
        assert_eq!(epoll.now(), []);
        assert_eq!(receive(&ours)?, "two");
        assert_eq!(errno(receive(&ours)), EAGAIN);
    }
    Ok(())
}

/// A record longer than the buffer loses its rest, and a plain `recv` looks like a whole one. `recvmsg` sets
/// `MSG_TRUNC`, and a call with that flag returns the true length. So the crate passes the flag.
#[test]
fn only_msg_trunc_tells_of_a_truncated_record() -> io::Result<()> {
    for kind in [SOCK_SEQPACKET, SOCK_DGRAM] {
        let (ours, theirs) = pair(kind)?;
        for _ in 0..3 {
            send(&theirs, b"0123456789")?;
        }
        assert_eq!(receive_into(&ours, &mut [0; 4], 0)?, 4);
        let received = receive_message(&ours, 4, 0)?;
        assert_eq!((received.len, received.flags), (4, MSG_TRUNC));
        assert_eq!(receive_into(&ours, &mut [0; 4], MSG_TRUNC)?, 10);
        assert_eq!(errno(receive(&ours)), EAGAIN, "the rests are lost");
    }
    Ok(())
}

/// On a seqpacket socket an empty record and the end read alike, as 0; only the end shows EPOLLRDHUP. So a 0 is the
/// end only where RDHUP confirms it, and on a datagram socket never.
#[test]
fn an_empty_record_reads_like_the_end() -> io::Result<()> {
    alone(|| {
        let (epoll, (ours, theirs)) = (Epoll::new()?, pair(SOCK_SEQPACKET)?);
        epoll.add(&ours, EPOLLIN | EPOLLRDHUP, 0)?;
        send(&theirs, b"")?;
        assert_eq!(epoll.one().mask, EPOLLIN);
        assert_eq!(receive(&ours)?, "");
        assert_eq!(errno(receive(&ours)), EAGAIN, "it was a record");
        drop(theirs);
        assert!(epoll.one().has(EPOLLIN | EPOLLRDHUP));
        assert_eq!(receive(&ours)?, "");
        assert_eq!(receive(&ours)?, "", "it is the end");

        let (ours, theirs) = pair(SOCK_DGRAM)?;
        send(&theirs, b"")?;
        assert_eq!(receive(&ours)?, "");
        assert_eq!(errno(receive(&ours)), EAGAIN);
        Ok(())
    })
}

/// `SO_PASSRIGHTS` is asked when a message is sent, not when it is received. So a socket that is adopted may hold
/// descriptors, although it refuses them from then on.
#[test]
fn passing_switched_off_keeps_what_was_sent_before() -> io::Result<()> {
    for kind in [SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM] {
        let (ours, theirs) = pair(kind)?;
        send_with_descriptors(&theirs, b"before", 2)?;
        if errno(set_option(&ours, SO_PASSRIGHTS, 0)) == ENOPROTOOPT {
            skip("no SO_PASSRIGHTS: the kernel is older than 6.16");
            return Ok(());
        }
        assert_eq!(errno(send_with_descriptors(&theirs, b"after", 1)), EPERM);
        let received = receive_message(&ours, 8, 64)?;
        assert_eq!((received.len, received.descriptors.len()), (6, 2));
    }
    Ok(())
}

/// A TCP socket whose last close waits so many seconds, because its data is never read. The second end must be kept.
fn lingering(seconds: i32) -> io::Result<(OwnedFd, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nonblocking(true)?;
    while (&near).write(&[0; 1 << 16]).is_ok() {}
    let value = libc::linger { l_onoff: 1, l_linger: seconds };
    let (pointer, len) = ((&raw const value).cast(), size_of_val(&value) as u32);
    // SAFETY: pointer and length are the value's.
    check(unsafe { libc::setsockopt(near.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, pointer, len) })?;
    Ok((near.into(), far))
}

/// A descriptor that finds no room is closed by the thread that receives; those in unread messages, by the thread that
/// closes the socket. If it is the last close, that waits as long as the sender has said. So the loop receives with room
/// for all that can come, and closes neither these nor such sockets itself.
#[test]
fn who_drops_a_passed_descriptor_waits_for_its_last_close() -> io::Result<()> {
    /// What the close waits for at least: the clock of the linger time is coarse.
    const LEAST: Duration = Duration::from_millis(900);
    type Drops = fn(OwnedFd) -> io::Result<()>;
    let ways: [(&str, Drops); 3] = [
        ("recv", |socket| receive(&socket).map(drop)),
        ("recvmsg with a small buffer", |socket| receive_message(&socket, 8, 16).map(drop)),
        ("close", |socket| {
            drop(socket);
            Ok(())
        }),
    ];
    alone(|| {
        for kind in [SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM] {
            for (way, drops) in ways {
                let (ours, theirs) = pair(kind)?;
                let (passed, _far) = lingering(1)?;
                send_descriptor(&theirs, b"x", passed.as_fd())?;
                drop(passed);
                let begun = Instant::now();
                drops(ours)?;
                assert!(begun.elapsed() >= LEAST, "{way} has waited for {:?}", begun.elapsed());
            }
        }
        Ok(())
    })
}

/// A look with `MSG_PEEK` gives duplicates of the descriptors of a message that stays, and `SO_PEEK_OFF` lets the next look
/// begin behind it, also behind empty ones. An option set through a duplicate is the socket's. So the linger time is taken
/// from all that unread messages hold, before the close that would wait for it.
#[test]
fn a_look_at_unread_messages_reaches_the_sockets_in_them() -> io::Result<()> {
    alone(|| {
        for kind in [SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM] {
            let (ours, theirs) = pair(kind)?;
            let texts: &[&[u8]] = if kind == SOCK_STREAM { &[b"a", b"b", b"c"] } else { &[b"", b"a", b""] };
            for text in texts {
                send_with_descriptors(&theirs, text, 1)?;
            }
            set_option(&ours, libc::SO_PEEK_OFF, 0)?;
            for text in texts {
                let seen = receive_message_with(&ours, 8, 64, libc::MSG_PEEK)?;
                assert_eq!((seen.len, seen.descriptors.len()), (text.len(), 1), "type {kind}");
            }
            let empty = receive_message_with(&ours, 8, 64, libc::MSG_PEEK);
            assert_eq!(errno(empty), EAGAIN);
            for text in texts {
                let received = receive_message(&ours, 8, 64)?;
                assert_eq!((received.len, received.descriptors.len()), (text.len(), 1), "it has stayed");
            }
        }
        Ok(())
    })
}

/// `recvmsg` on a Unix stream takes bytes up to and with the first message that has descriptors, and stops behind it. So a
/// short one without any has emptied the socket, whatever was queued.
#[test]
fn a_short_read_without_descriptors_has_emptied_a_stream() -> io::Result<()> {
    let (ours, theirs) = pair(SOCK_STREAM)?;
    for order in 0..3_u32.pow(5) {
        let mut sent = 0;
        for place in 0..5 {
            match order / 3_u32.pow(place) % 3 {
                0 => continue,
                1 => send(&theirs, b"bytes")?,
                _ => send_with_descriptors(&theirs, b"bytes", 1)?,
            }
            sent += 5;
        }
        let mut received = 0;
        while received < sent {
            let part = receive_message(&ours, 64, 64)?;
            assert_eq!((part.flags, part.descriptors.len() <= 1), (0, true));
            received += part.len;
            if part.descriptors.is_empty() {
                assert_eq!(errno(receive_message(&ours, 64, 64)), EAGAIN, "order {order}");
                assert_eq!(received, sent);
            }
        }
    }
    Ok(())
}
