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

/// 16 bytes: of the owner, the lowest bit tells the kind.
#[derive(Debug, Clone, Copy)]
struct Entry {
    due_ns: u64,
    /// When it was set, as a count: of equal deadlines, the one that was set first comes first.
    set: u32,
    owner: u32,
}

impl Entry {
    fn new(due_ns: u64, set: u32, owner: Owner) -> Entry {
        let owner = match owner {
            Owner::Timer(index) => index << 1,
            Owner::Client(index) => index << 1 | 1,
        };
        Entry { due_ns, set, owner }
    }

    fn owner(&self) -> Owner {
        if self.owner & 1 == 0 { Owner::Timer(self.owner >> 1) } else { Owner::Client(self.owner >> 1) }
    }

    fn is_before(&self, other: &Entry) -> bool {
        // The difference, so that the count may wrap.
        (self.due_ns, 0) < (other.due_ns, (self.set.wrapping_sub(other.set) as i32).wrapping_neg())
    }
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
    set: u32,
}

impl Heap {
    #[inline]
    pub(crate) fn first_ns(&self) -> Option<u64> {
        self.entries.first().map(|entry| entry.due_ns)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Gives `owner` the deadline `due_ns`, in place of the one that it had, if any.
    pub(crate) fn set(&mut self, owner: Owner, due_ns: u64, places: &mut impl Places) {
        let place = places.place(owner);
        self.set = self.set.wrapping_add(1);
        let entry = Entry::new(due_ns, self.set, owner);
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
        if last.owner() != owner {
            self.settle(place as usize, last, places);
        }
        if self.entries.len() < self.entries.capacity() / 8 && self.entries.capacity() > 1024 {
            self.entries.shrink_to(self.entries.capacity() / 4);
        }
    }

    /// Takes the earliest out if it is due; tells whose it is, and for when it was set.
    pub(crate) fn pop_due(&mut self, now_ns: u64, places: &mut impl Places) -> Option<(Owner, u64)> {
        let &first = self.entries.first().filter(|entry| entry.due_ns <= now_ns)?;
        self.remove(first.owner(), places);
        Some((first.owner(), first.due_ns))
    }

    /// Puts `entry` where it belongs, from the hole at `place`.
    fn settle(&mut self, place: usize, entry: Entry, places: &mut impl Places) {
        if place > 0 && entry.is_before(&self.entries[(place - 1) / 2]) {
            self.up(place, entry, places);
        } else {
            self.down(place, entry, places);
        }
    }

    fn up(&mut self, mut place: usize, entry: Entry, places: &mut impl Places) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if !entry.is_before(&self.entries[parent]) {
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
            if self.entries.get(left + 1).is_some_and(|right| right.is_before(&self.entries[left])) {
                child = left + 1;
            }
            if !self.entries[child].is_before(&entry) {
                break;
            }
            self.put(place, self.entries[child], places);
            place = child;
        }
        self.put(place, entry, places);
    }

    fn put(&mut self, place: usize, entry: Entry, places: &mut impl Places) {
        self.entries[place] = entry;
        places.set_place(entry.owner(), place as u32);
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

    #[test]
    fn equal_deadlines_come_in_the_order_in_which_they_were_set() {
        let (mut heap, mut places) = (Heap { set: u32::MAX - 50, ..Heap::default() }, Map::default());
        let order: Vec<u32> = (0..100).map(|index| index * 37 % 100).collect();
        for &index in &order {
            heap.set(Owner::Timer(index), 7, &mut places);
        }
        let came: Vec<u32> = std::iter::from_fn(|| heap.pop_due(7, &mut places))
            .map(|(owner, _)| match owner {
                Owner::Timer(index) => index,
                Owner::Client(_) => unreachable!(),
            })
            .collect();
        assert_eq!(came, order);
    }
}
