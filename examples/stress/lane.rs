//! One connection or queue to the server, and the outstanding requests on it.

use std::{collections::VecDeque, io, rc::Rc};

use ipc_reactor::{Datagram, Key, PollSet, Queue, TrySendError};

use crate::{
    dispatch::Due,
    engine::Run,
    protocol::{Checked, Expected, Requests},
};

/// A request that is not answered yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) due: Due,
    pub(crate) sent_ns: u64,
    pub(crate) expected: Expected,
    pub(crate) bytes: usize,
}

pub(crate) enum Way {
    /// Not connected now.
    None,
    /// A client of the poll set; a number is a record of its own where that is so.
    Connection {
        key: Key,
        record_each: Option<usize>,
    },
    Datagram(Rc<Datagram>),
    Queue(Rc<Queue>),
}

pub(crate) struct Lane {
    pub(crate) way: Way,
    /// Outstanding requests, oldest first. An answer belongs to the oldest, unless it carries a number.
    pub(crate) asked: VecDeque<Asked>,
    /// How many bytes of the oldest request's answer have arrived.
    pub(crate) received: usize,
    /// Whether it takes part in the load.
    pub(crate) is_active: bool,
    /// Of a subscription: when the last received value was due.
    pub(crate) last_due_ns: u64,
}

/// The result of received bytes.
pub(crate) enum Arrived {
    /// They complete the answer to this request; the number of bytes that belong to it.
    Answer(Asked, usize),
    /// More must come.
    Partial,
    /// A wrong answer. Its request, if there is one, is no longer outstanding.
    Wrong(String),
    /// An answer to a request that had timed out, or a second answer.
    Stray,
}

impl Lane {
    pub(crate) fn new(is_active: bool) -> Lane {
        Lane { way: Way::None, asked: VecDeque::new(), received: 0, is_active, last_due_ns: 0 }
    }

    pub(crate) fn is_up(&self) -> bool {
        !matches!(self.way, Way::None)
    }

    /// Sends a request whole; false if there is no room for it.
    pub(crate) fn send(&self, request: &[u8], set: &mut PollSet<Run>) -> io::Result<bool> {
        let sent = match &self.way {
            Way::None => return Err(io::ErrorKind::NotConnected.into()),
            Way::Connection { key, record_each } => {
                let Some(mut client) = set.client(*key) else {
                    return Err(io::ErrorKind::NotConnected.into());
                };
                let each = record_each.unwrap_or(request.len()).max(1);
                request.chunks(each).try_for_each(|record| client.send(record))
            }
            Way::Datagram(socket) => socket.send(request),
            Way::Queue(queue) => match queue.try_send(request, 0) {
                Err(TrySendError::Full) => return Ok(false),
                sent => sent.map_err(io::Error::from),
            },
        };
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            sent => sent.map(|()| true),
        }
    }

    /// Processes the next bytes of a stream: at most those of one answer. A record is a whole answer.
    pub(crate) fn stream(&mut self, bytes: &[u8], is_record: bool, requests: &Requests) -> Arrived {
        let Some(oldest) = self.asked.front() else {
            return Arrived::Wrong(format!("{} bytes without a request: {}", bytes.len(), shown(bytes)));
        };
        match requests.check(oldest.expected, self.received, bytes) {
            Checked::Partial if !is_record => {
                self.received += bytes.len();
                Arrived::Partial
            }
            Checked::Whole(used) if !is_record || used == bytes.len() => {
                self.received = 0;
                Arrived::Answer(self.asked.pop_front().expect("it is there"), used)
            }
            _ => {
                let why = self.complaint(oldest, bytes, requests);
                self.asked.pop_front();
                Arrived::Wrong(why)
            }
        }
    }

    /// Processes a datagram or a message: a whole answer, which may carry the number of its request.
    pub(crate) fn message(&mut self, bytes: &[u8], requests: &Requests) -> Arrived {
        let number = requests.number_in(bytes);
        let place = match number {
            None => 0,
            Some(number) => {
                let found = self.asked.iter().position(
                    |asked| matches!(asked.expected, Expected::Echo { number: n, .. } if n == number),
                );
                match found {
                    Some(place) => place,
                    None if requests.has_made(number) => return Arrived::Stray,
                    None => return Arrived::Wrong(format!("{}, which answers no request", shown(bytes))),
                }
            }
        };
        let Some(asked) = self.asked.remove(place) else { return Arrived::Stray };
        match requests.check(asked.expected, 0, bytes) {
            Checked::Whole(used) if used == bytes.len() => Arrived::Answer(asked, used),
            _ => Arrived::Wrong(self.complaint(&asked, bytes, requests)),
        }
    }

    fn complaint(&self, asked: &Asked, bytes: &[u8], requests: &Requests) -> String {
        let answer = requests.answer(asked.expected);
        let rest = &answer[self.received.min(answer.len())..];
        match (self.received, rest.is_empty()) {
            (0, false) => format!("{} instead of {}", shown(bytes), shown(rest)),
            (received, false) => {
                format!("{} after {received} bytes, instead of {}", shown(bytes), shown(rest))
            }
            (_, true) => format!("{}, which is no such answer", shown(bytes)),
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    let dots = if bytes.len() > 40 { "…" } else { "" };
    format!("\"{}{dots}\" ({} bytes)", bytes[..bytes.len().min(40)].escape_ascii(), bytes.len())
}
