//! The adder service: `server` serves it, and `stress` loads it by default.
//!
//! A client sends `i32`s in the machine's byte order; a 0 ends the series, and the answer is `Result = N`: the bytes of
//! the text, with no NUL and no line feed after them. Then the sum begins at 0 again.

use std::{
    io::{self, Write},
    mem, str,
};

use ipc_reactor::{Context, Framing, Limit, Message, Queue, Session, Stats};
use serde_json::{Map, Value, json};

/// The service's counts, over all clients.
#[derive(Default)]
pub(crate) struct Totals {
    /// Numbers added for clients, the zeros not counted.
    numbers: u64,
    /// Series that ended with a 0 and were answered.
    answers: u64,
    queue_messages: u64,
    queue_sum: i64,
    queue_refused: u64,
}

/// One client's side of the service.
#[derive(Default)]
pub(crate) struct Adder {
    /// Wider than an `i32`: only 16 GiB of the largest numbers overflow it.
    sum: i64,
}

/// A number is four bytes; on a seqpacket socket, a record of four bytes.
pub(crate) fn framing() -> Framing {
    Framing::fixed(size_of::<i32>())
}

impl Session<Totals> for Adder {
    fn on_request(
        &mut self,
        request: &[u8],
        cx: &mut Context<'_, Totals>,
        totals: &mut Totals,
    ) -> io::Result<()> {
        // A stream is cut into fours by its framing, a seqpacket record can be shorter.
        let number = request
            .try_into()
            .map(i32::from_ne_bytes)
            .map_err(|_| invalid(format!("a record of {} bytes; a number has 4", request.len())))?;
        if number != 0 {
            totals.numbers += 1;
            self.sum =
                self.sum.checked_add(number.into()).ok_or_else(|| invalid("the sum overflows".into()))?;
            return Ok(());
        }
        totals.answers += 1;
        cx.reply(format!("Result = {}", mem::take(&mut self.sum)).as_bytes())
    }
}

/// A queue's handler: each message is a number in decimal, which is added to one running total.
pub(crate) fn on_message(
    message: Message<'_>,
    _: &mut Context<'_, Totals>,
    totals: &mut Totals,
) -> io::Result<()> {
    totals.queue_messages += 1;
    // C programs often send the NUL after a string, shells the line feed.
    let number = str::from_utf8(message.bytes).ok().and_then(|text| {
        text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0').parse::<i32>().ok()
    });
    match number {
        Some(number) => totals.queue_sum = totals.queue_sum.wrapping_add(number.into()),
        None => {
            totals.queue_refused += 1;
            let shown = &message.bytes[..message.bytes.len().min(40)];
            return Err(invalid(format!("{:?} is no number of 32 bits", shown.escape_ascii().to_string())));
        }
    }
    Ok(())
}

/// The name of a queue that this process made, and unlinks when it ends.
pub(crate) struct OwnQueue(String);

impl Drop for OwnQueue {
    fn drop(&mut self) {
        if let Err(error) = Queue::unlink(&self.0) {
            log::warn!("{error}");
        }
    }
}

/// Opens a queue to receive from, and creates it if there is none; only a created one is removed at the end.
pub(crate) fn open_queue(name: &str) -> io::Result<(Queue, Option<OwnQueue>)> {
    let mut options = Queue::options();
    options.read(true).message_size(64).trusted_owner(0);
    match options.clone().create_new(true).open(name) {
        Ok(queue) => Ok((queue, Some(OwnQueue(name.into())))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok((options.open(name)?, None)),
        Err(error) => Err(error),
    }
}

/// Everything counted so far, as an object.
pub(crate) fn report(totals: &Totals, stats: &Stats) -> Value {
    let trips: Map<String, Value> = Limit::ALL
        .iter()
        .filter(|&&limit| stats.limit_count(limit) > 0)
        .map(|&limit| (limit.to_string(), stats.limit_count(limit).into()))
        .collect();
    let errors: Map<String, Value> =
        stats.errors().map(|(kind, count)| (kind.to_string(), count.into())).collect();
    json!({
        "event": "totals",
        "numbers": totals.numbers,
        "answers": totals.answers,
        "queue": {
            "messages": totals.queue_messages,
            "sum": totals.queue_sum,
            "refused": totals.queue_refused,
        },
        "reactor": {
            "clients": stats.clients,
            "cirs": stats.accepted,
            "cirs_refused": stats.refused,
            "srms": stats.requests,
            "closed": stats.closed,
            "drained": stats.drained,
            "drain_cut": stats.drain_cut,
            "signals": stats.signals,
            "bytes_in": stats.bytes_in,
            "bytes_out": stats.bytes_out,
            "bytes_dropped": stats.bytes_dropped,
            "turns": stats.turns,
            "events": stats.events,
            "stale_events": stats.stale_events,
            "panics": stats.panics,
            "handler_errors": stats.handler_errors,
            "trips": trips,
            "errors": errors,
        },
    })
}

/// One line for programs, on standard output.
pub(crate) fn tell(line: &Value) {
    // Not println!, which panics if standard output has no reader any more.
    if let Err(error) = writeln!(io::stdout().lock(), "{line}") {
        log::warn!("standard output: {error}");
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
