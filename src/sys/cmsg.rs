//! Control messages, and the one `recvmsg(2)` and `sendmsg(2)` that carry them (`cmsg(3)`, `unix(7)`).
//!
//! The kernel's layout is read and written as bytes. A control message has a header of 16 bytes (its length as a 64-bit
//! word, its level and its type as 32-bit words) and its data, padded to 8 bytes.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use super::check_len;

/// Bytes of a control message's header.
const HEADER: usize = size_of::<libc::cmsghdr>();
const FD: usize = size_of::<RawFd>();
/// A pidfd of the sender, with every message to a socket that has `SO_PASSPIDFD` (since Linux 6.5).
const SCM_PIDFD: libc::c_int = 4;
const _: () = assert!(HEADER == 16 && align_of::<libc::cmsghdr>() == 8 && size_of::<OwnedFd>() == FD);

/// Bytes that a control message with `data` bytes of data takes.
pub(super) const fn space(data: usize) -> usize {
    HEADER + data.next_multiple_of(8)
}

/// A buffer for control messages of `LEN` bytes, aligned as the kernel wants them.
#[repr(align(8))]
pub(super) struct Control<const LEN: usize>(pub(super) [u8; LEN]);

impl<const LEN: usize> Control<LEN> {
    pub(super) fn zeroed() -> Self {
        Control([0; LEN])
    }
}

/// What [`recvmsg`] received.
pub(super) struct Message {
    /// Bytes, or with `MSG_TRUNC` the length that the record had when it was sent.
    pub(super) len: usize,
    /// Bytes of the control buffer that the kernel filled.
    pub(super) control_len: usize,
    /// `MSG_TRUNC` and `MSG_CTRUNC` say what was lost.
    pub(super) flags: libc::c_int,
}

/// `recvmsg(2)` into one buffer.
#[inline]
pub(super) fn recvmsg(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut [u8],
    flags: libc::c_int,
) -> io::Result<Message> {
    let (control, room) = (control.as_mut_ptr(), control.len());
    // SAFETY: pointer and length are the slice's.
    unsafe { recvmsg_at(fd, buffer, control, room, flags) }
}

/// [`recvmsg`] with a buffer for control messages that is not initialized: it is long, and most messages have none.
#[inline]
pub(super) fn recvmsg_unfilled<const LEN: usize>(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut MaybeUninit<Control<LEN>>,
    flags: libc::c_int,
) -> io::Result<Message> {
    // SAFETY: the pointer is to `LEN` bytes, which the kernel may write.
    unsafe { recvmsg_at(fd, buffer, control.as_mut_ptr().cast(), LEN, flags) }
}

/// # Safety
///
/// `room` bytes at `control` can be written.
#[inline]
unsafe fn recvmsg_at(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: *mut u8,
    room: usize,
    flags: libc::c_int,
) -> io::Result<Message> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = message_header(&mut part, control, room);
    // SAFETY: `header` describes `buffer`, and `control` as the caller says. Both outlive the call.
    let len = check_len(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, flags) })?;
    #[allow(clippy::unnecessary_cast, reason = "it is a socklen_t in musl")]
    let control_len = (header.msg_controllen as usize).min(room);
    Ok(Message { len, control_len, flags: header.msg_flags })
}

/// `sendmsg(2)` of one buffer.
pub(super) fn sendmsg(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    control: &[u8],
    flags: libc::c_int,
) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let header = message_header(&mut part, control.as_ptr().cast_mut(), control.len());
    // SAFETY: `header` describes `bytes` and `control`, which outlive the call; the kernel only reads them.
    check_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &header, flags) })
}

fn message_header(part: &mut libc::iovec, control: *mut u8, control_len: usize) -> libc::msghdr {
    // SAFETY: all-zero is a value of this plain struct, whose padding fields are private.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header.msg_control = control.cast();
    // A size_t in glibc, a socklen_t in musl; every buffer here is far below either's limit.
    header.msg_controllen = control_len as _;
    header
}

/// Calls `take` with every descriptor in `control`. They belong to this process from the moment at which the kernel
/// wrote them.
///
/// # Safety
///
/// `control` must be what one [`recvmsg`] filled in, and must be read once only.
#[inline]
pub(super) unsafe fn take_descriptors(mut control: &[u8], mut take: impl FnMut(OwnedFd)) {
    while let Some((header, _)) = control.split_first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, l4, l5, l6, l7, a, b, c, d, e, f, g, h] = *header;
        let len = usize::from_ne_bytes([l0, l1, l2, l3, l4, l5, l6, l7]).min(control.len());
        let (level, kind) = (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
        let Some(data) = control.get(HEADER..len) else { return };
        if level == libc::SOL_SOCKET && matches!(kind, libc::SCM_RIGHTS | SCM_PIDFD) {
            for raw in data.as_chunks::<FD>().0 {
                // Instead of a pidfd there can be an errno.
                let raw = RawFd::from_ne_bytes(*raw);
                if raw < 0 {
                    continue;
                }
                // SAFETY: the kernel has just made this descriptor for this process, and the caller reads it once.
                let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
                if kind == libc::SCM_RIGHTS {
                    take(descriptor);
                }
                // A pidfd, which nothing here asks for, is closed: that cannot block.
            }
        }
        control = control.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
}

/// [`take_descriptors`] from a buffer of which the kernel has filled `len` bytes.
///
/// # Safety
///
/// As for [`take_descriptors`]; and the kernel must have filled the first `len` bytes.
pub(super) unsafe fn take_filled<const LEN: usize>(
    control: &MaybeUninit<Control<LEN>>,
    len: usize,
    take: impl FnMut(OwnedFd),
) {
    // SAFETY: the caller says that the kernel has filled so many bytes, and there are no more than the buffer has.
    let filled = unsafe { std::slice::from_raw_parts(control.as_ptr().cast::<u8>(), len.min(LEN)) };
    // SAFETY: as the caller says.
    unsafe { take_descriptors(filled, take) };
}

/// Writes one `SCM_RIGHTS` message to the start of `control`, and returns the bytes that it takes.
///
/// # Panics
///
/// The descriptors do not fit.
pub(super) fn put_descriptors<Fd: AsRawFd>(control: &mut [u8], descriptors: &[Fd]) -> usize {
    let data = descriptors.len() * FD;
    assert!(space(data) <= control.len(), "the caller sends no more descriptors than the buffer is made for");
    control[..8].copy_from_slice(&(HEADER + data).to_ne_bytes());
    control[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    control[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
    for (to, descriptor) in control[HEADER..].as_chunks_mut::<FD>().0.iter_mut().zip(descriptors) {
        *to = descriptor.as_raw_fd().to_ne_bytes();
    }
    space(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_taken() {
        for count in 0..5 {
            let ours: Vec<_> = (0..count).map(|_| tempfile::tempfile().unwrap()).collect();
            let mut control = Control::<{ space(4 * FD) }>::zeroed();
            // Duplicates stand in for the descriptors that the kernel makes in the receiver.
            let sent: Vec<_> = ours.iter().map(|file| OwnedFd::from(file.try_clone().unwrap())).collect();
            let len = put_descriptors(&mut control.0, &sent);
            let expected: Vec<_> = sent.into_iter().map(std::os::fd::IntoRawFd::into_raw_fd).collect();
            let mut taken = Vec::new();
            // SAFETY: the descriptors in `control` belong to nothing else since `into_raw_fd`, and are taken once.
            unsafe { take_descriptors(&control.0[..len], |fd| taken.push(fd)) };
            assert_eq!(taken.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn damaged_and_foreign_messages_yield_nothing() {
        let mut control = Control::<64>::zeroed();
        control.0[..8].copy_from_slice(&usize::MAX.to_ne_bytes());
        for len in 0..64 {
            // SAFETY: no message in `control` has the type SCM_RIGHTS, so no descriptor is made.
            unsafe { take_descriptors(&control.0[..len], |_| panic!("a descriptor from nowhere")) };
        }
        control.0[..8].copy_from_slice(&3usize.to_ne_bytes());
        // SAFETY: as above.
        unsafe { take_descriptors(&control.0, |_| panic!("a descriptor from nowhere")) };
    }
}
