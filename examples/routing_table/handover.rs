//! How a subscription to shared memory gets from the manager to its subscriber, and how it is watched there.

use std::{
    io, iter,
    os::fd::{AsFd, BorrowedFd},
};

use ipc_reactor::{
    Context, Interest, Key, Progress,
    shm::{Subscriber, Ticket},
};

use crate::protocol::Line;

/// Sends a ticket to the client whose session runs: a line of text, and descriptors with its first byte.
pub(crate) fn send<S>(cx: &mut Context<'_, S>, ticket: Ticket) -> io::Result<()> {
    let (bytes, descriptors) = ticket.into_fds();
    let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    cx.reply_with(format!("{}\n", Line::Ticket(hex)).as_bytes(), descriptors)
}

/// Opens the ticket that has come with this text.
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

/// A subscription that has a doorbell.
struct Bell(Subscriber);

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.doorbell().expect("this was asked before it was made").as_fd()
    }
}

/// Gives `on_value` the newest value, now and whenever there is a newer one.
pub(crate) fn watch<S>(
    cx: &mut Context<'_, S>,
    state: &mut S,
    subscriber: Subscriber,
    mut on_value: impl FnMut(&[u8], &mut Context<'_, S>, &mut S) -> io::Result<()> + 'static,
) -> io::Result<Key> {
    if subscriber.doorbell().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the ticket has no doorbell"));
    }
    let mut read = move |bell: &mut Bell, cx: &mut Context<'_, S>, state: &mut S| {
        match bell.0.latest() {
            Ok(Some(value)) => on_value(value, cx, state)?,
            Ok(None) => {}
            // The publisher was faster: not drained, and not armed.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::More),
            Err(error) => return Err(error),
        }
        Ok(if bell.0.arm() { Progress::Drained } else { Progress::More })
    };
    let mut bell = Bell(subscriber);
    // Nobody rings for one that never armed.
    while read(&mut bell, cx, state)? == Progress::More {}
    Ok(cx.fd(bell, Interest::READABLE, move |bell, _, cx, state| read(bell, cx, state))?)
}
