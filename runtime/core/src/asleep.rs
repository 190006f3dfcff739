//! Where the states of those who sleep are kept: in cells of a few lengths, cut from large blocks, each known by a word.
//!
//! The words of all stand close together, so that a state is on its way from memory while the actor still is whose it is.
//! Nothing is allocated where one wakes up and another falls asleep: the cell goes from one to the other, and so do the
//! allocations of the state that is awake.

use crate::{
    rest::{self, Rest},
    time::Time,
};
use std::num::NonZeroU32;

/// Lengths of cells are multiples of this.
const STEP: usize = 16;
/// Bits of a cell's number among those of its length.
const NUMBER: u32 = 24;
/// Cells in a block.
const BLOCK: u32 = if cfg!(test) { 4 } else { 1024 };

/// A cell: its number, above which its length stands in steps. None is of length zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell(NonZeroU32);

impl Cell {
    fn new(steps: usize, number: u32) -> Option<Cell> {
        let steps = u8::try_from(steps).ok()?;
        (number < 1 << NUMBER).then_some(())?;
        NonZeroU32::new(u32::from(steps) << NUMBER | number).map(Cell)
    }

    fn steps(self) -> usize {
        (self.0.get() >> NUMBER) as usize
    }

    fn number(self) -> u32 {
        self.0.get() & ((1 << NUMBER) - 1)
    }
}

/// The cells of one length.
#[derive(Debug, Default)]
struct Cells {
    blocks: Vec<Block>,
    /// Blocks that have free cells, and those that were given back.
    room: Vec<u32>,
    gone: Vec<u32>,
}

#[derive(Debug, Default)]
struct Block {
    bytes: Box<[u8]>,
    free: Vec<u16>,
}

impl Cells {
    fn block(&mut self, index: u32) -> Option<&mut Block> {
        self.blocks.get_mut(index as usize)
    }

    fn take(&mut self, length: usize) -> u32 {
        if let Some(index) = self.room.last().copied()
            && let Some(block) = self.block(index)
            && let Some(cell) = block.free.pop()
        {
            if block.free.is_empty() {
                self.room.pop();
            }
            return index * BLOCK + u32::from(cell);
        }
        let bytes = vec![0; length * BLOCK as usize].into();
        let block = Block { bytes, free: (1..BLOCK as u16).rev().collect() };
        let index = self.gone.pop().unwrap_or_else(|| {
            self.blocks.push(Block::default());
            self.blocks.len() as u32 - 1
        });
        if let Some(place) = self.block(index) {
            *place = block;
        }
        self.room.push(index);
        index * BLOCK
    }

    /// A block of which nothing is taken any more goes back, unless it is the only one with room: states grow.
    fn give(&mut self, number: u32) {
        let (index, others) = (number / BLOCK, self.room.len() > 1);
        let Some(block) = self.block(index) else { return };
        block.free.push((number % BLOCK) as u16);
        let free = block.free.len();
        if free == BLOCK as usize && others {
            *block = Block::default();
            self.room.retain(|other| *other != index);
            self.gone.push(index);
        } else if free == 1 {
            self.room.push(index);
        }
    }
}

/// Those who sleep, by the places of their actors.
#[derive(Debug)]
pub(crate) struct Asleep<T> {
    of: Vec<Option<Cell>>,
    cells: Vec<Cells>,
    /// Of the last that fell asleep, for the next that wakes up.
    spare: T,
}

impl<T: Rest + Default> Asleep<T> {
    pub(crate) fn new() -> Asleep<T> {
        Asleep { of: Vec::new(), cells: Vec::new(), spare: T::default() }
    }

    fn cell(&self, index: u32) -> Option<Cell> {
        self.of.get(index as usize).copied().flatten()
    }

    fn bytes(cells: &[Cells], cell: Cell) -> Option<&[u8]> {
        let length = cell.steps() * STEP;
        let block = cells.get(cell.steps())?.blocks.get((cell.number() / BLOCK) as usize)?;
        block.bytes.chunks_exact(length).nth((cell.number() % BLOCK) as usize)
    }

    /// It will be read soon: its lines of memory come together, and not one after the other.
    pub(crate) fn touch(&self, index: u32) {
        if let Some(bytes) = self.cell(index).and_then(|cell| Self::bytes(&self.cells, cell)) {
            std::hint::black_box(bytes.iter().step_by(64).fold(0, |all, byte| all | byte));
        }
    }

    /// Falls asleep, if there is room: then `state` is left blank.
    pub(crate) fn write(&mut self, index: u32, state: &mut T, now: Time) -> bool {
        let length = rest::length(state);
        let steps = length.div_ceil(STEP);
        if u8::try_from(steps).is_err() {
            return false;
        }
        if self.cells.len() <= steps {
            self.cells.resize_with(steps + 1, Cells::default);
        }
        let Some(cells) = self.cells.get_mut(steps) else { return false };
        let number = cells.take(steps * STEP);
        let Some(cell) = Cell::new(steps, number) else {
            cells.give(number);
            return false;
        };
        let block = cells.block(number / BLOCK);
        let place = block.and_then(|block| block.bytes.chunks_exact_mut(steps * STEP).nth((number % BLOCK) as usize));
        let Some(place) = place.and_then(|place| place.get_mut(..length)) else { return false };
        rest::write(state, now, place);
        if self.of.len() <= index as usize {
            self.of.resize(index as usize + 1, None);
        }
        if let Some(of) = self.of.get_mut(index as usize) {
            *of = Some(cell);
        }
        self.spare = std::mem::take(state);
        true
    }

    /// Wakes up, if it sleeps.
    pub(crate) fn read(&mut self, index: u32) -> Option<T> {
        let cell = self.cell(index)?;
        let mut state = std::mem::take(&mut self.spare);
        rest::read(Self::bytes(&self.cells, cell)?, &mut state);
        self.forget(index);
        Some(state)
    }

    /// What it is, if it sleeps.
    pub(crate) fn seen(&self, index: u32) -> Option<T> {
        let mut state = T::default();
        rest::read(Self::bytes(&self.cells, self.cell(index)?)?, &mut state);
        Some(state)
    }

    /// It is no more.
    pub(crate) fn forget(&mut self, index: u32) {
        if let Some(cell) = self.of.get_mut(index as usize).and_then(Option::take)
            && let Some(cells) = self.cells.get_mut(cell.steps())
        {
            cells.give(cell.number());
        }
    }

    /// As if nobody had fallen asleep before.
    #[cfg(test)]
    pub(crate) fn without_spare(&mut self) {
        self.spare = T::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, btree_map::Entry};

    const NOW: Time = Time::from_millis(5);

    #[test]
    fn a_state_takes_the_cell_of_another_as_long_as_it() {
        let mut asleep = Asleep::<u32>::new();
        assert!(asleep.write(3, &mut 1, NOW));
        let cell = asleep.cell(3);
        assert_eq!(asleep.read(3), Some(1));
        assert_eq!(asleep.read(3), None);
        assert!(asleep.write(900, &mut 2, NOW));
        assert_eq!(asleep.cell(900), cell);
    }

    proptest! {
        #[test]
        fn each_keeps_its_own(steps in prop::collection::vec((0u32..2500, 0usize..60, any::<bool>()), 1..3000)) {
            let mut asleep = Asleep::<Box<[u16]>>::new();
            let mut model = BTreeMap::<u32, Box<[u16]>>::new();
            for (index, length, wakes) in steps {
                prop_assert_eq!(asleep.seen(index), model.get(&index).cloned());
                if wakes {
                    prop_assert_eq!(asleep.read(index), model.remove(&index));
                } else if let Entry::Vacant(vacant) = model.entry(index) {
                    let state: Box<[u16]> = vec![index as u16; length].into();
                    prop_assert!(asleep.write(index, &mut state.clone(), NOW));
                    vacant.insert(state);
                }
            }
            for (index, state) in model {
                prop_assert_eq!(asleep.read(index), Some(state));
            }
            // Of each length one block stays.
            let kept = |cells: &Cells| cells.blocks.iter().filter(|block| !block.bytes.is_empty()).count();
            prop_assert!(asleep.cells.iter().all(|cells| kept(cells) <= 1 && cells.room.len() == kept(cells)));
        }
    }
}
