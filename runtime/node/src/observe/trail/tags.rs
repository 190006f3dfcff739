//! `tidegate-tag`: words by which a program finds its trails again, such as the thread of an agent.
//!
//! Said by whoever sends a request, to a function, to `/to`, or from inside a guest. It ends at the gate.

use http::{HeaderMap, HeaderName};

/// The header. Several tags stand in several lines, or in one with commas between.
pub const TAG: HeaderName = HeaderName::from_static("tidegate-tag");
/// Tags of one trail (no setting: whoever needs more needs a log). Further ones are not kept.
pub(super) const MOST: usize = 8;
/// Bytes of one; a longer one is not kept.
const LONGEST: usize = 128;

/// The tags that a request states, as far as they are ones that can be kept.
pub(crate) fn of_headers(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(TAG).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|tag| !tag.is_empty() && tag.len() <= LONGEST)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn tags_stand_in_lines_or_between_commas_and_hostile_ones_are_left_out() {
        let mut headers = HeaderMap::new();
        for line in ["thread-42", " a , b,,", "\u{e9}", &"x".repeat(129), "long enough"] {
            headers.append(TAG, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        assert_eq!(of_headers(&headers).collect::<Vec<_>>(), ["thread-42", "a", "b", "long enough"]);
    }
}
