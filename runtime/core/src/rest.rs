//! State at rest: a million destinations of which nothing is asked hold what they learned in as few bytes as it takes.
//!
//! Numbers are written small where they are small, times as what has passed since, so that a state of hundreds of bytes
//! takes a fraction of it. It is written when its destination comes to rest and read by the next call; nothing else sees
//! it, so there are no versions, and nothing to check.

use crate::time::{Micros, Time};

/// 1024 ns.
const MICRO: u32 = 10;

/// Where a state is written, and when.
#[derive(Debug)]
pub(crate) struct Out<'a> {
    bytes: &'a mut Vec<u8>,
    now: Time,
}

/// What was written, and when.
#[derive(Debug)]
pub(crate) struct In<'a> {
    bytes: &'a [u8],
    now: Time,
}

impl Out<'_> {
    /// Begins: times are written as what passed until `now`.
    pub(crate) fn new(bytes: &mut Vec<u8>, now: Time) -> Out<'_> {
        bytes.clear();
        bytes.extend_from_slice(&now.as_nanos().to_le_bytes());
        Out { bytes, now }
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }
}

impl In<'_> {
    pub(crate) fn new(bytes: &[u8]) -> In<'_> {
        let mut from = In { bytes, now: Time::ZERO };
        from.now = Time::from_nanos(u64::from_le_bytes(from.some()));
        from
    }

    fn some<const N: usize>(&mut self) -> [u8; N] {
        let (some, rest) = self.bytes.split_first_chunk().unwrap_or((&[0; N], &[]));
        self.bytes = rest;
        *some
    }

    fn varint(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let [byte] = self.some();
            number |= u64::from(byte & 0x7f) << (shift & 63);
            shift += 7;
            if byte < 0x80 {
                return number;
            }
        }
    }
}

/// A part of a state at rest.
pub(crate) trait Rest {
    fn write(&self, out: &mut Out<'_>);
    fn read(from: &mut In<'_>) -> Self;
}

/// Writes and reads the fields of a struct in this order; the others are what `$rest` says.
macro_rules! at_rest {
    ($of:ident { $($field:ident),* } $(.. $rest:expr)?) => {
        impl $crate::rest::Rest for $of {
            fn write(&self, out: &mut $crate::rest::Out<'_>) {
                $($crate::rest::Rest::write(&self.$field, out);)*
            }
            fn read(from: &mut $crate::rest::In<'_>) -> $of {
                $of { $($field: $crate::rest::Rest::read(from),)* $(..$rest)? }
            }
        }
    };
}
pub(crate) use at_rest;

macro_rules! numbers {
    ($($of:ty),*) => { $(
        impl Rest for $of {
            fn write(&self, out: &mut Out<'_>) {
                out.varint(u64::from(*self));
            }
            fn read(from: &mut In<'_>) -> $of {
                from.varint() as $of
            }
        }
    )* };
}
numbers!(u8, u16, u32, u64);

impl Rest for bool {
    fn write(&self, out: &mut Out<'_>) {
        out.varint(u64::from(*self));
    }
    fn read(from: &mut In<'_>) -> bool {
        from.varint() != 0
    }
}

/// Small where it is near zero, on either side.
impl Rest for i64 {
    fn write(&self, out: &mut Out<'_>) {
        out.varint(((self << 1) ^ (self >> 63)) as u64);
    }
    fn read(from: &mut In<'_>) -> i64 {
        let number = from.varint();
        (number >> 1) as i64 ^ -((number & 1) as i64)
    }
}

impl Rest for i32 {
    fn write(&self, out: &mut Out<'_>) {
        i64::from(*self).write(out);
    }
    fn read(from: &mut In<'_>) -> i32 {
        i64::read(from) as i32
    }
}

impl Rest for i16 {
    fn write(&self, out: &mut Out<'_>) {
        i64::from(*self).write(out);
    }
    fn read(from: &mut In<'_>) -> i16 {
        i64::read(from) as i16
    }
}

impl Rest for f32 {
    fn write(&self, out: &mut Out<'_>) {
        out.bytes.extend_from_slice(&self.to_le_bytes());
    }
    fn read(from: &mut In<'_>) -> f32 {
        f32::from_le_bytes(from.some())
    }
}

/// To seven digits: what a pace is worth that was learned.
impl Rest for f64 {
    fn write(&self, out: &mut Out<'_>) {
        (*self as f32).write(out);
    }
    fn read(from: &mut In<'_>) -> f64 {
        f64::from(f32::read(from))
    }
}

impl Rest for Micros {
    fn write(&self, out: &mut Out<'_>) {
        (self.get().as_micros() as u32).write(out);
    }
    fn read(from: &mut In<'_>) -> Micros {
        Micros::of(std::time::Duration::from_micros(u64::from(u32::read(from))))
    }
}

impl Rest for std::time::Duration {
    fn write(&self, out: &mut Out<'_>) {
        crate::time::nanos(*self).write(out);
    }
    fn read(from: &mut In<'_>) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::read(from))
    }
}

impl Rest for Time {
    fn write(&self, out: &mut Out<'_>) {
        match *self {
            Time::ZERO => 0i64.write(out),
            Time::NEVER => 1i64.write(out),
            // To a microsecond: one that has passed this hour takes five bytes, and so does one that is about to come.
            at => {
                let passed = (out.now.as_nanos().wrapping_sub(at.as_nanos()) as i64) >> MICRO;
                (if passed >= 0 { passed.saturating_add(2) } else { passed }).write(out);
            }
        }
    }
    fn read(from: &mut In<'_>) -> Time {
        match i64::read(from) {
            0 => Time::ZERO,
            1 => Time::NEVER,
            passed => {
                let passed = if passed > 0 { passed - 2 } else { passed };
                Time::from_nanos(from.now.as_nanos().wrapping_sub((passed << MICRO) as u64))
            }
        }
    }
}

impl<T: Rest> Rest for Option<T> {
    fn write(&self, out: &mut Out<'_>) {
        self.is_some().write(out);
        if let Some(some) = self {
            some.write(out);
        }
    }
    fn read(from: &mut In<'_>) -> Option<T> {
        bool::read(from).then(|| T::read(from))
    }
}

impl<T: Rest> Rest for Box<T> {
    fn write(&self, out: &mut Out<'_>) {
        T::write(self, out);
    }
    fn read(from: &mut In<'_>) -> Box<T> {
        Box::new(T::read(from))
    }
}

impl<T: Rest> Rest for [T; 2] {
    fn write(&self, out: &mut Out<'_>) {
        self.iter().for_each(|one| one.write(out));
    }
    fn read(from: &mut In<'_>) -> [T; 2] {
        [T::read(from), T::read(from)]
    }
}

impl<T: Rest, U: Rest> Rest for (T, U) {
    fn write(&self, out: &mut Out<'_>) {
        self.0.write(out);
        self.1.write(out);
    }
    fn read(from: &mut In<'_>) -> (T, U) {
        (T::read(from), U::read(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, PartialEq)]
    struct All {
        times: [Time; 2],
        more: (Time, Option<Time>),
        small: u8,
        number: u64,
        below: i32,
        maybe: Option<Box<u32>>,
        part: f32,
        yes: bool,
    }
    at_rest!(All { times, more, small, number, below, maybe, part, yes });

    proptest! {
        #[test]
        fn what_is_written_is_read(
            now: u64, times: [u64; 4], near in -5i64..5, small: u8, number: u64, below: i32, maybe: Option<u32>,
            part in -1e6f32..1e6, yes: bool,
        ) {
            let now = now >> 12 << MICRO;
            let [a, b, c, d] = times.map(|at| Time::from_nanos(at >> 12 << MICRO));
            let near = Time::from_nanos(now.saturating_add_signed(near << MICRO));
            for (one, other) in [(a, b), (Time::ZERO, Time::NEVER), (near, Time::from_nanos(1 << MICRO))] {
                let all = All {
                    times: [one, other],
                    more: (c, Some(d)),
                    small,
                    number,
                    below,
                    maybe: maybe.map(Box::new),
                    part,
                    yes,
                };
                let mut bytes = Vec::new();
                all.write(&mut Out::new(&mut bytes, Time::from_nanos(now)));
                prop_assert_eq!(All::read(&mut In::new(&bytes)), all);
            }
        }
    }
}
