//! Where the states of those who sleep are kept: in cells of a few lengths, cut from large blocks, each known by a word.
//!
//! The words of all stand close together, so that a state is on its way from memory while the actor still is whose it is.
//! Nothing is allocated where one wakes up and another falls asleep: the cell goes from one to the other, and so do the
//! allocations of the state that is awake.

use crate::{
    rest::{In, Out, Rest},
    time::Time,
};
use std::num::NonZeroU32;

/// Lengths of cells are multiples of this.
const STEP: usize = 16;
/// Bits of a cell's number among those of its length.
const NUMBER: u32 = 24;
/// Cells in a block.
const BLOCK: u32 = 1024;

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
    blocks: Vec<Box<[u8]>>,
    free: Vec<u32>,
}

impl Cells {
    fn take(&mut self, length: usize) -> u32 {
        if let Some(number) = self.free.pop() {
            return number;
        }
        let first = u32::try_from(self.blocks.len()).unwrap_or(u32::MAX).saturating_mul(BLOCK);
        self.blocks.push(vec![0; length * BLOCK as usize].into());
        self.free.extend((first + 1..first + BLOCK).rev());
        first
    }
}

/// Those who sleep, by the places of their actors.
#[derive(Debug)]
pub(crate) struct Asleep<T> {
    of: Vec<Option<Cell>>,
    cells: Vec<Cells>,
    /// For the next that is written.
    bytes: Vec<u8>,
    /// Of the last that fell asleep, for the next that wakes up.
    spare: T,
}

impl<T: Rest + Default> Asleep<T> {
    pub(crate) fn new() -> Asleep<T> {
        Asleep { of: Vec::new(), cells: Vec::new(), bytes: Vec::new(), spare: T::default() }
    }

    fn cell(&self, index: u32) -> Option<Cell> {
        self.of.get(index as usize).copied().flatten()
    }

    fn bytes(&self, cell: Cell) -> Option<&[u8]> {
        let length = cell.steps() * STEP;
        let block = self.cells.get(cell.steps())?.blocks.get((cell.number() / BLOCK) as usize)?;
        block.chunks_exact(length).nth((cell.number() % BLOCK) as usize)
    }

    /// It will be read soon: its lines of memory come together, and not one after the other.
    pub(crate) fn touch(&self, index: u32) {
        if let Some(bytes) = self.cell(index).and_then(|cell| self.bytes(cell)) {
            std::hint::black_box(bytes.iter().step_by(64).fold(0, |all, byte| all | byte));
        }
    }

    /// Falls asleep, if there is room: then `state` is left blank.
    pub(crate) fn write(&mut self, index: u32, state: &mut T, now: Time) -> bool {
        let mut length = Out::all(state, &mut self.bytes, now);
        let mut steps = length.div_ceil(STEP);
        while self.bytes.len() < (steps + 1) * STEP {
            self.bytes.resize((steps + 1) * STEP, 0);
            length = Out::all(state, &mut self.bytes, now);
            steps = length.div_ceil(STEP);
        }
        if self.cells.len() <= steps {
            self.cells.resize_with(steps + 1, Cells::default);
        }
        let Some(cells) = self.cells.get_mut(steps) else { return false };
        let number = cells.take(steps * STEP);
        let Some(cell) = Cell::new(steps, number) else {
            cells.free.push(number);
            return false;
        };
        let block = cells.blocks.get_mut((number / BLOCK) as usize);
        let place = block.and_then(|block| block.chunks_exact_mut(steps * STEP).nth((number % BLOCK) as usize));
        let (Some(place), Some(bytes)) = (place, self.bytes.get(..steps * STEP)) else { return false };
        place.copy_from_slice(bytes);
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
        In::all(self.bytes(cell)?, &mut state);
        self.forget(index);
        Some(state)
    }

    /// What it is, if it sleeps.
    pub(crate) fn seen(&self, index: u32) -> Option<T> {
        let mut state = T::default();
        In::all(self.bytes(self.cell(index)?)?, &mut state);
        Some(state)
    }

    /// It is no more.
    pub(crate) fn forget(&mut self, index: u32) {
        if let Some(cell) = self.of.get_mut(index as usize).and_then(Option::take)
            && let Some(cells) = self.cells.get_mut(cell.steps())
        {
            cells.free.push(cell.number());
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
        let mut asleep = Asleep::<u64>::new();
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
        }
    }
}
