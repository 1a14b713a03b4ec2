//! Descriptors passed both ways, in order, and closed wherever they are not taken.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::{UnixListener, UnixStream},
};

use crate::support::clerk::*;
use crate::support::fds::*;
use ipc_reactor::{Context, Framing, Limit, Limits, Listener, Session};

const STREAM: libc::c_int = libc::SOCK_STREAM;
const SEQPACKET: libc::c_int = libc::SOCK_SEQPACKET;
const KINDS: [libc::c_int; 2] = [STREAM, SEQPACKET];

/// An order or a request as that kind of socket carries it.
pub(crate) fn message(kind: libc::c_int, text: &str) -> Vec<u8> {
    let end = if kind == STREAM { "\n" } else { "" };
    format!("{text}{end}").into_bytes()
}

pub(crate) fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

fn texts(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|index| text_file(&format!("text {index}"))).collect()
}

#[test]
fn descriptors_pass_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let path = folder.path().join(kind.to_string());
        let server = clerks(&path, kind, 4);
        let client = connect(&path, kind).unwrap();
        for count in 0..=4 {
            let passed = texts(count);
            send_with(&client, &message(kind, &format!("read {count}")), &borrow(&passed)).unwrap();
            let mut answer = [0; 256];
            let (got, _) = recv_with(&client, &mut answer).unwrap();
            let expected: Vec<_> = (0..count).map(|index| format!("text {index}")).collect();
            assert_eq!(std::str::from_utf8(&answer[..got]).unwrap().trim_end(), expected.join(","));
        }
        let mut check = Check::default();
        for orders in ["d1:1", "d253:1000", "b5 d2:5 d1:1 b7", "d0:3", "d3:8 b1 d4:1"] {
            send_with(&client, &message(kind, orders), &[]).unwrap();
            check.all(&client, orders, || 64 << 10);
        }
        drop(client);
        assert_eq!(closed(&server, 1), ["closed by the peer"]);
    }
}

#[test]
fn a_client_passes_descriptors_before_it_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let path = folder.path().join(kind.to_string());
        let listener =
            if kind == SEQPACKET { Listener::unix_seqpacket(&path) } else { Listener::unix(&path) }.unwrap();
        let mut reactor = ipc_reactor::Reactor::<Log>::new().unwrap();
        reactor.listen(listener, framing(kind).descriptors(1), |_, _| Ok(Clerk::default())).unwrap();
        let client = connect(&path, kind).unwrap();
        send_with(&client, &message(kind, "read 1"), &borrow(&texts(1))).unwrap();
        // Its own turn accepts it; the next reads.
        for _ in 0..2 {
            let _ = reactor.turn(Some(PATIENCE), &mut Log::new()).unwrap();
        }
        let mut answer = [0; 64];
        let (got, _) = recv_with(&client, &mut answer).unwrap();
        assert_eq!(answer[..got].trim_ascii_end(), b"text 0");
    }
}

#[test]
fn bytes_and_descriptors_keep_their_order_through_partial_writes() {
    let server = Running::start(Limits::default(), Log::new(), |_| {});
    // A generator that needs no seed from outside: the failing case is the same each time.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |limit: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % limit
    };
    for round in 0..40 {
        let kind = KINDS[round % 2];
        let client = tight_pair(kind, server.remote());
        // A record has to fit the send buffer, which is as small as it can be.
        let most = if kind == SEQPACKET { 3_000 } else { 20_000 };
        let orders: Vec<String> = (0..30)
            .map(|_| match below(3) {
                0 => format!("b{}", 1 + below(most) / 8_usize.pow(below(4) as u32)),
                1 => format!("d{}:{}", below(6), 1 + below(3_000)),
                _ => format!("d{}:1", 1 + below(20)),
            })
            .collect();
        let orders = orders.join(" ");
        send_with(&client, &message(kind, &orders), &[]).unwrap();
        Check::default().all(
            &client,
            &orders,
            || {
                if kind == SEQPACKET { 64 << 10 } else { 1 + below(5_000) }
            },
        );
    }
}

#[test]
fn megabytes_wait_with_descriptors_in_their_middle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let server = clerks(&path, STREAM, 1);
    let client = connect(&path, STREAM).unwrap();
    let orders = "b1000000 d3:1000000 b1 d1:1 d2:500000 b1000000 d253:70000";
    send_with(&client, &message(STREAM, orders), &[]).unwrap();
    // Nothing is read until the server has all that it can send under way.
    let unsent = server.ask(|cx, _| {
        let key = cx.clients().next();
        key.and_then(|key| cx.client(key).map(|client| client.unsent()))
    });
    Check::default().all(&client, orders, || 100_000);
    assert!(unsent.is_some());
}

#[test]
fn another_handler_sends_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let path = folder.path().join(kind.to_string());
        let server = clerks(&path, kind, 1);
        let client = connect(&path, kind).unwrap();
        send_with(&client, &message(kind, "read 0"), &[]).unwrap();
        recv_with(&client, &mut [0; 8]).unwrap();
        server.ask(|cx, _| {
            let key = cx.clients().next().unwrap();
            let mut client = cx.client(key).unwrap();
            client.send(b"first").unwrap();
            client.send_with(b"second", texts(2)).unwrap();
            client.send_with(b"third", texts(1)).unwrap();
        });
        let (mut got, mut passed) = (Vec::new(), Vec::new());
        while got.len() < 16 {
            let mut buffer = [0; 64];
            let (count, mut more) = recv_with(&client, &mut buffer).unwrap();
            got.extend_from_slice(&buffer[..count]);
            passed.append(&mut more);
        }
        assert_eq!(got, b"firstsecondthird");
        assert_eq!(passed.into_iter().map(text_of).collect::<Vec<_>>(), ["text 0", "text 1", "text 0"]);
    }
}

#[test]
fn descriptors_may_come_with_half_frames() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _server = clerks(&path, STREAM, 4);
    let client = connect(&path, STREAM).unwrap();
    let passed = texts(4);
    let passed = borrow(&passed);
    // Two with the first byte of the request, one with a byte of its middle, one with the line's end.
    send_with(&client, b"r", &passed[..2]).unwrap();
    send_with(&client, b"ea", &[]).unwrap();
    send_with(&client, b"d ", &passed[2..3]).unwrap();
    send_with(&client, b"3", &[]).unwrap();
    send_with(&client, b"\nrea", &passed[3..]).unwrap();
    assert_eq!(line(&client), "text 0,text 1,text 2");
    send_with(&client, b"d 2\n", &[]).unwrap();
    assert_eq!(line(&client), "text 3,-");
    // Requests that arrive in one piece with descriptors before, in and behind them.
    for request in [&b"read 1\nread 1\nrea"[..], b"d 1\n"] {
        send_with(&client, request, &passed[..2]).unwrap();
    }
    let lines: Vec<_> = (0..3).map(|_| line(&client)).collect();
    assert_eq!(lines, ["text 0", "text 1", "text 0"]);
}

#[test]
fn one_descriptor_too_many_closes_the_client_and_them_all() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        for at_once in [true, false] {
            let path = folder.path().join(format!("{kind}{at_once}"));
            let server = clerks(&path, kind, 3);
            let client = connect(&path, kind).unwrap();
            let (mut reader, writer) = std::io::pipe().unwrap();
            let writer = OwnedFd::from(writer);
            if at_once {
                send_with(&client, b"r", &[writer.as_fd(); 4]).unwrap();
            } else {
                for _ in 0..4 {
                    // A record of nothing is a request, too: an unknown one closes. So these ask for none.
                    let request: &[u8] = if kind == STREAM { b"r" } else { b"read 0" };
                    send_with(&client, request, &[writer.as_fd()]).unwrap();
                }
            }
            drop(writer);
            ends(&client);
            // The end of file comes when the last copy of the other end is closed.
            assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
            assert_eq!(closed(&server, 1), ["limit reached: descriptors per client"]);
            assert_eq!(server.ask(|cx, _| cx.stats().limit_count(Limit::DescriptorsPerClient)), 1);
        }
    }
}

#[test]
fn descriptors_that_nobody_took_are_closed_with_the_client() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let path = folder.path().join(kind.to_string());
        let server = clerks(&path, kind, 8);
        let client = connect(&path, kind).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        send_with(&client, &message(kind, "read 0"), &[writer.as_fd(); 8]).unwrap();
        recv_with(&client, &mut [0; 8]).unwrap();
        drop((writer, client));
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(closed(&server, 1), ["closed by the peer"]);
    }
}

#[test]
fn replies_that_cannot_be_sent_give_up_their_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let server = clerks(&path, STREAM, 1);
    let client = connect(&path, STREAM).unwrap();
    send_with(&client, b"b400000\n", &[]).unwrap();
    recv_with(&client, &mut [0; 1]).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    server.ask(move |cx, _| {
        let key = cx.clients().next().unwrap();
        cx.client(key).unwrap().send_with(b"late", vec![writer.into()]).unwrap();
    });
    drop(client);
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn who_lets_none_in_gets_none_and_is_not_stuck() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let path = folder.path().join(kind.to_string());
        let server = clerks(&path, kind, 0);
        let mut client = connect(&path, kind).unwrap();
        let refused = send_with(&client, &message(kind, "read 1"), &borrow(&texts(1)));
        match refused.map_err(|error| error.raw_os_error()) {
            Err(errno) => assert_eq!(errno, Some(libc::EPERM)),
            // Before Linux 6.16 it is closed on arrival, and the client with it.
            Ok(_) => {
                ends(&client);
                assert_eq!(server.ask(|cx, _| cx.stats().descriptors_discarded), 1);
                client = connect(&path, kind).unwrap();
            }
        }
        for _ in 0..3 {
            send_with(&client, &message(kind, "read 2"), &[]).unwrap();
            let mut answer = [0; 8];
            let (got, _) = recv_with(&client, &mut answer).unwrap();
            assert_eq!(answer[..got].trim_ascii_end(), b"-,-");
        }
    }
}

#[test]
fn descriptors_passed_before_they_were_refused_leave_nothing_stuck() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    // Not a listener of ours: its clients inherit no refusal.
    let foreign = UnixListener::bind(&path).unwrap();
    let client = connect(&path, STREAM).unwrap();
    send_with(&client, b"read 1\n", &[]).unwrap();
    send_with(&client, b"read 1\n", &borrow(&texts(3))).unwrap();
    send_with(&client, b"read 1\n", &[]).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    send_with(&ours, b"read 1\n", &borrow(&texts(1))).unwrap();
    send_with(&ours, b"read 1\n", &borrow(&texts(1))).unwrap();
    let server = Running::start(Limits::default(), Log::new(), move |reactor| {
        reactor.listen(foreign.into(), Framing::lines(), |_, _| Ok(Clerk::default())).unwrap();
        reactor.adopt(theirs, Framing::lines(), Clerk::default()).unwrap();
    });
    assert_eq!([line(&client), line(&client), line(&client)], ["-", "-", "-"]);
    assert_eq!([line(&ours), line(&ours)], ["-", "-"]);
    assert!(server.stop().iter().all(|cause| cause == "the reactor stopped"));
}

/// Tries what is refused, and records the errors.
struct Refusals;

impl Session<Vec<(ErrorKind, String)>> for Refusals {
    fn on_request(
        &mut self,
        _: &[u8],
        cx: &mut Context<'_, Vec<(ErrorKind, String)>>,
        told: &mut Vec<(ErrorKind, String)>,
    ) -> std::io::Result<()> {
        let one = text_file("one");
        let many = (0..254).map(|_| one.try_clone().unwrap()).collect();
        for (bytes, descriptors) in [(&b"x"[..], many), (b"", texts(1)), (&[0; 300], texts(1))] {
            if let Err(error) = cx.reply_with(bytes, descriptors) {
                told.push((error.kind(), error.to_string()));
            }
        }
        cx.reply(b".")
    }
}

#[test]
fn what_cannot_be_passed_is_refused_and_nothing_of_it_is_sent() {
    type Told = Vec<(ErrorKind, String)>;
    let limits = Limits { output_max: 256, ..Limits::default() };
    let tcp = Listener::tcp("127.0.0.1:0").unwrap();
    let ipc_reactor::Address::Tcp(address) = tcp.local_address().unwrap() else { panic!("TCP") };
    let (stream, theirs) = pair(STREAM);
    let (records, their_records) = pair(SEQPACKET);
    let server = Running::start(limits, Told::new(), move |reactor| {
        reactor.listen(tcp, Framing::raw().descriptors(5), |_, _| Ok(Refusals)).unwrap();
        reactor.adopt(theirs, Framing::raw(), Refusals).unwrap();
        reactor.adopt(their_records, Framing::raw(), Refusals).unwrap();
    });
    let told = |expected: &[(ErrorKind, &str)]| {
        let told = server.ask(|_, told| std::mem::take(told));
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for ((kind, text), (expected, hint)) in told.iter().zip(expected) {
            assert!(kind == expected && text.contains(hint), "{text}");
        }
    };
    let mut buffer = [0; 64];

    File::from(stream.try_clone().unwrap()).write_all(b"?").unwrap();
    assert_eq!(recv_with(&stream, &mut buffer).unwrap().0, 1);
    told(&[
        (ErrorKind::InvalidInput, "253"),
        (ErrorKind::InvalidInput, "at least one"),
        (ErrorKind::WouldBlock, "output_max"),
    ]);

    send_with(&records, b"?", &[]).unwrap();
    let (got, passed) = recv_with(&records, &mut buffer).unwrap();
    assert_eq!((got, passed.len()), (0, 1), "an empty record carries descriptors");
    assert_eq!(recv_with(&records, &mut buffer).unwrap().0, 1);
    told(&[(ErrorKind::InvalidInput, "253"), (ErrorKind::WouldBlock, "output_max")]);

    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.write_all(b"?").unwrap();
    tcp.read_exact(&mut buffer[..1]).unwrap();
    told(&[(ErrorKind::InvalidInput, "Unix socket"); 3]);
    assert_eq!(buffer[0], b'.');
}

#[test]
fn a_peer_that_takes_no_descriptors_is_closed_with_the_kernels_word() {
    let (ours, theirs) = pair(STREAM);
    const SO_PASSRIGHTS: libc::c_int = 83;
    if !can(set(ours.as_fd(), SO_PASSRIGHTS, &0_i32).is_ok(), "this kernel has no SO_PASSRIGHTS") {
        return;
    }
    let server = Running::start(Limits::default(), Log::new(), move |reactor| {
        reactor.adopt(theirs, Framing::lines(), Clerk::default()).unwrap();
    });
    send_with(&ours, b"b3 d1:1\n", &[]).unwrap();
    ends(&ours);
    let log = closed(&server, 1);
    assert!(log[0].contains("Operation not permitted"), "{log:?}");
}
