//! State at rest: a million destinations of which nothing is asked hold what they learned in as few bytes as it takes.
//!
//! Each field is written in the width of its type, one after another: nothing is packed, nothing is looped over, and where
//! a field stands is known when this is compiled. Only counts come in three widths, by the largest of a group, since most
//! are small for ever. What may be there or not stands behind all that is always there. So the lengths of states are few,
//! and a state that changes seldom changes its length.
//!
//! Times are written as what has passed since, or has to pass until then, in nanoseconds to 24 bits, rounded to the nearest
//! of these: a time is read as another by a sixteen-millionth of what has passed at most, and never as before one that was
//! before it. A pace keeps as many digits.
//!
//! A state is written when its destination comes to rest and read by the next call; nothing else sees it, so there are
//! no versions, and nothing to check. It is read over another one, whose allocations it takes.

#[cfg(test)]
mod tests;

use crate::time::{Micros, Time};

/// What any state begins with: when it was written.
const HEAD: usize = size_of::<u64>();

/// Where a state is written, and when.
#[derive(Debug)]
pub(crate) struct Out<'a> {
    /// Of the part that is always there, and of what follows all such, what was not written yet.
    part: &'a mut [u8],
    more: &'a mut [u8],
    now: Time,
}

/// What was written, and when.
#[derive(Debug)]
pub(crate) struct In<'a> {
    part: &'a [u8],
    more: &'a [u8],
    now: Time,
}

/// How many bytes a state takes.
#[inline(always)]
pub(crate) fn length<T: Rest>(state: &T) -> usize {
    HEAD + T::SIZE + state.more()
}

/// Writes a state to as many bytes as it takes; times are written as what passed until `now`.
#[inline]
pub(crate) fn write<T: Rest>(state: &T, now: Time, to: &mut [u8]) {
    if let Some((part, more)) = to.split_at_mut_checked(HEAD + T::SIZE) {
        let now = Time::from_nanos(now.as_nanos().min(LAST as u64));
        let mut out = Out { part, more, now };
        out.put(now.as_nanos().to_le_bytes());
        state.write(&mut out);
    }
}

/// Reads what was written, or the beginning of it, over `state`.
#[inline]
pub(crate) fn read<T: Rest>(from: &[u8], state: &mut T) {
    if let Some((part, more)) = from.split_at_checked(HEAD + T::SIZE) {
        let mut from = In { part, more, now: Time::ZERO };
        from.now = Time::from_nanos(u64::from_le_bytes(from.get()));
        state.read(&mut from);
    }
}

impl Out<'_> {
    /// The part is as long as its type says, so this never runs short, and the compiler knows.
    #[inline(always)]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        if let Some((place, rest)) = std::mem::take(&mut self.part).split_first_chunk_mut() {
            *place = bytes;
            self.part = rest;
        }
    }

    /// Writes one that may be there or not, and is.
    #[inline(always)]
    pub(crate) fn one<T: Rest>(&mut self, one: &T) {
        if let Some((part, more)) = std::mem::take(&mut self.more).split_at_mut_checked(T::SIZE) {
            let mut out = Out { part, more, now: self.now };
            one.write(&mut out);
            self.more = out.more;
        }
    }
}

impl In<'_> {
    #[inline(always)]
    fn get<const N: usize>(&mut self) -> [u8; N] {
        let Some((bytes, rest)) = self.part.split_first_chunk() else { return [0; N] };
        self.part = rest;
        *bytes
    }

    #[inline(always)]
    pub(crate) fn one<T: Rest>(&mut self, one: &mut T) {
        if let Some((part, more)) = self.more.split_at_checked(T::SIZE) {
            let mut from = In { part, more, now: self.now };
            one.read(&mut from);
            self.more = from.more;
        }
    }
}

/// A part of a state at rest.
pub(crate) trait Rest {
    /// Bytes that are there whatever its value is.
    const SIZE: usize;
    /// Bytes behind these.
    #[inline(always)]
    fn more(&self) -> usize {
        0
    }
    fn write(&self, out: &mut Out<'_>);
    /// Becomes what was written, whatever it was before.
    fn read(&mut self, from: &mut In<'_>);
}

/// How long a field is, for the lists below.
pub(crate) const fn size<S, T: Rest>(_: fn(&S) -> &T) -> usize {
    T::SIZE
}

/// Writes and reads the fields of a struct: `counts` in one width, `flags`, eight at most, as bits of one byte. The others
/// are at rest only with these values; those `beside` are no part of what rests.
macro_rules! at_rest {
    (
        $of:ident { $($field:ident),* $(,)? }
        $(counts { $($count:ident),* $(,)? })?
        $(flags { $($flag:ident),* $(,)? })?
        $(else { $($other:ident: $value:expr),* $(,)? })?
        $(beside { $($beside:ident),* $(,)? })?
    ) => {
        impl $crate::rest::Rest for $of {
            const SIZE: usize = 0 $(+ $crate::rest::size(|it: &$of| &it.$field))*
                $(+ { _ = [$(stringify!($count)),*]; 1 })?
                $(+ { _ = [$(stringify!($flag)),*]; 1 })?;
            #[inline(always)]
            fn more(&self) -> usize {
                0 $(+ $crate::rest::Rest::more(&self.$field))*
                    $(+ $crate::rest::Rest::more(&$crate::rest::Group([$(self.$count),*])))?
            }
            #[inline(always)]
            fn write(&self, out: &mut $crate::rest::Out<'_>) {
                $($crate::rest::Rest::write(&self.$field, out);)*
                $($crate::rest::Rest::write(&$crate::rest::Group([$(self.$count),*]), out);)?
                $($crate::rest::Rest::write(&[$(self.$flag),*].iter().rev().fold(0, |all, it| all << 1 | u8::from(*it)), out);)?
            }
            #[inline(always)]
            fn read(&mut self, from: &mut $crate::rest::In<'_>) {
                // All of them, or it does not compile.
                let $of { $($field,)* $($($count,)*)? $($($flag,)*)? $($($other,)*)? $($($beside: _,)*)? } = self;
                $($crate::rest::Rest::read($field, from);)*
                $(
                    let mut counts = $crate::rest::Group([$(*$count),*]);
                    $crate::rest::Rest::read(&mut counts, from);
                    [$(*$count),*] = counts.0;
                )?
                $(
                    let mut flags = 0u8;
                    $crate::rest::Rest::read(&mut flags, from);
                    $(*$flag = flags & 1 != 0; flags >>= 1;)*
                    _ = flags;
                )?
                $($(*$other = $value;)*)?
            }
        }
    };
}
pub(crate) use at_rest;

macro_rules! numbers {
    ($($of:ty),*) => { $(
        impl Rest for $of {
            const SIZE: usize = size_of::<$of>();
            #[inline(always)]
            fn write(&self, out: &mut Out<'_>) {
                out.put(self.to_le_bytes());
            }
            #[inline(always)]
            fn read(&mut self, from: &mut In<'_>) {
                *self = <$of>::from_le_bytes(from.get());
            }
        }
    )* };
}
numbers!(u8, u16, u32, u64, u128, i16, i32, f32);

/// What is written as something else.
macro_rules! written_as {
    ($($of:ty as $short:ty: |$self:ident| $to:expr, |$read:ident| $back:expr;)*) => { $(
        impl Rest for $of {
            const SIZE: usize = <$short>::SIZE;
            #[inline(always)]
            fn write(&$self, out: &mut Out<'_>) {
                <$short>::write(&$to, out);
            }
            #[inline(always)]
            fn read(&mut self, from: &mut In<'_>) {
                let mut $read = <$short>::default();
                $read.read(from);
                *self = $back;
            }
        }
    )* };
}
written_as! {
    bool as u8: |self| u8::from(*self), |it| it != 0;
    // To seven digits: what a pace is worth that was learned.
    f64 as f32: |self| *self as f32, |it| f64::from(it);
    Micros as u32: |self| self.word(), |it| Micros::from_word(it);
    // Up to 71 minutes.
    std::time::Duration as u32: |self| Micros::of(*self).word(), |it| Micros::from_word(it).get();
    // No pace is no number.
    Option<f64> as f32: |self| self.map_or(f32::NAN, |it| it as f32), |it| (!it.is_nan()).then_some(f64::from(it));
}

/// No time is later than this, in nanoseconds (146 years), but [`Time::NEVER`].
const LAST: i64 = i64::MAX / 2;

/// What passed from a time until `now`, in nanoseconds; less than nothing where that is before it. Since [`Time::ZERO`]
/// more than can be.
#[inline(always)]
fn passed(at: Time, now: Time) -> f32 {
    let (since, until) = (at.as_nanos().min(i64::MAX as u64) as i64, now.as_nanos() as i64);
    if at == Time::ZERO { f32::INFINITY } else { until.wrapping_sub(since) as f32 }
}

#[inline(always)]
fn before(passed: f32, now: Time) -> Time {
    let at = (now.as_nanos() as i64).wrapping_sub((passed as i64).max(-LAST)).max(0);
    if at >= LAST { Time::NEVER } else { Time::from_nanos(at as u64) }
}

impl Rest for Time {
    const SIZE: usize = size_of::<f32>();
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        passed(*self, out.now).write(out);
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        *self = before(f32::from_le_bytes(from.get()), from.now);
    }
}

/// No time is no number.
impl Rest for Option<Time> {
    const SIZE: usize = size_of::<f32>();
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        self.map_or(f32::NAN, |at| passed(at, out.now)).write(out);
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        let passed = f32::from_le_bytes(from.get());
        *self = (!passed.is_nan()).then(|| before(passed, from.now));
    }
}

impl<T: Rest + Default> Rest for Option<Box<T>> {
    const SIZE: usize = 1;
    #[inline(always)]
    fn more(&self) -> usize {
        self.as_ref().map_or(0, |some| T::SIZE + some.more())
    }
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        self.is_some().write(out);
        if let Some(some) = self {
            out.one::<T>(some);
        }
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        if from.get() == [0] {
            *self = None;
        } else {
            from.one::<T>(self.get_or_insert_default());
        }
    }
}

/// Counts, all in the width that the largest of them needs; nothing where all are zero. The largest number of all stands for
/// no bound, and is as narrow as a small one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group<const N: usize>(pub(crate) [u32; N]);

/// Bytes of a count that is small, and of any.
const NARROW: u8 = size_of::<u16>() as u8;
const WIDE: u8 = size_of::<u32>() as u8;

impl<const N: usize> Group<N> {
    #[inline(always)]
    fn width(&self) -> u8 {
        let (any, more) = self.0.iter().fold((0, 0), |(any, more), it| (any | it, more | it.wrapping_add(1)));
        match (any, more) {
            (0, _) => 0,
            (_, ..=0xffff) => NARROW,
            _ => WIDE,
        }
    }
}

impl<const N: usize> Rest for Group<N> {
    const SIZE: usize = 1;
    #[inline(always)]
    fn more(&self) -> usize {
        N * usize::from(self.width())
    }
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        let width = self.width();
        out.put([width]);
        let more = std::mem::take(&mut out.more);
        let Some((place, more)) = more.split_at_mut_checked(N * usize::from(width)) else { return };
        out.more = more;
        match width {
            0 => {}
            NARROW => {
                place.as_chunks_mut().0.iter_mut().zip(self.0).for_each(|(to, it)| *to = (it as u16).to_le_bytes())
            }
            _ => write_wide(&self.0, place),
        }
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        let [width] = from.get();
        let Some((place, more)) = from.more.split_at_checked(N * usize::from(width)) else { return };
        from.more = more;
        match width {
            0 => self.0 = [0; N],
            NARROW => self.0.iter_mut().zip(place.as_chunks().0).for_each(|(to, it)| {
                *to = u32::from(u16::from_le_bytes(*it).wrapping_add(1)).wrapping_sub(1);
            }),
            _ => read_wide(&mut self.0, place),
        }
    }
}

#[cold]
fn write_wide(counts: &[u32], to: &mut [u8]) {
    counts.iter().zip(to.as_chunks_mut().0).for_each(|(it, to)| *to = it.to_le_bytes());
}

#[cold]
fn read_wide(counts: &mut [u32], from: &[u8]) {
    counts.iter_mut().zip(from.as_chunks().0).for_each(|(it, from)| *it = u32::from_le_bytes(*from));
}

impl<T: Rest, U: Rest> Rest for (T, U) {
    const SIZE: usize = T::SIZE + U::SIZE;
    #[inline(always)]
    fn more(&self) -> usize {
        self.0.more() + self.1.more()
    }
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

/// What is read over stays where it is.
impl<T: Rest> Rest for &mut T {
    const SIZE: usize = T::SIZE;
    #[inline(always)]
    fn more(&self) -> usize {
        T::more(self)
    }
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
    const SIZE: usize = 2 * T::SIZE;
    #[inline(always)]
    fn more(&self) -> usize {
        self.iter().map(T::more).sum()
    }
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        self.iter().for_each(|one| one.write(out));
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        self.iter_mut().for_each(|one| one.read(from));
    }
}

/// As many as there are, up to 65535.
impl<T: Rest + Default> Rest for Box<[T]> {
    const SIZE: usize = u16::SIZE;
    #[inline(always)]
    fn more(&self) -> usize {
        self.iter().map(|one| T::SIZE + one.more()).sum()
    }
    #[inline(always)]
    fn write(&self, out: &mut Out<'_>) {
        (self.len() as u16).write(out);
        self.iter().for_each(|one| out.one(one));
    }
    #[inline(always)]
    fn read(&mut self, from: &mut In<'_>) {
        let length = u16::from_le_bytes(from.get());
        if self.len() != usize::from(length) {
            *self = (0..length).map(|_| T::default()).collect();
        }
        self.iter_mut().for_each(|one| from.one(one));
    }
}
