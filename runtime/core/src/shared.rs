//! What many partitions at rest have in common (their settings), each known by a number as long as one of them rests.

use hashbrown::HashTable;
use std::sync::Arc;

#[derive(Debug)]
struct Kept<T> {
    what: Arc<T>,
    /// How many have its number.
    by: u32,
}

#[derive(Debug)]
pub(crate) struct Shared<T> {
    all: slab::Slab<Kept<T>>,
    numbers: HashTable<u32>,
    /// That which was asked for last: most often there is one only.
    last: u32,
}

fn hash<T>(what: &Arc<T>) -> u64 {
    (Arc::as_ptr(what).addr() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

impl<T> Shared<T> {
    pub(crate) fn new() -> Shared<T> {
        Shared { all: slab::Slab::new(), numbers: HashTable::new(), last: 0 }
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Arc<T>> {
        Some(&self.all.get(number as usize)?.what)
    }

    /// Its number, if anybody has it.
    pub(crate) fn number(&self, what: &Arc<T>) -> Option<u32> {
        let is = |number: &u32| self.get(*number).is_some_and(|other| Arc::ptr_eq(other, what));
        if is(&self.last) { Some(self.last) } else { self.numbers.find(hash(what), is).copied() }
    }

    /// One more has its number.
    pub(crate) fn take(&mut self, what: &Arc<T>) -> u32 {
        let number = self.number(what).unwrap_or_else(|| {
            // As many as there are partitions at most.
            let number = self.all.insert(Kept { what: Arc::clone(what), by: 0 }) as u32;
            let all = &self.all;
            let rehash = |number: &u32| all.get(*number as usize).map_or(0, |kept| hash(&kept.what));
            self.numbers.insert_unique(hash(what), number, rehash);
            number
        });
        self.last = number;
        if let Some(kept) = self.all.get_mut(number as usize) {
            kept.by += 1;
        }
        number
    }

    /// One that had its number has it no more.
    pub(crate) fn give(&mut self, number: u32) {
        let Some(kept) = self.all.get_mut(number as usize) else { return };
        kept.by -= 1;
        if kept.by == 0
            && let Some(kept) = self.all.try_remove(number as usize)
            && let Ok(entry) = self.numbers.find_entry(hash(&kept.what), |other| *other == number)
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_known_by_a_number_as_long_as_somebody_has_it() {
        let [one, other] = [1, 1].map(Arc::new);
        let mut shared = Shared::new();
        assert_eq!(shared.number(&one), None);
        let numbers = [&one, &other, &one].map(|what| shared.take(what));
        assert!(numbers[0] == numbers[2] && numbers[0] != numbers[1]);
        assert_eq!(Arc::strong_count(&one), 2);
        shared.give(numbers[0]);
        assert_eq!((shared.number(&one), shared.number(&other)), (Some(numbers[0]), Some(numbers[1])));
        assert!(shared.get(numbers[0]).is_some_and(|what| Arc::ptr_eq(what, &one)));
        shared.give(numbers[0]);
        assert_eq!((shared.number(&one), Arc::strong_count(&one)), (None, 1));
        assert_eq!(shared.take(&one), numbers[0]);
    }
}
