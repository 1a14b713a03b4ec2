//! The one writer of a segment.

use std::{fmt, io, os::fd::OwnedFd, sync::atomic::AtomicU64};

use super::{
    doorbell::{Bell, Doorbell, Notify},
    header::Geometry,
    mapping::{Access, Mapping},
    object::Memfd,
    protocol::{Word, copy_in_at, copy_value_in, disarm, is_armed, rearm, wake_fence},
    ticket::Ticket,
};
use crate::sys::{self, fork, process};

/// How many values are readable in a segment of [`Publisher::latest`]. A reader fails only if the publisher writes that
/// many while it copies one.
const LATEST_CAPACITY: usize = 7;

/// Options to make a segment. [`Publisher::latest`] and [`Publisher::every`] are short for the usual ones.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct PublisherOptions {
    payload_max: usize,
    capacity: usize,
    tag: u64,
    subscribers_max: usize,
    subscribers_per_uid: Option<usize>,
}

impl PublisherOptions {
    /// Values of up to `payload_max` bytes, for readers that want the newest one.
    pub fn latest(payload_max: usize) -> Self {
        Self::every(payload_max, LATEST_CAPACITY)
    }

    /// Values of up to `payload_max` bytes, of which at least the last `capacity` are readable.
    pub fn every(payload_max: usize, capacity: usize) -> Self {
        PublisherOptions { payload_max, capacity, tag: 0, subscribers_max: 1024, subscribers_per_uid: None }
    }

    /// A number that identifies the meaning of the values, such as the version of their type. A subscriber can compare
    /// it ([`Subscriber::tag`](super::Subscriber::tag)). Default 0.
    pub fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// The most subscriptions at a time. Default 1024. Each needs a descriptor and a page.
    pub fn subscribers_max(mut self, count: usize) -> Self {
        self.subscribers_max = count;
        self
    }

    /// The most subscriptions at a time of one user, where the user is known: with
    /// [`SubscriberSession`](crate::SubscriberSession). Default seven eighths of
    /// [`subscribers_max`](Self::subscribers_max), rounded up: no other user can take all. The publisher's own user
    /// can.
    pub fn subscribers_per_uid(mut self, count: usize) -> Self {
        self.subscribers_per_uid = Some(count);
        self
    }

    /// Makes the segment.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: no segment can have such sizes. `StorageFull`, `OutOfMemory`: there is not enough memory, or
    /// files of this process may not be that long (`RLIMIT_FSIZE`). `Unsupported`: before Linux 5.1.
    pub fn create(self) -> io::Result<Publisher> {
        let geometry = Geometry::new(self.payload_max, self.capacity, self.tag)?;
        fork::start_counting()?;
        let segment = Memfd::create("ipc-segment", geometry.segment_len())?;
        let len = usize::try_from(geometry.segment_len()).unwrap_or(usize::MAX);
        let mapping = Mapping::of(&segment, 0, len, Access::ReadWrite)?;
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
            subscribers_per_uid: self
                .subscribers_per_uid
                .unwrap_or(self.subscribers_max - self.subscribers_max / 8),
            next_id: 0,
            made_in: fork::generation(),
        })
    }
}

/// Identifies a subscription of a publisher, which never uses an id again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriberId(u64);

struct Subscription {
    id: SubscriberId,
    /// The subscriber's page. It contains a hint only: a wrong one costs the subscriber a wake-up, or the publisher a
    /// ring.
    page: Mapping,
    notify: By,
    /// The subscriber's user, where it is known.
    uid: Option<u32>,
}

/// How a subscriber is notified.
enum By {
    Doorbell(Bell),
    Other(Box<dyn Notify>),
}

/// The one writer of a segment of shared memory. It also notifies the subscribers.
///
/// There can only be one: a `Publisher` is not `Clone`, publishing takes `&mut`, and the segment is sealed against
/// other writers. After a fork only the process that made it can use it. Publishing never blocks and does not allocate.
/// It makes one system call for each subscriber that sleeps, and none for others.
///
/// # Example
///
/// ```
/// use ipc_reactor::shm::{Publisher, Subscriber};
///
/// let mut publisher = Publisher::latest(64)?;
/// let (_id, ticket) = publisher.subscribe()?;       // send it to another process
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
    subscribers_per_uid: usize,
    next_id: u64,
    /// A forked child has the same mapping. Two writers would tear the values.
    made_in: u32,
}

impl Publisher {
    /// A segment for readers that want the newest value. Values have up to `payload_max` bytes, which is at most
    /// [`PAYLOAD_MAX`](super::PAYLOAD_MAX).
    ///
    /// # Errors
    ///
    /// Those of [`PublisherOptions::create`].
    pub fn latest(payload_max: usize) -> io::Result<Publisher> {
        PublisherOptions::latest(payload_max).create()
    }

    /// A segment for readers that want every value. They may be `capacity` values behind before they lose one.
    /// (`capacity` + 1 is rounded up to a power of two.)
    ///
    /// # Errors
    ///
    /// Those of [`PublisherOptions::create`].
    pub fn every(payload_max: usize, capacity: usize) -> io::Result<Publisher> {
        PublisherOptions::every(payload_max, capacity).create()
    }

    /// Bytes of the longest value.
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

    /// Makes a subscription whose subscriber is notified of updates by a [`Doorbell`].
    ///
    /// It lasts until [`unsubscribe`](Self::unsubscribe), which the subscriber is told, or until a ring fails because
    /// the subscriber is gone. The hang-up of the socket that the ticket went through tells of its end at once.
    ///
    /// # Errors
    ///
    /// `QuotaExceeded`: there are [`subscribers_max`](PublisherOptions::subscribers_max) already. `EMFILE`, `ENFILE`,
    /// `StorageFull`: no descriptor or not enough memory is free.
    pub fn subscribe(&mut self) -> io::Result<(SubscriberId, Ticket)> {
        self.subscribe_user(None, None)
    }

    /// Makes a subscription of this user, which is notified in this way, or by a doorbell.
    pub(crate) fn subscribe_user(
        &mut self,
        uid: Option<u32>,
        notify: Option<Box<dyn Notify>>,
    ) -> io::Result<(SubscriberId, Ticket)> {
        let own = Some(process::effective_uid());
        if uid.is_some() && uid != own {
            let count = self.subscribers.iter().filter(|subscription| subscription.uid == uid).count();
            if count >= self.subscribers_per_uid {
                let what =
                    format!("this user has {count} subscriptions; raise subscribers_per_uid to allow more");
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, what));
            }
        }
        if let Some(notify) = notify {
            return self.admit(uid, By::Other(notify), None);
        }
        let (bell, doorbell) = Doorbell::pair()?;
        self.admit(uid, By::Doorbell(bell), Some(doorbell))
    }

    /// Makes a subscription whose subscriber is notified by `notify`. Its ticket has no doorbell.
    ///
    /// # Errors
    ///
    /// Those of [`subscribe`](Self::subscribe).
    pub fn subscribe_via(&mut self, notify: impl Notify + 'static) -> io::Result<(SubscriberId, Ticket)> {
        self.subscribe_user(None, Some(Box::new(notify)))
    }

    fn admit(
        &mut self,
        uid: Option<u32>,
        notify: By,
        doorbell: Option<OwnedFd>,
    ) -> io::Result<(SubscriberId, Ticket)> {
        self.check_not_forked()?;
        if self.subscribers.len() >= self.subscribers_max {
            let what = format!(
                "there are {} subscriptions; raise subscribers_max to allow more",
                self.subscribers_max
            );
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, what));
        }
        let len = sys::page_size();
        let memory = Memfd::create("ipc-subscriber", len as u64)?;
        let page = Mapping::of(&memory, 0, len, Access::ReadWrite)?;
        // A subscriber that truncates its page would cause a SIGBUS here.
        memory.seal_size()?;
        let segment = self.segment.try_clone()?;
        let id = SubscriberId(self.next_id);
        self.next_id += 1;
        self.subscribers.push(Subscription { id, page, notify, uid });
        let page = OwnedFd::from(memory).into();
        let doorbell = doorbell.map(Into::into);
        Ok((id, Ticket { segment: segment.into(), page, doorbell, start: self.published }))
    }

    /// Ends a subscription: its subscriber is not notified any more. False: there is none with that id.
    ///
    /// The subscriber can still read the segment, which it has mapped.
    pub fn unsubscribe(&mut self, id: SubscriberId) -> bool {
        let at = self.subscribers.iter().position(|s| s.id == id);
        at.map(|at| self.subscribers.swap_remove(at)).is_some()
    }

    /// Publishes a copy of `value`.
    ///
    /// # Errors
    ///
    /// Nothing is published. `InvalidInput`: it is longer than [`payload_max`](Self::payload_max). `Unsupported`: this
    /// is a forked child, and the publisher is its parent's.
    // Inlining removes the branches of the copy where the compiler knows the length, as for a typed value.
    #[inline(always)]
    pub fn publish(&mut self, value: &[u8]) -> io::Result<()> {
        if value.len() > self.geometry.payload_max {
            return Err(too_long(value.len(), self.geometry.payload_max));
        }
        self.check_not_forked()?;
        let number = self.published + 1;
        let ring = self.geometry.ring(self.mapping.lines());
        let (lines, len) = ring.begin(number);
        Word::store(len, value.len() as u64);
        copy_value_in(lines, value);
        ring.commit(number);
        self.published = number;
        self.notify_sleeping();
        Ok(())
    }

    /// The memory of the next value, to be written in parts.
    pub fn loan(&mut self) -> Loan<'_> {
        let number = self.published + 1;
        self.geometry.ring(self.mapping.lines()).begin(number);
        Loan { publisher: self, number, position: 0, len: 0 }
    }

    /// Calls `fill` with the memory of the next value, and publishes the value unless `fill` fails.
    ///
    /// ```
    /// use ipc_reactor::shm::Publisher;
    /// use std::io::Write;
    ///
    /// let mut publisher = Publisher::latest(64)?;
    /// publisher.write(|loan| write!(loan, "{} clients", 17))?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `fill`, and `Unsupported` in a forked child. Nothing is published.
    pub fn write<R>(&mut self, fill: impl FnOnce(&mut Loan<'_>) -> io::Result<R>) -> io::Result<R> {
        let mut loan = self.loan();
        let answer = fill(&mut loan)?;
        loan.publish()?;
        Ok(answer)
    }

    #[inline]
    fn check_not_forked(&self) -> io::Result<()> {
        if self.made_in == fork::generation() { Ok(()) } else { Err(forked()) }
    }

    #[inline]
    fn notify_sleeping(&mut self) {
        wake_fence::<AtomicU64>();
        if self.subscribers.iter().any(|subscription| is_armed(subscription.armed())) {
            self.ring();
        }
    }

    #[cold]
    fn ring(&mut self) {
        self.subscribers.retain_mut(|subscription| {
            let asked = Word::load(subscription.armed());
            if asked == 0 {
                return true;
            }
            disarm(subscription.armed());
            let notified = match &mut subscription.notify {
                By::Doorbell(bell) => bell.ring(asked),
                By::Other(notify) => notify.notify(),
            };
            match notified {
                Ok(()) => true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    rearm(subscription.armed());
                    true
                }
                Err(e) => {
                    log::debug!(
                        target: "ipc_reactor",
                        "subscription {} ends, because its subscriber cannot be notified: {e}",
                        subscription.id.0
                    );
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

/// The next value, which is not published yet, in the shared memory itself.
///
/// [`io::Write`] appends, and [`write_at`](Self::write_at) writes at any offset. The value ends with the last byte
/// written. Gaps contain bytes of an earlier value. There is no `&mut [u8]`, because slow readers may still read that
/// memory.
///
/// Dropped without [`publish`](Self::publish), it has no effect.
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
    /// `InvalidInput`: they would exceed [`payload_max`](Publisher::payload_max). `Unsupported`: this is a forked
    /// child, and the publisher is its parent's.
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.publisher.check_not_forked()?;
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

    /// Publishes it as the newest value, and notifies the subscribers.
    ///
    /// # Errors
    ///
    /// `Unsupported`: this is a forked child, and the publisher is its parent's. Nothing is published.
    pub fn publish(self) -> io::Result<()> {
        self.publisher.check_not_forked()?;
        let ring = self.publisher.geometry.ring(self.publisher.mapping.lines());
        Word::store(ring.slot(self.number).1, self.len as u64);
        ring.commit(self.number);
        self.publisher.published = self.number;
        self.publisher.notify_sleeping();
        Ok(())
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
fn forked() -> io::Error {
    let what = "this publisher was made before a fork, and its segment can have one writer only: the process that made it";
    io::Error::new(io::ErrorKind::Unsupported, what)
}

#[cold]
fn too_long(len: usize, payload_max: usize) -> io::Error {
    let what = format!("a value of {len} bytes exceeds payload_max {payload_max}");
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
