//! The one process that writes a segment.

use super::doorbell::{Doorbell, Notify};
use super::header::Geometry;
use super::mapping::{Access, Mapping};
use super::object::Memfd;
use super::protocol::{Word, copy_in_at, copy_value_in, disarm, is_armed, rearm, wake_fence};
use super::ticket::Ticket;
use crate::sys::shm as sys;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;

/// Values that stay readable in a segment of [`Publisher::latest`]: a reader fails only if the
/// publisher writes as many while it copies one.
const LATEST_CAPACITY: usize = 7;

/// What a segment is to be like; [`Publisher::latest`] and [`Publisher::every`] are short for the
/// usual ones.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct PublisherOptions {
    payload_max: usize,
    capacity: usize,
    tag: u64,
    subscribers_max: usize,
}

impl PublisherOptions {
    /// Values of up to `payload_max` bytes, for readers who want the newest.
    pub fn latest(payload_max: usize) -> Self {
        Self::every(payload_max, LATEST_CAPACITY)
    }

    /// Values of up to `payload_max` bytes, the last `capacity` of which at least stay readable.
    pub fn every(payload_max: usize, capacity: usize) -> Self {
        PublisherOptions { payload_max, capacity, tag: 0, subscribers_max: 1024 }
    }

    /// A number that names the meaning of the values, such as their type's version, for
    /// [`Subscriber::tag`](super::Subscriber::tag) to compare. 0 unless told otherwise.
    pub fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// How many subscriptions there may be at a time: 1024 unless told otherwise. Each takes a
    /// descriptor and a page.
    pub fn subscribers_max(mut self, count: usize) -> Self {
        self.subscribers_max = count;
        self
    }

    /// Makes the segment.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a size that no segment can have, `StorageFull` and `OutOfMemory` where
    /// the memory cannot be had, `Unsupported` before Linux 5.1.
    pub fn create(self) -> io::Result<Publisher> {
        let geometry = Geometry::new(self.payload_max, self.capacity, self.tag)?;
        let segment = Memfd::create("ipc-segment", geometry.segment_len())?;
        let mapping = Mapping::of(&segment, 0, geometry.segment_len() as usize, Access::ReadWrite)?;
        geometry.store(mapping.lines());
        segment.seal_published().map_err(|e| match e.kind() {
            io::ErrorKind::InvalidInput => io::Error::new(
                io::ErrorKind::Unsupported,
                "no F_SEAL_FUTURE_WRITE: a segment needs Linux 5.1",
            ),
            _ => e,
        })?;
        Ok(Publisher {
            segment: segment.into(),
            mapping,
            geometry,
            published: 0,
            subscribers: Vec::new(),
            subscribers_max: self.subscribers_max,
            next_id: 0,
        })
    }
}

/// Names a subscription to its publisher; never used twice by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriberId(u64);

struct Subscription {
    id: SubscriberId,
    /// The subscriber's page. What it says is a hint: a lie costs the liar a wake-up or us a ring.
    page: Mapping,
    notify: Box<dyn Notify>,
}

/// The one writer of a segment of shared memory, and the one that notifies its subscribers.
///
/// That there is one is a matter of types: a `Publisher` is not `Clone`, publishing takes `&mut`,
/// and the segment is sealed against anyone else. Publishing never blocks and allocates nothing. It
/// makes a system call only for a subscriber that sleeps, and one per sleep.
///
/// # Example
///
/// ```
/// use ipc_reactor::shm::{Publisher, Subscriber};
///
/// let mut publisher = Publisher::latest(64)?;
/// let (_id, ticket) = publisher.subscribe()?;       // to be sent to another process
/// let mut subscriber = Subscriber::open(ticket)?;
///
/// publisher.publish(b"1 EUR = 1.17 USD")?;
/// publisher.publish(b"1 EUR = 1.18 USD")?;
/// assert_eq!(subscriber.latest()?, Some(&b"1 EUR = 1.18 USD"[..]));
/// assert_eq!(subscriber.latest()?, None);           // nothing new
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Publisher {
    segment: OwnedFd,
    mapping: Mapping,
    geometry: Geometry,
    published: u64,
    subscribers: Vec<Subscription>,
    subscribers_max: usize,
    next_id: u64,
}

impl Publisher {
    /// A segment for readers who want the newest value, of up to `payload_max` bytes
    /// ([`PAYLOAD_MAX`](super::PAYLOAD_MAX) at most).
    ///
    /// # Errors
    ///
    /// Those of [`PublisherOptions::create`].
    pub fn latest(payload_max: usize) -> io::Result<Publisher> {
        PublisherOptions::latest(payload_max).create()
    }

    /// A segment for readers who want every value, and who may fall `capacity` values behind
    /// before they lose one. One more than `capacity` is rounded up to a power of two.
    ///
    /// # Errors
    ///
    /// Those of [`PublisherOptions::create`].
    pub fn every(payload_max: usize, capacity: usize) -> io::Result<Publisher> {
        PublisherOptions::every(payload_max, capacity).create()
    }

    /// The longest value, in bytes.
    #[must_use]
    pub fn payload_max(&self) -> usize {
        self.geometry.payload_max
    }

    /// How many values were published.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.subscribers.len()
    }

    /// Admits a subscriber, which is told of updates by a [`Doorbell`].
    ///
    /// A subscription lasts until [`unsubscribe`](Self::unsubscribe). A subscriber that dies does
    /// not end it, and costs one more ring at most; its socket's hang-up is what tells of its
    /// death.
    ///
    /// # Errors
    ///
    /// `QuotaExceeded` at [`subscribers_max`](PublisherOptions::subscribers_max); otherwise those
    /// of the descriptors and pages it takes.
    pub fn subscribe(&mut self) -> io::Result<(SubscriberId, Ticket)> {
        let (bell, doorbell) = Doorbell::pair()?;
        self.admit(Box::new(bell), Some(doorbell))
    }

    /// Admits a subscriber that is told of updates by other means; its ticket has no doorbell.
    ///
    /// # Errors
    ///
    /// Those of [`subscribe`](Self::subscribe).
    pub fn subscribe_via(&mut self, notify: impl Notify + 'static) -> io::Result<(SubscriberId, Ticket)> {
        self.admit(Box::new(notify), None)
    }

    fn admit(
        &mut self,
        notify: Box<dyn Notify>,
        doorbell: Option<Doorbell>,
    ) -> io::Result<(SubscriberId, Ticket)> {
        if self.subscribers.len() >= self.subscribers_max {
            let what =
                format!("{} subscriptions are as many as subscribers_max allows", self.subscribers_max);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, what));
        }
        let len = sys::page_size();
        let memory = Memfd::create("ipc-subscriber", len as u64)?;
        let page = Mapping::of(&memory, 0, len, Access::ReadWrite)?;
        // A page that the subscriber could truncate would be a SIGBUS for us.
        memory.seal_size()?;
        let segment = self.segment.try_clone()?;
        let id = SubscriberId(self.next_id);
        self.next_id += 1;
        self.subscribers.push(Subscription { id, page, notify });
        Ok((id, Ticket { segment, page: memory.into(), doorbell, start: self.published }))
    }

    /// Ends a subscription: it is told of nothing any more. False where there is none of that name.
    ///
    /// What the subscriber has mapped it can go on reading.
    pub fn unsubscribe(&mut self, id: SubscriberId) -> bool {
        let at = self.subscribers.iter().position(|s| s.id == id);
        at.map(|at| self.subscribers.swap_remove(at)).is_some()
    }

    /// Publishes a copy of `value`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where it is longer than [`payload_max`](Self::payload_max); nothing is
    /// published then.
    // Where the value's length is known, as that of a type is, inlining spares the copy its branches.
    #[inline(always)]
    pub fn publish(&mut self, value: &[u8]) -> io::Result<()> {
        if value.len() > self.geometry.payload_max {
            return Err(too_long(value.len(), self.geometry.payload_max));
        }
        let number = self.published + 1;
        let ring = self.geometry.ring(self.mapping.lines());
        let (lines, len) = ring.begin(number);
        Word::store(len, value.len() as u64);
        copy_value_in(lines, value);
        ring.commit(number);
        self.published = number;
        self.tell();
        Ok(())
    }

    /// Lends the next value's place, to be filled in bits and pieces.
    pub fn loan(&mut self) -> Loan<'_> {
        let number = self.published + 1;
        self.geometry.ring(self.mapping.lines()).begin(number);
        Loan { publisher: self, number, position: 0, len: 0 }
    }

    /// Lends the next value's place to `fill`, and publishes what that leaves there unless it
    /// fails.
    ///
    /// ```
    /// use ipc_reactor::shm::Publisher;
    /// use std::io::Write;
    ///
    /// let mut publisher = Publisher::latest(64)?;
    /// publisher.write(|place| write!(place, "{} clients", 17))?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `fill`; nothing is published then.
    pub fn write<R>(&mut self, fill: impl FnOnce(&mut Loan<'_>) -> io::Result<R>) -> io::Result<R> {
        let mut loan = self.loan();
        let answer = fill(&mut loan)?;
        loan.publish();
        Ok(answer)
    }

    #[inline]
    fn tell(&mut self) {
        wake_fence::<AtomicU64>();
        if self.subscribers.iter().any(|subscription| is_armed(subscription.armed())) {
            self.ring();
        }
    }

    #[cold]
    fn ring(&mut self) {
        self.subscribers.retain_mut(|subscription| {
            if !is_armed(subscription.armed()) {
                return true;
            }
            disarm(subscription.armed());
            match subscription.notify.notify() {
                Ok(()) => true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    rearm(subscription.armed());
                    true
                }
                Err(e) => {
                    log::debug!("subscription {} ends: it cannot be notified: {e}", subscription.id.0);
                    false
                }
            }
        });
    }
}

impl Subscription {
    #[inline]
    fn armed(&self) -> &AtomicU64 {
        &self.page.lines()[0][0]
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("geometry", &self.geometry)
            .field("published", &self.published)
            .field("subscribers", &self.subscribers.len())
            .finish_non_exhaustive()
    }
}

/// The place of a value not yet published, in the shared memory itself.
///
/// [`io::Write`] appends; [`write_at`](Self::write_at) goes anywhere. The value reaches as far as
/// the furthest byte written; gaps hold what an earlier value left there. There is no `&mut [u8]`
/// to it, since readers that fell behind may still be looking at that very memory.
///
/// Dropped without [`publish`](Self::publish), it leaves no trace.
#[derive(Debug)]
#[must_use = "a loan that is dropped publishes nothing"]
pub struct Loan<'a> {
    publisher: &'a mut Publisher,
    number: u64,
    position: usize,
    len: usize,
}

impl Loan<'_> {
    /// Writes `bytes` at `offset` into the value.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where they would reach past [`payload_max`](Publisher::payload_max).
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let payload_max = self.publisher.geometry.payload_max;
        let end = offset.saturating_add(bytes.len());
        if end > payload_max {
            return Err(too_long(end, payload_max));
        }
        let ring = self.publisher.geometry.ring(self.publisher.mapping.lines());
        copy_in_at(ring.slot(self.number).0.as_flattened(), offset, bytes);
        self.len = self.len.max(end);
        Ok(())
    }

    /// Makes it the newest value and notifies the subscribers.
    pub fn publish(self) {
        let ring = self.publisher.geometry.ring(self.publisher.mapping.lines());
        Word::store(ring.slot(self.number).1, self.len as u64);
        ring.commit(self.number);
        self.publisher.published = self.number;
        self.publisher.tell();
    }
}

impl io::Write for Loan<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_at(self.position, bytes)?;
        self.position += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cold]
fn too_long(len: usize, payload_max: usize) -> io::Error {
    let what = format!("a value of {len} bytes exceeds payload_max {payload_max}");
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
