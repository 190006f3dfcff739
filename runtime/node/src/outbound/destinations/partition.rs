//! What splits a destination into partitions, and how a partition is known and shown.

use std::{borrow::Cow, cell::OnceCell, fmt::Write, str::FromStr, sync::Arc};

use http::{HeaderMap, HeaderName, Uri};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tidegate_core::split::{PathPattern, parameter};

use super::Profile;

/// Bytes of a value that are shown. No setting: more tells nobody more, and two that begin alike have a mark.
const SHOWN: usize = 64;
/// Places that one splitter looks at, at most.
const PLACES: usize = 8;

/// One way to split: by the first of some places of a request that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Splitter {
    places: Box<[Place]>,
    /// Letters in either case are one.
    any_case: bool,
}

/// Where in a request a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A header.
    Header(HeaderName),
    /// A parameter of the query.
    Query(Box<str>),
    /// A name in the path.
    Path(PathPattern),
    /// A field of a JSON body, as an RFC 6901 pointer.
    Body(Box<str>),
}

impl FromStr for Splitter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('~').unwrap_or(text);
        // A bar that no place follows is a part of the one before it.
        let is_cut =
            |at: &usize| Place::KINDS.iter().any(|kind| rest.get(at + 1..).is_some_and(|rest| rest.starts_with(kind)));
        let cuts = rest.match_indices('|').map(|(at, _)| at).filter(is_cut);
        let (mut places, mut begin) = (Vec::new(), 0);
        for end in cuts.chain([rest.len()]) {
            places.push(rest.get(begin..end).unwrap_or_default().parse()?);
            begin = end + 1;
        }
        match places.len() {
            0..=PLACES => Ok(Self { places: places.into(), any_case: rest.len() < text.len() }),
            count => Err(format!("{count} places in one are too many, at most {PLACES}")),
        }
    }
}

impl Place {
    const KINDS: [&str; 4] = ["header:", "query:", "path:", "body:"];
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("`{text}` splits nothing: {why}");
        match text.split_once(':') {
            Some(("header", name)) => {
                name.parse().map(Self::Header).map_err(|_| wrong("it names no header, as header:authorization does"))
            }
            Some(("query", name)) if !name.is_empty() => Ok(Self::Query(name.into())),
            Some(("query", _)) => Err(wrong("it names no parameter, as query:key does")),
            Some(("path", pattern)) => pattern.parse().map(Self::Path).map_err(|why| wrong(&format!("{why}"))),
            Some(("body", pointer)) if pointer.starts_with('/') => Ok(Self::Body(pointer.into())),
            Some(("body", _)) => Err(wrong("a pointer into a body begins with a slash, as in body:/model")),
            _ => Err(wrong(
                "write \"header:authorization\", \"query:key\", \"path:/openai/deployments/{deployment}\" or \
                 \"body:/model\", with | between those of which the first that says something counts",
            )),
        }
    }
}

impl Splitter {
    /// The headers that it looks at.
    pub(super) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.places.iter().filter_map(|place| match place {
            Place::Header(name) => Some(name),
            Place::Query(_) | Place::Path(_) | Place::Body(_) => None,
        })
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

/// A request as far as splitting looks at it.
#[derive(Clone, Copy)]
pub(crate) struct Split<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) uri: &'a Uri,
    pub(crate) body: SplitBody<'a>,
}

/// What a place of a request says.
enum Said<'a> {
    Value(Cow<'a, [u8]>),
    /// Nothing that could be read: the body is larger than what is kept.
    Large,
}

impl Place {
    /// What stands there, but for bodies.
    fn beside_body<'r>(&self, headers: &'r HeaderMap, uri: &'r Uri) -> Option<Cow<'r, [u8]>> {
        match self {
            Self::Header(name) => headers.get(name).map(|value| value.as_bytes().into()),
            Self::Query(name) => parameter(uri.query()?, name),
            Self::Path(pattern) => pattern.find(uri.path()),
            Self::Body(_) => None,
        }
    }

    fn said<'r>(&self, request: Split<'r>, json: &'r OnceCell<Value>) -> Option<Said<'r>> {
        let Self::Body(pointer) = self else {
            return self.beside_body(request.headers, request.uri).map(Said::Value);
        };
        let bytes = match request.body {
            SplitBody::Empty => return None,
            SplitBody::Large => return Some(Said::Large),
            SplitBody::Whole(bytes) => bytes,
        };
        let value = json.get_or_init(|| serde_json::from_slice(bytes).unwrap_or_default()).pointer(pointer)?;
        Some(Said::Value(match value {
            Value::String(text) => Cow::Borrowed(text.as_bytes()),
            other => Cow::Owned(other.to_string().into_bytes()),
        }))
    }

    /// Writes what stands there to be shown. Writing to a String can't fail.
    fn show(&self, label: &mut String, said: Option<&Said<'_>>) {
        let _ = match self {
            Self::Header(name) => write!(label, "{name}="),
            Self::Query(name) => write!(label, "?{name}="),
            Self::Path(pattern) => write!(label, "{}=", pattern.name()),
            Self::Body(pointer) => write!(label, "{pointer}="),
        };
        let _ = match (self, said) {
            (_, None) => label.write_str("none"),
            (_, Some(Said::Large)) => label.write_str("large"),
            (Self::Header(_) | Self::Query(_), Some(Said::Value(value))) => write!(label, "#{:08x}", mark(value)),
            (_, Some(Said::Value(value))) => shown(label, value),
        };
    }
}

/// In the place of a length: there is no value.
const NO_VALUE: u64 = u64::MAX;
/// Likewise: it is not known.
const UNKNOWN: u64 = u64::MAX - 1;

/// The partition of a request.
pub(super) fn partition(base: u128, split_by: &[Splitter], request: Split<'_>) -> Partition {
    if split_by.is_empty() {
        return Partition { key: base, label: None };
    }
    let mut hash = Sha256::new();
    hash.update(base.to_le_bytes());
    let mut label = String::new();
    let json = OnceCell::new();
    for splitter in split_by {
        if !label.is_empty() {
            label.push_str(", ");
        }
        let mut each = splitter.places.iter().map(|place| (place, place.said(request, &json)));
        let (place, mut said) = match each.find(|(_, said)| said.is_some()) {
            Some((place, said)) => (Some(place), said),
            None => (splitter.places.first(), None),
        };
        if let Some(Said::Value(value)) = &mut said
            && splitter.any_case
            && value.iter().any(u8::is_ascii_uppercase)
        {
            value.to_mut().make_ascii_lowercase();
        }
        match &said {
            Some(Said::Value(value)) => hash_part(&mut hash, value),
            Some(Said::Large) => hash.update(UNKNOWN.to_le_bytes()),
            None => hash.update(NO_VALUE.to_le_bytes()),
        }
        if let Some(place) = place {
            place.show(&mut label, said.as_ref());
        }
    }
    Partition { key: finish(hash), label: Some(label.into()) }
}

/// What tells values apart that are not shown.
fn mark(value: &[u8]) -> u32 {
    let mut hash = Sha256::new();
    hash_part(&mut hash, value);
    finish(hash) as u32
}

/// Writes as much of a value as people may want to see. What is not all of it has a mark, so that no two look alike.
fn shown(label: &mut String, value: &[u8]) -> std::fmt::Result {
    let head = value.get(..SHOWN).unwrap_or(value);
    let text = String::from_utf8_lossy(head);
    let shown = text.trim_end_matches(char::REPLACEMENT_CHARACTER).chars().filter(|c| !c.is_control());
    let begin = label.len();
    label.extend(shown);
    match label.get(begin..).is_some_and(|shown| shown.as_bytes() == value) {
        true => Ok(()),
        false => write!(label, "#{:08x}", mark(value)),
    }
}

/// Whether the body decides.
pub(super) fn needs_body(split_by: &[Splitter], headers: &HeaderMap, uri: &Uri) -> bool {
    split_by.iter().any(|splitter| {
        let mut places = splitter.places.iter();
        let first = places.find(|place| matches!(place, Place::Body(_)) || place.beside_body(headers, uri).is_some());
        matches!(first, Some(Place::Body(_)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Headers = &'static [(&'static str, &'static str)];

    fn at(split_by: &[&str], uri: &str, headers: Headers, body: SplitBody<'_>) -> Partition {
        let split_by: Vec<_> = split_by.iter().map(|text| text.parse().unwrap()).collect();
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect();
        partition(7, &split_by, Split { headers: &headers, uri: &uri.parse().unwrap(), body })
    }

    fn of(split_by: &[&str], headers: Headers, body: SplitBody<'_>) -> Partition {
        at(split_by, "https://a/", headers, body)
    }

    fn profile(name: &str) -> &'static [&'static str] {
        Profile::named(name).unwrap().split_by
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
    fn a_model_of_gemini_is_a_partition_wherever_it_stands_and_so_is_a_key() {
        let split = profile("gemini");
        let of = |uri: &str, headers: Headers, body: &'static [u8]| {
            at(split, &format!("https://a{uri}"), headers, SplitBody::Whole(body))
        };
        let pro = of("/v1beta/models/gemini-pro:generateContent?key=AIza-SECRET", &[], b"{}");
        for (same, uri, headers, body) in [
            (
                true,
                "/v1beta/models/gemini-pro:streamGenerateContent?alt=sse&key=AIza-SECRET",
                &[] as Headers,
                &b"{}"[..],
            ),
            (true, "/v1/models/gemini%2dpro%3AcountTokens?k%65y=AIza%2DSECRET", &[], b"{}"),
            (true, "//v1beta/x/../models//gemini-pro:generateContent?key=AIza-SECRET", &[], b"{}"),
            (true, "/v1beta/models/gemini-pro:generateContent", &[("x-goog-api-key", "AIza-SECRET")], b"{}"),
            (true, "/v1beta/openai/chat/completions?key=AIza-SECRET", &[], br#"{"model": "gemini-pro"}"#),
            (false, "/v1beta/models/gemini-flash:generateContent?key=AIza-SECRET", &[], b"{}"),
            (false, "/v1beta/models/gemini-pro:generateContent?key=AIza-OTHER", &[], b"{}"),
            (false, "/v1beta/models/gemini-pro:generateContent", &[], b"{}"),
            (false, "/v1beta/files?key=AIza-SECRET", &[], b"{}"),
        ] {
            let other = of(uri, headers, body);
            assert_eq!(other.key == pro.key, same, "{uri}");
            assert!(!other.label.unwrap().contains("AIza"), "{uri}");
        }
        let label = pro.label.unwrap();
        assert!(label.starts_with("?key=#") && label.ends_with("authorization=none, model=gemini-pro"), "{label}");
    }

    #[test]
    fn a_deployment_of_azure_is_a_partition_whatever_the_body_says() {
        let of = |uri: &str, body| at(profile("azure-openai"), &format!("https://a{uri}"), &[], body);
        let four = of("/openai/deployments/gpt-4o/chat/completions", SplitBody::Whole(br#"{"model": "x"}"#));
        for (same, uri, body) in [
            (true, "/openai/deployments/gpt-4o/embeddings", SplitBody::Large),
            (true, "/OpenAI/deployments/GPT-4o/embeddings", SplitBody::Empty),
            (true, "/openai/v1/responses", SplitBody::Whole(&br#"{"model": "gpt-4o"}"#[..])),
            (false, "/openai/deployments/gpt-4o-mini/chat/completions", SplitBody::Empty),
            (false, "/openai/v1/responses", SplitBody::Empty),
        ] {
            assert_eq!(of(uri, body).key == four.key, same, "{uri}");
        }
        assert!(four.label.unwrap().ends_with("deployment=gpt-4o"));
    }

    #[test]
    fn a_body_is_waited_for_only_where_nothing_before_it_says_what_it_would() {
        let split_by = |texts: &[&str]| -> Vec<Splitter> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        for (split, uri, needs) in [
            (profile("azure-openai"), "https://a/openai/deployments/d/chat/completions", false),
            (profile("azure-openai"), "https://a/openai/v1/chat/completions", true),
            (profile("gemini"), "https://a/v1beta/models/m:generateContent", false),
            (profile("openai"), "https://a/openai/deployments/d/chat/completions", true),
            (profile("stripe"), "https://a/v1/charges", false),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(needs_body(&split_by(split), &HeaderMap::new(), &uri), needs, "{uri}");
        }
    }

    #[test]
    fn what_is_not_there_is_a_partition_of_its_own() {
        let split = ["body:/model"];
        let of = |body: SplitBody<'_>| of(&split, &[], body);
        let whole = |text: &'static str| of(SplitBody::Whole(text.as_bytes()));
        for (partition, label) in [
            (of(SplitBody::Large), "/model=large"),
            (of(SplitBody::Empty), "/model=none"),
            (whole("not json"), "/model=none"),
            (whole(r#"{"model": {"a": 1}}"#), r#"/model={"a":1}"#),
        ] {
            assert_eq!(partition.label.as_deref(), Some(label));
        }
        assert_ne!(of(SplitBody::Empty).key, whole(r#"{"model": "none"}"#).key);
        assert_ne!(of(SplitBody::Large).key, whole(r#"{"model": "large"}"#).key);
        assert_ne!(of(SplitBody::Empty).key, whole(r#"{"model": ""}"#).key);
        assert_eq!(super::tests::of(&[], &[], SplitBody::Large).key, 7);
    }

    #[test]
    fn what_is_not_shown_whole_has_a_mark() {
        let long = |end: char| format!("{}{end}", "m".repeat(SHOWN));
        let label = |model: &str| {
            let body = serde_json::json!({"model": model}).to_string();
            of(&["body:/model"], &[], SplitBody::Whole(body.as_bytes())).label.unwrap()
        };
        assert_ne!(label(&long('a')), label(&long('b')));
        assert!(label(&long('a')).len() < SHOWN + 24);
        assert_ne!(label("a\nb"), label("ab"));
        assert_eq!(&*label("a, b é"), "/model=a, b é");
        assert!(!label(&"é".repeat(SHOWN)).contains(char::REPLACEMENT_CHARACTER));
    }

    #[test]
    fn a_splitter_that_is_none_is_told_what_is_wrong_with_it() {
        for (text, says) in [
            ("cookie", "write \"header:authorization\", \"query:key\""),
            ("header:a b", "it names no header"),
            ("query:", "it names no parameter"),
            ("body:model", "begins with a slash"),
            ("path:/a/b", "it has 0 names"),
            ("header:a|path:b", "`path:b` splits nothing: a path begins with a slash"),
            (&["query:a"; 9].join("|"), "9 places in one are too many, at most 8"),
        ] {
            let error = text.parse::<Splitter>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        let bar: Splitter = "body:/a|b|header:c".parse().unwrap();
        assert_eq!(*bar.places, [Place::Body("/a|b".into()), Place::Header("c".parse().unwrap())]);
    }

    #[test]
    fn keys_are_the_same_on_every_node() {
        // Golden: nodes of different releases must agree who owns a destination.
        assert_eq!(format!("{:032x}", hash_key("default", "https://api.openai.com")), GOLDEN);
        assert_ne!(hash_key("a", "bc"), hash_key("ab", "c"));
    }

    const GOLDEN: &str = "2c76658738976a730d0e0edbe45d2c4b";
}
