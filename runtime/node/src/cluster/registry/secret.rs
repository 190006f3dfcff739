//! Secrets as the registry keeps them: whom each may serve, and its value, sealed.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderName, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::{ConfigError, validate_name};
use crate::{
    ids::{DestinationName, FunctionName, SecretName, TenantId},
    secrets::{KeyError, Keyring, Sealed, SecretValue, Unopened},
    settings::nearest,
};

/// Where in a request a secret may stand: `header:NAME` or `query:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Place {
    /// Anywhere in the value of this header.
    Header(HeaderName),
    /// The whole value of this parameter of the query.
    Query(String),
}

impl Place {
    /// Those of a secret that names none: the headers in which well-known APIs take their keys. In others a value might
    /// come back: upstreams repeat ids of requests, origins and languages in their answers.
    pub fn usual() -> Vec<Self> {
        CREDENTIALS.iter().cloned().map(Self::Header).collect()
    }
}

/// Headers in which well-known APIs take their keys.
pub(crate) static CREDENTIALS: [HeaderName; 4] = [
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// Headers that are of the connection or the gate's own.
static OURS: [HeaderName; 11] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("cdn-loop"),
];

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
        }
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no place: write header:NAME or query:NAME, such as header:x-api-key");
        match text.split_once(':') {
            Some(("header", name)) => match name.parse::<HeaderName>() {
                Ok(name) if OURS.contains(&name) || name.as_str().starts_with("tidegate-") => {
                    Err(format!("the header `{name}` is the gate's or the connection's own"))
                }
                Ok(name) => Ok(Self::Header(name)),
                Err(_) => Err(wrong()),
            },
            // Compared as it stands in the query, so nothing that could be written in two ways.
            Some(("query", name)) if !name.is_empty() && name.bytes().all(is_unreserved) => {
                Ok(Self::Query(name.into()))
            }
            _ => Err(wrong()),
        }
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whom a secret may serve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretBinding {
    /// Functions that may have a handle of it.
    pub functions: BTreeSet<FunctionName>,
    /// Destinations it may go to, each with what it stood for when the secret was bound to it: whoever changes a
    /// destination must not lead the secret elsewhere.
    pub destinations: BTreeMap<DestinationName, String>,
    /// Where in a request it may stand, of a function or as a destination puts it there.
    pub places: Vec<Place>,
}

/// A secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRecord {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name.
    pub name: SecretName,
    /// Whom it may serve.
    pub binding: SecretBinding,
    /// The revision of the record that this one took the place of; 0 where there was none.
    pub follows: u64,
    /// Its value, which opens only in this record: name, binding and `follows` are sealed with it.
    sealed: Sealed,
    /// When the value was set, milliseconds since 1970.
    pub set_ms: u64,
    /// The registry's revision of its last change; the entity tag. The state assigns it.
    pub revision: u64,
}

/// All of a secret that is not its value.
#[derive(Clone, Debug)]
pub struct SecretHead {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name.
    pub name: SecretName,
    /// Whom it may serve.
    pub binding: SecretBinding,
    /// The revision of the record that it takes the place of; 0 where there is none.
    pub follows: u64,
    /// When the value was set, milliseconds since 1970.
    pub set_ms: u64,
}

impl SecretHead {
    /// The record with this value.
    ///
    /// # Errors
    /// When there is no key.
    pub fn seal(self, keys: &Keyring, value: &SecretValue) -> Result<SecretRecord, KeyError> {
        let Self { tenant, name, binding, follows, set_ms } = self;
        let sealed = keys.seal(value, &context(&tenant, &name, &binding, follows))?;
        Ok(SecretRecord { tenant, name, binding, follows, sealed, set_ms, revision: 0 })
    }
}

impl SecretRecord {
    /// The value.
    ///
    /// # Errors
    /// [`Unopened`].
    pub fn open(&self, keys: &Keyring) -> Result<SecretValue, Unopened> {
        keys.open(&self.sealed, &context(&self.tenant, &self.name, &self.binding, self.follows))
    }

    /// Whether its value is sealed with the key that would be taken now.
    pub fn is_sealed_with_first(&self, keys: &Keyring) -> bool {
        keys.is_first(&self.sealed)
    }

    /// The record as of this revision of the registry.
    pub(super) fn at(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// What follows it with the same value.
    pub fn next(&self, binding: SecretBinding) -> SecretHead {
        let (tenant, name, set_ms) = (self.tenant.clone(), self.name.clone(), self.set_ms);
        SecretHead { tenant, name, binding, follows: self.revision, set_ms }
    }
}

/// What is sealed with a value. As JSON no two of them are alike, whatever names hold.
fn context(tenant: &TenantId, name: &SecretName, binding: &SecretBinding, follows: u64) -> Vec<u8> {
    // Made of texts and numbers, which JSON always takes.
    serde_json::to_vec(&("secret", tenant, name, binding, follows)).unwrap_or_default()
}

/// What a person hands in. What is left out stays as it is.
#[derive(Debug, Default)]
pub struct SecretInput {
    /// The value.
    pub value: Option<SecretValue>,
    /// Functions that may have a handle of it.
    pub functions: Option<BTreeSet<FunctionName>>,
    /// Destinations it may go to, with what each must stand for where that is said.
    pub destinations: Option<BTreeMap<DestinationName, Option<String>>>,
    /// Where in a request it may stand.
    pub places: Option<Vec<Place>>,
}

const KEYS: &[&str] = &["value", "functions", "destinations", "in"];

/// Reads a secret as a person wrote it. No error shows anything of what could be its value.
///
/// # Errors
/// Names the key that is not known or malformed.
pub fn parse_secret(value: Value) -> Result<SecretInput, ConfigError> {
    let Value::Object(mut object) = value else { return wrong("secret", "must be an object") };
    if let Some(key) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
        // A key that is like none of ours might be the value itself, in the wrong place.
        return match nearest(key, KEYS.iter().copied()) {
            Some(meant) => wrong(meant, "is spelt differently"),
            None => wrong("secret", format!("holds a key that is not known; known are {}", KEYS.join(", "))),
        };
    }
    let value = match object.remove("value") {
        None => None,
        Some(Value::String(text)) => Some(SecretValue::set(text).or_else(|why| wrong("value", why))?),
        Some(_) => return wrong("value", "must be a text"),
    };
    let names = |key: &str, list: Option<Vec<String>>| {
        for (index, name) in list.iter().flatten().enumerate() {
            let wrong = |error: ConfigError| ConfigError { key: format!("{key}[{index}]"), why: error.why };
            validate_name(name).map_err(wrong)?;
        }
        Ok(list)
    };
    let functions = names("functions", texts(&mut object, "functions")?)?;
    let origins = match object.remove("destinations") {
        Some(Value::Object(origins)) => Some(origins.into_iter().collect::<Vec<_>>()),
        Some(list) => {
            object.insert("destinations".into(), list);
            let list = texts(&mut object, "destinations")?;
            list.map(|list| list.into_iter().map(|name| (name, Value::Null)).collect())
        }
        None => None,
    };
    names("destinations", origins.as_ref().map(|list| list.iter().map(|(name, _)| name.clone()).collect()))?;
    let destinations = origins.map(|list| {
        let origin = |(name, origin): (String, Value)| match origin {
            Value::Null => Ok((DestinationName::from(name), None)),
            Value::String(origin) => Ok((DestinationName::from(name), Some(origin))),
            _ => wrong("destinations", "holds names, each with what it must stand for, or with null"),
        };
        list.into_iter().map(origin).collect::<Result<_, _>>()
    });
    let mut places: Option<Vec<Place>> = None;
    if let Some(list) = texts(&mut object, "in")? {
        if list.is_empty() {
            return wrong("in", "names no place; leave it out for the usual headers");
        }
        let places = places.insert(Vec::new());
        for (index, text) in list.iter().enumerate() {
            let place = text.parse().or_else(|why: String| wrong(&format!("in[{index}]"), why))?;
            if !places.contains(&place) {
                places.push(place);
            }
        }
    }
    Ok(SecretInput {
        value,
        functions: functions.map(|list| list.into_iter().map(FunctionName::from).collect()),
        destinations: destinations.transpose()?,
        places,
    })
}

/// A list of texts.
fn texts(object: &mut Map<String, Value>, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
    let Some(value) = object.remove(key) else { return Ok(None) };
    serde_json::from_value(value).map(Some).or_else(|_| wrong(key, "must be a list of texts"))
}

fn wrong<T>(key: &str, why: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError { key: key.to_owned(), why: why.into() })
}

/// Checks the form of a secret's name: it is a variable's, too.
///
/// # Errors
/// When it is not 1 to 64 letters, digits and `_`, or begins with a digit.
pub fn validate_secret_name(name: &str) -> Result<(), ConfigError> {
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty() || name.len() > 64 || !fits || name.starts_with(|first: char| first.is_ascii_digit()) {
        let why = "a secret's name is that of a variable: 1 to 64 letters, digits and _, no digit first";
        return wrong("name", why);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::registry::{Change, Command, Rejection, State};

    fn keys() -> Keyring {
        Keyring::new(["a key of this test, 32 characters at least"]).unwrap()
    }

    fn head(name: &str, origin: &str, follows: u64) -> SecretHead {
        let binding = SecretBinding {
            functions: ["agent".into()].into(),
            destinations: [("openai".into(), origin.to_owned())].into(),
            places: Place::usual(),
        };
        SecretHead { tenant: "t".into(), name: name.into(), binding, follows, set_ms: 5 }
    }

    #[test]
    fn a_value_opens_only_in_its_own_record() {
        let (keys, value) = (keys(), SecretValue::new("sk-1".into()).unwrap());
        let record = head("A", "https://api.openai.com", 7).seal(&keys, &value).unwrap();
        assert_eq!(record.open(&keys), Ok(value.clone()));
        let stored: SecretRecord = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        assert_eq!(stored.open(&keys), Ok(value.clone()));
        for other in [
            head("B", "https://api.openai.com", 7),
            head("A", "https://evil.example", 7),
            head("A", "https://api.openai.com", 8),
            SecretHead { tenant: "u".into(), ..head("A", "https://api.openai.com", 7) },
        ] {
            let mut moved = other.seal(&keys, &value).unwrap();
            moved.sealed = record.sealed.clone();
            assert_eq!(moved.open(&keys), Err(Unopened::Damaged), "{moved:?}");
        }
        let mut wider = record.clone();
        wider.binding.functions.insert("other".into());
        assert_eq!(wider.open(&keys), Err(Unopened::Damaged));
    }

    #[test]
    fn a_secret_takes_the_place_of_what_its_value_was_sealed_to_follow_and_of_nothing_else() {
        let (keys, mut state) = (keys(), State::default());
        let put = |follows: u64, value: &str| {
            let value = SecretValue::new(value.into()).unwrap();
            Command::PutSecret { secret: head("A", "https://a.example", follows).seal(&keys, &value).unwrap() }
        };
        state.apply(put(0, "one")).unwrap();
        assert!(matches!(state.apply(put(0, "two")), Err(Rejection::Changed { is: 1, expected: 0, .. })));
        let applied = state.apply(put(1, "two")).unwrap();
        assert!(matches!(&applied.change, Some(Change::Secret { created: false, secret }) if secret.revision == 2));
        assert_eq!(state.secrets[&("t".into(), "A".into())].open(&keys).unwrap().reveal(), "two");
        let gone = |if_revision| Command::DeleteSecret { tenant: "t".into(), name: "A".into(), if_revision };
        assert!(matches!(state.apply(gone(Some(1))), Err(Rejection::Changed { .. })));
        state.apply(gone(None)).unwrap();
        assert!(state.secrets.is_empty());
        assert!(matches!(state.apply(gone(None)), Err(Rejection::NotFound { what: "secret", .. })));
    }

    #[test]
    fn what_a_person_writes_is_read_and_no_error_shows_what_could_be_the_value() {
        let input =
            parse_secret(json!({"value": "sk-12345", "functions": ["agent"], "destinations": ["openai", "openai"],
            "in": ["header:X-Key", "query:key", "header:x-key"]}))
            .unwrap();
        assert_eq!(input.value.unwrap().reveal(), "sk-12345");
        assert_eq!(input.destinations.unwrap().len(), 1);
        let places: Vec<_> = input.places.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(places, ["header:x-key", "query:key"]);
        let origins = parse_secret(json!({"destinations": {"a": "https://a.example", "b": null}})).unwrap();
        let expected = [("a".into(), Some("https://a.example".to_owned())), ("b".into(), None)];
        assert_eq!(origins.destinations, Some(expected.into()));
        let empty = parse_secret(json!({})).unwrap();
        assert!(empty.value.is_none() && empty.functions.is_none() && empty.places.is_none());
        for (input, key) in [
            (json!("SECRET"), "secret"),
            (json!(["SECRET"]), "secret"),
            (json!({"SECRET": 1}), "secret"),
            (json!({"valeu": "SECRET"}), "value"),
            (json!({"value": ["SECRET"]}), "value"),
            (json!({"value": {"x": "SECRET"}}), "value"),
            (json!({"value": "SECRET\n"}), "value"),
            (json!({"value": "SECRET"}), "value"),
            (json!({"functions": "SECRET"}), "functions"),
            (json!({"destinations": {"a": 1}}), "destinations"),
            (json!({"destinations": 1}), "destinations"),
            (json!({"functions": ["a b"]}), "functions[0]"),
            (json!({"in": []}), "in"),
            (json!({"in": ["header:x", "body:/key"]}), "in[1]"),
            (json!({"in": ["header:Host"]}), "in[0]"),
            (json!({"in": ["header:tidegate-token"]}), "in[0]"),
            (json!({"in": ["query:a=b"]}), "in[0]"),
        ] {
            let error = parse_secret(input.clone()).unwrap_err();
            assert_eq!(error.key, key, "{input}: {error}");
            assert!(!error.to_string().contains("SECRET"), "{input}: {error}");
        }
    }

    #[test]
    fn a_secrets_name_is_a_variables() {
        for fine in ["OPENAI_API_KEY", "a", "_1"] {
            validate_secret_name(fine).unwrap();
        }
        for wrong in ["", "1A", "A-B", "A B", "Ä", &"A".repeat(65)] {
            validate_secret_name(wrong).unwrap_err();
        }
    }
}
