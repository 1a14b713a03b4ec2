//! Descriptors sent through a Unix socket with the bytes (`SCM_RIGHTS`, `unix(7)`).

use std::{
    collections::VecDeque,
    io,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
};

use super::{
    cmsg::{Control, put_descriptors, recvmsg_unfilled, sendmsg, space, take_filled},
    socket::Record,
};

/// `SCM_MAX_FD`: the most descriptors that the kernel puts into one message.
pub(crate) const AT_ONCE: usize = 253;

/// Credentials (on seqpacket sockets) and a full set of descriptors. There is room for all that can come, also where
/// the kernel puts two descriptors into the padding of a buffer made for one.
///
/// The rest is for what an adopted socket may be set to bring as well: a pidfd, a time, a security label. Without it
/// these could push out descriptors, which the kernel would close in this thread.
pub(super) const CONTROL: usize = space(size_of::<libc::ucred>()) + space(AT_ONCE * size_of::<RawFd>()) + 512;

/// Receives bytes, or a record, and the descriptors that come with it. If some were lost on the way
/// ([`Record::ctrunc`]), `descriptors` still has those that came.
pub(crate) fn recv(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<Record> {
    let mut control = MaybeUninit::<Control<CONTROL>>::uninit();
    let message = recvmsg_unfilled(fd, buffer, &mut control, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)?;
    if message.control_len > 0 {
        // SAFETY: the kernel has just filled so many bytes, and nothing else reads them.
        unsafe { take_filled(&control, message.control_len, |fd| descriptors.push_back(fd)) };
    }
    Ok(Record::from(message))
}

/// How many bytes the next message has, as far as `buffer` has room, and duplicates of its descriptors. It stays where
/// it is.
pub(super) fn peek(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut control = MaybeUninit::<Control<CONTROL>>::uninit();
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let message = recvmsg_unfilled(fd, buffer, &mut control, flags)?;
    // SAFETY: the kernel has just filled so many bytes, and nothing else reads them.
    unsafe { take_filled(&control, message.control_len, |fd| descriptors.push_back(fd)) };
    Ok(message.len)
}

/// Sends bytes, or a record, and at most [`AT_ONCE`] descriptors with it. They stay open here.
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
    assert!(descriptors.len() <= AT_ONCE, "the caller sends at most AT_ONCE descriptors");
    let mut control = Control::<CONTROL>::zeroed();
    let len = put_descriptors(&mut control.0, descriptors);
    sendmsg(fd, bytes, &control.0[..len], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd, unix::net::UnixStream};

    use super::*;

    #[test]
    fn a_full_set_of_descriptors_comes_with_the_bytes() {
        let (near, far) = UnixStream::pair().unwrap();
        let descriptor = || OwnedFd::from(near.try_clone().unwrap());
        let mut taken = VecDeque::new();
        for count in [0, 1, 2, AT_ONCE] {
            let sent: Vec<_> = (0..count).map(|_| descriptor()).collect();
            assert_eq!(send(near.as_fd(), b"with", &sent).unwrap(), 4);
            let record = recv(far.as_fd(), &mut [0; 16], &mut taken).unwrap();
            assert_eq!(record, Record { len: 4, truncated: false, end: false, ctrunc: false });
            assert_eq!(taken.drain(..).count(), count);
        }
        drop(near);
        assert!(recv(far.as_fd(), &mut [0; 16], &mut taken).unwrap().end);
    }

    #[test]
    #[should_panic(expected = "at most AT_ONCE")]
    fn one_more_is_refused_before_the_kernel_sees_it() {
        let (near, _far) = UnixStream::pair().unwrap();
        let sent: Vec<_> = (0..AT_ONCE + 1).map(|_| OwnedFd::from(near.try_clone().unwrap())).collect();
        let _ = send(near.as_fd(), b"with", &sent);
    }
}
