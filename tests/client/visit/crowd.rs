//! Peers that write and read at different speeds, in threads of their own, while the reactor serves them: no edge is
//! lost, whenever it comes.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread,
    time::Duration,
};

use ipc_reactor::{Cause, Context, Framing, Limits, Reactor, Session};

use crate::support::turns::{PATIENCE, patient};

/// Replies with the request: in one piece, in two, or copied.
struct Echo(usize);

impl Session<usize> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, usize>, _: &mut usize) -> io::Result<()> {
        self.0 += 1;
        let (first, second) = request.split_at(request.len() / 2);
        let copied = request.to_vec();
        match self.0 % 4 {
            0 => cx.reply(&copied),
            1 => cx.reply(first).and_then(|()| cx.reply(second)),
            2 => cx.reply(first).and_then(|()| cx.reply(&copied[first.len()..])),
            _ => cx.reply(request),
        }
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, usize>, closed: &mut usize) {
        assert!(matches!(cause, Cause::Peer | Cause::Reset), "{cause}");
        *closed += 1;
    }
}

const BYTES: usize = 150_000;

fn byte(at: usize, seed: usize) -> u8 {
    (at * 31 + at / 251 + seed) as u8
}

/// Sends in pieces of many sizes, and reads what comes back, until all of it has.
fn talk<T: Sync>(stream: &T, seed: usize)
where
    for<'a> &'a T: Read + Write,
{
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut at = 0;
            for n in seed.. {
                let size = [1, 7, 64, 63, 500, 64 * 3, 3_000, 16][(n * n + n / 3) % 8].min(BYTES - at);
                let piece: Vec<u8> = (at..at + size).map(|at| byte(at, seed)).collect();
                (&mut &*stream).write_all(&piece).unwrap();
                at += size;
                if at == BYTES {
                    return;
                }
                if n % 5 == 0 {
                    thread::yield_now();
                }
            }
        });
        let (mut at, mut piece) = (0, [0; 1_777]);
        while at < BYTES {
            let count = (&mut &*stream).read(&mut piece).unwrap();
            assert!(count > 0, "ended after {at} bytes");
            let right = piece[..count].iter().zip(at..).all(|(&got, at)| got == byte(at, seed));
            assert!(right, "within {count} bytes from {at}");
            at += count;
        }
    });
}

fn crowd(limits: Limits, read_buffer: usize) {
    let builder = Reactor::<usize>::builder().limits(limits).read_buffer(read_buffer).events(3);
    let mut reactor = builder.build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peers: Vec<thread::JoinHandle<()>> = Vec::new();
    for seed in 0..4 {
        let (peer, ours) = UnixStream::pair().unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ours: [OwnedFd; 2] = [ours.into(), listener.accept().unwrap().0.into()];
        for ours in ours {
            let framing = if seed % 2 == 0 { Framing::raw() } else { Framing::fixed(16) };
            reactor.adopt(ours, framing, Echo(seed)).unwrap();
        }
        let peer = patient(peer);
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        peers.push(thread::spawn(move || talk(&peer, seed)));
        peers.push(thread::spawn(move || talk(&tcp, seed)));
    }
    let mut closed = 0;
    while closed < peers.len() {
        let _ = reactor.turn(Some(PATIENCE + Duration::from_secs(5)), &mut closed).unwrap();
    }
    peers.into_iter().for_each(|peer| peer.join().unwrap());
    assert_eq!(reactor.stats().bytes_in, reactor.stats().bytes_out);
}

#[test]
fn all_that_is_sent_comes_back() {
    crowd(Limits::default(), 128 << 10);
}

#[test]
fn also_through_small_buffers_and_small_budgets() {
    let limits = Limits { messages_per_visit: 3, bytes_per_visit: 200, ..Limits::default() };
    crowd(limits, 64);
}

#[test]
fn also_where_replies_count_as_slowly_taken_at_once() {
    crowd(Limits { output_high_water: 0, idle: None, ..Limits::default() }, 1_000);
}
