//! A reader of a segment.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use super::{
    doorbell::{Doorbell, Heard},
    header::{Geometry, LINE},
    mapping::{Access, Mapping},
    object::{require_fixed_size, require_published},
    protocol::{SLEEPS_UNREAD, arm, arm_as, is_armed},
    ticket::Ticket,
};
use crate::sys::{self, file, fork};

/// How many values in a row may be overwritten while they are copied, before [`Subscriber::latest`] returns an error.
const ATTEMPTS: usize = 1000;

/// What [`Subscriber::recv`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update<V> {
    /// The next value.
    Value(V),
    /// This many values were overwritten before they were read. The next call goes on after them.
    Lost(u64),
}

/// The publisher has overwritten a value while it was copied.
struct Overtaken;

/// A reader of a segment of shared memory. It gets whole values only.
///
/// There are two ways to read, which can be mixed: [`latest`](Self::latest) goes to the newest value,
/// [`recv`](Self::recv) returns each value in order. Reading makes no system call and does not allocate, and the
/// publisher does not notice it.
///
/// # Sleeping
///
/// The publisher rings only for a subscriber that has armed its doorbell, so a busy one costs no system call. In an
/// event loop, register [`doorbell`](Self::doorbell) edge-triggered, and write the handler like this:
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
///             Update::Lost(count) => println!("{count} values were overwritten before they were read"),
///         }
///     }
///     if subscriber.arm() {
///         break; // armed: the next update rings
///     }
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Do this once at the start, too: a subscriber that has never armed is not notified. A thread that does nothing else
/// calls [`wait`](Self::wait) instead.
///
/// # When the publisher ends
///
/// The newest whole value stays readable, even if the publisher was killed while it wrote the next one. The doorbell
/// hangs up, and so does the socket that the ticket came through: read the last values then. No ring is lost: what the
/// publisher published last wakes a sleeping subscriber, also if it ends right after that.
///
/// # Trust
///
/// The publisher is not trusted. Its numbers are checked before they are used, so wrong ones cause errors or wrong
/// values, and nothing worse.
#[derive(Debug)]
pub struct Subscriber {
    segment: Mapping,
    page: Mapping,
    doorbell: Option<Doorbell>,
    geometry: Geometry,
    /// The number of the last value that was read or lost.
    cursor: u64,
    /// The number of the newest value that this reader has seen and need not be notified of. It starts below the
    /// cursor: a new subscriber has not seen the value that was published before the subscription.
    seen: u64,
    /// The last call to arm said that this subscriber sleeps.
    armed: bool,
    /// There is a ring in the doorbell that is not read: the next one need not add another.
    unread: bool,
    /// The doorbell has hung up.
    ended: bool,
    made_in: u32,
    copy: Vec<[[u8; 8]; LINE]>,
}

impl Subscriber {
    /// Maps the segment and the page of the ticket, and checks them.
    ///
    /// # Errors
    ///
    /// - `InvalidData`: a descriptor is no sealed memfd, or the segment's header is damaged, has another version, or
    ///   does not fit the segment's size.
    /// - `OutOfMemory`: there is no memory for a copy of a value.
    /// - Those of `mmap(2)`.
    pub fn open(ticket: Ticket) -> io::Result<Subscriber> {
        let Ticket { segment, page, doorbell, start } = ticket;
        // Nothing else is done with a descriptor before its kind is proved.
        let segment = require_published(segment, "the segment")?;
        let page = require_fixed_size(page, "the subscriber's page")?;
        let doorbell = doorbell.map(Doorbell::open).transpose()?;
        fork::start_counting()?;

        let len = mappable(segment.as_fd(), "the segment")?;
        let segment = Mapping::of_sealed(&segment, len, Access::ReadOnly)?;
        let geometry = Geometry::load(segment.lines(), len as u64)?;
        let len = mappable(page.as_fd(), "the subscriber's page")?.min(sys::page_size());
        let page = Mapping::of_sealed(&page, len, Access::ReadWrite)?;

        let mut copy = Vec::new();
        let lines = geometry.payload_max.div_ceil(8 * LINE);
        copy.try_reserve_exact(lines)?;
        copy.resize(lines, [[0; 8]; LINE]);
        let cursor = start.min(geometry.ring(segment.lines()).newest());
        Ok(Subscriber {
            segment,
            page,
            doorbell,
            geometry,
            cursor,
            seen: 0,
            armed: false,
            unread: false,
            ended: false,
            made_in: fork::generation(),
            copy,
        })
    }

    /// Bytes of the longest value.
    #[must_use]
    pub fn payload_max(&self) -> usize {
        self.geometry.payload_max
    }

    /// How many values the subscriber can be behind before it loses one.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.geometry.ring(self.segment.lines()).capacity()
    }

    /// The publisher's number for the meaning of its values: [`PublisherOptions::tag`](super::PublisherOptions::tag).
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.geometry.tag
    }

    /// The number of the last value that was read or lost. The publisher's first value has 1.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.cursor
    }

    /// The number of the newest value.
    pub(crate) fn newest(&self) -> u64 {
        self.geometry.ring(self.segment.lines()).newest()
    }

    /// The descriptor to poll, edge-triggered, for the publisher's notifications. `None`: they come in another way.
    #[must_use]
    pub fn doorbell(&self) -> Option<&Doorbell> {
        self.doorbell.as_ref()
    }

    /// The newest value, or `None` if it was read before.
    ///
    /// A new subscriber gets the value that was published before its subscription.
    ///
    /// # Errors
    ///
    /// `WouldBlock`: in a thousand attempts the value was overwritten while it was copied. The publisher writes the
    /// whole ring in less time than one copy takes; a larger ring helps
    /// ([`Publisher::every`](super::Publisher::every)). `InvalidData`: the value's length in the segment is larger than
    /// possible.
    #[inline]
    pub fn latest(&mut self) -> io::Result<Option<&[u8]>> {
        match self.read_newest().or_else(|Overtaken| self.read_newest_again())? {
            Some(len) => self.value(len).map(Some),
            None => Ok(None),
        }
    }

    /// Copies the newest value, if it is new, and returns its length in bytes.
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
            format!("{ATTEMPTS} values in a row were overwritten while they were copied; use a larger ring");
        Err(io::Error::new(io::ErrorKind::WouldBlock, what))
    }

    /// The next value, or how many were lost before it. `None` if all were read.
    ///
    /// A new subscriber starts with the first value after its subscription.
    ///
    /// # Errors
    ///
    /// `InvalidData`: the value's length in the segment is larger than possible.
    // A call that is not inlined returns through memory, and costs a tenth of publishing and receiving a value.
    #[inline(always)]
    pub fn recv(&mut self) -> io::Result<Option<Update<&[u8]>>> {
        let ring = self.geometry.ring(self.segment.lines());
        let (newest, number) = (ring.newest(), self.cursor.wrapping_add(1));
        // If there is nothing new, the difference wraps and is out of reach, too: one comparison for both.
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
        // The publisher is close behind. Skip half a ring, or the next value would be lost, too.
        let number = ring.oldest(newest).saturating_add(ring.capacity() / 2);
        self.skip_to(number)
    }

    fn skip_to(&mut self, number: u64) -> Update<&'static [u8]> {
        let lost = number.saturating_sub(self.cursor.saturating_add(1));
        self.cursor += lost;
        Update::Lost(lost)
    }

    #[inline]
    fn value(&self, len: u64) -> io::Result<&[u8]> {
        if len > self.geometry.payload_max as u64 {
            return Err(too_long(len, self.geometry.payload_max));
        }
        #[allow(clippy::cast_possible_truncation, reason = "it is not longer than payload_max")]
        let len = len as usize;
        Ok(&self.copy.as_flattened().as_flattened()[..len])
    }

    /// Asks for one notification, at the next update. False: there is a new value already, and there will be no
    /// notification; read first, then arm again.
    ///
    /// After a notification there is no other one before the next call.
    #[must_use = "if this is false, there will be no notification"]
    pub fn arm(&mut self) -> bool {
        let word = &self.page.lines()[0][0];
        // The publisher has cleared the word, and has put a byte into the doorbell before it looks at the word again.
        self.unread |= self.armed && !is_armed(word);
        let published = self.geometry.published(self.segment.lines());
        self.armed = match self.unread {
            true => arm_as(SLEEPS_UNREAD, word, published, self.seen),
            false => arm(word, published, self.seen),
        };
        self.armed
    }

    /// Blocks until there is a new value, for at most `timeout`. False: the time is up. A timeout of 0 only looks
    /// whether there is one.
    ///
    /// # Errors
    ///
    /// - `BrokenPipe`: there is no new value, and there will be none, because the publisher is gone or has ended this
    ///   subscription.
    /// - `Unsupported`: there is no doorbell; or this is a forked child, which would take its parent's notifications.
    /// - Those of `poll(2)`.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        if self.made_in != fork::generation() {
            return Err(forked());
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if !self.arm() {
                return Ok(true);
            }
            let Some(doorbell) = &self.doorbell else {
                let what = "this subscription has no doorbell; wait for its notifications where they come";
                return Err(io::Error::new(io::ErrorKind::Unsupported, what));
            };
            // This is looked at each time: a publisher can ring without end.
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            if self.ended {
                let what =
                    "the publisher is gone, or has ended this subscription, and all its values were read";
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, what));
            }
            match doorbell.wait(left) {
                Ok(false) => {}
                Ok(true) => match doorbell.read()? {
                    Heard::Silence => {}
                    Heard::Rings => (self.armed, self.unread) = (false, false),
                    Heard::HangUp => self.ended = true,
                },
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// The size of a sealed object. `InvalidData` if it is empty.
fn mappable(fd: BorrowedFd<'_>, what: &str) -> io::Result<usize> {
    match file::fstat(fd)?.len {
        0 => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{what} is empty"))),
        len => Ok(usize::try_from(len).unwrap_or(usize::MAX)),
    }
}

#[cold]
fn forked() -> io::Error {
    let what = "this subscriber was opened before a fork; only the process that opened it can wait with it";
    io::Error::new(io::ErrorKind::Unsupported, what)
}

#[cold]
fn too_long(len: u64, payload_max: usize) -> io::Error {
    let what = format!("a value of {len} bytes exceeds the segment's {payload_max}");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::Publisher;

    /// What a publisher reaches by changing its index between two looks of a reader at it.
    #[test]
    fn no_number_of_a_publisher_overflows() {
        let mut publisher = Publisher::every(8, 7).unwrap();
        let mut subscriber = Subscriber::open(publisher.subscribe().unwrap().1).unwrap();
        publisher.publish(b"x").unwrap();
        let numbers = [0, 1, 2, 7, 8, 1 << 32, 1 << 63, u64::MAX - 8, u64::MAX - 1, u64::MAX];
        for cursor in numbers {
            for newest in numbers {
                subscriber.cursor = cursor;
                let before = subscriber.position();
                subscriber.overtaken(newest);
                assert!(subscriber.position() >= before);
                subscriber.cursor = cursor;
                subscriber.out_of_reach(newest);
                let _ = subscriber.recv();
                let _ = subscriber.latest();
                let _ = subscriber.arm();
            }
        }
    }
}
