//! An actor at rest.

use super::Actor;
use crate::{
    budgets::Joint,
    rest::{self, Group, In, Out, Rest, at_rest},
    shard::Config,
    slots::Slots,
    snapshot::Counts,
    time::Time,
};
use std::sync::Arc;

/// What stands before its state.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mark {
    pub(crate) key: u128,
    /// Numbers of its settings, and of what all partitions of its destination spent; `u32::MAX`: of nothing.
    pub(crate) config: u32,
    pub(crate) joint: u32,
    /// It knows something worth keeping.
    pub(crate) dreams: bool,
}

at_rest!(Mark { key, config, joint } flags { dreams });

impl Mark {
    /// The key of a state.
    pub(crate) fn key(bytes: &[u8]) -> Option<u128> {
        let mut key = 0u128;
        rest::read(bytes, &mut key);
        Some(key)
    }

    pub(crate) fn is_of(bytes: &[u8], key: u128) -> bool {
        Mark::key(bytes) == Some(key)
    }
}

at_rest!(Actor { latency, late, spent, counts, endpoints, paces } else {
    slots: Slots::default(), busy: None, listed: false, wake: Time::NEVER, armed: Time::NEVER
} beside { key, config, joint });

impl Actor {
    /// Makes ready for a rest, if there is nothing in the way of that, and says whether it knows something worth keeping.
    pub(crate) fn rests(&mut self, now: Time) -> Option<bool> {
        let rests = self.is_idle()
            && self.wake.is_never()
            && self.armed.is_never()
            && self.paces.rests()
            && self.counts.rests()
            && self.endpoints.rest();
        self.spent.roll(now);
        rests.then(|| !self.is_blank(now))
    }

    /// Its state rests elsewhere: nothing here keeps what it has in common with others.
    pub(crate) fn left(&mut self) {
        self.joint = None;
    }

    /// Whose state this is, and what its settings are, after a rest.
    pub(crate) fn wakes(&mut self, key: u128, config: &Arc<Config>, joint: Option<&Arc<Joint>>) {
        self.key = key;
        if !Arc::ptr_eq(&self.config, config) {
            self.config = Arc::clone(config);
        }
        if self.joint.is_some() || joint.is_some() {
            self.joint = joint.cloned();
        }
    }
}

impl Counts {
    /// Those that most destinations have, and the others.
    fn groups(&self) -> (Group<2>, Group<5>) {
        let Counts { succeeded, client_errors, refused, server_errors, failed, cancelled, turned_away } = *self;
        let most = [succeeded, refused].map(|count| count as u32);
        let others = [client_errors, server_errors, failed, cancelled, turned_away].map(|count| count as u32);
        (Group(most), Group(others))
    }

    /// Whoever counts more than four milliards of anything is never at rest for long.
    fn rests(&self) -> bool {
        let Counts { succeeded, client_errors, refused, server_errors, failed, cancelled, turned_away } = *self;
        let all = succeeded | client_errors | refused | server_errors | failed | cancelled | turned_away;
        u32::try_from(all).is_ok()
    }
}

impl Rest for Counts {
    const SIZE: usize = <(Group<2>, Group<5>)>::SIZE;
    #[inline(always)]
    fn more(&self) -> usize {
        self.groups().more()
    }
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        self.groups().write(out);
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        let mut groups = (Group([0; 2]), Group([0; 5]));
        groups.read(from);
        let (Group(most), Group(others)) = groups;
        [self.succeeded, self.refused] = most.map(u64::from);
        [self.client_errors, self.server_errors, self.failed, self.cancelled, self.turned_away] = others.map(u64::from);
    }
}
