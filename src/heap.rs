//! A heap of deadlines in which every entry knows its place, so that any of them can be cancelled or
//! moved without a scan.

/// Whose deadline it is, by the index of its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A timer of a handler's, or of the reactor's own.
    Timer(u32),
    /// A client's idle, half-frame or flush deadline: one entry serves the three.
    Client(u32),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    due_ns: u64,
    owner: Owner,
}

/// No place: the owner has no entry in the heap.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// Where the owners keep their places.
pub(crate) trait Places {
    fn place(&self, owner: Owner) -> u32;
    fn set_place(&mut self, owner: Owner, place: u32);
}

/// A binary heap, earliest deadline first: 16 bytes an entry, and the place in the owner's slot.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    entries: Vec<Entry>,
}

impl Heap {
    pub(crate) fn first_ns(&self) -> Option<u64> {
        self.entries.first().map(|entry| entry.due_ns)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Gives `owner` the deadline `due_ns`, in place of the one that it had, if any.
    pub(crate) fn set(&mut self, owner: Owner, due_ns: u64, places: &mut impl Places) {
        let place = places.place(owner);
        let entry = Entry { due_ns, owner };
        if place == NOWHERE {
            self.entries.push(entry);
            self.up(self.entries.len() - 1, entry, places);
        } else {
            self.settle(place as usize, entry, places);
        }
    }

    /// When `owner`'s deadline is.
    pub(crate) fn due_ns(&self, owner: Owner, places: &impl Places) -> Option<u64> {
        self.entries.get(places.place(owner) as usize).map(|entry| entry.due_ns)
    }

    pub(crate) fn remove(&mut self, owner: Owner, places: &mut impl Places) {
        let place = places.place(owner);
        if place == NOWHERE {
            return;
        }
        places.set_place(owner, NOWHERE);
        let Some(last) = self.entries.pop() else { return };
        if last.owner != owner {
            self.settle(place as usize, last, places);
        }
        if self.entries.len() < self.entries.capacity() / 8 && self.entries.capacity() > 1024 {
            self.entries.shrink_to(self.entries.capacity() / 4);
        }
    }

    /// Takes the earliest out if it is due; tells whose it is, and for when it was set.
    pub(crate) fn pop_due(&mut self, now_ns: u64, places: &mut impl Places) -> Option<(Owner, u64)> {
        let &Entry { due_ns, owner } = self.entries.first().filter(|entry| entry.due_ns <= now_ns)?;
        self.remove(owner, places);
        Some((owner, due_ns))
    }

    /// Puts `entry` where it belongs, from the hole at `place`.
    fn settle(&mut self, place: usize, entry: Entry, places: &mut impl Places) {
        if place > 0 && self.entries[(place - 1) / 2].due_ns > entry.due_ns {
            self.up(place, entry, places);
        } else {
            self.down(place, entry, places);
        }
    }

    fn up(&mut self, mut place: usize, entry: Entry, places: &mut impl Places) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.entries[parent].due_ns <= entry.due_ns {
                break;
            }
            self.put(place, self.entries[parent], places);
            place = parent;
        }
        self.put(place, entry, places);
    }

    fn down(&mut self, mut place: usize, entry: Entry, places: &mut impl Places) {
        loop {
            let left = 2 * place + 1;
            let Some(mut child) = self.entries.get(left).map(|_| left) else { break };
            if self.entries.get(left + 1).is_some_and(|right| right.due_ns < self.entries[left].due_ns) {
                child = left + 1;
            }
            if self.entries[child].due_ns >= entry.due_ns {
                break;
            }
            self.put(place, self.entries[child], places);
            place = child;
        }
        self.put(place, entry, places);
    }

    fn put(&mut self, place: usize, entry: Entry, places: &mut impl Places) {
        self.entries[place] = entry;
        places.set_place(entry.owner, place as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Map(HashMap<u32, u32>);

    impl Places for Map {
        fn place(&self, owner: Owner) -> u32 {
            let Owner::Timer(index) = owner else { unreachable!() };
            self.0.get(&index).copied().unwrap_or(NOWHERE)
        }
        fn set_place(&mut self, owner: Owner, place: u32) {
            let Owner::Timer(index) = owner else { unreachable!() };
            self.0.insert(index, place);
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_list(steps in proptest::collection::vec((0u8..4, 0u32..40, 0u64..1000), 1..400)) {
            let (mut heap, mut places) = (Heap::default(), Map::default());
            let mut model: HashMap<u32, u64> = HashMap::new();
            for (step, index, due) in steps {
                match step {
                    0 | 1 => {
                        heap.set(Owner::Timer(index), due, &mut places);
                        model.insert(index, due);
                    }
                    2 => {
                        heap.remove(Owner::Timer(index), &mut places);
                        model.remove(&index);
                    }
                    _ => {
                        let earliest = model.values().min().copied();
                        prop_assert_eq!(heap.first_ns(), earliest);
                        match heap.pop_due(due, &mut places) {
                            Some((Owner::Timer(index), due)) => {
                                prop_assert_eq!(Some(due), earliest);
                                prop_assert_eq!(model.remove(&index), earliest);
                            }
                            Some((Owner::Client(_), _)) => unreachable!(),
                            None => prop_assert!(earliest.is_none_or(|earliest| earliest > due)),
                        }
                    }
                }
                prop_assert_eq!(heap.len(), model.len());
                for (&index, &due) in &model {
                    prop_assert_eq!(heap.due_ns(Owner::Timer(index), &places), Some(due));
                }
            }
        }
    }
}
