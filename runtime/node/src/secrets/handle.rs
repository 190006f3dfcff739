//! Handles: what a guest's environment holds in the place of a secret.
//!
//! A handle is derived from random bits of its version and the secret's name: the same on every node and after every
//! start, another for each version, and nobody can guess one. By itself it is worth nothing: the door looks only for the
//! handles of the version that sends.

use std::{fmt, ops::Range};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::ids::SecretName;

/// What each handle begins with, so that one is known for what it is where it turns up.
const PREFIX: &str = "tgs_";
/// Bytes behind the prefix; twice as many hexadecimal digits, which no encoding of URLs touches.
const BYTES: usize = 20;
const LENGTH: usize = PREFIX.len() + 2 * BYTES;

/// The random bits of a version that its handles are derived from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HandleSeed([u8; 32]);

impl HandleSeed {
    /// New ones.
    pub fn mint() -> Self {
        Self(rand::random())
    }
}

impl fmt::Debug for HandleSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandleSeed")
    }
}

impl From<HandleSeed> for String {
    fn from(seed: HandleSeed) -> Self {
        URL_SAFE_NO_PAD.encode(seed.0)
    }
}

impl TryFrom<String> for HandleSeed {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("a seed of handles is 32 bytes in Base64")
    }
}

/// The handles that a version was issued.
#[derive(Clone, Default)]
pub struct Handles(Vec<Handle>);

#[derive(Clone)]
struct Handle {
    name: SecretName,
    text: String,
}

impl Handles {
    /// Those of a version with these secrets; none where it has no seed.
    pub fn issue(seed: Option<&HandleSeed>, names: &[String]) -> Self {
        let Some(seed) = seed else { return Self::default() };
        let handle = |name: &String| {
            let hash = blake3::keyed_hash(&seed.0, name.as_bytes());
            let digits: String = hash.as_bytes().iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect();
            Handle { name: name.as_str().into(), text: format!("{PREFIX}{digits}") }
        };
        Self(names.iter().map(handle).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Variables of the guest's environment.
    pub fn variables(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|handle| (handle.name.to_string(), handle.text.clone()))
    }

    /// The first handle in a text: where it stands, and of which secret it is.
    pub(crate) fn find(&self, text: &[u8]) -> Option<(Range<usize>, &SecretName)> {
        let mut from = 0;
        while let Some(at) = position(text.get(from..)?, PREFIX.as_bytes()) {
            let start = from + at;
            let candidate = text.get(start..start + LENGTH)?;
            let is = |handle: &&Handle| bool::from(handle.text.as_bytes().ct_eq(candidate));
            if let Some(handle) = self.0.iter().find(is) {
                return Some((start..start + LENGTH, &handle.name));
            }
            from = start + 1;
        }
        None
    }
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|handle| &handle.name)).finish()
    }
}

/// Where a text holds another.
pub(crate) fn position(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut windows = text.windows(wanted.len().max(1));
    windows.position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handles(seed: u8) -> Handles {
        Handles::issue(Some(&HandleSeed([seed; 32])), &["A".to_owned(), "B".to_owned()])
    }

    fn of(handles: &Handles, name: &str) -> String {
        handles.variables().find(|(known, _)| known == name).unwrap().1
    }

    #[test]
    fn a_version_has_its_own_handles_and_the_same_ones_everywhere() {
        let (one, again, other) = (handles(1), handles(1), handles(2));
        assert_eq!(of(&one, "A"), of(&again, "A"));
        assert_ne!(of(&one, "A"), of(&one, "B"));
        assert_ne!(of(&one, "A"), of(&other, "A"));
        assert_eq!(of(&one, "A").len(), LENGTH);
        assert!(Handles::issue(None, &["A".to_owned()]).is_empty());
        assert_ne!(HandleSeed::mint(), HandleSeed::mint());
        let stored = serde_json::to_string(&HandleSeed([7; 32])).unwrap();
        assert_eq!(serde_json::from_str::<HandleSeed>(&stored).unwrap(), HandleSeed([7; 32]));
        assert!(serde_json::from_str::<HandleSeed>("\"AAAA\"").is_err());
        assert_eq!(format!("{one:?}"), r#"["A", "B"]"#);
    }

    #[test]
    fn only_whole_handles_of_its_own_are_found() {
        let (own, other) = (handles(1), handles(2));
        let (a, b, foreign) = (of(&own, "A"), of(&own, "B"), of(&other, "A"));
        let found = |text: &str| own.find(text.as_bytes()).map(|(at, name)| (at.start, name.to_string()));
        assert_eq!(found(&format!("Bearer {a}")), Some((7, "A".into())));
        assert_eq!(found(&format!("tgs_tgs_{b}{a}")), Some((8, "B".into())));
        assert_eq!(found(&format!("{foreign} {a}!")), Some((LENGTH + 1, "A".into())));
        for text in ["", "tgs_", &foreign, &a[..LENGTH - 1], &a.to_uppercase(), &a.replace("tgs_", "tgs%5F")] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
