//! Where the states of those who rest are kept: in cells of a few lengths, cut from large blocks, each known by a word.
//!
//! Nothing is allocated where one wakes up and another falls asleep: of cells that are free the next takes the one that was
//! left last. Where states become longer their cells of before are left here and there. Then one state moves for each that
//! goes, so that whole blocks become free; what stays unused is bounded by [`UNUSED`].

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
/// Of so many cells of a length in use there may be one that is not, and those of a block.
const UNUSED: usize = 64;

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
    /// Which are free, as bits, how many are not, and which was left last.
    free: Box<[u64]>,
    taken: u32,
    last: u16,
}

impl Block {
    fn new(length: usize) -> Block {
        // Of what was never touched nothing is resident.
        let bytes: Box<[u8]> = vec![0; length * BLOCK as usize + LINE].into();
        let skip = bytes.as_ptr().align_offset(LINE).min(LINE);
        let free = (0..BLOCK.div_ceil(u64::BITS))
            .map(|word| u64::MAX >> (u64::BITS - (BLOCK - word * u64::BITS).min(u64::BITS)));
        Block { bytes, skip, length, free: free.collect(), taken: 0, last: 0 }
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
        self.taken == BLOCK
    }

    /// The one that was left last, or one that is not far from it.
    fn take(&mut self) -> Option<u16> {
        let bit = |at: u16| 1 << (u32::from(at) % u64::BITS);
        let near = usize::from(self.last) / u64::BITS as usize;
        let last = self.free.get(near).filter(|word| **word & bit(self.last) != 0).map(|_| self.last);
        let any = || {
            let (before, from) = self.free.split_at_checked(near)?;
            let words = (near..).zip(from).chain((0..).zip(before));
            let (word, free) = words.into_iter().find(|(_, word)| **word != 0)?;
            u16::try_from(word * u64::BITS as usize + free.trailing_zeros() as usize).ok()
        };
        let at = last.or_else(any)?;
        let word = self.free.get_mut(usize::from(at) / u64::BITS as usize)?;
        *word &= !bit(at);
        (self.taken, self.last) = (self.taken + 1, at);
        Some(at)
    }

    fn give(&mut self, at: u16) {
        if let Some(word) = self.free.get_mut(usize::from(at) / u64::BITS as usize) {
            *word |= 1 << (u32::from(at) % u64::BITS);
        }
        (self.taken, self.last) = (self.taken - 1, at);
    }

    /// One that is taken.
    fn any(&self) -> Option<u16> {
        let taken = |(word, free): (u32, &u64)| {
            let at = word * u64::BITS + free.trailing_ones();
            (*free != u64::MAX && at < BLOCK).then_some(at as u16)
        };
        (0..).zip(&self.free).find_map(taken)
    }
}

/// The cells of one length.
#[derive(Debug, Default)]
struct Class {
    blocks: Vec<Block>,
    /// Blocks that have free cells, and those that were given back.
    room: Vec<u32>,
    gone: Vec<u32>,
    /// A block from which all move to others, and how many cells of all blocks are taken.
    leaving: Option<u32>,
    taken: usize,
}

impl Class {
    fn block(&mut self, index: u32) -> Option<&mut Block> {
        self.blocks.get_mut(index as usize)
    }

    fn take(&mut self, length: usize) -> Option<u32> {
        if self.room.is_empty() {
            let index = self.leaving.take().unwrap_or_else(|| {
                let index = self.gone.pop().unwrap_or(self.blocks.len() as u32);
                if index as usize == self.blocks.len() {
                    self.blocks.push(Block::default());
                }
                if let Some(block) = self.block(index) {
                    *block = Block::new(length);
                }
                index
            });
            self.room.push(index);
        }
        let index = self.room.last().copied()?;
        let block = self.block(index)?;
        let at = block.take()?;
        if block.is_full() {
            self.room.pop();
        }
        self.taken += 1;
        Some(index * BLOCK + u32::from(at))
    }

    /// A block of which nothing is taken any more goes back, unless it is the only one with room: states grow.
    fn give(&mut self, number: u32) {
        let (index, leaves) = (number / BLOCK, self.leaving == Some(number / BLOCK));
        let others = leaves || self.room.len() > 1;
        self.taken -= 1;
        let Some(block) = self.block(index) else { return };
        let was_full = block.is_full();
        block.give((number % BLOCK) as u16);
        if block.taken == 0 && others {
            self.room.retain(|other| *other != index);
            self.gives_back(index);
        } else if was_full && !leaves {
            self.room.push(index);
        }
    }

    fn gives_back(&mut self, index: u32) {
        if let Some(block) = self.block(index) {
            *block = Block::default();
        }
        self.gone.push(index);
        self.leaving = self.leaving.filter(|leaving| *leaving != index);
    }

    /// Where too many are unused one moves from a block that has few. Returns its number before, and now.
    fn tidy(&mut self, length: usize) -> Option<(u32, u32)> {
        let all = (self.blocks.len() - self.gone.len()) * BLOCK as usize;
        if all - self.taken <= BLOCK as usize + self.taken / UNUSED {
            return None;
        }
        if self.leaving.is_none() {
            let taken = |index: &u32| self.blocks.get(*index as usize).map(|block| block.taken);
            let place = (0..self.room.len()).min_by_key(|place| self.room.get(*place).and_then(taken))?;
            self.leaving = Some(self.room.swap_remove(place));
        }
        let from = self.leaving.filter(|_| !self.room.is_empty())?;
        let Some(at) = self.blocks.get(from as usize)?.any() else {
            self.gives_back(from);
            return None;
        };
        let to = self.take(length)?;
        let [before, now] = self.blocks.get_disjoint_mut([from as usize, (to / BLOCK) as usize]).ok()?;
        now.cell_mut((to % BLOCK) as u16)?.copy_from_slice(before.cell(at)?);
        let before = from * BLOCK + u32::from(at);
        self.give(before);
        Some((before, to))
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
        let number = class.take(steps * STEP)?;
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

    /// After one of this length went: another may have moved for it, from a cell to a cell.
    pub(crate) fn tidy(&mut self, cell: Cell) -> Option<(Cell, Cell)> {
        let steps = cell.steps();
        let (before, now) = self.class(cell)?.tidy(steps * STEP)?;
        Some((Cell::new(steps, before)?, Cell::new(steps, now)?))
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
            let go = |cells: &mut Cells, model: &mut BTreeMap<u32, (Cell, Box<[u16]>)>, cell| {
                cells.give(cell);
                if let Some((before, now)) = cells.tidy(cell) {
                    let moved = model.values_mut().find(|(cell, _)| *cell == before);
                    moved.expect("only what is there moves").0 = now;
                }
            };
            for (index, length) in steps {
                if let Some((cell, state)) = model.remove(&index) {
                    prop_assert_eq!(read::<Box<[u16]>>(&cells, cell), state);
                    go(&mut cells, &mut model, cell);
                } else {
                    let state: Box<[u16]> = vec![index as u16; length].into();
                    model.insert(index, (cells.write(&state, NOW).unwrap(), state));
                }
            }
            while let Some((_, (cell, state))) = model.pop_first() {
                prop_assert_eq!(read::<Box<[u16]>>(&cells, cell), state);
                go(&mut cells, &mut model, cell);
            }
            // Of each length one block stays.
            let kept = |class: &Class| class.blocks.iter().filter(|block| !block.bytes.is_empty()).count();
            prop_assert!(cells.0.iter().all(|class| kept(class) <= 1 && class.taken == 0));
        }

        #[test]
        fn few_stay_unused_whoever_goes(count in 100usize..2000, seed: u64) {
            let (mut cells, mut random) = (Cells::default(), fastrand::Rng::with_seed(seed));
            let mut there: Vec<Cell> = (0..count).map(|_| cells.write(&1u32, NOW).unwrap()).collect();
            while !there.is_empty() {
                let cell = there.swap_remove(random.usize(..there.len()));
                cells.give(cell);
                if let Some((before, now)) = cells.tidy(cell) {
                    let place = there.iter().position(|cell| *cell == before);
                    there[place.expect("only what is there moves")] = now;
                }
                let class = cells.0.last().unwrap();
                prop_assert_eq!(class.taken, there.len());
                let all = (class.blocks.len() - class.gone.len()) * BLOCK as usize;
                prop_assert!(all <= there.len() + there.len() / UNUSED + 3 * BLOCK as usize, "{all} for {}", there.len());
            }
        }
    }
}
