//! A process that reads a segment.

use super::doorbell::Doorbell;
use super::header::{Geometry, LINE};
use super::mapping::{Access, Mapping};
use super::object::{require_fixed_size, require_published};
use super::protocol::arm;
use super::ticket::Ticket;
use crate::sys::shm as sys;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How many values in a row may be overwritten during their copy.
const ATTEMPTS: usize = 1000;

/// What [`Subscriber::recv`] comes upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update<V> {
    /// The next value.
    Value(V),
    /// So many values were overwritten before they were read. The next call goes on after them.
    Lost(u64),
}

/// The publisher came round to a value during its copy.
struct Overtaken;

/// A reader of a segment of shared memory. It sees whole values only.
///
/// There are two ways to read, also in turns: [`latest`](Self::latest) goes to the newest value,
/// [`recv`](Self::recv) follows each. Reading makes no system call, allocates nothing, and is not
/// noticed by the publisher.
///
/// # Sleeping
///
/// The publisher rings only for a subscriber that said it sleeps, so that a busy one costs no
/// system call. In an event loop, with [`doorbell`](Self::doorbell) registered edge-triggered, the
/// handler's shape is:
///
/// ```
/// # use ipc_reactor::shm::{Publisher, Subscriber, Update};
/// # let mut publisher = Publisher::every(64, 7)?;
/// # let mut subscriber = Subscriber::open(publisher.subscribe()?.1)?;
/// # publisher.publish(b"one")?;
/// loop {
///     while let Some(update) = subscriber.recv()? {
///         match update {
///             Update::Value(value) => println!("{value:?}"),
///             Update::Lost(count) => println!("{count} values were overwritten before we read them"),
///         }
///     }
///     if subscriber.arm() {
///         break; // asleep: the next update rings
///     }
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Do this once at the start as well: a subscriber that never armed is never told. A thread of its
/// own calls [`wait`](Self::wait) instead.
///
/// # When the publisher dies
///
/// The newest whole value stays readable, even if the publisher was killed in the middle of the
/// next, and nobody rings any more; a ring that was not heard yet goes with it. Its death shows on
/// the socket that the ticket came through, as a hang-up: look for a last value then.
///
/// # Trust
///
/// The publisher is not trusted: what it writes is bounded before use and can be wrong, nothing
/// worse. The values are what it says.
#[derive(Debug)]
pub struct Subscriber {
    segment: Mapping,
    page: Mapping,
    doorbell: Option<Doorbell>,
    geometry: Geometry,
    /// The last value that was read, or lost.
    cursor: u64,
    /// The newest value known to this reader, so that there is no need to wake up for it. It starts
    /// below the cursor: a newcomer has not seen the value that was there before it came.
    seen: u64,
    copy: Vec<[[u8; 8]; LINE]>,
}

impl Subscriber {
    /// Maps what the ticket holds, and checks that it is what it should be.
    ///
    /// # Errors
    ///
    /// `InvalidData` where a descriptor is no sealed memfd, or the segment's header is damaged, of
    /// another version, or does not fit its size; `OutOfMemory` where there is no room for a
    /// copy of a value; otherwise those of `mmap`.
    pub fn open(ticket: Ticket) -> io::Result<Subscriber> {
        let Ticket { segment, page, doorbell, start } = ticket;
        require_published(segment.as_fd(), "the segment")?;
        require_fixed_size(page.as_fd(), "the subscriber's page")?;

        let len = mappable(segment.as_fd(), "the segment")?;
        let segment = Mapping::of(&segment, 0, len, Access::ReadOnly)?;
        let geometry = Geometry::load(segment.lines(), len as u64)?;
        let len = mappable(page.as_fd(), "the subscriber's page")?.min(sys::page_size());
        let page = Mapping::of(&page, 0, len, Access::ReadWrite)?;

        let mut copy = Vec::new();
        let lines = geometry.payload_max.div_ceil(8 * LINE);
        copy.try_reserve_exact(lines)?;
        copy.resize(lines, [[0; 8]; LINE]);
        let cursor = start.min(geometry.ring(segment.lines()).newest());
        Ok(Subscriber { segment, page, doorbell, geometry, cursor, seen: 0, copy })
    }

    /// The longest value, in bytes.
    #[must_use]
    pub fn payload_max(&self) -> usize {
        self.geometry.payload_max
    }

    /// How many values it can be behind before it loses one.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.geometry.ring(self.segment.lines()).capacity()
    }

    /// What the publisher calls its values' meaning: see
    /// [`PublisherOptions::tag`](super::PublisherOptions::tag).
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.geometry.tag
    }

    /// The number of the last value that was read or lost: the publisher's first value is 1.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.cursor
    }

    /// The number of the newest value that there is.
    pub(crate) fn newest(&self) -> u64 {
        self.geometry.ring(self.segment.lines()).newest()
    }

    /// What to poll, edge-triggered, for the publisher's notifications; none if those come by other
    /// means.
    #[must_use]
    pub fn doorbell(&self) -> Option<&Doorbell> {
        self.doorbell.as_ref()
    }

    /// The newest value, unless it was read before.
    ///
    /// A newcomer gets the value that was published before it came.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if each of a thousand attempts to copy the then newest value was overtaken: the
    /// publisher comes round the whole ring faster than one value can be copied. A larger ring
    /// ([`Publisher::every`](super::Publisher::every)) helps. `InvalidData` if the publisher
    /// says that the value is longer than it may be.
    #[inline]
    pub fn latest(&mut self) -> io::Result<Option<&[u8]>> {
        match self.read_newest().or_else(|Overtaken| self.read_newest_again())? {
            Some(len) => self.value(len).map(Some),
            None => Ok(None),
        }
    }

    /// Copies the newest value, if it is new, and says how long it is.
    #[inline]
    fn read_newest(&mut self) -> Result<Option<u64>, Overtaken> {
        let ring = self.geometry.ring(self.segment.lines());
        let newest = ring.newest();
        if newest <= self.seen {
            return Ok(None);
        }
        let len = ring.read(newest, &mut self.copy).map_err(|_| Overtaken)?;
        (self.cursor, self.seen) = (newest, newest);
        Ok(Some(len))
    }

    #[cold]
    fn read_newest_again(&mut self) -> io::Result<Option<u64>> {
        for _ in 1..ATTEMPTS {
            if let Ok(len) = self.read_newest() {
                return Ok(len);
            }
        }
        let what =
            format!("{ATTEMPTS} values in a row were overwritten during their copy; a larger ring helps");
        Err(io::Error::new(io::ErrorKind::WouldBlock, what))
    }

    /// The next value, or how many were lost on the way to it; none if all were read.
    ///
    /// A newcomer starts with the first value after it was admitted.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the publisher says that the value is longer than it may be.
    // A call of it, with its answer through memory, would cost a tenth of a publication and its receipt.
    #[inline(always)]
    pub fn recv(&mut self) -> io::Result<Option<Update<&[u8]>>> {
        let ring = self.geometry.ring(self.segment.lines());
        let (newest, number) = (ring.newest(), self.cursor.wrapping_add(1));
        // Nothing new is a distance below 0, and so beyond reach as well: one comparison for both.
        if !ring.reaches(newest, number) {
            return Ok(self.out_of_reach(newest));
        }
        match ring.read(number, &mut self.copy) {
            Ok(len) => {
                (self.cursor, self.seen) = (number, number);
                self.value(len).map(|value| Some(Update::Value(value)))
            }
            Err(newest) => Ok(Some(self.overtaken(newest))),
        }
    }

    #[inline(never)]
    fn out_of_reach(&mut self, newest: u64) -> Option<Update<&'static [u8]>> {
        if newest <= self.cursor {
            self.seen = self.cursor;
            return None;
        }
        let oldest = self.geometry.ring(self.segment.lines()).oldest(newest);
        Some(self.skip_to(oldest))
    }

    #[cold]
    fn overtaken(&mut self, newest: u64) -> Update<&'static [u8]> {
        let ring = self.geometry.ring(self.segment.lines());
        // The publisher is at our heels: half a ring of distance, or the next would be lost as well.
        let number = ring.oldest(newest).saturating_add(ring.capacity() / 2);
        self.skip_to(number)
    }

    fn skip_to(&mut self, number: u64) -> Update<&'static [u8]> {
        let lost = number.saturating_sub(self.cursor + 1);
        self.cursor += lost;
        Update::Lost(lost)
    }

    #[inline]
    fn value(&self, len: u64) -> io::Result<&[u8]> {
        if len > self.geometry.payload_max as u64 {
            return Err(too_long(len, self.geometry.payload_max));
        }
        Ok(&self.copy.as_flattened().as_flattened()[..len as usize])
    }

    /// Says that this side is about to sleep, so that the next update is notified. False if there
    /// is something new already: read first, then arm again.
    ///
    /// Once told, a subscriber is awake: it will not be told again before it arms again.
    #[must_use = "if this is false, nobody will ring"]
    pub fn arm(&mut self) -> bool {
        arm(&self.page.lines()[0][0], self.geometry.published(self.segment.lines()), self.seen)
    }

    /// Blocks until there is something new, for the time given at most; false when that is up.
    ///
    /// # Errors
    ///
    /// `Unsupported` without a doorbell; otherwise those of `epoll_wait`.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if !self.arm() {
                return Ok(true);
            }
            let Some(doorbell) = &self.doorbell else {
                let what = "this subscription has no doorbell: its notifications come by other means";
                return Err(io::Error::new(io::ErrorKind::Unsupported, what));
            };
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match doorbell.wait(left) {
                Ok(false) if left.is_some_and(|left| left.is_zero()) => return Ok(!self.arm()),
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
        }
    }
}

/// The size of a descriptor's object, which is sealed and so final.
fn mappable(fd: BorrowedFd<'_>, what: &str) -> io::Result<usize> {
    match sys::stat(fd)?.len {
        0 => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{what} is empty"))),
        len => Ok(usize::try_from(len).unwrap_or(usize::MAX)),
    }
}

#[cold]
fn too_long(len: u64, payload_max: usize) -> io::Error {
    let what = format!("a value of {len} bytes exceeds the segment's {payload_max}");
    io::Error::new(io::ErrorKind::InvalidData, what)
}
