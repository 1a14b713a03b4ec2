//! The descriptors that a publisher sends to one subscriber.

use std::{io, os::fd::OwnedFd};

use super::foreign::Foreign;

const MAGIC: [u8; 4] = *b"shmT";
const VERSION: u16 = 1;

/// What the subscriber needs to open its [`Subscriber`](super::Subscriber).
///
/// It is sent to another process as one message with ancillary data (`SCM_RIGHTS`): [`into_fds`](Self::into_fds) on
/// this side, [`from_fds`](Self::from_fds) on the other. The descriptors are, in this order: the segment; the
/// subscriber's page, in which it says that it sleeps; and its [`Doorbell`](super::Doorbell), unless it is notified in
/// another way.
#[derive(Debug)]
pub struct Ticket {
    pub(super) segment: Foreign,
    pub(super) page: Foreign,
    pub(super) doorbell: Option<Foreign>,
    /// The number of the newest value when the subscription was made.
    pub(super) start: u64,
}

impl Ticket {
    /// Bytes of the message that comes with the descriptors.
    pub const BYTES: usize = 16;
    /// The most descriptors that a ticket has.
    pub const FDS_MAX: usize = 3;

    /// The bytes and the descriptors to send in one message.
    #[must_use]
    pub fn into_fds(self) -> ([u8; Ticket::BYTES], Vec<OwnedFd>) {
        let count: u16 = if self.doorbell.is_some() { 3 } else { 2 };
        let mut fds = vec![self.segment.into_inner(), self.page.into_inner()];
        fds.extend(self.doorbell.map(Foreign::into_inner));
        let mut bytes = [0; Ticket::BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_ne_bytes());
        bytes[6..8].copy_from_slice(&count.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.start.to_ne_bytes());
        (bytes, fds)
    }

    /// The ticket of a message that was received. [`Subscriber::open`](super::Subscriber::open) checks the descriptors.
    /// Give it whatever came: a descriptor that was not checked can be one whose close blocks, and it is closed in
    /// another thread.
    ///
    /// # Errors
    ///
    /// `InvalidData`: the bytes are not of a ticket, or not of one with that many descriptors. The descriptors are then
    /// closed.
    pub fn from_fds(bytes: &[u8], fds: Vec<OwnedFd>) -> io::Result<Ticket> {
        let fds: Vec<Foreign> = fds.into_iter().map(Foreign::from).collect();
        let refuse =
            |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, format!("not a ticket: {why}")));
        let Ok(bytes) = <&[u8; Ticket::BYTES]>::try_from(bytes) else {
            return refuse(format!("{} bytes instead of {}", bytes.len(), Ticket::BYTES));
        };
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        if bytes[0..4] != MAGIC {
            return refuse("its magic number is missing".into());
        }
        if half(4) != VERSION {
            return refuse(format!("version {}, and this program knows {VERSION}", half(4)));
        }
        if usize::from(half(6)) != fds.len() {
            return refuse(format!("it names {} descriptors, {} came", half(6), fds.len()));
        }
        let count = fds.len();
        let mut fds = fds.into_iter();
        let (Some(segment), Some(page), doorbell, None) = (fds.next(), fds.next(), fds.next(), fds.next())
        else {
            return refuse(format!("{count} descriptors instead of 2 or 3"));
        };
        let start = u64::from_ne_bytes(std::array::from_fn(|i| bytes[8 + i]));
        Ok(Ticket { segment, page, doorbell, start })
    }
}
