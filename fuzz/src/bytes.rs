//! Bytes read as choices, and as the head of a message.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Choices read one after the other; zeros when there are no more.
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// One of so many.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    pub(crate) fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// From a byte: nothing to a quarter of an hour, short ones more finely.
    pub(crate) fn time(&mut self) -> Duration {
        let byte = self.byte();
        let (steps, scale) = (u64::from(byte & 31), byte >> 5);
        Duration::from_micros(
            steps * [0, 100, 1_000, 10_000, 100_000, 1_000_000, 5_000_000, 30_000_000][usize::from(scale)],
        )
    }
}

/// A text split at its first blank line.
pub(crate) fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&bytes[..at], &bytes[at + 2..]),
        None => (bytes, &[]),
    }
}

/// Header lines, as far as they are ones.
pub(crate) fn lines(head: &[u8]) -> Vec<(HeaderName, HeaderValue)> {
    let line = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(line[..colon].trim_ascii()).ok()?;
        Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
    };
    head.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// The same as a map.
pub(crate) fn map(lines: &[(HeaderName, HeaderValue)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(name, value.clone());
    }
    map
}
