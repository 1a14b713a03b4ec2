//! A heap of deadlines. The position of each entry is stored, so that any entry can be cancelled or moved without a
//! scan.

/// What a deadline belongs to, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A timer.
    Timer(u32),
    /// A slot of the registry: it has at most one deadline.
    Slot(u32),
}

/// 16 bytes. The lowest bit of `owner` is its kind.
#[derive(Debug, Clone, Copy)]
struct Entry {
    due_ns: u64,
    /// A count of the deadlines that were set: of equal deadlines, the one set first comes first.
    set: u32,
    owner: u32,
}

impl Entry {
    fn new(due_ns: u64, set: u32, owner: Owner) -> Entry {
        let owner = match owner {
            Owner::Timer(index) => index << 1,
            Owner::Slot(index) => index << 1 | 1,
        };
        Entry { due_ns, set, owner }
    }

    fn owner(&self) -> Owner {
        if self.owner & 1 == 0 { Owner::Timer(self.owner >> 1) } else { Owner::Slot(self.owner >> 1) }
    }

    fn is_before(&self, other: &Entry) -> bool {
        // The difference, so that the count may wrap.
        (self.due_ns, 0) < (other.due_ns, (self.set.wrapping_sub(other.set) as i32).wrapping_neg())
    }
}

/// The owner has no entry in the heap.
pub(crate) const NO_POSITION: u32 = u32::MAX;

/// Stores the position of each owner's entry.
pub(crate) trait PositionStore {
    fn position(&self, owner: Owner) -> u32;
    fn set_position(&mut self, owner: Owner, position: u32);
}

/// A binary heap, the earliest deadline first.
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

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Sets the deadline of `owner` to `due_ns`. It replaces an earlier one.
    pub(crate) fn set(&mut self, owner: Owner, due_ns: u64, positions: &mut impl PositionStore) {
        let position = positions.position(owner);
        self.set = self.set.wrapping_add(1);
        let entry = Entry::new(due_ns, self.set, owner);
        if position == NO_POSITION {
            self.entries.push(entry);
            self.up(self.entries.len() - 1, entry, positions);
        } else {
            self.settle(position as usize, entry, positions);
        }
    }

    /// The deadline of `owner`.
    pub(crate) fn due_ns(&self, owner: Owner, positions: &impl PositionStore) -> Option<u64> {
        self.entries.get(positions.position(owner) as usize).map(|entry| entry.due_ns)
    }

    pub(crate) fn remove(&mut self, owner: Owner, positions: &mut impl PositionStore) {
        let position = positions.position(owner);
        if position == NO_POSITION {
            return;
        }
        positions.set_position(owner, NO_POSITION);
        let Some(last) = self.entries.pop() else { return };
        if last.owner() != owner {
            self.settle(position as usize, last, positions);
        }
        if self.entries.len() < self.entries.capacity() / 8 && self.entries.capacity() > 1024 {
            self.entries.shrink_to(self.entries.capacity() / 4);
        }
    }

    /// Takes the earliest entry out, if it is due. Returns its owner and its deadline.
    pub(crate) fn pop_due(
        &mut self,
        now_ns: u64,
        positions: &mut impl PositionStore,
    ) -> Option<(Owner, u64)> {
        let &first = self.entries.first().filter(|entry| entry.due_ns <= now_ns)?;
        self.remove(first.owner(), positions);
        Some((first.owner(), first.due_ns))
    }

    /// Moves `entry` up or down to its place, from the free position `position`.
    fn settle(&mut self, position: usize, entry: Entry, positions: &mut impl PositionStore) {
        if position > 0 && entry.is_before(&self.entries[(position - 1) / 2]) {
            self.up(position, entry, positions);
        } else {
            self.down(position, entry, positions);
        }
    }

    fn up(&mut self, mut position: usize, entry: Entry, positions: &mut impl PositionStore) {
        while position > 0 {
            let parent = (position - 1) / 2;
            if !entry.is_before(&self.entries[parent]) {
                break;
            }
            self.put(position, self.entries[parent], positions);
            position = parent;
        }
        self.put(position, entry, positions);
    }

    fn down(&mut self, mut position: usize, entry: Entry, positions: &mut impl PositionStore) {
        loop {
            let left = 2 * position + 1;
            let Some(mut child) = self.entries.get(left).map(|_| left) else { break };
            if self.entries.get(left + 1).is_some_and(|right| right.is_before(&self.entries[left])) {
                child = left + 1;
            }
            if !self.entries[child].is_before(&entry) {
                break;
            }
            self.put(position, self.entries[child], positions);
            position = child;
        }
        self.put(position, entry, positions);
    }

    fn put(&mut self, position: usize, entry: Entry, positions: &mut impl PositionStore) {
        self.entries[position] = entry;
        #[allow(clippy::cast_possible_truncation, reason = "2³² entries are 64 GiB, and each has an owner")]
        positions.set_position(entry.owner(), position as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Map(HashMap<u32, u32>);

    impl PositionStore for Map {
        fn position(&self, owner: Owner) -> u32 {
            let Owner::Timer(index) = owner else { unreachable!() };
            self.0.get(&index).copied().unwrap_or(NO_POSITION)
        }
        fn set_position(&mut self, owner: Owner, position: u32) {
            let Owner::Timer(index) = owner else { unreachable!() };
            self.0.insert(index, position);
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_list(steps in proptest::collection::vec((0u8..4, 0u32..40, 0u64..1000), 1..400)) {
            let (mut heap, mut positions) = (Heap::default(), Map::default());
            let mut model: HashMap<u32, u64> = HashMap::new();
            for (step, index, due) in steps {
                match step {
                    0 | 1 => {
                        heap.set(Owner::Timer(index), due, &mut positions);
                        model.insert(index, due);
                    }
                    2 => {
                        heap.remove(Owner::Timer(index), &mut positions);
                        model.remove(&index);
                    }
                    _ => {
                        let earliest = model.values().min().copied();
                        prop_assert_eq!(heap.first_ns(), earliest);
                        match heap.pop_due(due, &mut positions) {
                            Some((Owner::Timer(index), due)) => {
                                prop_assert_eq!(Some(due), earliest);
                                prop_assert_eq!(model.remove(&index), earliest);
                            }
                            Some((Owner::Slot(_), _)) => unreachable!(),
                            None => prop_assert!(earliest.is_none_or(|earliest| earliest > due)),
                        }
                    }
                }
                prop_assert_eq!(heap.len(), model.len());
                for (&index, &due) in &model {
                    prop_assert_eq!(heap.due_ns(Owner::Timer(index), &positions), Some(due));
                }
            }
        }
    }

    #[test]
    fn equal_deadlines_come_in_the_order_in_which_they_were_set() {
        let (mut heap, mut positions) = (Heap { set: u32::MAX - 50, ..Heap::default() }, Map::default());
        let order: Vec<u32> = (0..100).map(|index| index * 37 % 100).collect();
        for &index in &order {
            heap.set(Owner::Timer(index), 7, &mut positions);
        }
        let came: Vec<u32> = std::iter::from_fn(|| heap.pop_due(7, &mut positions))
            .map(|(owner, _)| match owner {
                Owner::Timer(index) => index,
                Owner::Slot(_) => unreachable!(),
            })
            .collect();
        assert_eq!(came, order);
    }
}
