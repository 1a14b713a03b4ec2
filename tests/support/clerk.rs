//! A session that receives and sends descriptors as its requests say, and the check that all arrives in order.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use ipc_reactor::{Cause, Context, Framing, Limits, Listener, Remote, Session};

use crate::support::fds::*;

/// How each client ended, as text.
pub(crate) type Log = Vec<String>;

/// Understands, as a line or a record:
///
/// - `read N`: takes N descriptors; answers their texts, `-` for one that is not there;
/// - `peek`: answers how many are there, and leaves them be (it takes them in order and lets them go at the end);
/// - `b100 d2:30 …`: sends 100 bytes, then 30 bytes with 2 descriptors, and so on; see [`Check`];
/// - anything else fails.
#[derive(Default)]
pub(crate) struct Clerk {
    at: usize,
}

/// The byte at a place of the stream.
fn pattern(at: usize) -> u8 {
    (at * 7 % 251) as u8
}

impl Session<Log> for Clerk {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, Log>, _: &mut Log) -> io::Result<()> {
        let request = std::str::from_utf8(request).map_err(io::Error::other)?;
        if let Some(count) = request.strip_prefix("read ") {
            let count: usize = count.parse().map_err(io::Error::other)?;
            let texts: Vec<_> = (0..count).map(|_| cx.descriptor().map_or("-".to_owned(), text_of)).collect();
            return cx.reply(format!("{}\n", texts.join(",")).as_bytes());
        }
        for order in request.split_whitespace() {
            let (kind, numbers) = order.split_at(1);
            let (count, size) = numbers.split_once(':').unwrap_or(("0", numbers));
            let (count, size): (usize, usize) =
                (count.parse().map_err(io::Error::other)?, size.parse().map_err(io::Error::other)?);
            let bytes: Vec<u8> = (self.at..self.at + size).map(pattern).collect();
            match kind {
                "b" => cx.reply(&bytes)?,
                "d" => {
                    let texts = (0..count).map(|index| text_file(&format!("{index} at {}", self.at)));
                    cx.reply_with(&bytes, texts.collect())?;
                }
                _ => return Err(io::Error::other("no such order")),
            }
            self.at += size;
        }
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Log>, log: &mut Log) {
        log.push(cause.to_string());
    }
}

pub(crate) fn framing(kind: libc::c_int) -> Framing {
    if kind == libc::SOCK_SEQPACKET { Framing::raw() } else { Framing::lines() }
}

/// Clerks at a path, for clients that may pass up to `held` descriptors.
pub(crate) fn clerks(path: &Path, kind: libc::c_int, held: u16) -> Running<Log> {
    let listener =
        if kind == libc::SOCK_SEQPACKET { Listener::unix_seqpacket(path) } else { Listener::unix(path) }
            .unwrap();
    Running::start(Limits::default(), Log::new(), move |reactor| {
        let framing = framing(kind).descriptors(held);
        reactor.listen(listener, framing, |_, _: &mut Log| Ok(Clerk::default())).unwrap();
    })
}

/// A clerk's client over a connected pair, whose server side sends in small pieces.
pub(crate) fn tight_pair(kind: libc::c_int, remote: &Remote<Log>) -> OwnedFd {
    let (ours, theirs) = pair(kind);
    set(theirs.as_fd(), libc::SO_SNDBUF, &1_i32).unwrap();
    remote.adopt(theirs, framing(kind), Clerk::default()).unwrap();
    ours
}

/// Waits until the server has closed so many clients; returns their causes.
pub(crate) fn closed(server: &Running<Log>, count: usize) -> Log {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let log = server.ask(|_, log| log.clone());
        if log.len() >= count {
            return log;
        }
        assert!(std::time::Instant::now() < deadline, "{log:?}, not {count}");
        std::thread::yield_now();
    }
}

/// Checks a clerk's answers: every byte in its place, and every descriptor with the byte that it was attached to.
#[derive(Default)]
pub(crate) struct Check {
    at: usize,
    pub(crate) descriptors: usize,
}

impl Check {
    /// Receives once, at most `room` bytes.
    pub(crate) fn receive(&mut self, socket: impl AsFd, room: usize) -> usize {
        let mut buffer = vec![0; room];
        let (got, passed) = recv_with(socket, &mut buffer).unwrap();
        for (offset, &byte) in buffer[..got].iter().enumerate() {
            assert_eq!(byte, pattern(self.at + offset), "at {}", self.at + offset);
        }
        let mut place = None;
        for (index, fd) in passed.into_iter().enumerate() {
            let text = text_of(fd);
            let (number, at) = text.split_once(" at ").unwrap();
            let at: usize = at.parse().unwrap();
            assert_eq!(number.parse(), Ok(index));
            let upto = (self.at + got).max(self.at + 1);
            assert!((self.at..upto).contains(&at), "{text} came with bytes {} to {upto}", self.at);
            assert_eq!(*place.get_or_insert(at), at, "one set of descriptors at a time");
            self.descriptors += 1;
        }
        self.at += got;
        got
    }

    /// Receives until all of `orders` has come.
    pub(crate) fn all(&mut self, socket: impl AsFd, orders: &str, mut room: impl FnMut() -> usize) {
        let (mut bytes, mut descriptors) = (self.at, self.descriptors);
        for order in orders.split_whitespace() {
            let (count, size) = order[1..].split_once(':').unwrap_or(("0", &order[1..]));
            bytes += size.parse::<usize>().unwrap();
            descriptors += count.parse::<usize>().unwrap();
        }
        while self.at < bytes {
            assert!(self.receive(&socket, room()) > 0, "end of file at {} of {bytes}", self.at);
        }
        assert_eq!((self.at, self.descriptors), (bytes, descriptors));
    }
}
