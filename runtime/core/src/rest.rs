//! State at rest: a million destinations of which nothing is asked hold what they learned in as few bytes as it takes.
//!
//! A state is written as words of 32 bits: times as what has passed since, a pace to seven digits. Then the words are
//! packed: each takes as many bytes as it has to, and how many stands ahead of all of them, so that a reader knows where
//! the words of a group are before it has read those of the group before, and never branches on what it reads. The two
//! steps are apart because the first is a little code for each of a hundred fields, and the second a loop.
//!
//! A state is written when its destination comes to rest and read by the next call; nothing else sees it, so there are
//! no versions, and nothing to check. It is read over another one, whose allocations it takes, see [`crate::asleep`].

use crate::time::{Micros, Time};

/// Words of a state at most: twice those of as many endpoints as there may be.
const WORDS: usize = 2048;
/// Words whose lengths share a byte.
const GROUP: usize = 4;
/// Bytes that a state takes at most, and those of a group more: they are read whole.
const BYTES: usize = size_of::<u16>() + WORDS / GROUP + WORDS * size_of::<u32>() + SPAN;
/// Bytes of a group at most.
const SPAN: usize = GROUP * size_of::<u32>();

/// How long a word is that is written with these two bits.
const fn length(tag: u8) -> u8 {
    tag + tag / 3
}

/// Where the words of a group are behind its first byte, and how long all of them are, by the byte of its lengths.
#[expect(clippy::indexing_slicing, reason = "within a constant, where one too far does not compile")]
const PLACES: [([u8; GROUP], u8); 256] = {
    let mut places = [([0; GROUP], 0); 256];
    let mut lengths = 0;
    while lengths < 256 {
        let (mut at, mut word) = (0, 0);
        while word < GROUP {
            places[lengths].0[word] = at;
            at += length((lengths >> (2 * word) & 3) as u8);
            word += 1;
        }
        places[lengths].1 = at;
        lengths += 1;
    }
    places
};

/// Where states are packed and unpacked.
#[derive(Debug)]
pub(crate) struct Desk {
    words: Box<[u32; WORDS]>,
    bytes: Box<[u8; BYTES]>,
}

/// Where a state is written, and when.
#[derive(Debug)]
pub(crate) struct Out<'a> {
    words: &'a mut [u32; WORDS],
    at: usize,
    now: Time,
}

/// What was written, and when.
#[derive(Debug)]
pub(crate) struct In<'a> {
    words: &'a [u32; WORDS],
    at: usize,
    now: Time,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        Desk { words: Box::new([0; WORDS]), bytes: Box::new([0; BYTES]) }
    }

    /// Writes a state; times are written as what passed until `now`. `None`: it is too long.
    pub(crate) fn write(&mut self, state: &impl Rest, now: Time) -> Option<&[u8]> {
        let mut out = Out { words: &mut self.words, at: 0, now };
        let nanos = now.as_nanos();
        out.word(nanos as u32);
        out.word((nanos >> u32::BITS) as u32);
        state.write(&mut out);
        let words = out.at;
        let length = self.pack(words)?;
        self.bytes.get(..length)
    }

    /// Reads what was written over `state`.
    pub(crate) fn read(&mut self, bytes: &[u8], state: &mut impl Rest) {
        // All lines of it come from memory together.
        if let Some(place) = self.bytes.get_mut(..bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self.unpack();
        let mut from = In { words: &self.words, at: 0, now: Time::ZERO };
        let [low, high] = [from.word(), from.word()].map(u64::from);
        from.now = Time::from_nanos(high << u32::BITS | low);
        state.read(&mut from);
    }

    /// Packs so many words, and returns how long they are.
    fn pack(&mut self, words: usize) -> Option<usize> {
        let groups = words.div_ceil(GROUP);
        // What is left of the last group is of no meaning, and of no length.
        self.words.get_mut(words..groups * GROUP)?.fill(0);
        let (all, []) = self.words.as_chunks::<GROUP>() else { return None };
        let (head, data) = self.bytes.split_at_mut_checked(size_of::<u16>() + groups)?;
        let (count, lengths) = head.split_first_chunk_mut()?;
        *count = u16::try_from(groups).ok()?.to_le_bytes();
        let mut at = 0;
        for (group, lengths) in all.iter().zip(lengths) {
            let tags = group.map(|word| u8::from(word > 0) + u8::from(word > 0xff) + u8::from(word > 0xffff));
            *lengths = tags.iter().rev().fold(0, |all, tag| all << 2 | tag);
            let (places, span) = PLACES.get(usize::from(*lengths))?;
            let data: &mut [u8; SPAN] = data.get_mut(at..)?.first_chunk_mut()?;
            for (word, place) in group.iter().zip(places) {
                let place = usize::from(*place).min(SPAN - size_of::<u32>());
                *data.get_mut(place..)?.first_chunk_mut()? = word.to_le_bytes();
            }
            at += usize::from(*span);
        }
        Some(size_of::<u16>() + groups + at)
    }

    fn unpack(&mut self) -> Option<()> {
        let (count, rest) = self.bytes.split_first_chunk()?;
        let (lengths, data) = rest.split_at_checked(usize::from(u16::from_le_bytes(*count)))?;
        let (all, _) = self.words.as_chunks_mut::<GROUP>();
        let mut at = 0;
        for (group, lengths) in all.iter_mut().zip(lengths) {
            let (places, span) = PLACES.get(usize::from(*lengths))?;
            let data: &[u8; SPAN] = data.get(at..)?.first_chunk()?;
            for (index, (word, place)) in group.iter_mut().zip(places).enumerate() {
                let place = usize::from(*place).min(SPAN - size_of::<u32>());
                let bits = 8 * u32::from(length(lengths >> (2 * index) & 3));
                let read = u32::from_le_bytes(*data.get(place..)?.first_chunk()?);
                *word = (u64::from(read) & ((1 << bits) - 1)) as u32;
            }
            at += usize::from(*span);
        }
        Some(())
    }
}

impl Out<'_> {
    #[inline(always)]
    fn word(&mut self, word: u32) {
        // What is too long is found out when it is packed.
        if let Some(place) = self.words.get_mut(self.at % WORDS) {
            *place = word;
        }
        self.at += 1;
    }
}

impl In<'_> {
    #[inline(always)]
    fn word(&mut self) -> u32 {
        let word = self.words.get(self.at % WORDS).copied();
        self.at += 1;
        word.unwrap_or_default()
    }
}

/// A part of a state at rest.
pub(crate) trait Rest {
    fn write(&self, out: &mut Out<'_>);
    /// Becomes what was written, whatever it was before.
    fn read(&mut self, from: &mut In<'_>);
}

/// Writes and reads the fields of a struct in this order; the others are at rest only with these values.
macro_rules! at_rest {
    ($of:ident { $($field:ident),* } $(else { $($other:ident: $value:expr),* })?) => {
        impl $crate::rest::Rest for $of {
            #[inline(always)]
            fn write(&self, out: &mut $crate::rest::Out<'_>) {
                $($crate::rest::Rest::write(&self.$field, out);)*
            }
            #[inline(always)]
            fn read(&mut self, from: &mut $crate::rest::In<'_>) {
                // All of them, or it does not compile.
                let $of { $($field,)* $($($other,)*)? } = self;
                $($crate::rest::Rest::read($field, from);)*
                $($(*$other = $value;)*)?
            }
        }
    };
}
pub(crate) use at_rest;

macro_rules! numbers {
    ($($of:ty),*) => { $(
        impl Rest for $of {
            #[inline(always)]
            fn write(&self, out: &mut Out<'_>) {
                out.word(u32::from(*self));
            }
            #[inline(always)]
            fn read(&mut self, from: &mut In<'_>) {
                *self = from.word() as $of;
            }
        }
    )* };
}
numbers!(u8, u16, u32);

impl Rest for bool {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        out.word(u32::from(*self));
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        *self = from.word() != 0;
    }
}

/// Small where it is near zero, on either side.
macro_rules! signed {
    ($($of:ty),*) => { $(
        impl Rest for $of {
            #[inline(always)]
            fn write(&self, out: &mut Out<'_>) {
                let number = i32::from(*self);
                out.word(((number << 1) ^ (number >> 31)) as u32);
            }
            #[inline(always)]
            fn read(&mut self, from: &mut In<'_>) {
                let word = from.word();
                *self = ((word >> 1) as i32 ^ -((word & 1) as i32)) as $of;
            }
        }
    )* };
}
signed!(i16, i32);

/// Round ones end with zeros.
impl Rest for f32 {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        out.word(self.to_bits().swap_bytes());
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        *self = f32::from_bits(from.word().swap_bytes());
    }
}

/// To seven digits: what a pace is worth that was learned.
impl Rest for f64 {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        (*self as f32).write(out);
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        let mut short = 0f32;
        short.read(from);
        *self = f64::from(short);
    }
}

impl Rest for Micros {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        out.word(self.word());
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        *self = Micros::from_word(from.word());
    }
}

/// Up to 71 minutes.
impl Rest for std::time::Duration {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        Micros::of(*self).write(out);
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        *self = Micros::from_word(from.word()).get();
    }
}

/// Times that are no times: words that no other has.
const ZERO: u32 = 0;
const NEVER: u32 = 1;
/// Steps of a time: 1024 ns, for a minute; then so many bits of it.
const MICRO: u32 = 10;
const BITS: u32 = 25;

/// What has passed since: a number of 31 bits that grows with it, about in proportion at first and then as its logarithm.
#[inline(always)]
fn shortened(passed: u64) -> u32 {
    let passed = (passed >> MICRO) + 1;
    let more = (u64::BITS - BITS - 1).saturating_sub(passed.leading_zeros());
    // Half of what goes is added: an error of one side would grow with each rest.
    (more << BITS) + ((passed + ((1 << more) >> 1)) >> more) as u32
}

#[inline(always)]
fn lengthened(short: u32) -> u64 {
    let more = (short >> BITS).saturating_sub(1);
    ((u64::from(short - (more << BITS)) << more) - 1) << MICRO
}

impl Rest for Time {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        let (now, at) = (out.now.as_nanos(), self.as_nanos());
        let word = shortened(now.abs_diff(at)) << 1 | u32::from(at > now);
        out.word(match *self {
            Time::ZERO => ZERO,
            Time::NEVER => NEVER,
            _ => word,
        });
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        let (now, word) = (from.now.as_nanos(), from.word());
        let passed = lengthened((word >> 1).max(1));
        let at = if word & 1 == 0 { now.saturating_sub(passed) } else { now.saturating_add(passed) };
        *self = match word {
            ZERO => Time::ZERO,
            NEVER => Time::NEVER,
            _ => Time::from_nanos(at),
        };
    }
}

impl<T: Rest + Default> Rest for Option<T> {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        self.is_some().write(out);
        if let Some(some) = self {
            some.write(out);
        }
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        if from.word() == 0 {
            *self = None;
        } else {
            self.get_or_insert_default().read(from);
        }
    }
}

impl<T: Rest> Rest for Box<T> {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        T::write(self, out);
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        T::read(self, from);
    }
}

impl<T: Rest> Rest for [T; 2] {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        self.iter().for_each(|one| one.write(out));
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        self.iter_mut().for_each(|one| one.read(from));
    }
}

impl<T: Rest, U: Rest> Rest for (T, U) {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        self.0.write(out);
        self.1.write(out);
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        self.0.read(from);
        self.1.read(from);
    }
}

/// As many as there are.
impl<T: Rest + Default> Rest for Box<[T]> {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        out.word(self.len() as u32);
        self.iter().for_each(|one| one.write(out));
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        let length = from.word();
        if self.len() as u32 != length {
            *self = (0..length).map(|_| T::default()).collect();
        }
        self.iter_mut().for_each(|one| one.read(from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[derive(Debug, Clone, Default, PartialEq)]
    struct All {
        times: [Time; 2],
        more: (Time, Option<Time>),
        small: u8,
        number: u32,
        below: i32,
        maybe: Option<Box<u32>>,
        part: f32,
        yes: bool,
        long: Duration,
        many: Box<[u16]>,
        none: Option<u8>,
    }
    at_rest!(All { times, more, small, number, below, maybe, part, yes, long, many } else { none: None });

    proptest! {
        #[test]
        fn what_is_written_is_read_whatever_was_there(
            now in 1u64 << 40..1 << 62, passed in prop::array::uniform3(0u64..1 << 25), small: u8, number: u32, below: i32,
            maybe: Option<u32>, part in -1e6f32..1e6, yes: bool, long: u32, many in prop::collection::vec(any::<u16>(), 0..40),
        ) {
            let now = Time::from_nanos(now);
            let [a, b, c] = passed.map(|passed| Duration::from_nanos(passed << MICRO));
            let mut desk = Desk::new();
            for (one, other) in [(now - a, now + b), (Time::ZERO, Time::NEVER), (now, now - a)] {
                let all = All {
                    times: [one, other],
                    more: (now - c, Some(now + b)),
                    small,
                    number: number >> (number % 32),
                    below,
                    maybe: maybe.map(Box::new),
                    part,
                    yes,
                    long: Duration::from_micros(long.into()),
                    many: many.clone().into(),
                    none: None,
                };
                let bytes = desk.write(&all, now).unwrap().to_vec();
                let mut read = All::default();
                desk.read(&bytes, &mut read);
                prop_assert_eq!(&read, &all);
                let mut read = All {
                    times: [now; 2],
                    more: (now, None),
                    maybe: Some(Box::new(3)),
                    many: [1, 2].into(),
                    none: Some(1),
                    ..All::default()
                };
                desk.read(&bytes, &mut read);
                prop_assert_eq!(&read, &all);
            }
        }

        #[test]
        fn a_time_keeps_its_microsecond_for_a_minute_and_seven_digits_for_ever(now: u64, at: u64, less in 0u32..64) {
            let (now, at) = (Time::from_nanos(now), Time::from_nanos(now.wrapping_add(at >> less)));
            let mut desk = Desk::new();
            let bytes = desk.write(&at, now).unwrap().to_vec();
            let mut read = Time::ZERO;
            desk.read(&bytes, &mut read);
            let passed = now.as_nanos().abs_diff(at.as_nanos());
            let error = read.as_nanos().abs_diff(at.as_nanos());
            prop_assert!(error < (1 << MICRO) + (passed >> BITS), "{error} of {passed}");

        }

        #[test]
        fn what_passed_for_longer_is_never_read_as_shorter(passed in 0u64..u64::MAX >> 1, more: u64, less in 0u32..40) {
            let (passed, more) = (passed >> less, more >> 1 >> less);
            prop_assert!(lengthened(shortened(passed)) <= lengthened(shortened(passed + more)));
        }
    }

    #[test]
    fn what_is_too_long_is_not_written() {
        let mut desk = Desk::new();
        let long: Box<[u16]> = vec![u16::MAX; WORDS].into();
        assert_eq!(desk.write(&long, Time::from_millis(5)), None);
        let fits: Box<[u16]> = vec![u16::MAX; WORDS - 3].into();
        let bytes = desk.write(&fits, Time::from_millis(5)).unwrap().to_vec();
        let mut read: Box<[u16]> = Box::default();
        desk.read(&bytes, &mut read);
        assert_eq!(read, fits);
    }
}
