//! What splits a destination into partitions, and how a partition is known and shown.

use std::{fmt::Write, str::FromStr, sync::Arc};

use http::{HeaderMap, HeaderName};
use sha2::{Digest as _, Sha256};

use super::Profile;

/// Longest value of a body field that is shown and told apart, bytes.
const SHOWN: usize = 64;

/// One way to split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Splitter {
    /// By the value of a header.
    Header(HeaderName),
    /// By a field of a JSON body, as an RFC 6901 pointer.
    Body(Box<str>),
}

impl FromStr for Splitter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` splits nothing: write \"header:authorization\" or \"body:/model\"");
        match text.split_once(':') {
            Some(("header", name)) => name.parse().map(Self::Header).map_err(|_| wrong()),
            Some(("body", pointer)) if pointer.starts_with('/') => Ok(Self::Body(pointer.into())),
            _ => Err(wrong()),
        }
    }
}

/// What splits a destination of a profile that does not say.
pub(super) fn of_profile(profile: &Profile) -> Vec<Splitter> {
    profile.split_by.iter().filter_map(|text| text.parse().ok()).collect()
}

/// A partition of a destination.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    /// What the actor is known by on every node.
    pub(crate) key: u128,
    /// How it is shown to people; nothing where the destination is not split. Holds no secret: of a header's value only
    /// a hash.
    pub(crate) label: Option<Arc<str>>,
}

/// The key of a destination that is not split.
pub(crate) fn hash_key(tenant: &str, destination: &str) -> u128 {
    let mut hash = Sha256::new();
    hash_part(&mut hash, tenant.as_bytes());
    hash_part(&mut hash, destination.as_bytes());
    finish(hash)
}

/// Length first, so that no two lists of parts run together.
fn hash_part(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_le_bytes());
    hash.update(part);
}

fn finish(hash: Sha256) -> u128 {
    let bytes: [u8; 32] = hash.finalize().into();
    bytes.iter().take(16).fold(0, |key, byte| key << 8 | u128::from(*byte))
}

/// The body as far as splitting needs it.
#[derive(Clone, Copy)]
pub(crate) enum SplitBody<'a> {
    /// None at all.
    Empty,
    /// Whole.
    Whole(&'a [u8]),
    /// Larger than what is kept.
    Large,
}

/// The partition of a request.
pub(super) fn partition(base: u128, split_by: &[Splitter], headers: &HeaderMap, body: SplitBody<'_>) -> Partition {
    if split_by.is_empty() {
        return Partition { key: base, label: None };
    }
    let mut hash = Sha256::new();
    hash.update(base.to_le_bytes());
    let mut label = String::new();
    let mut json = None;
    for splitter in split_by {
        if !label.is_empty() {
            label.push_str(", ");
        }
        // Writing to a String can't fail.
        match splitter {
            Splitter::Header(name) => match headers.get(name) {
                Some(value) => {
                    hash_part(&mut hash, value.as_bytes());
                    let mut shown = Sha256::new();
                    hash_part(&mut shown, value.as_bytes());
                    let _ = write!(label, "{name}=#{:08x}", finish(shown) as u32);
                }
                None => {
                    hash_part(&mut hash, &[]);
                    let _ = write!(label, "{name}=none");
                }
            },
            Splitter::Body(pointer) => {
                let value = match body {
                    SplitBody::Large => Some("large".to_owned()),
                    SplitBody::Empty => None,
                    SplitBody::Whole(bytes) => json
                        .get_or_insert_with(|| serde_json::from_slice(bytes).unwrap_or(serde_json::Value::Null))
                        .pointer(pointer)
                        .map(shown),
                };
                let value = value.as_deref().unwrap_or("none");
                hash_part(&mut hash, value.as_bytes());
                let _ = write!(label, "{pointer}={value}");
            }
        }
    }
    Partition { key: finish(hash), label: Some(label.into()) }
}

fn shown(value: &serde_json::Value) -> String {
    let mut text = match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.len() > SHOWN {
        let end = (0..=SHOWN).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text.retain(|c| !c.is_control());
    text
}

/// Whether the body decides.
pub(super) fn needs_body(split_by: &[Splitter]) -> bool {
    split_by.iter().any(|splitter| matches!(splitter, Splitter::Body(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(split_by: &[&str], headers: &[(&'static str, &'static str)], body: SplitBody<'_>) -> Partition {
        let split_by: Vec<_> = split_by.iter().map(|text| text.parse().unwrap()).collect();
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect();
        partition(7, &split_by, &headers, body)
    }

    #[test]
    fn each_credential_and_model_is_a_partition_and_no_secret_is_shown() {
        let split = ["header:authorization", "body:/model"];
        let a = of(&split, &[("authorization", "Bearer secret-a")], SplitBody::Whole(br#"{"model": "m1"}"#));
        let b = of(&split, &[("authorization", "Bearer secret-b")], SplitBody::Whole(br#"{"model": "m1"}"#));
        let c = of(&split, &[("authorization", "Bearer secret-a")], SplitBody::Whole(br#"{"model": "m2"}"#));
        let a2 = of(&split, &[("authorization", "Bearer secret-a")], SplitBody::Whole(br#"{"x": 1, "model": "m1"}"#));
        assert!(a.key != b.key && a.key != c.key && b.key != c.key);
        assert_eq!(a.key, a2.key);
        let label = a.label.unwrap();
        assert!(label.ends_with(", /model=m1") && !label.contains("secret"), "{label}");
    }

    #[test]
    fn what_is_not_there_is_a_partition_too() {
        let split = ["body:/model"];
        let large = of(&split, &[], SplitBody::Large);
        assert_eq!(large.label.as_deref(), Some("/model=large"));
        assert_eq!(of(&split, &[], SplitBody::Empty).label.as_deref(), Some("/model=none"));
        assert_eq!(of(&split, &[], SplitBody::Whole(b"not json")).label.as_deref(), Some("/model=none"));
        assert_eq!(
            of(&split, &[], SplitBody::Whole(br#"{"model": {"a": 1}}"#)).label.as_deref(),
            Some(r#"/model={"a":1}"#)
        );
        assert_eq!(of(&[], &[], SplitBody::Large).key, 7);
    }

    #[test]
    fn keys_are_the_same_on_every_node() {
        // Golden: nodes of different releases must agree who owns a destination.
        assert_eq!(format!("{:032x}", hash_key("default", "https://api.openai.com")), GOLDEN);
        assert_ne!(hash_key("a", "bc"), hash_key("ab", "c"));
    }

    const GOLDEN: &str = "2c76658738976a730d0e0edbe45d2c4b";
}
