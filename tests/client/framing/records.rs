//! Seqpacket sockets: a record is a message, whatever its size, and only the end is the end.

use std::{io::Write, os::unix::net::UnixStream};

use ipc_reactor::{Framing, Key, Limit, Limits, Listener, Reactor};

use crate::framing::{Heard, Listen};
use crate::support::turns::{patient, reactor, settle};

mod seqpacket {
    #![allow(unsafe_code)]

    use std::{
        io,
        mem::{offset_of, size_of},
        os::{
            fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
            unix::ffi::OsStrExt,
        },
        path::Path,
    };

    fn own(fd: i32) -> OwnedFd {
        assert_ne!(fd, -1, "{}", io::Error::last_os_error());
        // SAFETY: the call made this descriptor for us, and no other code knows its number.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    pub(super) fn pair() -> (OwnedFd, OwnedFd) {
        let mut fds = [0; 2];
        // SAFETY: room for two descriptors.
        let made = unsafe {
            libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
        };
        assert_eq!(made, 0, "{}", io::Error::last_os_error());
        (own(fds[0]), own(fds[1]))
    }

    pub(super) fn connect(path: &Path) -> OwnedFd {
        // SAFETY: no pointers.
        let fd = own(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) });
        let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: [0; 108] };
        for (place, &byte) in address.sun_path.iter_mut().zip(path.as_os_str().as_bytes()) {
            *place = byte as libc::c_char;
        }
        let len = offset_of!(libc::sockaddr_un, sun_path) + path.as_os_str().len() + 1;
        assert!(len <= size_of::<libc::sockaddr_un>());
        // SAFETY: `address` is initialised to `len` bytes at least, and outlives the call.
        let made =
            unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len as libc::socklen_t) };
        assert_eq!(made, 0, "{}", io::Error::last_os_error());
        fd
    }

    pub(super) fn send(fd: impl AsFd, bytes: &[u8]) {
        let (start, len) = (bytes.as_ptr().cast(), bytes.len());
        // SAFETY: `start` and `len` describe `bytes`, which outlives the call.
        let sent = unsafe { libc::send(fd.as_fd().as_raw_fd(), start, len, libc::MSG_NOSIGNAL) };
        assert_eq!(sent, len as isize, "{}", io::Error::last_os_error());
    }
}

/// Not a stream, but it reads and writes as one: a call is a record.
fn adopted(reactor: &mut Reactor<Heard>, framing: Framing) -> (UnixStream, Key) {
    let (peer, ours) = seqpacket::pair();
    (patient(peer.into()), reactor.adopt(ours, framing, Listen).unwrap())
}

#[test]
fn records_are_messages_the_empty_ones_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut reactor = reactor(Limits::default());
    reactor
        .listen(Listener::unix_seqpacket(&path).unwrap(), Framing::raw(), |_, _: &mut Heard| Ok(Listen))
        .unwrap();
    let records: [&[u8]; 7] = [b"", b"one", b"", b"", b"two\nlines", &[7; 60_000], b""];
    let mut heard = Heard::default();
    for at_once in [true, false] {
        for accepted in [true, false] {
            heard.messages.clear();
            let peer = match accepted {
                true => patient(seqpacket::connect(&path).into()),
                false => adopted(&mut reactor, Framing::raw()).0,
            };
            for record in records {
                seqpacket::send(&peer, record);
                if !at_once {
                    settle(&mut reactor, &mut heard);
                }
            }
            settle(&mut reactor, &mut heard);
            assert!(heard.messages == records, "at once {at_once}, accepted {accepted}");
            assert!(heard.closed.is_empty(), "{:?}", heard.closed);
            drop(peer);
            settle(&mut reactor, &mut heard);
            assert_eq!(std::mem::take(&mut heard.closed), ["Peer"]);
            assert_eq!(heard.messages.len(), records.len());
        }
    }
}

#[test]
fn records_and_the_end_in_one_visit() {
    let mut reactor = reactor(Limits::default());
    let mut heard = Heard::default();
    let (peer, _) = adopted(&mut reactor, Framing::raw());
    for record in [&b"a"[..], b"", b"b", b""] {
        seqpacket::send(&peer, record);
    }
    drop(peer);
    settle(&mut reactor, &mut heard);
    assert_eq!(heard.messages, [&b"a"[..], b"", b"b", b""]);
    assert_eq!(heard.closed, ["Peer"]);
}

#[test]
fn a_record_too_large_is_counted() {
    let mut reactor = reactor(Limits { frame_max: 100, ..Limits::default() });
    let mut heard = Heard::default();
    let (peer, _) = adopted(&mut reactor, Framing::raw());
    let (other, _) = adopted(&mut reactor, Framing::raw());
    seqpacket::send(&peer, &[1; 100]);
    seqpacket::send(&peer, &[2; 101]);
    seqpacket::send(&peer, &[3; 1]);
    settle(&mut reactor, &mut heard);
    assert_eq!(heard.messages, [[1; 100]]);
    assert_eq!(heard.closed, ["Limit(Frame)"]);
    assert_eq!(reactor.stats().limit_count(Limit::Frame), 1);
    seqpacket::send(&other, b"still here");
    settle(&mut reactor, &mut heard);
    assert_eq!(heard.messages.last().unwrap(), b"still here");
}

#[test]
fn an_adopted_socket_takes_records_larger_than_the_read_buffer() {
    let mut reactor = Reactor::<Heard>::builder().read_buffer(64).build().unwrap();
    let mut heard = Heard::default();
    let (mut peer, _) = adopted(&mut reactor, Framing::raw());
    peer.write_all(&[5; 50_000]).unwrap();
    settle(&mut reactor, &mut heard);
    assert!(heard.messages == [[5; 50_000]], "{:?}", heard.closed);
}

#[test]
fn a_handler_may_take_in_sockets_of_larger_records() {
    let mut reactor = Reactor::<Heard>::builder().read_buffer(64).build().unwrap();
    let (peer, ours) = seqpacket::pair();
    struct Adopt(Option<std::os::fd::OwnedFd>);
    impl ipc_reactor::Session<Heard> for Adopt {
        fn on_request(
            &mut self,
            _: &[u8],
            cx: &mut ipc_reactor::Context<'_, Heard>,
            _: &mut Heard,
        ) -> std::io::Result<()> {
            cx.adopt(self.0.take().unwrap(), Framing::raw(), Listen).map(drop)
        }
    }
    let (mut adopter, _) = crate::support::turns::client(&mut reactor, Framing::raw(), Adopt(Some(ours)));
    let mut heard = Heard::default();
    adopter.write_all(b"now").unwrap();
    seqpacket::send(&peer, &[5; 50_000]);
    settle(&mut reactor, &mut heard);
    assert!(heard.messages == [[5; 50_000]], "{:?}", heard.closed);
}
