//! The endpoints of the sources, without their handlers: an endpoint stays in its slot while the handler runs.
//!
//! The endpoint of a client is in `set/client.rs`, that of a child in `children/process.rs`.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    rc::Rc,
};

use mio::Interest;

pub(crate) use crate::children::process::ChildPort;
use crate::{
    net::{
        datagram::{Datagram, address::SocketAddress},
        listener::Listener,
    },
    queue::{Queue, TrySendError},
    set::client::ConnectionConfig,
    signals::{SignalBatch, Signals},
    sys::datagram::{Arrival, BATCH},
    types::{
        cause::Cause,
        key::{Key, TimerKey},
    },
};

/// A listening socket.
pub(crate) struct Acceptor {
    pub(crate) listener: Listener,
    pub(crate) config: Rc<ConnectionConfig>,
    /// A spare descriptor. When there is no other, it is closed, to accept one more client and close it at once.
    pub(crate) spare: Option<OwnedFd>,
    /// There was no descriptor or no place for the last client. Logged once, until there is one again.
    pub(crate) full: bool,
}

/// The listening sockets as a whole.
#[derive(Default)]
pub(crate) struct Acceptors {
    /// Clients accepted in this visit, which are visited before they are registered.
    pub(crate) unregistered: Vec<Key>,
    /// Listeners that wait for a descriptor or a place, each with its retry timer.
    paused: Vec<(Key, TimerKey)>,
}

impl Acceptors {
    pub(crate) fn is_paused(&self, key: Key) -> bool {
        self.paused.iter().any(|&(paused, _)| paused == key)
    }

    pub(crate) fn pause(&mut self, key: Key, retry: TimerKey) {
        self.paused.push((key, retry));
    }

    /// A retry timer has fired.
    pub(crate) fn retried(&mut self, timer: TimerKey) {
        self.paused.retain(|&(_, retry)| retry != timer);
    }

    pub(crate) fn resume(&mut self) -> Option<(Key, TimerKey)> {
        self.paused.pop()
    }
}

/// A datagram socket.
pub(crate) struct DatagramPort {
    /// Shared with the datagram that the handler gets, so that it can be answered.
    pub(crate) socket: Rc<Datagram>,
    /// The buffer of one receive. It is taken out while its datagrams are handled.
    pub(crate) batch: Option<Box<DatagramBatch>>,
    /// How many datagrams a drain handles at most.
    pub(crate) to_drain: Option<usize>,
}

/// Datagrams of one receive.
pub(crate) struct DatagramBatch {
    /// [`BATCH`] pieces of the socket's message size.
    pub(crate) bytes: Vec<u8>,
    pub(crate) arrivals: [Arrival; BATCH],
    /// Descriptors that came with them and were closed. The end of the visit counts them.
    pub(crate) discarded: u64,
}

impl DatagramBatch {
    pub(crate) fn new(message_size: usize) -> DatagramBatch {
        DatagramBatch {
            bytes: vec![0; BATCH * message_size],
            arrivals: [Arrival::zeroed(); BATCH],
            discarded: 0,
        }
    }

    /// The first `count` datagrams: the bytes, the full length if the datagram was truncated, and the sender.
    pub(crate) fn received(
        &self,
        count: usize,
    ) -> impl ExactSizeIterator<Item = (&[u8], Option<usize>, SocketAddress)> {
        let each = self.bytes.len() / BATCH;
        self.arrivals[..count].iter().zip(self.bytes.chunks_exact(each.max(1))).map(
            move |(arrival, bytes)| {
                let truncated = (arrival.len > each).then_some(arrival.len);
                (&bytes[..arrival.len.min(each)], truncated, SocketAddress(arrival.from))
            },
        )
    }
}

/// A message queue.
pub(crate) struct QueuePort {
    pub(crate) queue: Queue,
    pub(crate) is_read: bool,
    /// In the kernel's order: highest priority first, the oldest first within a priority.
    pub(crate) outbox: VecDeque<(u32, Box<[u8]>)>,
    pub(crate) write_interest: bool,
    /// How many messages a drain has still to handle.
    pub(crate) to_drain: Option<usize>,
    /// A drain does not wait for it any more.
    pub(crate) drained: bool,
}

impl QueuePort {
    pub(crate) fn new(queue: Queue, is_read: bool) -> QueuePort {
        QueuePort {
            queue,
            is_read,
            outbox: VecDeque::new(),
            write_interest: false,
            to_drain: None,
            drained: !is_read,
        }
    }

    pub(crate) fn interest(&self) -> Interest {
        match (self.is_read, self.write_interest) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            // Our own sends make edges for all of the interest, so an interest that never becomes ready.
            (false, false) => Interest::PRIORITY,
        }
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.queue.as_fd().as_raw_fd()
    }

    /// Buffers a message until there is room, after all buffered messages of the same or a higher priority.
    pub(crate) fn keep(&mut self, message: &[u8], priority: u32) {
        let position = self.outbox.partition_point(|&(waiting, _)| waiting >= priority);
        self.outbox.insert(position, (priority, message.into()));
    }

    /// Sends buffered messages. True: all are sent.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while let Some((priority, message)) = self.outbox.front() {
            match self.queue.try_send(message, *priority) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(TrySendError::Full) => return Ok(false),
                Err(TrySendError::Failed(error)) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// A signalfd.
pub(crate) struct SignalPort {
    pub(crate) signals: Signals,
    /// The buffer of one read. It is taken out while its signals are handled.
    pub(crate) batch: Option<Box<SignalBatch>>,
}

/// A subscription to shared memory. The mapping is with the handler, which borrows it.
pub(crate) struct SubscriptionPort {
    pub(crate) doorbell: Option<RawFd>,
    /// The client over which the ticket came. Its hang-up means that the publisher is gone.
    pub(crate) connection: Option<Key>,
    /// The position of the last value, and why there will be no other.
    pub(crate) ended: Option<Box<(Cause, u64)>>,
}

/// A descriptor that the embedder's own source owns.
pub(crate) struct FdPort {
    pub(crate) fd: RawFd,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_listener_is_paused_until_its_timer_fires_or_a_place_is_free() {
        let mut acceptors = Acceptors::default();
        let (one, two) = (Key { index: 1, serial: 0 }, Key { index: 2, serial: 0 });
        let (timer, other) = (TimerKey { index: 1, serial: 1 }, TimerKey { index: 2, serial: 2 });
        acceptors.pause(one, timer);
        acceptors.pause(two, other);
        assert!(acceptors.is_paused(one) && acceptors.is_paused(two));
        acceptors.retried(timer);
        assert!(!acceptors.is_paused(one));
        assert_eq!(acceptors.resume(), Some((two, other)));
        assert_eq!(acceptors.resume(), None);
    }

    #[test]
    fn an_outbox_keeps_the_kernels_order() {
        let name = format!("/ipc-reactor-port-{}", std::process::id());
        let queue = Queue::options()
            .read(true)
            .write(true)
            .create_new(true)
            .capacity(1)
            .message_size(8)
            .nonblocking(true)
            .open(&name)
            .unwrap();
        Queue::unlink(&name).unwrap();
        let mut port = QueuePort::new(queue, true);
        assert_eq!(port.interest(), Interest::READABLE);
        for (message, priority) in [(b"1", 0), (b"2", 5), (b"3", 5), (b"4", 0)] {
            port.keep(message, priority);
        }
        let mut received = Vec::new();
        let mut buffer = [0; 8];
        while !port.flush().unwrap() {
            let got = port.queue.recv_timeout(&mut buffer, Duration::from_secs(10)).unwrap();
            received.push(buffer[..got.len].to_vec());
        }
        while let Some(got) = port.queue.try_recv(&mut buffer).unwrap() {
            received.push(buffer[..got.len].to_vec());
        }
        assert_eq!(received, [b"2", b"3", b"1", b"4"]);
    }
}
