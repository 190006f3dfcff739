//! What a call costs in tokens, estimated from its body before it leaves.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
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

/// Headers that vouch for the bytes of a body, or say that they are packed: it is left alone.
const SEALS: [HeaderName; 7] = [
    header::CONTENT_ENCODING,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("signature"),
    HeaderName::from_static("x-amz-content-sha256"),
];

/// What the body of a completion says about being streamed. `Some` also of a null: its sender said something.
#[derive(Deserialize)]
struct Streamed {
    #[serde(default, deserialize_with = "said")]
    stream: Option<Value>,
    #[serde(default, deserialize_with = "said")]
    stream_options: Option<IgnoredAny>,
    /// Azure's answers about one's own data refuse the question.
    #[serde(default, deserialize_with = "said")]
    data_sources: Option<IgnoredAny>,
}

fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// The body of a streamed completion that does not say whether it wants its usage, saying that it does. All else of it
/// stays byte for byte.
pub(super) fn with_usage(headers: &HeaderMap, body: &[u8]) -> Option<Bytes> {
    // A signature of AWS covers the body, too.
    let signed = headers.get(header::AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS4-"));
    if signed || SEALS.iter().any(|seal| headers.contains_key(seal)) {
        return None;
    }
    let request: Streamed = serde_json::from_slice(body).ok()?;
    if request.stream != Some(Value::Bool(true)) || request.stream_options.is_some() || request.data_sources.is_some() {
        return None;
    }
    let end = body.iter().rposition(|byte| *byte == b'}')?;
    let (head, tail) = body.split_at_checked(end)?;
    Some([head, br#","stream_options":{"include_usage":true}"#, tail].concat().into())
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

    #[test]
    fn the_usage_of_a_stream_is_asked_for_where_its_sender_does_not_say() {
        let none = HeaderMap::new();
        let asked =
            |body: &str| with_usage(&none, body.as_bytes()).map(|body| String::from_utf8(body.to_vec()).unwrap());
        let body = "{ \"stream\" : true, \"a\": {\"b\": \"}\"}\n}\n";
        let with = "{ \"stream\" : true, \"a\": {\"b\": \"}\"}\n,\"stream_options\":{\"include_usage\":true}}\n";
        assert_eq!(asked(body).as_deref(), Some(with));
        assert!(serde_json::from_str::<Value>(with).is_ok());
        for left in [
            r#"{"stream": false}"#,
            r#"{"stream": "true"}"#,
            "{}",
            r#"{"stream": true, "stream_options": null}"#,
            r#"{"stream": true, "stream_options": {"include_usage": false}}"#,
            r#"{"stream": true, "data_sources": []}"#,
            r#"{"stream": true, "stream": true}"#,
            r#"[{"stream": true}]"#,
            r#"{"stream": true"#,
            "",
        ] {
            assert_eq!(asked(left), None, "{left}");
        }
        for (name, value) in [
            ("content-digest", "sha-256=:x:"),
            ("content-encoding", "gzip"),
            ("authorization", "AWS4-HMAC-SHA256 Credential=x"),
        ] {
            let sealed = [(name.parse().unwrap(), value.parse().unwrap())].into_iter().collect();
            assert_eq!(with_usage(&sealed, body.as_bytes()), None, "{name}");
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
