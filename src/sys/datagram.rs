//! Datagrams. No function allocates, but where descriptors have come.
//!
//! `discarded`, if there is one: the kernel lets senders pass descriptors. Then a receive has room for all that can
//! come, and has them closed off this thread (`closer.rs`), and counts them. Without the room the kernel would close
//! them in this thread, which can block.

use std::{
    collections::VecDeque,
    io,
    mem::{MaybeUninit, zeroed},
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{
    check_count, check_len, closer,
    cmsg::{Control, take_filled},
    scm::CONTROL,
    sockaddr::SockAddr,
};

/// The most datagrams that one [`recv_batch`] or [`send_batch`] call moves.
pub(crate) const BATCH: usize = 16;

/// The length and the sender of a datagram that was received.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    /// Its length in bytes when it was sent. More than the buffer has: it was truncated.
    pub(crate) len: usize,
    /// The sender's address.
    pub(crate) from: SockAddr,
}

impl Arrival {
    /// For a call that fills it.
    pub(crate) fn zeroed() -> Self {
        Self { len: 0, from: SockAddr::zeroed() }
    }
}

/// `recvfrom(2)`. There is no end of file: a length of zero is an empty datagram.
pub(crate) fn recv_from(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    arrival: &mut Arrival,
    discarded: Option<&mut u64>,
) -> io::Result<()> {
    if discarded.is_some() {
        // A batch has no pieces of no bytes.
        let mut byte = [0];
        let buffer = if buffer.is_empty() { &mut byte } else { buffer };
        let each = buffer.len();
        return recv_batch(fd, buffer, each, std::slice::from_mut(arrival), discarded).map(drop);
    }
    let (start, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    let (from, mut from_len) = (arrival.from.as_mut_ptr(), SockAddr::CAPACITY);
    // MSG_TRUNC asks for the real length.
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: `start` and `len` describe `buffer`, `from` and `from_len` the storage in `arrival`. All outlive the
    // call.
    let received = unsafe { libc::recvfrom(fd.as_raw_fd(), start, len, flags, from, &raw mut from_len) };
    arrival.len = check_len(received)?;
    arrival.from.len = from_len;
    Ok(())
}

/// `recvmmsg(2)` of at most [`BATCH`] datagrams: fills the first of the `arrivals`, and `bytes` with their bytes, each
/// in a piece of `each` bytes. Fewer than asked for: there were no more, or the next call returns an error.
pub(crate) fn recv_batch(
    fd: BorrowedFd<'_>,
    bytes: &mut [u8],
    each: usize,
    arrivals: &mut [Arrival],
    discarded: Option<&mut u64>,
) -> io::Result<usize> {
    let mut controls = [const { MaybeUninit::<Control<CONTROL>>::uninit() }; BATCH];
    let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    // SAFETY: all-zero is a value of these plain structs, whose padding fields are private.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    let mut count = 0;
    let pieces = bytes.chunks_exact_mut(each.max(1)).zip(&mut *arrivals);
    let storage = headers.iter_mut().zip(&mut parts).zip(&mut controls);
    for (((header, part), control), (piece, arrival)) in storage.zip(pieces) {
        *part = libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() };
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_name = arrival.from.as_mut_ptr().cast();
        header.msg_hdr.msg_namelen = SockAddr::CAPACITY;
        if discarded.is_some() {
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL as _;
        }
        count += 1;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC;
    let no_timeout = std::ptr::null_mut();
    // SAFETY: the first `count` headers describe pieces of `bytes` and storage in `arrivals` and `controls`, which
    // outlive the call.
    let result = unsafe { libc::recvmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, flags, no_timeout) };
    let received = check_count(result)?;
    for (arrival, header) in arrivals.iter_mut().zip(&headers[..received]) {
        arrival.len = header.msg_len as usize;
        arrival.from.len = header.msg_hdr.msg_namelen;
    }
    if let Some(discarded) = discarded {
        let mut rights = VecDeque::new();
        for (control, header) in controls.iter().zip(&headers[..received]) {
            #[allow(clippy::unnecessary_cast, reason = "it is a socklen_t in musl")]
            let len = (header.msg_hdr.msg_controllen as usize).min(CONTROL);
            // SAFETY: the kernel has just filled `len` bytes of this buffer, and nothing else reads them.
            unsafe { take_filled(control, len, |fd| rights.push_back(fd)) };
        }
        *discarded += closer::close_all(&mut rights);
    }
    Ok(received)
}

/// `sendto(2)`.
pub(crate) fn send_to(fd: BorrowedFd<'_>, bytes: &[u8], to: &SockAddr) -> io::Result<usize> {
    let (start, len) = (bytes.as_ptr().cast(), bytes.len());
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `start` and `len` describe `bytes`, `to` describes its own storage. All outlive the call.
    check_len(unsafe { libc::sendto(fd.as_raw_fd(), start, len, flags, to.as_ptr(), to.len) })
}

/// `sendmmsg(2)` of at most [`BATCH`] datagrams. Returns how many were sent. An error is that of the first one.
pub(crate) fn send_batch<'a>(
    fd: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (&'a [u8], &'a SockAddr)>,
) -> io::Result<usize> {
    let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    // SAFETY: all-zero is a value of these plain structs, whose padding fields are private.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    let mut count = 0;
    for ((header, part), (bytes, to)) in headers.iter_mut().zip(&mut parts).zip(datagrams) {
        *part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_namelen = to.len;
        count += 1;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the first `count` headers describe slices and addresses that live for 'a, and the kernel only reads them.
    let result = unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, flags) };
    check_count(result)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, UdpSocket},
        os::fd::AsFd,
        time::Instant,
    };

    use super::*;

    const ROUNDS: usize = 2_000;

    #[test]
    fn a_batch_keeps_order_lengths_and_senders() {
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = SockAddr::inet(receiver.local_addr().unwrap());
        let datagrams = [&b"one"[..], b"", b"longer than its piece"];
        let sent = send_batch(sender.as_fd(), datagrams.iter().map(|bytes| (*bytes, &to)));
        assert_eq!(sent.unwrap(), 3);
        send_to(sender.as_fd(), b"four", &to).unwrap();

        let (mut bytes, mut arrivals) = ([0; 3 * 8], [Arrival::zeroed(); 3]);
        assert_eq!(recv_batch(receiver.as_fd(), &mut bytes, 8, &mut arrivals, None).unwrap(), 3);
        assert_eq!(arrivals.map(|arrival| arrival.len), [3, 0, 21]);
        assert_eq!((&bytes[..3], &bytes[16..]), (&b"one"[..], &b"longer t"[..]));
        for arrival in arrivals {
            assert_eq!(arrival.from.to_inet(), sender.local_addr().ok());
        }
        let mut arrival = Arrival::zeroed();
        recv_from(receiver.as_fd(), &mut bytes[..2], &mut arrival, None).unwrap();
        assert_eq!((arrival.len, arrival.from.to_inet()), (4, sender.local_addr().ok()));
        let empty = recv_batch(receiver.as_fd(), &mut bytes, 8, &mut arrivals, None).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
    }

    /// The median of what `count` datagrams cost, in nanoseconds each.
    fn price(count: usize, mut fill: impl FnMut(), mut empty: impl FnMut()) -> f64 {
        let mut prices: Vec<_> = (0..ROUNDS)
            .map(|_| {
                fill();
                let start = Instant::now();
                empty();
                start.elapsed().as_nanos()
            })
            .collect();
        prices.sort_unstable();
        prices[ROUNDS / 2] as f64 / count as f64
    }

    #[test]
    #[ignore = "a measurement, not a test"]
    fn batch_prices() {
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = SockAddr::inet(receiver.local_addr().unwrap());
        let (sender, receiver) = (sender.as_fd(), receiver.as_fd());
        let (mut bytes, mut arrivals) = (vec![0; BATCH << 16], [Arrival::zeroed(); BATCH]);
        let message = [0; 64];
        for count in [1, 2, 4, 10, 16] {
            let one_by_one =
                || (0..count).for_each(|_| assert_eq!(send_to(sender, &message, &to).unwrap(), 64));
            let (mut first, mut arrival) = (vec![0; 1 << 16], Arrival::zeroed());
            let singly = price(count, one_by_one, || {
                while recv_from(receiver, &mut first, &mut arrival, None).is_ok() {}
            });
            let batched = price(count, one_by_one, || {
                while recv_batch(receiver, &mut bytes, 1 << 16, &mut arrivals, None).is_ok_and(|n| n == BATCH)
                {
                }
            });
            let batch = || {
                let datagrams = std::iter::repeat_n((&message[..], &to), count);
                assert_eq!(send_batch(sender, datagrams).unwrap(), count);
            };
            let mut clear = || while recv_from(receiver, &mut first, &mut arrival, None).is_ok() {};
            let sent_singly = price(count, &mut clear, one_by_one);
            let sent_batched = price(count, &mut clear, batch);
            clear();
            println!(
                "{count:2} datagrams, ns each: recvfrom {singly:.0}, recvmmsg {batched:.0} ({:.2}); \
                 sendto {sent_singly:.0}, sendmmsg {sent_batched:.0} ({:.2})",
                singly / batched,
                sent_singly / sent_batched,
            );
        }
    }
}
