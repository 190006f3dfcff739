//! State at rest: a million destinations of which nothing is asked hold what they learned in as few bytes as it takes.
//!
//! Numbers are written small where they are small, times as what has passed since, so that a state of hundreds of bytes
//! takes a fraction of it. How long each is stands in words of their own, ahead of every [`GROUP`] of them: a reader
//! never branches on what it reads. It is written when its destination comes to rest and read by the next call; nothing
//! else sees it, so there are no versions, and nothing to check.
//!
//! A state is read over another one, whose allocations it takes, see [`crate::asleep`].

use crate::time::{Micros, Time};

/// 1024 ns.
const MICRO: u32 = 10;
/// Numbers whose lengths share a word of 32 bits.
const GROUP: u32 = 10;
/// Bits that a length takes: 0 to 6 bytes, or 8.
const LENGTH: u32 = 3;
/// How long a number is that is written with this tag.
fn length(tag: u32) -> usize {
    (tag + ((tag + 1) >> LENGTH)) as usize
}

/// Where a state is written, and when.
#[derive(Debug)]
pub(crate) struct Out<'a> {
    bytes: &'a mut [u8],
    at: usize,
    now: Time,
    /// The lengths of the group under way, how many bits of them there are, and where they go.
    lengths: u32,
    bits: u32,
    place: usize,
}

/// What was written, and when.
#[derive(Debug)]
pub(crate) struct In<'a> {
    bytes: &'a [u8],
    now: Time,
    /// The lengths of those of the group that follow, and a one above them.
    lengths: u32,
}

impl Out<'_> {
    /// Writes a state to the front of `bytes`, and returns how long it is, or would be where there is more room. Times are
    /// written as what passed until `now`.
    pub(crate) fn all(state: &impl Rest, bytes: &mut [u8], now: Time) -> usize {
        let mut out = Out { bytes, at: 0, now, lengths: 0, bits: 0, place: 0 };
        out.number(now.as_nanos());
        state.write(&mut out);
        out.close();
        out.at
    }

    #[inline(always)]
    fn number(&mut self, number: u64) {
        if self.bits == 0 {
            self.open();
        }
        let tag = ((71 - number.leading_zeros()) / 8).min((1 << LENGTH) - 1);
        if let Some(place) = self.bytes.get_mut(self.at..).and_then(|rest| rest.first_chunk_mut()) {
            *place = number.to_le_bytes();
        }
        self.at += length(tag);
        self.lengths |= tag << self.bits;
        self.bits += LENGTH;
        if self.bits == GROUP * LENGTH {
            self.close();
        }
    }

    #[inline(always)]
    fn open(&mut self) {
        self.place = self.at;
        self.at += size_of::<u32>();
    }

    #[inline(always)]
    fn close(&mut self) {
        if self.bits > 0
            && let Some(place) = self.bytes.get_mut(self.place..).and_then(|rest| rest.first_chunk_mut())
        {
            *place = self.lengths.to_le_bytes();
        }
        (self.lengths, self.bits) = (0, 0);
    }
}

impl In<'_> {
    /// Reads what was written over `state`.
    pub(crate) fn all(bytes: &[u8], state: &mut impl Rest) {
        let mut from = In { bytes, now: Time::ZERO, lengths: 1 };
        from.now = Time::from_nanos(from.number());
        state.read(&mut from);
    }

    #[inline(always)]
    fn some<const N: usize>(&self) -> [u8; N] {
        self.bytes.first_chunk().map_or_else(|| last(self.bytes), |some| *some)
    }

    #[inline(always)]
    fn skip(&mut self, bytes: usize) {
        self.bytes = self.bytes.get(bytes..).unwrap_or_default();
    }

    #[inline(always)]
    fn number(&mut self) -> u64 {
        if self.lengths == 1 {
            self.lengths = u32::from_le_bytes(self.some()) | 1 << (GROUP * LENGTH);
            self.skip(4);
        }
        let length = length(self.lengths & ((1 << LENGTH) - 1));
        self.lengths >>= LENGTH;
        let word = u64::from_le_bytes(self.some());
        self.skip(length);
        word & !u64::MAX.checked_shl(8 * length as u32).unwrap_or(0)
    }
}

#[cold]
fn last<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut some = [0; N];
    some.iter_mut().zip(bytes).for_each(|(some, byte)| *some = *byte);
    some
}

/// A part of a state at rest. All of it is one function, so that where it is in the bytes is in registers: twice as fast.
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
                out.number(u64::from(*self));
            }
            #[inline(always)]
            fn read(&mut self, from: &mut In<'_>) {
                *self = from.number() as $of;
            }
        }
    )* };
}
numbers!(u8, u16, u32, u64);

impl Rest for bool {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        out.number(u64::from(*self));
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        *self = from.number() != 0;
    }
}

/// Small where it is near zero, on either side.
fn folded(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unfolded(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

macro_rules! signed {
    ($($of:ty),*) => { $(
        impl Rest for $of {
            #[inline(always)]
            fn write(&self, out: &mut Out<'_>) {
                out.number(folded(i64::from(*self)));
            }
            #[inline(always)]
            fn read(&mut self, from: &mut In<'_>) {
                *self = unfolded(from.number()) as $of;
            }
        }
    )* };
}
signed!(i16, i32);

/// Round ones end with zeros.
impl Rest for f32 {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        out.number(u64::from(self.to_bits().swap_bytes()));
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        *self = f32::from_bits((from.number() as u32).swap_bytes());
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
        out.number(self.get().as_micros() as u64);
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        *self = Micros::of(std::time::Duration::from_micros(from.number()));
    }
}

impl Rest for std::time::Duration {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        out.number(crate::time::nanos(*self));
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        *self = std::time::Duration::from_nanos(from.number());
    }
}

impl Rest for Time {
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        let written = match *self {
            Time::ZERO => 0,
            Time::NEVER => 1,
            // To a microsecond: one that has passed this half hour takes four bytes, and so does one that is about to come.
            at => {
                let passed = (out.now.as_nanos().wrapping_sub(at.as_nanos()) as i64) >> MICRO;
                if passed >= 0 { passed.saturating_add(2) } else { passed }
            }
        };
        out.number(folded(written));
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        *self = match unfolded(from.number()) {
            0 => Time::ZERO,
            1 => Time::NEVER,
            passed => {
                let passed = if passed > 0 { passed - 2 } else { passed };
                Time::from_nanos(from.now.as_nanos().wrapping_sub((passed << MICRO) as u64))
            }
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
        if from.number() == 0 {
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
        out.number(self.len() as u64);
        self.iter().for_each(|one| one.write(out));
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        let length = from.number();
        if self.len() as u64 != length {
            *self = (0..length).map(|_| T::default()).collect();
        }
        self.iter_mut().for_each(|one| one.read(from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Default, PartialEq)]
    struct All {
        times: [Time; 2],
        more: (Time, Option<Time>),
        small: u8,
        number: u64,
        below: i32,
        maybe: Option<Box<u32>>,
        part: f32,
        yes: bool,
        many: Box<[u16]>,
        none: Option<u8>,
    }
    at_rest!(All { times, more, small, number, below, maybe, part, yes, many } else { none: None });

    proptest! {
        #[test]
        fn what_is_written_is_read_whatever_was_there(
            now: u64, times: [u64; 4], near in -5i64..5, small: u8, number: u64, below: i32, maybe: Option<u32>,
            part in -1e6f32..1e6, yes: bool, many in prop::collection::vec(any::<u16>(), 0..40),
        ) {
            let now = now >> 12 << MICRO;
            let [a, b, c, d] = times.map(|at| Time::from_nanos(at >> 12 << MICRO));
            let near = Time::from_nanos(now.saturating_add_signed(near << MICRO));
            let mut bytes = [0; 2000];
            for (one, other) in [(a, b), (Time::ZERO, Time::NEVER), (near, Time::from_nanos(1 << MICRO))] {
                let all = All {
                    times: [one, other],
                    more: (c, Some(d)),
                    small,
                    number: number >> (number % 64),
                    below,
                    maybe: maybe.map(Box::new),
                    part,
                    yes,
                    many: many.clone().into(),
                    none: None,
                };
                let length = Out::all(&all, &mut bytes, Time::from_nanos(now));
                let mut read = All::default();
                In::all(&bytes[..length], &mut read);
                prop_assert_eq!(&read, &all);
                let mut read = All {
                    times: [d; 2],
                    more: (a, None),
                    maybe: Some(Box::new(3)),
                    many: [1, 2].into(),
                    none: Some(1),
                    ..All::default()
                };
                In::all(&bytes[..length], &mut read);
                prop_assert_eq!(&read, &all);
            }
        }
    }
}
