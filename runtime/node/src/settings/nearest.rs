//! The known name that a mistyped one was probably meant to be.

/// The known name nearest to `key` by edits of one letter, if it is near enough to be meant.
pub(crate) fn nearest<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &str| {
        let mut row: Vec<usize> = (0..=name.len()).collect();
        for (i, a) in key.bytes().enumerate() {
            let mut diagonal = i;
            let mut left = i + 1;
            for (cell, b) in row.iter_mut().skip(1).zip(name.bytes()) {
                let substituted = diagonal + usize::from(a != b);
                diagonal = *cell;
                left = substituted.min(left + 1).min(diagonal + 1);
                *cell = left;
            }
        }
        row.last().copied().unwrap_or(usize::MAX)
    };
    let best = known.into_iter().map(|name| (distance(name), name)).min()?;
    // Three edits turn any short name into any other.
    (best.0 <= 3 && best.0 < best.1.len().max(2)).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_mistyped_name_is_recognised_and_a_different_one_is_not() {
        let known = ["memory", "wall", "cpu", "outbound_calls"];
        for (key, meant) in [
            ("memroy", Some("memory")),
            ("outbound_call", Some("outbound_calls")),
            ("walls", Some("wall")),
            ("disk_quota", None),
        ] {
            assert_eq!(nearest(key, known), meant, "{key}");
        }
    }
}
