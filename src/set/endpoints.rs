//! The endpoints of the sources, without their handlers: what stays in a slot while a handler runs.
//!
//! A client's is in `set/client.rs`, a child's in `children/process.rs`.

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
    /// Given up when there is no other descriptor, to accept one more client and close it at once.
    pub(crate) spare: Option<OwnedFd>,
    /// There was no descriptor or place for the last client; logged once, until there is one again.
    pub(crate) full: bool,
}

/// The listening sockets as a whole.
#[derive(Default)]
pub(crate) struct Acceptors {
    /// Clients accepted in this visit, to be visited before they are registered.
    pub(crate) unregistered: Vec<Key>,
    /// Listeners that wait for a descriptor or a place, each with the timer that has it look again.
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
    /// Shared with the datagram that the handler is given, which can be answered by itself.
    pub(crate) socket: Rc<Datagram>,
    /// Room for one receive. Taken out while its datagrams are handled.
    pub(crate) batch: Option<Box<DatagramBatch>>,
    /// How many datagrams a drain handles at most.
    pub(crate) to_drain: Option<usize>,
}

/// Datagrams of one receive.
pub(crate) struct DatagramBatch {
    /// [`BATCH`] pieces of the socket's message size.
    pub(crate) bytes: Vec<u8>,
    pub(crate) arrivals: [Arrival; BATCH],
}

impl DatagramBatch {
    pub(crate) fn new(message_size: usize) -> DatagramBatch {
        DatagramBatch { bytes: vec![0; BATCH * message_size], arrivals: [Arrival::zeroed(); BATCH] }
    }

    /// The first `count`: the bytes, how many there were if some are missing, and the sender.
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
    /// Sorted as the kernel would: highest priority first, oldest first within one.
    pub(crate) outbox: VecDeque<(u32, Box<[u8]>)>,
    pub(crate) write_interest: bool,
    /// How many messages a drain has still to handle.
    pub(crate) to_drain: Option<usize>,
    /// A drain need not wait for it.
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
            // Our own sends make edges, with the whole mask: a queue that is not read is watched for what never comes.
            (false, false) => Interest::PRIORITY,
        }
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.queue.as_fd().as_raw_fd()
    }

    /// Keeps a message until there is room: nothing overtakes what waits with the same priority or a higher one.
    pub(crate) fn keep(&mut self, message: &[u8], priority: u32) {
        let position = self.outbox.partition_point(|&(waiting, _)| waiting >= priority);
        self.outbox.insert(position, (priority, message.into()));
    }

    /// Sends what waits; true if none of it waits any more.
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
    /// Room for one read. Taken out while its signals are handled.
    pub(crate) batch: Option<Box<SignalBatch>>,
}

/// A subscription to shared memory. The mapping is lent to its handler, and so is with it.
pub(crate) struct SubscriptionPort {
    pub(crate) doorbell: Option<RawFd>,
    /// The client that the ticket came over. Its hang-up tells that the publisher is gone.
    pub(crate) connection: Option<Key>,
    /// Why there will be nothing new after this value.
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
