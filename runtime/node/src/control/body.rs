//! Reads the bodies of control requests, bounded.

use std::fmt;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::problems::{bad_request, body_too_large, upload_idle};
use crate::{
    problem::Problem,
    settings::{ControlSettings, names},
};

/// The whole body, within the bounds in bytes and time for what is no module.
pub(super) async fn read(body: Body, settings: &ControlSettings) -> Result<Bytes, Problem> {
    let (limit, time) = (settings.max_control_body.get(), settings.upload_idle);
    let bound = usize::try_from(limit).unwrap_or(usize::MAX);
    let whole = Limited::new(body, bound).collect();
    let Ok(whole) = tokio::time::timeout(time.get(), whole).await else {
        let detail = format!("the body did not come whole within {time} (setting {})", names::UPLOAD_IDLE);
        return Err(upload_idle("time for the body of a control request", detail, time));
    };
    match whole {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(body_too_large(limit, names::MAX_CONTROL_BODY))
        }
        Err(error) => Err(bad_request(format!("the body ended early: {error}"))),
    }
}

/// The body as a JSON object; `None` where there is none.
pub(super) async fn json(body: Body, settings: &ControlSettings) -> Result<Option<Value>, Problem> {
    let bytes = read(body, settings).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    object(&bytes).map(Some).map_err(|why| bad_request(format!("the body {why}")))
}

/// The body as JSON, which there must be.
pub(super) async fn required_json(body: Body, settings: &ControlSettings) -> Result<Value, Problem> {
    json(body, settings).await?.ok_or_else(|| bad_request("a body is needed: JSON, see /openapi.json"))
}

/// Reads a JSON object, strictly: a key that is there twice would be read by halves.
///
/// # Errors
/// What is wrong, to be read behind what was read.
pub(super) fn object(bytes: &[u8]) -> Result<Value, String> {
    match serde_json::from_slice(bytes) {
        Ok(Strict(value)) if value.is_object() => Ok(value),
        Ok(_) => Err("is no JSON object".into()),
        Err(error) if error.is_data() => Err(format!("can't be read: {error}")),
        Err(error) => Err(format!("is not JSON: {error}")),
    }
}

/// A JSON value in which no key is there twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((key, Strict(value))) = map.next_entry::<String, Strict>()? {
            if values.contains_key(&key) {
                return Err(A::Error::custom(format!("`{key}` is there twice")));
            }
            values.insert(key, value);
        }
        Ok(values.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_as_it_stands_and_nothing_is_read_by_halves() {
        let text = br#"{"a": [1, -2, 2.5, null, true, "x"], "b": {"a": 18446744073709551615}}"#;
        assert_eq!(object(text).unwrap(), serde_json::from_slice::<Value>(text).unwrap());
        for (text, why) in [
            (r#"{"a": 1, "a": 1}"#, "`a` is there twice"),
            (r#"{"a": {"b": 1, "c": [{"b": 1, "b": 2}]}}"#, "`b` is there twice"),
            (r#"["label", []]"#, "is no JSON object"),
            ("{", "is not JSON"),
            ("1", "is no JSON object"),
        ] {
            let error = object(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
