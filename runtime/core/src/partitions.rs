//! All partitions of a shard: those to whom something happened last are awake, as actors; all others rest in cells.
//!
//! Where one wakes up the one that did so longest ago comes to rest, unless it is busy, and leaves its actor to it, with all
//! that is allocated for it. It does so first, as what wakes up is still on its way from memory.

#[cfg(test)]
mod tests;

use crate::{
    actor::{Actor, Mark},
    budgets::Joint,
    cells::{Cell, Cells},
    rest,
    shard::Config,
    shared::Shared,
    table::{Place, Table},
    time::Time,
};
use std::{collections::VecDeque, sync::Arc};

/// Actors that stay awake although nothing happens to them.
const AWAKE: usize = 64;
/// How many places are looked at to find a partition to forget, or more where one must be at rest.
const FORGET_CHOICE: usize = 64;

/// Keys are hashes already, with a secret in them; those of tests are small numbers.
fn hash(key: u128) -> u64 {
    let mixed = (key as u64 ^ (key >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

#[derive(Debug)]
pub(crate) struct Partitions {
    table: Table,
    actors: slab::Slab<Actor>,
    /// Those that are listed, the one that woke up longest ago first.
    awake: VecDeque<u32>,
    pub(crate) most_awake: usize,
    /// Actors that somebody left who rests in a cell now, for the next that wake up; as many as those at most.
    left: Vec<u32>,
    cells: Cells,
    configs: Shared<Config>,
    joints: Shared<Joint>,
    /// Where the search for one to forget goes on.
    hand: usize,
    /// Whether one that wakes up takes nothing over.
    #[cfg(test)]
    pub(crate) afresh: bool,
}

impl Partitions {
    pub(crate) fn new() -> Partitions {
        Partitions {
            table: Table::new(),
            actors: slab::Slab::new(),
            awake: VecDeque::new(),
            most_awake: AWAKE,
            left: Vec::new(),
            cells: Cells::default(),
            configs: Shared::new(),
            joints: Shared::new(),
            hand: 0,
            #[cfg(test)]
            afresh: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Actor> {
        self.actors.get(index as usize)
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Actor> {
        self.actors.get_mut(index as usize)
    }

    fn key(&self, place: Place) -> Option<u128> {
        match place {
            Place::Awake(index) => Some(self.get(index)?.key),
            Place::Asleep(cell) => Some(self.mark(cell)?.key),
        }
    }

    fn mark(&self, cell: Cell) -> Option<Mark> {
        let mut mark = Mark::default();
        rest::read(self.cells.bytes(cell)?, &mut mark);
        Some(mark)
    }

    fn find(&self, key: u128) -> Option<Place> {
        self.table.find(hash(key), |place| match place {
            Place::Awake(index) => self.get(index).is_some_and(|actor| actor.key == key),
            Place::Asleep(cell) => self.cells.bytes(cell).is_some_and(|bytes| {
                // It will be read soon: its lines of memory come together, and not one after the other.
                std::hint::black_box(bytes.iter().step_by(64).fold(0, |all, byte| all | byte));
                Mark::is_of(bytes, key)
            }),
        })
    }

    /// One that something happens to: its actor, which is awake now.
    pub(crate) fn rouse(&mut self, key: u128, now: Time) -> Option<u32> {
        match self.find(key)? {
            Place::Awake(index) => {
                self.stirs(index, now);
                Some(index)
            }
            Place::Asleep(cell) => self.wakes(key, cell, now),
        }
    }

    /// Something happens to one that is awake.
    pub(crate) fn stirs(&mut self, index: u32, now: Time) {
        let Some(actor) = self.get_mut(index) else { return };
        if std::mem::replace(&mut actor.listed, true) {
            return;
        }
        self.eldest_rests(now);
        self.awake.push_back(index);
    }

    fn wakes(&mut self, key: u128, cell: Cell, now: Time) -> Option<u32> {
        self.eldest_rests(now);
        let (index, actor) = match self.left.pop() {
            Some(left) => (left, self.actors.get_mut(left as usize)?),
            None => {
                let entry = self.actors.vacant_entry();
                let index = u32::try_from(entry.key()).ok()?;
                (index, entry.insert(Actor::new(key, Arc::default(), None)))
            }
        };
        #[cfg(test)]
        if self.afresh {
            *actor = Actor::new(key, Arc::default(), None);
        }
        let mut state = (Mark::default(), actor);
        rest::read(self.cells.bytes(cell)?, &mut state);
        let (Mark { config, joint, .. }, actor) = state;
        actor.wakes(key, self.configs.get(config)?, self.joints.get(joint));
        actor.listed = true;
        self.configs.give(config);
        self.joints.give(joint);
        self.leaves(cell);
        self.table.moved(hash(key), Place::Asleep(cell), Place::Awake(index));
        self.awake.push_back(index);
        Some(index)
    }

    /// Makes room among those that are awake: the eldest comes to rest, and leaves its actor to the next. If something keeps
    /// it awake it is listed again when something happens to it.
    fn eldest_rests(&mut self, now: Time) -> Option<()> {
        if self.awake.len() < self.most_awake {
            return None;
        }
        let eldest = self.awake.pop_front()?;
        let actor = self.actors.get_mut(eldest as usize)?;
        actor.listed = false;
        let dreams = actor.rests(now)?;
        let config = self.configs.take(actor.config());
        let joint = actor.joint().map_or(u32::MAX, |joint| self.joints.take(joint));
        let mark = Mark { key: actor.key, config, joint, dreams };
        let Some(cell) = self.cells.write(&(mark, &mut *actor), now) else {
            self.configs.give(config);
            self.joints.give(joint);
            return None;
        };
        actor.left();
        self.table.moved(hash(mark.key), Place::Awake(eldest), Place::Asleep(cell));
        if self.left.len() < self.most_awake {
            self.left.push(eldest);
        } else {
            self.actors.try_remove(eldest as usize);
        }
        Some(())
    }

    /// Nobody is in a cell any more; another may move for it.
    fn leaves(&mut self, cell: Cell) {
        self.cells.give(cell);
        if let Some((before, now)) = self.cells.tidy(cell)
            && let Some(key) = self.cells.bytes(now).and_then(Mark::key)
        {
            self.table.moved(hash(key), Place::Asleep(before), Place::Asleep(now));
        }
    }

    /// A partition that is not known yet.
    pub(crate) fn add(&mut self, actor: Actor) -> Option<u32> {
        let key = actor.key;
        let index = u32::try_from(self.actors.insert(actor)).ok()?;
        let (actors, cells) = (&self.actors, &self.cells);
        let of = |place| match place {
            Place::Awake(index) => actors.get(index as usize).map(|actor| actor.key),
            Place::Asleep(cell) => cells.bytes(cell).and_then(Mark::key),
        };
        if self.table.insert(hash(key), Place::Awake(index), |place| of(place).map_or(0, hash)) {
            return Some(index);
        }
        self.actors.try_remove(index as usize);
        None
    }

    /// Forgets one at rest, rather one that knows nothing worth keeping, and says which. `some_rest`: there is one.
    pub(crate) fn forget(&mut self, some_rest: bool, now: Time) -> Option<(u128, Option<Arc<Joint>>)> {
        let room = self.table.room();
        let mut idle = None;
        for looked in 0..room.max(FORGET_CHOICE) {
            if looked >= FORGET_CHOICE && (idle.is_some() || !some_rest) {
                break;
            }
            self.hand = (self.hand + 1) % room;
            let Some(place) = self.table.nth(self.hand) else { continue };
            let (is_idle, is_blank) = match place {
                Place::Awake(index) => {
                    self.get(index).map_or((false, false), |actor| (actor.is_idle(), actor.is_blank(now)))
                }
                Place::Asleep(cell) => (true, self.mark(cell).is_some_and(|mark| !mark.dreams)),
            };
            if is_idle {
                idle = Some(place);
            }
            if is_blank {
                break;
            }
        }
        let place = idle?;
        let key = self.key(place)?;
        self.table.remove(hash(key), place);
        let joint = match place {
            Place::Awake(index) => {
                self.awake.retain(|other| *other != index);
                self.actors.try_remove(index as usize)?.into_joint()
            }
            Place::Asleep(cell) => {
                let Mark { config, joint, .. } = self.mark(cell)?;
                let shared = self.joints.get(joint).cloned();
                self.configs.give(config);
                self.joints.give(joint);
                self.leaves(cell);
                shared
            }
        };
        Some((key, joint))
    }

    /// Looks at one without waking it.
    pub(crate) fn seen<T>(&self, key: u128, see: impl FnOnce(&Actor) -> T) -> Option<T> {
        match self.find(key)? {
            Place::Awake(index) => self.get(index).map(see),
            Place::Asleep(cell) => {
                let mut actor = Actor::new(key, Arc::default(), None);
                let mut state = (Mark::default(), &mut actor);
                rest::read(self.cells.bytes(cell)?, &mut state);
                let (Mark { config, joint, .. }, _) = state;
                actor.wakes(key, self.configs.get(config)?, self.joints.get(joint));
                Some(see(&actor))
            }
        }
    }

    /// One that is awake: busy ones are, and those which are paused.
    pub(crate) fn awake(&self, key: u128) -> Option<&Actor> {
        match self.find(key)? {
            Place::Awake(index) => self.get(index),
            Place::Asleep(_) => None,
        }
    }

    /// The keys of all, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = u128> {
        self.table.places().filter_map(|place| self.key(place))
    }

    /// The keys of those that follow these settings.
    pub(crate) fn following(&self, config: &Arc<Config>) -> Vec<u128> {
        let number = self.configs.number(config);
        let key = |place| match place {
            Place::Awake(index) => {
                self.get(index).filter(|actor| Arc::ptr_eq(actor.config(), config)).map(|actor| actor.key)
            }
            Place::Asleep(cell) => self.mark(cell).filter(|mark| Some(mark.config) == number).map(|mark| mark.key),
        };
        self.table.places().filter_map(key).collect()
    }
}
