//! Where the states of those who rest are kept: in cells of a few lengths, cut from large blocks, each known by a word.
//!
//! Nothing is allocated where one wakes up and another falls asleep: of cells that are free the next takes the one that was
//! left last.

use crate::{
    rest::{self, Rest},
    time::Time,
};
use std::num::NonZeroU32;

/// Lengths of cells are multiples of this, and of two of them a line of memory.
const STEP: usize = 32;
/// Blocks begin with a line of memory.
const LINE: usize = 64;
/// Bits of a cell's number among those of its length, and of its length in steps.
const NUMBER: u32 = 24;
const STEPS: u32 = 7;
/// Cells in a block.
const BLOCK: u32 = if cfg!(test) { 4 } else { 4096 };
/// No cell.
const NONE: u16 = u16::MAX;

/// A cell: its number, above which its length stands in steps. None is of length zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell(NonZeroU32);

impl Cell {
    fn new(steps: usize, number: u32) -> Option<Cell> {
        let steps = u32::try_from(steps).ok().filter(|steps| *steps < 1 << STEPS)?;
        (number < 1 << NUMBER).then_some(())?;
        NonZeroU32::new(steps << NUMBER | number).map(Cell)
    }

    pub(crate) fn word(self) -> u32 {
        self.0.get()
    }

    pub(crate) fn from_word(word: u32) -> Option<Cell> {
        NonZeroU32::new(word).map(Cell)
    }

    fn steps(self) -> usize {
        (self.0.get() >> NUMBER) as usize
    }

    fn number(self) -> u32 {
        self.0.get() & ((1 << NUMBER) - 1)
    }
}

#[derive(Debug, Default)]
struct Block {
    bytes: Box<[u8]>,
    /// Bytes before the first whole line of memory.
    skip: usize,
    length: usize,
    /// How many are taken, and how many ever were: those from there on were never touched.
    taken: u16,
    fresh: u16,
    /// The one that was left last; each holds the number of the one before.
    left: u16,
}

impl Block {
    fn new(length: usize) -> Block {
        let bytes: Box<[u8]> = vec![0; length * BLOCK as usize + LINE].into();
        let skip = bytes.as_ptr().align_offset(LINE).min(LINE);
        Block { bytes, skip, length, taken: 0, fresh: 0, left: NONE }
    }

    fn cell(&self, at: u16) -> Option<&[u8]> {
        let begin = self.skip + usize::from(at) * self.length;
        self.bytes.get(begin..begin + self.length)
    }

    fn cell_mut(&mut self, at: u16) -> Option<&mut [u8]> {
        let begin = self.skip + usize::from(at) * self.length;
        self.bytes.get_mut(begin..begin + self.length)
    }

    fn is_full(&self) -> bool {
        u32::from(self.taken) == BLOCK
    }

    fn take(&mut self) -> u16 {
        self.taken += 1;
        let at = self.left;
        if at == NONE {
            self.fresh += 1;
            return self.fresh - 1;
        }
        let before = self.cell(at).and_then(|cell| cell.first_chunk().copied());
        self.left = before.map_or(NONE, u16::from_le_bytes);
        at
    }

    fn give(&mut self, at: u16) {
        let before = self.left.to_le_bytes();
        if let Some(place) = self.cell_mut(at).and_then(|cell| cell.first_chunk_mut()) {
            *place = before;
        }
        self.left = at;
        self.taken -= 1;
    }
}

/// The cells of one length.
#[derive(Debug, Default)]
struct Class {
    blocks: Vec<Block>,
    /// Blocks that have free cells, and those that were given back.
    room: Vec<u32>,
    gone: Vec<u32>,
}

impl Class {
    fn block(&mut self, index: u32) -> Option<&mut Block> {
        self.blocks.get_mut(index as usize)
    }

    fn take(&mut self, length: usize) -> u32 {
        let index = match self.room.last().copied() {
            Some(index) => index,
            None => {
                let index = self.gone.pop().unwrap_or_else(|| {
                    self.blocks.push(Block::default());
                    self.blocks.len() as u32 - 1
                });
                if let Some(block) = self.block(index) {
                    *block = Block::new(length);
                }
                self.room.push(index);
                index
            }
        };
        let Some(block) = self.block(index) else { return u32::MAX };
        let at = block.take();
        if block.is_full() {
            self.room.pop();
        }
        index * BLOCK + u32::from(at)
    }

    /// A block of which nothing is taken any more goes back, unless it is the only one with room: states grow.
    fn give(&mut self, number: u32) {
        let (index, others) = (number / BLOCK, self.room.len() > 1);
        let Some(block) = self.block(index) else { return };
        let was_full = block.is_full();
        block.give((number % BLOCK) as u16);
        if block.taken == 0 && others {
            *block = Block::default();
            self.room.retain(|other| *other != index);
            self.gone.push(index);
        } else if was_full {
            self.room.push(index);
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Cells(Vec<Class>);

impl Cells {
    fn class(&mut self, cell: Cell) -> Option<&mut Class> {
        self.0.get_mut(cell.steps())
    }

    /// What stands in a cell.
    #[inline]
    pub(crate) fn bytes(&self, cell: Cell) -> Option<&[u8]> {
        let block = self.0.get(cell.steps())?.blocks.get((cell.number() / BLOCK) as usize)?;
        block.cell((cell.number() % BLOCK) as u16)
    }

    /// Writes a state to a free cell, if it is not too long.
    #[inline]
    pub(crate) fn write<T: Rest>(&mut self, state: &T, now: Time) -> Option<Cell> {
        let length = rest::length(state);
        let steps = length.div_ceil(STEP);
        if steps >= 1 << STEPS {
            return None;
        }
        if self.0.len() <= steps {
            self.0.resize_with(steps + 1, Class::default);
        }
        let class = self.0.get_mut(steps)?;
        let number = class.take(steps * STEP);
        let Some(cell) = Cell::new(steps, number) else {
            class.give(number);
            return None;
        };
        let place = class.block(number / BLOCK)?.cell_mut((number % BLOCK) as u16)?;
        rest::write(state, now, place.get_mut(..length)?);
        Some(cell)
    }

    /// Nobody is there any more.
    pub(crate) fn give(&mut self, cell: Cell) {
        if let Some(class) = self.class(cell) {
            class.give(cell.number());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const NOW: Time = Time::from_millis(5);

    fn read<T: Rest + Default>(cells: &Cells, cell: Cell) -> T {
        let mut state = T::default();
        rest::read(cells.bytes(cell).unwrap(), &mut state);
        state
    }

    #[test]
    fn a_state_takes_the_cell_of_another_as_long_as_it() {
        let mut cells = Cells::default();
        let cell = cells.write(&1u32, NOW).unwrap();
        assert_eq!(read::<u32>(&cells, cell), 1);
        cells.give(cell);
        assert_eq!(cells.write(&2u32, NOW), Some(cell));
        assert_eq!(cells.bytes(cell).unwrap().as_ptr().align_offset(LINE), 0);
    }

    #[test]
    fn what_is_too_long_is_not_written() {
        let mut cells = Cells::default();
        let most = ((1 << STEPS) - 1) * STEP - rest::length(&Box::<[u16]>::default());
        let state = |bytes: usize| -> Box<[u16]> { vec![7; bytes / 2].into() };
        let cell = cells.write(&state(most), NOW).unwrap();
        assert_eq!(read::<Box<[u16]>>(&cells, cell), state(most));
        assert_eq!(cells.write(&state(most + 2), NOW), None);
    }

    proptest! {
        #[test]
        fn each_keeps_its_own(steps in prop::collection::vec((0u32..300, 0usize..60), 1..3000)) {
            let mut cells = Cells::default();
            let mut model = BTreeMap::<u32, (Cell, Box<[u16]>)>::new();
            for (index, length) in steps {
                if let Some((cell, state)) = model.remove(&index) {
                    prop_assert_eq!(read::<Box<[u16]>>(&cells, cell), state);
                    cells.give(cell);
                } else {
                    let state: Box<[u16]> = vec![index as u16; length].into();
                    model.insert(index, (cells.write(&state, NOW).unwrap(), state));
                }
            }
            for (cell, state) in model.into_values() {
                prop_assert_eq!(read::<Box<[u16]>>(&cells, cell), state);
                cells.give(cell);
            }
            // Of each length one block stays.
            let kept = |class: &Class| class.blocks.iter().filter(|block| !block.bytes.is_empty()).count();
            prop_assert!(cells.0.iter().all(|class| kept(class) <= 1 && class.room.len() == kept(class)));
        }
    }
}
