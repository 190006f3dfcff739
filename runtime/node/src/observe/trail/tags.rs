//! `tidegate-tag`: words by which a program finds its trails again, such as the thread of an agent.
//!
//! Said by whoever sends a request, to a function, to `/to`, or from inside a guest. It ends at the gate.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode;

/// The header. Several tags stand in several lines, or in one with commas between. What is not ASCII is UTF-8, as it is or
/// percent-encoded: not every client can write bytes.
pub const TAG: HeaderName = HeaderName::from_static("tidegate-tag");
/// Tags of one trail (no setting: whoever needs more needs a log). Further ones are not kept.
pub(crate) const MOST: usize = 8;
/// Bytes of one; a longer one is not kept.
pub(crate) const LONGEST: usize = 128;

/// The tags that a request states; nothing in the place of one that can't be kept.
pub(crate) fn of_headers(headers: &HeaderMap) -> impl Iterator<Item = Option<Cow<'_, str>>> {
    let lines = headers.get_all(TAG).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    lines.map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty()).map(kept)
}

/// A tag as it is kept. Commas stand between tags, and what is printed in tables must not break them.
fn kept(tag: &[u8]) -> Option<Cow<'_, str>> {
    let decoded = percent_decode(tag).decode_utf8().ok();
    let tag = decoded.or_else(|| std::str::from_utf8(tag).ok().map(Cow::Borrowed))?;
    let fits =
        !tag.is_empty() && tag.len() <= LONGEST && !tag.contains(|letter: char| letter == ',' || letter.is_control());
    fits.then_some(tag)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn tags_stand_in_lines_or_between_commas_and_hostile_ones_are_not_kept() {
        let (longest, too_long) = ("x".repeat(128), "x".repeat(129));
        for (line, tags) in [
            (&b"thread-42"[..], &[Some("thread-42")][..]),
            (b" a , b,,", &[Some("a"), Some("b")]),
            ("l\u{e9}a, \u{732b}".as_bytes(), &[Some("l\u{e9}a"), Some("\u{732b}")]),
            (b"l%C3%A9a, two%20words, 50%, a%zz", &[Some("l\u{e9}a"), Some("two words"), Some("50%"), Some("a%zz")]),
            (b"l\xe9a, next", &[None, Some("next")]),
            (b"a\tb, %0A, c%2Cd, %C2%85", &[None, None, None, None]),
            (longest.as_bytes(), &[Some(longest.as_str())]),
            (too_long.as_bytes(), &[None]),
            (b"", &[]),
        ] {
            let headers = [(TAG, HeaderValue::from_bytes(line).unwrap())].into_iter().collect();
            let stated: Vec<_> = of_headers(&headers).collect();
            assert_eq!(stated.iter().map(Option::as_deref).collect::<Vec<_>>(), tags, "{}", line.escape_ascii());
        }
    }
}
