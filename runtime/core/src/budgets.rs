//! One retry budget for a destination, however many partitions it is split into: an outage is of the destination, and a
//! floor of its own for each partition would multiply it by as many.
//!
//! The partitions may be of several shards, so what they spend together is behind a lock of its own. A destination that
//! is not split has no part in it.

use crate::{
    budget::{Budget, Spent},
    time::Time,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What all partitions of a destination spent lately.
#[derive(Debug)]
pub(crate) struct Joint {
    destination: u64,
    spent: Mutex<Spent>,
}

/// Nothing can be half done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those of all destinations that are split, as long as one of their partitions is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budgets(Arc<Mutex<BTreeMap<u64, Arc<Joint>>>>);

impl Budgets {
    /// That of a destination.
    pub(crate) fn of(&self, destination: u64) -> Arc<Joint> {
        let mut all = lock(&self.0);
        let joint = all.entry(destination).or_insert_with(|| Arc::new(Joint { destination, spent: Mutex::default() }));
        Arc::clone(joint)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// A partition is forgotten, and with the last one what they spent.
    pub(crate) fn forget(&self, joint: Arc<Joint>) {
        let mut all = lock(&self.0);
        let destination = joint.destination;
        drop(joint);
        if all.get(&destination).is_some_and(|joint| Arc::strong_count(joint) == 1) {
            all.remove(&destination);
        }
    }
}

/// What one partition spends from: its own budget, or that which it shares.
pub(crate) struct Purse<'a> {
    own: &'a mut Spent,
    joint: Option<&'a Joint>,
}

impl<'a> Purse<'a> {
    pub(crate) fn new(own: &'a mut Spent, joint: Option<&'a Arc<Joint>>) -> Purse<'a> {
        Purse { own, joint: joint.map(Arc::as_ref) }
    }

    /// A first attempt left.
    pub(crate) fn request(&mut self, now: Time) {
        self.own.request(now);
        if let Some(joint) = self.joint {
            lock(&joint.spent).request(now);
        }
    }

    /// Takes one retry if the budget has it.
    pub(crate) fn retry(&mut self, budget: &Budget, now: Time) -> bool {
        let Some(joint) = self.joint else { return self.own.retry(budget, now) };
        let granted = lock(&joint.spent).retry(budget, now);
        if granted {
            self.own.retried(now);
        }
        granted
    }

    /// Takes one hedge if the budget has it.
    pub(crate) fn hedge(&mut self, budget: &Budget, now: Time) -> bool {
        self.copy(now, |spent| spent.hedge(budget, now))
    }

    /// Takes one trial of an endpoint that is left alone if the budget has it.
    pub(crate) fn trial(&mut self, budget: &Budget, now: Time) -> bool {
        self.copy(now, |spent| spent.trial(budget, now))
    }

    fn copy(&mut self, now: Time, take: impl FnOnce(&mut Spent) -> bool) -> bool {
        let Some(joint) = self.joint else { return take(self.own) };
        let granted = take(&mut lock(&joint.spent));
        if granted {
            self.own.retried(now);
        }
        granted
    }
}

/// Retries that the budget has now.
pub(crate) fn left(own: &Spent, joint: Option<&Arc<Joint>>, budget: &Budget, now: Time) -> u32 {
    match joint {
        Some(joint) => lock(&joint.spent).left(budget, now),
        None => own.clone().left(budget, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_partitions_spend_together_is_forgotten_with_the_last_of_them() {
        let budgets = Budgets::default();
        let [one, two, other] = [7, 7, 8].map(|destination| budgets.of(destination));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
        for (joint, left) in [(one, 2), (other, 1), (two, 0)] {
            budgets.forget(joint);
            assert_eq!(budgets.len(), left);
        }
    }
}
