//! Names that no other test, process or run has.

use std::sync::atomic::{AtomicU32, Ordering};

use ipc_reactor::{Queue, shm::SharedObject};

/// For an abstract socket, or after a slash for a message queue.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("ipc-reactor-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Of a message queue, which is removed when this is dropped.
pub(crate) struct QueueName(pub(crate) String);

impl QueueName {
    pub(crate) fn new() -> QueueName {
        QueueName(format!("/{}", unique()))
    }

    /// Opens the queue, and makes it if need be. Its messages are short: all queues of a user share one modest memory limit.
    pub(crate) fn open(&self, capacity: usize) -> Queue {
        Queue::options().create(true).capacity(capacity).message_size(64).open(&self.0).unwrap()
    }
}

impl Drop for QueueName {
    fn drop(&mut self) {
        let _ = Queue::unlink(&self.0);
    }
}

/// Of a shared-memory object, which is removed when this is dropped.
pub(crate) struct ShmName(pub(crate) String);

impl ShmName {
    pub(crate) fn new() -> ShmName {
        ShmName(format!("/{}", unique()))
    }

    pub(crate) fn path(&self) -> String {
        format!("/dev/shm{}", self.0)
    }
}

impl Drop for ShmName {
    fn drop(&mut self) {
        let _ = SharedObject::unlink(&self.0);
    }
}
