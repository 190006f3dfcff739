//! Names and numbers that several concerns share, as types.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        // Equal names hash alike as text, so a map of names is asked with a `&str`.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name_type! {
    /// Who owns functions, destinations, secrets and tokens. Nothing is shared between tenants.
    TenantId
}
name_type! {
    /// The name of a function: 1 to 63 of `a-z0-9-`, beginning with a letter, as it is a host label too.
    FunctionName
}
name_type! {
    /// The name of a configured destination, same form as a function's.
    DestinationName
}
name_type! {
    /// A region code such as `iad`, or `local`.
    Region
}

impl TenantId {
    /// The tenant of a node that was told of no other.
    pub fn default_tenant() -> Self {
        Self::from("default")
    }
}

/// The sha-256 of a module, in lower-case hex where it is text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a sha-256 digest is 64 hex digits";
        if text.len() != 64 || !text.is_ascii() {
            return Err(WRONG);
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(index * 2..index * 2 + 2).ok_or(WRONG)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| WRONG)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A W3C trace id: 16 bytes, never all zero. It is also the id of the trail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(pub u128);

impl TraceId {
    /// A new random one.
    pub fn random() -> Self {
        // Never zero: W3C trace context forbids it.
        Self(rand::random::<u128>() | 1)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for TraceId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match u128::from_str_radix(text, 16) {
            Ok(id) if id != 0 && text.len() == 32 => Ok(Self(id)),
            _ => Err("a trace id is 32 hex digits, not all zero"),
        }
    }
}

/// The trace a request belongs to and the span that sent it, as in the `traceparent` header.
#[derive(Clone, Copy, Debug)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span of whoever sent the request; our own span's parent.
    pub parent: Option<u64>,
    /// Our span.
    pub span: u64,
    /// The sampled flag as it came.
    pub sampled: bool,
}

impl TraceContext {
    /// A trace that begins here.
    pub fn begin() -> Self {
        Self { trace: TraceId::random(), parent: None, span: rand::random::<u64>() | 1, sampled: true }
    }

    /// Continues what the request's `traceparent` says, or begins a trace where it is absent or malformed.
    pub fn from_headers(headers: &http::HeaderMap) -> Self {
        let parsed = headers.get("traceparent").and_then(|value| value.to_str().ok()).and_then(|text| {
            let mut parts = text.split('-');
            let version = parts.next().filter(|version| version.len() == 2 && *version != "ff")?;
            let trace = parts.next()?.parse().ok()?;
            let parent = parts.next().filter(|span| span.len() == 16)?;
            let parent = u64::from_str_radix(parent, 16).ok().filter(|span| *span != 0)?;
            let flags = u8::from_str_radix(parts.next().filter(|flags| flags.len() == 2)?, 16).ok()?;
            (version != "00" || parts.next().is_none()).then_some((trace, parent, flags & 1 == 1))
        });
        match parsed {
            Some((trace, parent, sampled)) => {
                Self { trace, parent: Some(parent), span: rand::random::<u64>() | 1, sampled }
            }
            None => Self::begin(),
        }
    }

    /// The `traceparent` to send onwards, naming our span as the parent.
    pub fn header(&self) -> http::HeaderValue {
        let text = format!("00-{}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled));
        http::HeaderValue::from_str(&text).unwrap_or_else(|_| http::HeaderValue::from_static(""))
    }

    /// The same trace with a span of its own below this one.
    pub fn child(&self) -> Self {
        Self { parent: Some(self.span), span: rand::random::<u64>() | 1, ..*self }
    }
}
