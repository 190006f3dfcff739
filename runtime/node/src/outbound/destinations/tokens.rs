//! What a call costs in tokens, estimated from its body before it leaves.

use serde_json::Value;

/// Characters that are a token, about, in the tokenisers of today.
const CHARACTERS: usize = 4;
/// A text of at least this length without a space is no text but a file: an image is counted by its size on no bill.
const FILE: usize = 512;
/// Fields that say how many tokens the answer may have.
const ASKED: [&str; 4] = ["max_completion_tokens", "max_output_tokens", "max_tokens", "max_tokens_to_sample"];

/// An estimate for a JSON body: its texts, or what it asks for, whichever is more; nothing for any other body.
pub(super) fn estimate(body: &[u8]) -> u64 {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return 0 };
    let asked = ASKED.iter().find_map(|name| body.get(name)?.as_u64()).unwrap_or(0);
    let said = texts(&body).div_ceil(CHARACTERS);
    asked.max(u64::try_from(said).unwrap_or(u64::MAX))
}

/// Characters of all texts below a value. As deep as JSON is read, which is bounded.
fn texts(value: &Value) -> usize {
    match value {
        Value::String(text) if text.len() >= FILE && !text.contains(' ') && text.is_ascii() => 0,
        Value::String(text) => text.chars().count(),
        Value::Array(values) => values.iter().map(texts).sum(),
        Value::Object(members) => members.values().map(texts).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_call_costs_its_texts_or_what_it_asks_for() {
        let image = format!("data:image/png;base64,{}", "iVBORw0K".repeat(10_000));
        for (body, tokens) in [
            (r#"{"messages": [{"content": "sixteen letters."}]}"#.to_owned(), 4),
            (r#"{"messages": [{"content": "sixteen letters."}], "max_tokens": 100}"#.to_owned(), 100),
            (r#"{"input": "sixteen letters.", "max_output_tokens": 3}"#.to_owned(), 4),
            (format!(r#"{{"input": ["sixteen letters.", "{image}"]}}"#), 4),
            (r#"{"input": "a b"}"#.to_owned(), 1),
            (r#"{"max_tokens": -1}"#.to_owned(), 0),
            ("no JSON".to_owned(), 0),
            (String::new(), 0),
        ] {
            assert_eq!(estimate(body.as_bytes()), tokens, "{body:.80}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(bytes: Vec<u8>, near in r#"\{"(max_tokens|input)": ?[\[{"0-9a-z]{0,9}[\]}"]{0,4}"#) {
            estimate(&bytes);
            estimate(near.as_bytes());
        }
    }
}
