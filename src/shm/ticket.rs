//! What a publisher hands to one subscriber.

use super::doorbell::Doorbell;
use std::io;
use std::os::fd::OwnedFd;

const MAGIC: [u8; 4] = *b"shmT";
const VERSION: u16 = 1;

/// A subscription on its way to its subscriber, which makes it a
/// [`Subscriber`](super::Subscriber).
///
/// To another process it goes as one message with ancillary data (`SCM_RIGHTS`):
/// [`into_fds`](Self::into_fds) here, [`from_fds`](Self::from_fds) there. The descriptors are, in
/// this order: the segment; the subscriber's own page, in which it says that it sleeps; and, unless
/// it is told by other means, its [`Doorbell`].
#[derive(Debug)]
pub struct Ticket {
    pub(super) segment: OwnedFd,
    pub(super) page: OwnedFd,
    pub(super) doorbell: Option<Doorbell>,
    /// The newest value's number when the subscription began.
    pub(super) start: u64,
}

impl Ticket {
    /// The length of a ticket's plain description, in bytes.
    pub const BYTES: usize = 16;
    /// The most descriptors that a ticket has.
    pub const FDS_MAX: usize = 3;

    /// Takes the ticket apart into what a message can carry: a few bytes, and descriptors.
    #[must_use]
    pub fn into_fds(self) -> ([u8; Ticket::BYTES], Vec<OwnedFd>) {
        let mut fds = vec![self.segment, self.page];
        fds.extend(self.doorbell.map(Doorbell::into_fd));
        let mut bytes = [0; Ticket::BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(fds.len() as u16).to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.start.to_ne_bytes());
        (bytes, fds)
    }

    /// Puts a ticket together again. What the descriptors are is checked when it is opened.
    ///
    /// # Errors
    ///
    /// `InvalidData` where the bytes are no ticket's, or not with that many descriptors. The
    /// descriptors are closed then.
    pub fn from_fds(bytes: &[u8], fds: Vec<OwnedFd>) -> io::Result<Ticket> {
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
            return refuse(format!("version {}, this side knows {VERSION}", half(4)));
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
        Ok(Ticket { segment, page, doorbell: doorbell.map(Doorbell::from_fd), start })
    }
}
