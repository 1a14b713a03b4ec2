//! Descriptors on their way through a Unix socket (`SCM_RIGHTS`, `unix(7)`, `cmsg(3)`).

use std::{
    collections::VecDeque,
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use super::{check_len, socket::Record};

/// `SCM_MAX_FD`: more the kernel does not put into one message.
pub(crate) const AT_ONCE: usize = 253;

const HEADER: usize = size_of::<libc::cmsghdr>();
/// Credentials (on seqpacket sockets) and a full set of descriptors, each padded to 8 bytes. There is always room for
/// all that can come, because a buffer for one can be given two: the padding counts.
const CONTROL: usize = (HEADER + 16) + (HEADER + (AT_ONCE * size_of::<RawFd>()).next_multiple_of(8));

#[repr(align(8))]
struct Control([u8; CONTROL]);

/// Receives bytes, or a record, and the descriptors that come with it. If some were lost on the way
/// (`Record::ctrunc`), those that came are in `descriptors` all the same: they are ours to close.
pub(crate) fn recv(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<Record> {
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a value of this plain struct, whose padding fields are private.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `header` describes `buffer` and `control`, which outlive the call.
    let len = check_len(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, flags) })?;
    let filled = (header.msg_controllen as usize).min(CONTROL);
    take_descriptors(&control.0[..filled], descriptors);
    let ctrunc = header.msg_flags & libc::MSG_CTRUNC != 0;
    let truncated = header.msg_flags & libc::MSG_TRUNC != 0;
    Ok(Record { len, truncated, end: len == 0 && filled == 0 && !ctrunc, ctrunc })
}

fn take_descriptors(mut control: &[u8], descriptors: &mut VecDeque<OwnedFd>) {
    while let Some(&[l0, l1, l2, l3, l4, l5, l6, l7]) = control.first_chunk() {
        let len = usize::from_ne_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let Some(message) = control.get(..len).filter(|message| message.len() >= HEADER) else { return };
        let word = |at: usize| i32::from_ne_bytes(std::array::from_fn(|byte| message[at + byte]));
        if (word(8), word(12)) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for raw in message[HEADER..].chunks_exact(size_of::<RawFd>()) {
                let raw = RawFd::from_ne_bytes(std::array::from_fn(|byte| raw[byte]));
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
                descriptors.push_back(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        control = control.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
}

/// Sends bytes, or a record, and at most [`AT_ONCE`] descriptors with it, which stay open here.
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
    let mut control = Control([0; CONTROL]);
    let len = HEADER + size_of_val(descriptors);
    assert!(descriptors.len() <= AT_ONCE, "checked where they were given");
    control.0[..8].copy_from_slice(&len.to_ne_bytes());
    control.0[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    control.0[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
    for (place, descriptor) in control.0[HEADER..].chunks_exact_mut(size_of::<RawFd>()).zip(descriptors) {
        place.copy_from_slice(&descriptor.as_raw_fd().to_ne_bytes());
    }
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a value of this plain struct, whose padding fields are private.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = len.next_multiple_of(8) as _;
    // SAFETY: `header` describes `bytes` and `control`, which outlive the call; the kernel only reads them.
    check_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

const _: () = assert!(HEADER == 16 && size_of::<OwnedFd>() == size_of::<RawFd>());
