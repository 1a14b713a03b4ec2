//! Values of a plain type instead of bytes.

use super::publisher::{Publisher, SubscriberId};
use super::subscriber::{Subscriber, Update};
use super::ticket::Ticket;
use bytemuck::{AnyBitPattern, NoUninit};
use std::io;
use std::marker::PhantomData;

/// A [`Publisher`] of values of one type.
///
/// The type must have no padding, which is memory of ours that nobody meant to share:
/// [`bytemuck::NoUninit`], which any [`bytemuck::Pod`] type is.
///
/// ```
/// use bytemuck::{Pod, Zeroable};
/// use ipc_reactor::shm::{TypedPublisher, TypedSubscriber};
///
/// #[derive(Clone, Copy, Pod, Zeroable)]
/// # #[derive(Debug, PartialEq)]
/// #[repr(C)]
/// struct Quote { bid: f64, ask: f64 }
///
/// let mut publisher = TypedPublisher::<Quote>::latest()?;
/// let (_id, ticket) = publisher.subscribe()?;
/// let mut subscriber = TypedSubscriber::<Quote>::open(ticket)?;
///
/// publisher.publish(&Quote { bid: 1.17, ask: 1.18 })?;
/// assert_eq!(subscriber.latest()?, Some(Quote { bid: 1.17, ask: 1.18 }));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct TypedPublisher<T> {
    publisher: Publisher,
    values: PhantomData<fn(&T)>,
}

impl<T: NoUninit> TypedPublisher<T> {
    /// See [`Publisher::latest`].
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a type of no bytes; otherwise those of [`Publisher::latest`].
    pub fn latest() -> io::Result<Self> {
        Self::new(Publisher::latest(size_of::<T>())?)
    }

    /// See [`Publisher::every`].
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a type of no bytes; otherwise those of [`Publisher::every`].
    pub fn every(capacity: usize) -> io::Result<Self> {
        Self::new(Publisher::every(size_of::<T>(), capacity)?)
    }

    /// Has `publisher` publish values of this type from now on.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where its longest value is not of exactly the type's size.
    pub fn new(publisher: Publisher) -> io::Result<Self> {
        require_size::<T>(publisher.payload_max(), io::ErrorKind::InvalidInput)?;
        Ok(TypedPublisher { publisher, values: PhantomData })
    }

    /// See [`Publisher::subscribe`].
    ///
    /// # Errors
    ///
    /// Those of [`Publisher::subscribe`].
    pub fn subscribe(&mut self) -> io::Result<(SubscriberId, Ticket)> {
        self.publisher.subscribe()
    }

    /// See [`Publisher::publish`].
    ///
    /// # Errors
    ///
    /// Those of [`Publisher::publish`]; the length always fits.
    pub fn publish(&mut self, value: &T) -> io::Result<()> {
        self.publisher.publish(bytemuck::bytes_of(value))
    }

    /// The publisher below, to see to its subscriptions. What is published through it must have the
    /// type's size.
    pub fn get_mut(&mut self) -> &mut Publisher {
        &mut self.publisher
    }
}

/// A [`Subscriber`] to values of one type.
///
/// The publisher is another program, so any bits must be a value of the type:
/// [`bytemuck::AnyBitPattern`], which any [`bytemuck::Pod`] type is. That both mean the same type
/// is checked by its size; [`tag`](super::PublisherOptions::tag) can say more.
#[derive(Debug)]
pub struct TypedSubscriber<T> {
    subscriber: Subscriber,
    values: PhantomData<fn() -> T>,
}

impl<T: AnyBitPattern> TypedSubscriber<T> {
    /// See [`Subscriber::open`].
    ///
    /// # Errors
    ///
    /// `InvalidData` where the segment's values are not of the type's size; otherwise those of
    /// [`Subscriber::open`].
    pub fn open(ticket: Ticket) -> io::Result<Self> {
        Self::new(Subscriber::open(ticket)?)
    }

    /// Takes what `subscriber` reads for values of this type.
    ///
    /// # Errors
    ///
    /// `InvalidData` where its values are not of the type's size.
    pub fn new(subscriber: Subscriber) -> io::Result<Self> {
        require_size::<T>(subscriber.payload_max(), io::ErrorKind::InvalidData)?;
        Ok(TypedSubscriber { subscriber, values: PhantomData })
    }

    /// See [`Subscriber::latest`].
    ///
    /// # Errors
    ///
    /// `InvalidData` for a value of another size; otherwise those of [`Subscriber::latest`].
    pub fn latest(&mut self) -> io::Result<Option<T>> {
        self.subscriber.latest()?.map(typed).transpose()
    }

    /// See [`Subscriber::recv`].
    ///
    /// # Errors
    ///
    /// `InvalidData` for a value of another size; otherwise those of [`Subscriber::recv`].
    pub fn recv(&mut self) -> io::Result<Option<Update<T>>> {
        self.subscriber.recv()?.map(Update::typed).transpose()
    }

    /// The subscriber below.
    #[must_use]
    pub fn get_ref(&self) -> &Subscriber {
        &self.subscriber
    }

    /// The subscriber below, to arm it or to wait.
    pub fn get_mut(&mut self) -> &mut Subscriber {
        &mut self.subscriber
    }
}

impl Update<&[u8]> {
    /// The value as one of type `T`, in a subscription's handler for one:
    ///
    /// ```
    /// # use ipc_reactor::{Delivery, Reactor, shm::{Subscriber, TypedPublisher, Update}};
    /// # let mut publisher = TypedPublisher::<[f64; 2]>::latest()?;
    /// # let subscriber = Subscriber::open(publisher.subscribe()?.1)?;
    /// # let mut reactor = Reactor::<f64>::new()?;
    /// reactor.subscribe(subscriber, Delivery::Latest, |update, cx, spread: &mut f64| {
    ///     if let Update::Value([bid, ask]) = update.typed::<[f64; 2]>()? {
    ///         *spread = ask - bid;
    ///         cx.stop();
    ///     }
    ///     Ok(())
    /// })?;
    /// # publisher.publish(&[1.25, 1.5])?;
    /// # let mut spread = 0.0;
    /// # reactor.run(&mut spread)?;
    /// # assert_eq!(spread, 0.25);
    /// # std::io::Result::Ok(())
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidData` for a value of another size.
    pub fn typed<T: AnyBitPattern>(self) -> io::Result<Update<T>> {
        Ok(match self {
            Update::Value(value) => Update::Value(typed(value)?),
            Update::Lost(count) => Update::Lost(count),
        })
    }
}

fn require_size<T>(payload_max: usize, kind: io::ErrorKind) -> io::Result<()> {
    if payload_max == size_of::<T>() {
        return Ok(());
    }
    let (name, size) = (std::any::type_name::<T>(), size_of::<T>());
    Err(io::Error::new(kind, format!("the segment's values have {payload_max} bytes, {name} has {size}")))
}

fn typed<T: AnyBitPattern>(value: &[u8]) -> io::Result<T> {
    bytemuck::try_pod_read_unaligned(value).map_err(|_| {
        let what = format!("a value of {} bytes instead of {}", value.len(), size_of::<T>());
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}
