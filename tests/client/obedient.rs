//! Everything that is bounded: what a peer can make the reactor hold, how long it can make it wait, how much of a round
//! and how many places it can have.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use crate::support::turns;
use ipc_reactor::{Cause, Context, HalfClose, Session};

/// What the sessions of a test received.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: Vec<(u32, String)>,
    pub(crate) refused: Vec<(u32, io::ErrorKind)>,
    pub(crate) flushed: Vec<u32>,
    pub(crate) closed: Vec<(u32, String)>,
}

impl Seen {
    pub(crate) fn requests_of(&self, id: u32) -> usize {
        self.requests.iter().filter(|(who, _)| *who == id).count()
    }

    pub(crate) fn closed(&self) -> Vec<(u32, &str)> {
        self.closed.iter().map(|(who, why)| (*who, why.as_str())).collect()
    }
}

/// Does what the lines of its peer say: `100` is a reply of a hundred bytes, `end` the end.
pub(crate) struct Obedient {
    pub(crate) id: u32,
    /// The letter that its replies consist of; each reply uses the next letter.
    pub(crate) letter: u8,
    pub(crate) keeps_writing: bool,
}

impl Obedient {
    pub(crate) fn new(id: u32) -> Obedient {
        Obedient { id, letter: b'a', keeps_writing: false }
    }
}

impl Session<Seen> for Obedient {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, Seen>, seen: &mut Seen) -> io::Result<()> {
        let request = String::from_utf8_lossy(request).into_owned();
        for word in request.split(' ') {
            match word.parse() {
                Ok(size) => {
                    let reply = vec![self.letter; size];
                    self.letter = if self.letter == b'z' { b'a' } else { self.letter + 1 };
                    if let Err(error) = cx.reply(&reply) {
                        seen.refused.push((self.id, error.kind()));
                    }
                }
                Err(_) if word == "end" => cx.finish(),
                Err(_) => {}
            }
        }
        seen.requests.push((self.id, request));
        Ok(())
    }

    fn on_half_close(&mut self, cx: &mut Context<'_, Seen>, _: &mut Seen) -> io::Result<HalfClose> {
        if self.keeps_writing {
            cx.wake_after(Duration::from_millis(1));
            return Ok(HalfClose::KeepWriting);
        }
        cx.reply(b"goodbye")?;
        Ok(HalfClose::Close)
    }

    fn on_timer(
        &mut self,
        _: ipc_reactor::TimerKey,
        cx: &mut Context<'_, Seen>,
        _: &mut Seen,
    ) -> io::Result<()> {
        cx.reply(b"later")?;
        cx.finish();
        Ok(())
    }

    fn on_flushed(&mut self, _: &mut Context<'_, Seen>, seen: &mut Seen) -> io::Result<()> {
        seen.flushed.push(self.id);
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Seen>, seen: &mut Seen) {
        seen.closed.push((self.id, format!("{cause:?}")));
    }
}

/// Sends a request, which the socket takes whole.
#[track_caller]
pub(crate) fn ask(mut peer: &UnixStream, request: &str) {
    peer.write_all(format!("{request}\n").as_bytes()).unwrap();
}

/// All that has come by now.
#[track_caller]
pub(crate) fn received(peer: &UnixStream) -> String {
    String::from_utf8(turns::available(peer).0).unwrap()
}

#[track_caller]
pub(crate) fn has_ended(peer: &UnixStream) -> bool {
    turns::available(peer).1
}
