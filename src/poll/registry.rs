//! The registry: a slab of values with serial numbers, their registration with epoll, and the ready list.
//!
//! `T` is the value in a slot. The registry does not depend on it.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
};

use mio::{Interest, Poll, unix::SourceFd};
use slab::Slab;

use crate::{
    sys,
    types::{key::Key, ready::Ready},
};

pub(crate) struct Slot<T> {
    pub(crate) value: T,
    serial: u32,
    /// The edges that the kernel reported, until a visit takes them.
    pub(crate) ready: Ready,
    /// It is in the ready list.
    pub(crate) queued: bool,
}

/// The result of noting edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    /// The slot was not in the ready list: the caller puts the key into it.
    New,
    /// It is in the list already.
    Queued,
    /// The key names nothing.
    Gone,
}

pub(crate) struct Registry<T> {
    pub(crate) poll: Poll,
    slots: Slab<Slot<T>>,
    /// The serial number of the next value.
    serial: u32,
    /// The ready list: the sources that are visited in the next round.
    pub(crate) ready: Vec<Key>,
    /// The slab shrinks only when fewer slots than this are in use, because each attempt scans all slots.
    shrink_below: usize,
    /// The fork generation in which the registry was made (`sys/fork.rs`).
    made_in: u32,
}

impl<T> Registry<T> {
    pub(crate) fn new() -> io::Result<Registry<T>> {
        Ok(Registry {
            poll: Poll::new()?,
            slots: Slab::new(),
            serial: 0,
            ready: Vec::new(),
            shrink_below: usize::MAX,
            made_in: sys::fork::generation(),
        })
    }

    // ---- epoll ----

    /// Registers a descriptor under the key that the next [`insert`](Registry::insert) returns. These are two steps, so
    /// that the caller still has a descriptor that is refused.
    pub(crate) fn register(&self, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<Key> {
        let key = self.next_key();
        self.register_as(key, fd.as_raw_fd(), interest)?;
        Ok(key)
    }

    /// Registers a descriptor for a value that is in its slot already.
    pub(crate) fn register_as(&self, key: Key, fd: RawFd, interest: Interest) -> io::Result<()> {
        self.check_not_forked()?;
        self.poll.registry().register(&mut SourceFd(&fd), key.token(), interest).map_err(explain)
    }

    /// Changes the interest of a registered descriptor. If it is ready, the kernel reports a new event.
    pub(crate) fn reregister(&self, key: Key, fd: RawFd, interest: Interest) -> io::Result<()> {
        self.check_not_forked()?;
        self.poll.registry().reregister(&mut SourceFd(&fd), key.token(), interest).map_err(explain)
    }

    /// Deregisters a descriptor. In a forked child it does nothing: the epoll set is the parent's.
    pub(crate) fn deregister(&self, fd: RawFd) -> io::Result<()> {
        if self.check_not_forked().is_err() {
            return Ok(());
        }
        self.poll.registry().deregister(&mut SourceFd(&fd))
    }

    /// Fails in a forked child: it shares the parent's epoll set, so a change there would be a change for the parent.
    #[inline]
    pub(crate) fn check_not_forked(&self) -> io::Result<()> {
        if self.made_in == sys::fork::generation() { Ok(()) } else { Err(forked()) }
    }

    // ---- Slots ----

    /// The key of the next value.
    pub(crate) fn next_key(&self) -> Key {
        let index = u32::try_from(self.slots.vacant_key()).expect("fewer slots than bytes of memory");
        Key { index, serial: self.serial }
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        let key = self.next_key();
        self.serial = self.serial.wrapping_add(1);
        self.slots.insert(Slot { value, serial: key.serial, ready: Ready::NONE, queued: false });
        key
    }

    /// Frees a slot. Its serial number is not used again for 2³² insertions.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Slot<T>> {
        self.slot(key)?;
        let slot = self.slots.remove(key.index as usize);
        let (len, capacity) = (self.slots.len(), self.slots.capacity());
        if capacity > 1024 && len < capacity / 8 && len < self.shrink_below {
            self.slots.shrink_to_fit();
            // A used slot near the end keeps the memory. The next attempt is made when half of the slots are free.
            self.shrink_below = if self.slots.capacity() < capacity { usize::MAX } else { len / 2 };
        }
        Some(slot)
    }

    #[inline]
    pub(crate) fn slot(&self, key: Key) -> Option<&Slot<T>> {
        self.slots.get(key.index as usize).filter(|slot| slot.serial == key.serial)
    }

    #[inline]
    pub(crate) fn slot_mut(&mut self, key: Key) -> Option<&mut Slot<T>> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.serial == key.serial)
    }

    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        self.slot(key).map(|slot| &slot.value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slot_mut(key).map(|slot| &mut slot.value)
    }

    /// The value of a key whose slot has not been freed since it was looked up.
    #[inline]
    pub(crate) fn get_known_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        debug_assert_eq!(slot.serial, key.serial, "the slot was freed");
        Some(&mut slot.value)
    }

    /// The key of the value in the slot with this index.
    pub(crate) fn key_at(&self, index: u32) -> Option<Key> {
        self.slots.get(index as usize).map(|slot| Key { index, serial: slot.serial })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().map(|(index, slot)| (key(index, slot), &slot.value))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        self.slots.iter_mut().map(|(index, slot)| (key(index, slot), &mut slot.value))
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Every slot's index is lower.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    // ---- Readiness ----

    /// Adds edges to those that a slot has.
    #[inline]
    pub(crate) fn note(&mut self, key: Key, ready: Ready) -> Noted {
        let Some(slot) = self.slot_mut(key) else { return Noted::Gone };
        slot.ready |= ready;
        if mem::replace(&mut slot.queued, true) { Noted::Queued } else { Noted::New }
    }

    /// Begins a visit: takes the slot's edges, and marks it as not in the ready list.
    pub(crate) fn begin_visit(&mut self, key: Key) -> Option<Ready> {
        let slot = self.slot_mut(key)?;
        slot.queued = false;
        Some(mem::take(&mut slot.ready))
    }

    /// Whether a slot is in the ready list.
    pub(crate) fn is_queued(&self, key: Key) -> bool {
        self.slot(key).is_some_and(|slot| slot.queued)
    }
}

fn key<T>(index: usize, slot: &Slot<T>) -> Key {
    Key { index: u32::try_from(index).expect("fewer slots than bytes of memory"), serial: slot.serial }
}

#[cold]
fn forked() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "this reactor was made before a fork, by the parent: its poll set is shared, and its signals are not. \
         Drop it in the child, then make a new one there",
    )
}

fn explain(error: io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "epoll does not take files of this type: a regular file or a directory is always ready"
        }
        Some(libc::EEXIST) => "this descriptor is in the poll set already",
        Some(libc::ENOSPC) => {
            "too many registrations of this user; raise /proc/sys/fs/epoll/max_user_watches"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{why} ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashSet, os::fd::AsFd, os::unix::net::UnixStream, time::Duration};

    #[test]
    fn a_key_names_one_value_and_never_a_later_one_of_its_slot() {
        let mut registry = Registry::new().unwrap();
        let first = registry.insert("first");
        assert_eq!(registry.get(first), Some(&"first"));
        assert_eq!(registry.remove(first).map(|slot| slot.value), Some("first"));
        let second = registry.insert("second");
        assert_eq!(first.index, second.index, "the slot is used again");
        assert_eq!(registry.get(first), None);
        assert_eq!(registry.note(first, Ready::READABLE), Noted::Gone);
        assert_eq!(registry.remove(first).map(|slot| slot.value), None);
        assert_eq!(registry.get(second), Some(&"second"));
    }

    #[test]
    fn edges_are_kept_until_a_visit_takes_them() {
        let mut registry = Registry::new().unwrap();
        let key = registry.insert(());
        assert_eq!(registry.note(key, Ready::READABLE), Noted::New);
        assert_eq!(registry.note(key, Ready::WRITABLE), Noted::Queued);
        assert!(registry.is_queued(key));
        assert_eq!(registry.begin_visit(key), Some(Ready::READABLE | Ready::WRITABLE));
        assert!(!registry.is_queued(key));
        assert_eq!(registry.note(key, Ready::NONE), Noted::New, "it can be visited without an edge");
        assert_eq!(registry.begin_visit(key), Some(Ready::NONE));
    }

    #[test]
    fn the_kernel_reports_a_descriptor_under_its_key() {
        let mut registry = Registry::new().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let key = registry.register(ours.as_fd(), Interest::READABLE).unwrap();
        assert_eq!(registry.insert(()), key);
        drop(theirs);
        let mut events = mio::Events::with_capacity(4);
        registry.poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        let reported: Vec<Key> = events.iter().map(|event| Key::from_token(event.token())).collect();
        assert_eq!(reported, [key]);
        registry.deregister(ours.as_raw_fd()).unwrap();
        let refused = registry.reregister(key, ours.as_raw_fd(), Interest::READABLE).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOENT));
    }

    /// A removal must not cost time that grows with the number of slots.
    #[test]
    fn a_slot_in_use_at_the_end_is_not_looked_for_at_each_removal() {
        let mut registry = Registry::new().unwrap();
        let keys: Vec<Key> = (0..5_000).map(|number| registry.insert(number)).collect();
        for &key in &keys[..4_999] {
            registry.remove(key);
        }
        assert!(registry.capacity() >= 5_000 && registry.shrink_below <= 1, "tried at 624, 312, 156, …");
        registry.remove(keys[4_999]);
        assert!(registry.capacity() < 5_000, "given back when the last has left");
    }

    #[test]
    fn many_come_and_go_and_memory_is_given_back() {
        let mut registry = Registry::new().unwrap();
        let keys: Vec<Key> = (0..5_000).map(|number| registry.insert(number)).collect();
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), 5_000);
        for &key in &keys {
            registry.remove(key);
        }
        assert!(registry.capacity() < 5_000 && registry.len() == 0);
        assert!(keys.iter().all(|&key| registry.get(key).is_none()));
    }
}
