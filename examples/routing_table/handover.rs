//! How the manager passes a subscription to shared memory to a subscriber: within a line of text, because the same
//! socket carries the tables' changes. If a socket carries tickets only, use `ipc_reactor::SubscriberSession`.

use std::{io, iter};

use ipc_reactor::{
    Context,
    shm::{Subscriber, Ticket},
};

use crate::protocol::Line;

/// Sends a ticket to the client whose session is running: a line of text, and descriptors with its first byte.
pub(crate) fn send<S>(cx: &mut Context<'_, S>, ticket: Ticket) -> io::Result<()> {
    let (bytes, descriptors) = ticket.into_fds();
    let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    cx.reply_with(format!("{}\n", Line::Ticket(hex)).as_bytes(), descriptors)
}

/// Opens the ticket that arrived with this text.
pub(crate) fn receive<S>(cx: &mut Context<'_, S>, hex: &str) -> io::Result<Subscriber> {
    let descriptors = iter::from_fn(|| cx.descriptor()).collect();
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("{hex:?} is no ticket in hexadecimal"));
    let bytes: Vec<u8> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect::<Option<_>>()
        .ok_or_else(wrong)?;
    Subscriber::open(Ticket::from_fds(&bytes, descriptors)?)
}
