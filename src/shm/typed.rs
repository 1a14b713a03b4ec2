//! Values of a type instead of bytes.

use std::{io, marker::PhantomData};

use bytemuck::{AnyBitPattern, NoUninit};

use super::{
    publisher::{Publisher, SubscriberId},
    subscriber::{Subscriber, Update},
    ticket::Ticket,
};

/// A [`Publisher`] of values of one type.
///
/// The type must have no padding, because padding may contain other memory of this process: [`bytemuck::NoUninit`],
/// which every [`bytemuck::Pod`] type implements.
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
    /// `InvalidInput`: the type has no bytes. Those of [`Publisher::latest`].
    pub fn latest() -> io::Result<Self> {
        Self::new(Publisher::latest(size_of::<T>())?)
    }

    /// See [`Publisher::every`].
    ///
    /// # Errors
    ///
    /// `InvalidInput`: the type has no bytes. Those of [`Publisher::every`].
    pub fn every(capacity: usize) -> io::Result<Self> {
        Self::new(Publisher::every(size_of::<T>(), capacity)?)
    }

    /// Publishes values of this type with `publisher`.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: its longest value has another size than the type.
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
    /// `Unsupported`: this is a forked child, and the publisher is its parent's. The value always fits.
    pub fn publish(&mut self, value: &T) -> io::Result<()> {
        self.publisher.publish(bytemuck::bytes_of(value))
    }

    /// The publisher, for its subscriptions. Values that are published through it must have the size of the type.
    pub fn get_mut(&mut self) -> &mut Publisher {
        &mut self.publisher
    }
}

/// A [`Subscriber`] to values of one type.
///
/// The publisher is another program, so any bits must be a value of the type: [`bytemuck::AnyBitPattern`], which every
/// [`bytemuck::Pod`] type implements. Only the size is checked. Use a [`tag`](super::PublisherOptions::tag) to check
/// that both sides mean the same type.
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
    /// `InvalidData`: the segment's values have another size than the type. Those of [`Subscriber::open`].
    pub fn open(ticket: Ticket) -> io::Result<Self> {
        Self::new(Subscriber::open(ticket)?)
    }

    /// Reads values of this type with `subscriber`.
    ///
    /// # Errors
    ///
    /// `InvalidData`: its values have another size than the type.
    pub fn new(subscriber: Subscriber) -> io::Result<Self> {
        require_size::<T>(subscriber.payload_max(), io::ErrorKind::InvalidData)?;
        Ok(TypedSubscriber { subscriber, values: PhantomData })
    }

    /// See [`Subscriber::latest`].
    ///
    /// # Errors
    ///
    /// `InvalidData`: the value has another size. Those of [`Subscriber::latest`].
    pub fn latest(&mut self) -> io::Result<Option<T>> {
        self.subscriber.latest()?.map(typed).transpose()
    }

    /// See [`Subscriber::recv`].
    ///
    /// # Errors
    ///
    /// `InvalidData`: the value has another size. Those of [`Subscriber::recv`].
    pub fn recv(&mut self) -> io::Result<Option<Update<T>>> {
        self.subscriber.recv()?.map(Update::typed).transpose()
    }

    /// The subscriber.
    #[must_use]
    pub fn get_ref(&self) -> &Subscriber {
        &self.subscriber
    }

    /// The subscriber, to arm it or to wait.
    pub fn get_mut(&mut self) -> &mut Subscriber {
        &mut self.subscriber
    }
}

impl Update<&[u8]> {
    /// The value as one of type `T`, for example in the handler of a subscription:
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
    /// `InvalidData`: the value has another size.
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
