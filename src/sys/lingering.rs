//! Taking the linger time from sockets before they are closed (`SO_LINGER`, `socket(7)`).
//!
//! A Unix socket may hold, in messages that are not read, sockets with a linger time, or Unix sockets that hold such. So
//! its messages are looked at with `MSG_PEEK`, which gives duplicates of their descriptors and leaves the messages where
//! they are: another process may have the socket, too, and read them.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::{scm, socket};

/// Messages looked at for one close. A socket's buffer holds hundreds; sockets in messages of sockets can pretend to be
/// more.
const MESSAGES_MAX: u32 = 10_000;
/// How deep: sockets in messages of sockets in messages. Before 6.10 the kernel passed none beyond the fourth.
const DEPTH_MAX: u32 = 8;

/// Takes the linger time from a socket, and from those in its unread messages. Does nothing to other descriptors.
pub(super) fn disarm(descriptor: BorrowedFd<'_>) {
    let mut room = [0; 4096];
    let mut left = MESSAGES_MAX;
    disarm_within(descriptor, &mut room, &mut left, DEPTH_MAX);
}

fn disarm_within(descriptor: BorrowedFd<'_>, room: &mut [u8], left: &mut u32, depth: u32) {
    // Fails for what is no socket.
    if socket::set_linger_off(descriptor).is_err() || depth == 0 {
        return;
    }
    // TCP has this option, too, but its bytes hold nothing.
    let option = |name| socket::option(descriptor, libc::SOL_SOCKET, name);
    if option(libc::SO_DOMAIN).is_ok_and(|domain| domain == libc::AF_UNIX)
        && let Ok(before) = option(libc::SO_PEEK_OFF)
        && socket::set_option(descriptor, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0).is_ok()
    {
        disarm_messages(descriptor, room, left, depth);
        let _ = socket::set_option(descriptor, libc::SOL_SOCKET, libc::SO_PEEK_OFF, before);
    }
}

/// Each look begins where the last one ended (`SO_PEEK_OFF`), and ends with the first message that has descriptors.
fn disarm_messages(descriptor: BorrowedFd<'_>, room: &mut [u8], left: &mut u32, depth: u32) {
    /// More than there can be in a socket: an empty record looks like the end of file, which comes again and again.
    const EMPTY_MAX: u32 = 1_000;
    let mut held: VecDeque<OwnedFd> = VecDeque::new();
    let mut empty = 0;
    while *left > 0 && empty < EMPTY_MAX {
        *left -= 1;
        match scm::peek(descriptor, room, &mut held) {
            Ok(0) => empty += 1,
            Ok(_) => {}
            Err(_) => break,
        }
        // Duplicates of what stays in the message: closing them is not the last close.
        for held in held.drain(..) {
            disarm_within(held.as_fd(), room, left, depth - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::{UnixDatagram, UnixStream},
    };

    fn lingers(socket: &TcpStream) -> bool {
        // The option's first int says whether it is on.
        socket::option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER).unwrap() != 0
    }

    fn armed(count: usize) -> Vec<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let arm = |_| {
            let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            socket::set_linger(socket.as_fd(), 600).unwrap();
            socket
        };
        (0..count).map(arm).collect()
    }

    fn put(into: BorrowedFd<'_>, bytes: &[u8], sockets: &[TcpStream]) {
        let sockets: Vec<OwnedFd> = sockets.iter().map(|it| it.try_clone().unwrap().into()).collect();
        scm::send(into, bytes, &sockets).unwrap();
    }

    #[test]
    fn all_that_unread_messages_hold_is_disarmed_and_stays_there() {
        let sockets = armed(7);
        let (near, far) = UnixStream::pair().unwrap();
        let (inner_near, inner_far) = UnixDatagram::pair().unwrap();
        put(inner_near.as_fd(), b"", &sockets[..1]);
        put(inner_near.as_fd(), b"", &sockets[1..2]);
        put(inner_near.as_fd(), b"inside", &sockets[2..3]);
        put(near.as_fd(), &[b'x'; 9_000], &[]);
        put(near.as_fd(), b"1", &sockets[3..5]);
        put(near.as_fd(), &[b'y'; 9_000], &sockets[5..6]);
        scm::send(near.as_fd(), b"socket", &[inner_far.try_clone().unwrap().into()]).unwrap();
        put(near.as_fd(), b"2", &sockets[6..]);
        assert!(sockets.iter().all(lingers));
        disarm(far.as_fd());
        assert!(!sockets.iter().any(lingers));

        let (mut room, mut held, mut len) = (vec![0; 1 << 16], VecDeque::new(), 0);
        while len < 18_008 {
            len += scm::recv(far.as_fd(), &mut room, &mut held).unwrap().len;
        }
        assert_eq!((len, held.len()), (18_008, 5), "nothing was taken");
        assert_eq!(scm::recv(inner_far.as_fd(), &mut room, &mut held).unwrap().len, 0);
        assert_eq!(held.len(), 6);
    }

    #[test]
    fn sockets_that_hold_each_other_come_to_an_end() {
        let (near, far) = UnixStream::pair().unwrap();
        for _ in 0..20 {
            let copies: Vec<OwnedFd> = (0..20).map(|_| far.try_clone().unwrap().into()).collect();
            scm::send(near.as_fd(), b"x", &copies).unwrap();
        }
        disarm(far.as_fd());
        assert_eq!(scm::recv(far.as_fd(), &mut [0; 9], &mut VecDeque::new()).unwrap().len, 1);
    }
}
