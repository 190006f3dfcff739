//! What came on a connection so far, as its socket, its timer, its requests' bodies and its watch know it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a connection's parts tell each other. All but the end of a body is written by its own task.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Bytes read from the socket.
    read: AtomicU64,
    /// The last eight of them.
    tail: AtomicU64,
    /// The body that is still to come, as [`Coming`] packs it; 0 where none is.
    coming: AtomicU64,
}

/// A request's body that has not come whole yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coming(u64);

/// Marks a body in chunks, whose end is seen only in the bytes themselves.
const CHUNKED: u64 = 1 << 63;
/// How every body in chunks ends: with an empty line, behind its last chunk or its trailers. A part of one may end so
/// too, with data that ends in a line; where that can't be told apart the client is taken to have sent all.
const EMPTY_LINE: u64 = u64::from_be_bytes(*b"\0\0\0\0\r\n\r\n");
const EMPTY_LINE_MASK: u64 = u64::MAX >> 32;

impl Coming {
    /// A body of which `left` bytes, or chunks of an unknown length, follow the first `read` bytes of a connection.
    /// Later bodies of a connection are never equal to earlier ones.
    fn after(read: u64, left: Option<u64>) -> Self {
        Self(match left {
            Some(left) => read.saturating_add(left).min(CHUNKED - 1),
            None => CHUNKED | read,
        })
    }

    /// Whether it has come whole, when nothing comes after `received` bytes of which these are the last.
    pub(super) fn is_whole(self, received: u64, tail: u64) -> bool {
        if self.0 & CHUNKED == 0 { received >= self.0 } else { tail & EMPTY_LINE_MASK == EMPTY_LINE }
    }
}

/// The last eight bytes of what ended with `tail` and goes on with `bytes`.
pub(super) fn tail_of(tail: u64, bytes: &[u8]) -> u64 {
    match bytes.last_chunk::<8>() {
        Some(last) => u64::from_be_bytes(*last),
        None => bytes.iter().fold(tail, |tail, byte| tail << 8 | u64::from(*byte)),
    }
}

impl Traffic {
    /// Bytes read from the socket so far.
    pub(super) fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// The last eight of them.
    pub(super) fn tail(&self) -> u64 {
        self.tail.load(Relaxed)
    }

    /// Only the connection's task reads from its socket: nothing is added to in between.
    pub(super) fn received(&self, bytes: &[u8]) {
        self.read.store(self.read() + bytes.len() as u64, Relaxed);
        self.tail.store(tail_of(self.tail(), bytes), Relaxed);
    }

    /// A body of which so many bytes, or an unknown number, are to come.
    pub(super) fn expect(&self, left: Option<u64>) -> Coming {
        let coming = Coming::after(self.read(), left);
        self.coming.store(coming.0, Relaxed);
        coming
    }

    /// It has come whole. Whoever learns that late does not speak for the body after it.
    pub(super) fn came(&self, body: Coming) {
        let _ = self.coming.compare_exchange(body.0, 0, Relaxed, Relaxed);
    }

    /// The body that is to come.
    pub(super) fn coming(&self) -> Option<Coming> {
        Some(self.coming.load(Relaxed)).filter(|packed| *packed != 0).map(Coming)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_whole_when_its_length_or_its_last_chunk_has_come() {
        for (read, left, received, end, whole) in [
            (100, Some(10), 110, &b""[..], true),
            (100, Some(10), 109, b"", false),
            (100, Some(10), 500, b"", true),
            (0, Some(u64::MAX), 1 << 40, b"", false),
            (100, None, 115, b"5\r\nhello\r\n0\r\n\r\n", true),
            (100, None, 115, b"5\r\nhello\r\n", false),
            (100, None, 115, b"5\r\nhello\r\n0\r\n", false),
            (100, None, 115, b"5\r\nhello\r\n0;signed=yes\r\n\r\n", true),
            (100, None, 115, b"5\r\nhello\r\n0 ; a=\"b\"\r\n\r\n", true),
            (100, None, 115, b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n", true),
            (100, None, 115, b"5\r\nhello\r\n0;a\r\nx-sum: 1\r\nx-other:\r\n\r\n", true),
            (100, None, 115, b"5\r\nhello\r\n0\r\nx-sum: 1\r\n", false),
            (100, None, 115, b"5\r\nhello\r\n0\r\nx-sum: 1", false),
            (100, None, 115, b"5\r\nhel", false),
            // In doubt it is whole.
            (100, None, 115, b"a\r\nhello0\r\n\r\n", true),
            (100, None, 100, b"", false),
        ] {
            let coming = Coming::after(read, left);
            assert_eq!(coming.is_whole(received, tail_of(0, end)), whole, "{left:?} {received} {end:?}");
        }
    }

    #[test]
    fn the_tail_is_the_same_in_whatever_pieces_it_came() {
        let bytes = b"5\r\nhello\r\n0\r\n\r\n";
        for size in 1..=bytes.len() {
            let tail = bytes.chunks(size).fold(0, tail_of);
            assert!(Coming::after(0, None).is_whole(0, tail), "in pieces of {size}");
        }
    }

    #[test]
    fn the_end_of_an_earlier_body_says_nothing_about_a_later_one() {
        let traffic = Traffic::default();
        for left in [Some(10), None] {
            let earlier = traffic.expect(left);
            traffic.received(b"some bytes");
            let later = traffic.expect(left);
            traffic.came(earlier);
            assert_eq!(traffic.coming(), Some(later));
            traffic.came(later);
            assert_eq!(traffic.coming(), None);
        }
    }
}
