//! The keys that values are sealed with. The first seals, all open: a new key is put in front, and the old one goes once
//! the node has started with both.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::SecretValue;
use crate::settings::names;

/// Shortest text of a key, characters: 32 random bytes in any usual writing are longer.
const SHORTEST: usize = 32;
/// What the key and its public id are derived for.
const SEALING: &str = "tidegate 2026-11 key that seals secrets";
const NAMING: &str = "tidegate 2026-11 public id of a key that seals secrets";

/// A sealed value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Public id of the key.
    key: String,
    /// Nonce, ciphertext and tag, Base64.
    data: String,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed with {}", self.key)
    }
}

/// Why the keys are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A key that could be guessed.
    #[error("a key has at least {SHORTEST} characters: take 32 random bytes, such as `openssl rand -base64 32` prints")]
    Short,
    /// No key at all.
    #[error("there is no key")]
    None,
}

/// Why a value can't be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// Its key is not here.
    #[error(
        "it was sealed with the key {0}, which this node does not have: name that key, too, in {setting} (TIDEGATE_SECRET_KEY), \
         or set the secret again",
        setting = names::SECRET_KEY
    )]
    OtherKey(String),
    /// It was changed since it was sealed, or is the value of something else.
    #[error("what is stored of it is damaged, or belongs to something else: set the secret again")]
    Damaged,
}

/// The keys of a node. By default there is none, and nothing can be sealed or opened.
#[derive(Default)]
pub struct Keyring(Vec<Key>);

struct Key {
    id: String,
    aead: LessSafeKey,
}

impl Key {
    fn new(text: &str) -> Result<Self, KeyError> {
        if text.len() < SHORTEST {
            return Err(KeyError::Short);
        }
        let id = blake3::derive_key(NAMING, text.as_bytes());
        let id = id.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let bytes = Zeroizing::new(blake3::derive_key(SEALING, text.as_bytes()));
        // Only another length would be refused.
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*bytes).map_err(|_| KeyError::None)?;
        Ok(Self { id, aead: LessSafeKey::new(key) })
    }
}

impl Keyring {
    /// The keys with these texts.
    ///
    /// # Errors
    /// When there is none, or one that is too short; the error does not show it.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, KeyError> {
        let keys: Vec<_> = texts.into_iter().map(|text| Key::new(text.trim())).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(KeyError::None) } else { Ok(Self(keys)) }
    }

    /// Seals a value with the first key, so that it opens only in the same context.
    ///
    /// # Errors
    /// When there is no key.
    pub fn seal(&self, value: &SecretValue, context: &[u8]) -> Result<Sealed, KeyError> {
        let key = self.0.first().ok_or(KeyError::None)?;
        // Random: a key would have to seal billions of values before two nonces met.
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut text = Zeroizing::new(value.reveal().as_bytes().to_vec());
        let (unique, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(context));
        // Only what is beyond 256 GiB would be refused.
        let tag = key.aead.seal_in_place_separate_tag(unique, aad, &mut text).map_err(|_| KeyError::None)?;
        let data = [&nonce[..], &text[..], tag.as_ref()].concat();
        Ok(Sealed { key: key.id.clone(), data: STANDARD.encode(data) })
    }

    /// Opens a value.
    ///
    /// # Errors
    /// [`Unopened`].
    pub fn open(&self, sealed: &Sealed, context: &[u8]) -> Result<SecretValue, Unopened> {
        let key = self.0.iter().find(|key| key.id == sealed.key);
        let key = key.ok_or_else(|| Unopened::OtherKey(sealed.key.clone()))?;
        let data = STANDARD.decode(&sealed.data).map_err(|_| Unopened::Damaged)?;
        let (nonce, text) = data.split_first_chunk::<NONCE_LEN>().ok_or(Unopened::Damaged)?;
        let mut text = Zeroizing::new(text.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.aead.open_in_place(nonce, Aad::from(context), &mut text).map_err(|_| Unopened::Damaged)?;
        let text = std::str::from_utf8(opened).map_err(|_| Unopened::Damaged)?;
        SecretValue::new(text.to_owned()).map_err(|_| Unopened::Damaged)
    }

    /// Whether it would be sealed with the same key again.
    pub fn is_first(&self, sealed: &Sealed) -> bool {
        self.0.first().is_some_and(|key| key.id == sealed.key)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "an old key of more than 32 characters";
    const NEW: &str = "a new key of more than 32 characters!";

    fn value() -> SecretValue {
        SecretValue::new("sk-live-0123456789".into()).unwrap()
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let (old, new, both) =
            (Keyring::new([OLD]).unwrap(), Keyring::new([NEW]).unwrap(), Keyring::new([NEW, OLD]).unwrap());
        let sealed = old.seal(&value(), b"here").unwrap();
        assert_eq!(both.open(&sealed, b"here"), Ok(value()));
        assert!(!both.is_first(&sealed));
        let again = both.seal(&value(), b"here").unwrap();
        assert!(both.is_first(&again));
        assert_eq!(new.open(&again, b"here"), Ok(value()));
        let why = new.open(&sealed, b"here").unwrap_err();
        assert!(matches!(why, Unopened::OtherKey(_)));
        assert!(why.to_string().contains("secret_key (TIDEGATE_SECRET_KEY)"), "{why}");
    }

    #[test]
    fn a_value_opens_only_where_it_was_sealed_for_and_only_whole() {
        let keys = Keyring::new([OLD]).unwrap();
        let sealed = keys.seal(&value(), b"here").unwrap();
        assert_ne!(sealed.data, keys.seal(&value(), b"here").unwrap().data, "the same value is never sealed alike");
        assert_eq!(keys.open(&sealed, b"there"), Err(Unopened::Damaged));
        let whole = STANDARD.decode(&sealed.data).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            let changed = Sealed { data: STANDARD.encode(changed), ..sealed.clone() };
            assert_eq!(keys.open(&changed, b"here"), Err(Unopened::Damaged), "byte {at}");
            let cut = Sealed { data: STANDARD.encode(&whole[..at]), ..sealed.clone() };
            assert_eq!(keys.open(&cut, b"here"), Err(Unopened::Damaged), "the first {at} bytes");
        }
    }

    #[test]
    fn a_short_key_is_none_and_no_text_shows_a_key_or_a_value() {
        assert_eq!(Keyring::new(["short-and-secret"]).err(), Some(KeyError::Short));
        assert_eq!(Keyring::new([OLD, "short-and-secret"]).err(), Some(KeyError::Short));
        assert_eq!(Keyring::new([]).err(), Some(KeyError::None));
        assert!(!KeyError::Short.to_string().contains("short-and-secret"));
        assert_eq!(Keyring::default().seal(&value(), b"here").err(), Some(KeyError::None));
        let keys = Keyring::new([OLD]).unwrap();
        let sealed = keys.seal(&value(), b"here").unwrap();
        let shown = format!("{keys:?} {sealed:?} {}", serde_json::to_string(&sealed).unwrap());
        assert!(!shown.contains("old key") && !shown.contains("sk-live"), "{shown}");
    }
}
