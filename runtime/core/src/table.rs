//! Where each partition of a shard is, by its key: among those that are awake, or in a cell.
//!
//! A place is found in one line of memory: a few bits of the key's hash and the place of each of a dozen stand there, the
//! rest of the key with whoever it is. Lines are of pages, which split in two by themselves where they are full (extendible
//! hashing, Fagin and others 1979): so the table grows by a few thousand bytes at a time, never stops for longer than it
//! takes to look at a page, and is three fifths full on average. What finds its line full goes to the next of the page.

use crate::cells::Cell;
use std::iter::successors;

/// Where a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Among the actors, at this index.
    Awake(u32),
    Asleep(Cell),
}

impl Place {
    /// Cells have numbers below this.
    const AWAKE: u32 = 1 << 31;

    fn word(self) -> u32 {
        match self {
            Place::Awake(index) => index | Place::AWAKE,
            Place::Asleep(cell) => cell.word(),
        }
    }

    fn of(word: u32) -> Option<Place> {
        if word & Place::AWAKE != 0 {
            Some(Place::Awake(word & !Place::AWAKE))
        } else {
            Cell::from_word(word).map(Place::Asleep)
        }
    }
}

/// Places in a line.
const PLACES: usize = 12;
/// Lines of a page, and places of it that are taken at most, unless it can't be split.
const LINES: usize = if cfg!(test) { 4 } else { 64 };
const FULL: usize = LINES * PLACES * 13 / 16;

/// Of a line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line {
    /// Some bits of the hash of each; 0: nobody is there.
    tags: [u8; PLACES],
    /// How many went on to the next line since this one was full.
    passed: u32,
    places: [u32; PLACES],
}

#[derive(Debug)]
struct Page {
    lines: Box<[Line; LINES]>,
    used: usize,
    /// How many first bits the hashes of all in it have in common.
    depth: u32,
}

impl Page {
    fn new(depth: u32) -> Page {
        Page { lines: Box::new([Line::default(); LINES]), used: 0, depth }
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    /// The page of each that begins with so many bits.
    directory: Vec<u32>,
    depth: u32,
    pages: Vec<Page>,
    len: usize,
}

/// The first bits.
fn prefix(hash: u64, depth: u32) -> usize {
    (hash >> 1 >> (u64::BITS - 1 - depth)) as usize
}

fn home(hash: u64) -> usize {
    hash as usize % LINES
}

fn tag(hash: u64) -> u8 {
    (hash >> 16) as u8 | 0x80
}

/// The lines that one of this hash may be in, in order.
fn lines(hash: u64) -> impl Iterator<Item = usize> {
    successors(Some(home(hash)), |line| Some((line + 1) % LINES)).take(LINES)
}

impl Line {
    /// Which have this tag, as bits.
    #[inline(always)]
    fn with(&self, tag: u8) -> impl Iterator<Item = usize> + use<> {
        const ONES: u128 = u128::from_le_bytes([1; 16]) >> (8 * (16 - PLACES));
        let mut tags = [0; 16];
        if let Some(place) = tags.first_chunk_mut() {
            *place = self.tags;
        }
        let other = u128::from_le_bytes(tags) ^ (u128::from(tag) * ONES);
        // The highest bit of each byte that is zero.
        let low = 0x7f * ONES;
        let same = !(((other & low) + low) | other | low) & (0x80 * ONES);
        successors(Some(same), |same| Some(same & same.wrapping_sub(1)))
            .take_while(|same| *same != 0)
            .map(|same| same.trailing_zeros() as usize / 8)
    }

    fn place(&self, at: usize) -> Option<Place> {
        Place::of(*self.places.get(at)?)
    }

    fn set(&mut self, at: usize, tag: u8, place: u32) {
        if let (Some(to), Some(word)) = (self.tags.get_mut(at), self.places.get_mut(at)) {
            (*to, *word) = (tag, place);
        }
    }
}

impl Table {
    pub(crate) fn new() -> Table {
        Table { directory: vec![0], depth: 0, pages: vec![Page::new(0)], len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn page(&self, hash: u64) -> Option<&Page> {
        self.pages.get(*self.directory.get(prefix(hash, self.depth))? as usize)
    }

    fn page_mut(&mut self, hash: u64) -> Option<&mut Page> {
        self.pages.get_mut(*self.directory.get(prefix(hash, self.depth))? as usize)
    }

    /// The place of this hash that `is` it.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is: impl Fn(Place) -> bool) -> Option<Place> {
        let (page, tag) = (self.page(hash)?, tag(hash));
        for line in lines(hash) {
            let line = page.lines.get(line)?;
            for at in line.with(tag) {
                if let Some(place) = line.place(at).filter(|place| is(*place)) {
                    return Some(place);
                }
            }
            if line.passed == 0 {
                break;
            }
        }
        None
    }

    /// Somebody is at another place now.
    pub(crate) fn moved(&mut self, hash: u64, from: Place, to: Place) {
        let Some(page) = self.page_mut(hash) else { return };
        for line in lines(hash) {
            let Some(line) = page.lines.get_mut(line) else { return };
            if let Some(at) = line.with(tag(hash)).find(|at| line.place(*at) == Some(from)) {
                line.set(at, tag(hash), to.word());
                return;
            }
        }
    }

    /// Somebody comes. `hash`: of whoever is at a place. Returns whether there is room.
    pub(crate) fn insert(&mut self, new: u64, place: Place, hash: impl Fn(Place) -> u64) -> bool {
        // Of many that begin alike a page splits into itself and an empty one: not for ever.
        while self.page(new).is_some_and(|page| page.used >= FULL) && self.split(new, &hash) {}
        let inserted = self.page_mut(new).is_some_and(|page| page.insert(new, place));
        self.len += usize::from(inserted);
        inserted
    }

    /// Splits the page that a hash is of. Returns whether that is possible.
    fn split(&mut self, new: u64, hash: impl Fn(Place) -> u64) -> bool {
        let Some(at) = self.directory.get(prefix(new, self.depth)).copied() else { return false };
        let Some(depth) = self.pages.get(at as usize).map(|page| page.depth) else { return false };
        if depth == self.depth {
            // No wider than a word for each place there could be.
            if self.directory.len() >= 2 * PLACES * LINES * self.pages.len() {
                return false;
            }
            self.directory = self.directory.iter().flat_map(|page| [*page; 2]).collect();
            self.depth += 1;
        }
        let mut halves = [Page::new(depth + 1), Page::new(depth + 1)];
        if let Some(page) = self.pages.get(at as usize) {
            for place in page.places() {
                let hash = hash(place);
                if let Some(half) = halves.get_mut(prefix(hash, depth + 1) & 1) {
                    half.insert(hash, place);
                }
            }
        }
        let [first, second] = halves;
        let (all, other) = (1 << (self.depth - depth), self.pages.len() as u32);
        if let Some(page) = self.pages.get_mut(at as usize) {
            *page = first;
        }
        self.pages.push(second);
        let begin = prefix(new, depth) * all;
        self.directory.iter_mut().skip(begin + all / 2).take(all / 2).for_each(|page| *page = other);
        true
    }

    /// Whoever of this hash is at this place goes.
    pub(crate) fn remove(&mut self, hash: u64, place: Place) {
        if self.page_mut(hash).is_some_and(|page| page.remove(hash, place)) {
            self.len -= 1;
        }
    }

    /// How many there could be, see [`Table::nth`].
    pub(crate) fn room(&self) -> usize {
        self.pages.len() * LINES * PLACES
    }

    /// Who is there, if anybody.
    pub(crate) fn nth(&self, nth: usize) -> Option<Place> {
        let (line, at) = (nth / PLACES, nth % PLACES);
        let line = self.pages.get(line / LINES)?.lines.get(line % LINES)?;
        line.place(at).filter(|_| line.tags.get(at) != Some(&0))
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        self.pages.iter().flat_map(Page::places)
    }
}

impl Page {
    fn places(&self) -> impl Iterator<Item = Place> {
        let taken = |line: &Line| line.tags.map(|tag| tag != 0);
        let all = self.lines.iter().flat_map(move |line| taken(line).into_iter().zip(line.places));
        all.filter_map(|(taken, word)| Place::of(word).filter(|_| taken))
    }

    fn insert(&mut self, hash: u64, place: Place) -> bool {
        let room = lines(hash).enumerate().find_map(|(passed, line)| {
            let at = self.lines.get(line)?.with(0).next()?;
            Some((passed, line, at))
        });
        let Some((passed, line, at)) = room else { return false };
        self.pass(hash, passed, |passed| passed + 1);
        if let Some(line) = self.lines.get_mut(line) {
            line.set(at, tag(hash), place.word());
        }
        self.used += 1;
        true
    }

    fn remove(&mut self, hash: u64, place: Place) -> bool {
        let found = lines(hash).enumerate().find_map(|(passed, line)| {
            let line = self.lines.get_mut(line)?;
            let at = line.with(tag(hash)).find(|at| line.place(*at) == Some(place))?;
            line.set(at, 0, 0);
            Some(passed)
        });
        let Some(passed) = found else { return false };
        self.pass(hash, passed, |passed| passed - 1);
        self.used -= 1;
        true
    }

    /// So many lines were passed by one that came or goes.
    fn pass(&mut self, hash: u64, lines_passed: usize, change: impl Fn(u32) -> u32) {
        for line in lines(hash).take(lines_passed) {
            if let Some(line) = self.lines.get_mut(line) {
                line.passed = change(line.passed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Many that are alike, as far as lines, tags and pages go.
    fn hash(who: u32, alike: bool) -> u64 {
        let mixed = (u64::from(who) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if alike { mixed & 0xfff0_0000_0000_0003 } else { mixed }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Come(u32),
        Go(u32),
        Move(u32, u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (0u32..400).prop_map(Step::Come),
            2 => (0u32..400).prop_map(Step::Go),
            2 => (0u32..400, 1u32..1 << 20).prop_map(|(who, to)| Step::Move(who, to)),
        ];
        prop::collection::vec(step, 1..900)
    }

    proptest! {
        /// Places are numbers, ten thousand times the one who is there.
        #[test]
        fn everybody_is_found_where_they_are(steps in steps(), alike: bool) {
            let (mut table, mut model) = (Table::new(), BTreeMap::new());
            let who = |place: Place| match place {
                Place::Awake(index) => index % 400,
                Place::Asleep(cell) => cell.word() % 400,
            };
            let place = |who: u32, times: u32| match times % 2 {
                0 => Place::Awake(times * 400 + who),
                _ => Place::Asleep(Cell::from_word((1 << 24) / 400 * 400 + 400 + times * 400 + who).unwrap()),
            };
            for step in steps {
                match step {
                    Step::Come(one) if !model.contains_key(&one) => {
                        if table.insert(hash(one, alike), place(one, 0), |place| hash(who(place), alike)) {
                            model.insert(one, place(one, 0));
                        } else {
                            prop_assert!(alike);
                        }
                    }
                    Step::Go(one) => {
                        if let Some(place) = model.remove(&one) {
                            table.remove(hash(one, alike), place);
                        }
                    }
                    Step::Move(one, times) => {
                        if let Some(at) = model.get_mut(&one) {
                            table.moved(hash(one, alike), *at, place(one, times % 1000));
                            *at = place(one, times % 1000);
                        }
                    }
                    Step::Come(_) => {}
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for one in 0..400 {
                let found = table.find(hash(one, alike), |place| who(place) == one);
                prop_assert_eq!(found, model.get(&one).copied());
            }
            let all = |places: &mut dyn Iterator<Item = Place>| {
                let mut all: Vec<_> = places.map(Place::word).collect();
                all.sort_unstable();
                all
            };
            let expected = all(&mut model.values().copied());
            prop_assert_eq!(all(&mut table.places()), expected.clone());
            prop_assert_eq!(all(&mut (0..table.room()).filter_map(|nth| table.nth(nth))), expected);
            // Nobody passes a line that none went past.
            let passed: u32 = table.pages.iter().flat_map(|page| page.lines.iter()).map(|line| line.passed).sum();
            prop_assert!(!model.is_empty() || passed == 0);
        }

        #[test]
        fn it_takes_few_bytes_for_each(count in 2_000u32..20_000) {
            let mut table = Table::new();
            for one in 0..count {
                let of = |place| match place {
                    Place::Awake(one) => hash(one, false),
                    Place::Asleep(_) => 0,
                };
                prop_assert!(table.insert(hash(one, false), Place::Awake(one), of));
            }
            let taken = table.pages.len() * size_of::<[Line; LINES]>() + table.directory.len() * size_of::<u32>();
            prop_assert!(taken / (count as usize) < 20, "{taken} for {count}");
        }
    }
}
