//! Names that stand in a request's target: a model in a path, a key in a query. What splits a destination into
//! partitions must find one name however it is written, and two where there are two.
//!
//! A path is read as servers read it: percent-encoding of a segment undone once, empty segments and `.` left out, `..`
//! takes the segment before it away, a backslash is a slash. `%2F` is a part of its segment, as RFC 3986 has it.
//! Everything here is total, in time that is linear in the text and memory that is not of it.

use std::{borrow::Cow, fmt, str::FromStr};

/// Segments of a pattern at most. No setting: no API has half as many before a name.
pub const MAX_SEGMENTS: usize = 16;
/// Bytes of the name of what a pattern finds.
const MAX_NAME: usize = 32;

/// Where in a path a name stands: `/openai/deployments/{deployment}`, `/*/models/{model}:*`.
///
/// Segments are matched from the first on, and more may follow. `*` is any one segment; others stand for themselves,
/// letters in either case. `{model}` is what is found; with `:*` behind it only what stands before its last colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    parts: Box<[Part]>,
    name: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Any,
    Name { verb: bool },
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It does not begin with a slash.
    #[error("a path begins with a slash, as in /openai/deployments/{{deployment}}")]
    NoSlash,
    /// A segment that no path has.
    #[error("it has a segment that is empty, `.` or `..`, which no path has once it is read")]
    NoSegment,
    /// Longer than [`MAX_SEGMENTS`].
    #[error("it has more than {MAX_SEGMENTS} segments")]
    TooLong,
    /// Something else than one name.
    #[error("it has {0} names; write the one that splits in braces, as in /openai/deployments/{{deployment}}")]
    Names(usize),
    /// A name that is none.
    #[error("`{{{0}}}` is no name: 1 to {MAX_NAME} of a-z, 0-9, - and _")]
    Name(String),
    /// Characters that mean something else.
    #[error(
        "`{0}` is no segment: it is a text, `*` for any one, or a {{name}}, with :* behind it where a verb follows; \
             percent-encoding, queries and fragments have no place in it"
    )]
    Segment(String),
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (mut parts, mut names) = (Vec::new(), Vec::new());
        for segment in text.strip_prefix('/').ok_or(PatternError::NoSlash)?.split('/') {
            if parts.len() == MAX_SEGMENTS {
                return Err(PatternError::TooLong);
            }
            let bare = segment.strip_suffix(":*").unwrap_or(segment);
            let name = bare.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            parts.push(match (segment, name) {
                ("" | "." | "..", _) => return Err(PatternError::NoSegment),
                ("*", _) => Part::Any,
                (_, Some(name)) => {
                    names.push(named(name)?);
                    Part::Name { verb: bare.len() < segment.len() }
                }
                (literal, None) if literal.contains(|c: char| c.is_control() || "*{}%?#\\".contains(c)) => {
                    return Err(PatternError::Segment(literal.to_owned()));
                }
                (literal, None) => Part::Literal(literal.into()),
            });
        }
        let count = names.len();
        match names.pop() {
            Some(name) if count == 1 => Ok(Self { parts: parts.into(), name: name.into() }),
            _ => Err(PatternError::Names(count)),
        }
    }
}

fn named(name: &str) -> Result<&str, PatternError> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    match (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits) {
        true => Ok(name),
        false => Err(PatternError::Name(name.to_owned())),
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Literal(text) => write!(f, "/{text}"),
            Part::Any => f.write_str("/*"),
            Part::Name { verb } => write!(f, "/{{{}}}{}", self.name, if *verb { ":*" } else { "" }),
        })
    }
}

impl PathPattern {
    /// What it calls what it finds.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name in a path, its percent-encoding undone; nothing where the path is another, or the name is empty.
    pub fn find<'p>(&self, path: &'p str) -> Option<Cow<'p, [u8]>> {
        let mut kept: [&[u8]; MAX_SEGMENTS] = [&[]; MAX_SEGMENTS];
        let mut depth = 0usize;
        for segment in path.as_bytes().split(|byte| matches!(byte, b'/' | b'\\')) {
            match dots(segment) {
                Some(0 | 1) => {}
                Some(_) => depth = depth.saturating_sub(1),
                None => {
                    if let Some(place) = kept.get_mut(depth) {
                        *place = segment;
                    }
                    depth += 1;
                }
            }
        }
        if depth < self.parts.len() {
            return None;
        }
        let mut found = None;
        for (part, segment) in self.parts.iter().zip(kept) {
            match part {
                Part::Any => {}
                Part::Literal(text) => {
                    let same = Decoded(segment).map(|byte| byte.to_ascii_lowercase());
                    if !same.eq(text.bytes().map(|byte| byte.to_ascii_lowercase())) {
                        return None;
                    }
                }
                Part::Name { verb } => found = Some((decoded(segment, false), *verb)),
            }
        }
        let (name, verb) = found?;
        let end = verb.then(|| name.iter().rposition(|byte| *byte == b':')).flatten();
        let name = match (end, name) {
            (None, name) => name,
            (Some(end), Cow::Borrowed(name)) => name.get(..end)?.into(),
            (Some(end), Cow::Owned(mut name)) => {
                name.truncate(end);
                name.into()
            }
        };
        (!name.is_empty()).then_some(name)
    }
}

/// The first value of a parameter of a query, as forms are written: percent-encoded, a `+` for a space. Nothing where
/// there is none, or it is empty.
pub fn parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    let (_, value) = query.split('&').find(|pair| is_parameter(pair, name))?.split_once('=')?;
    (!value.is_empty()).then(|| decoded(value.as_bytes(), true))
}

/// Whether a pair of a query is this parameter.
pub fn is_parameter(pair: &str, name: &str) -> bool {
    let key = pair.split('=').next().unwrap_or_default();
    *decoded(key.as_bytes(), true) == *name.as_bytes()
}

/// How many dots a segment consists of; nothing where it is something else, or more than two.
fn dots(segment: &[u8]) -> Option<usize> {
    let mut count = 0;
    for byte in Decoded(segment) {
        if byte != b'.' || count == 2 {
            return None;
        }
        count += 1;
    }
    Some(count)
}

fn decoded(text: &[u8], form: bool) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| *byte == b'%' || (form && *byte == b'+')) {
        return text.into();
    }
    let (mut rest, mut whole) = (Decoded(text), Vec::with_capacity(text.len()));
    while let Some(first) = rest.0.first() {
        let space = form && *first == b'+';
        whole.extend(rest.next().map(|byte| if space { b' ' } else { byte }));
    }
    whole.into()
}

/// Bytes with percent-encoding undone; what is no such encoding stays.
struct Decoded<'a>(&'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        if let [b'%', high, low, rest @ ..] = self.0
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            self.0 = rest;
            return Some(high << 4 | low);
        }
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(pattern: &str, path: &str) -> Option<String> {
        let pattern: PathPattern = pattern.parse().unwrap();
        pattern.find(path).map(|name| String::from_utf8_lossy(&name).into_owned())
    }

    #[test]
    fn a_name_is_found_however_it_is_written() {
        let gemini = "/*/models/{model}:*";
        let azure = "/openai/deployments/{deployment}";
        for (pattern, path, name) in [
            (gemini, "/v1beta/models/gemini-pro:generateContent", Some("gemini-pro")),
            (gemini, "/v1/models/gemini-pro:streamGenerateContent", Some("gemini-pro")),
            (gemini, "/v1beta/models/gemini-pro", Some("gemini-pro")),
            (gemini, "/v1beta/models/gemini%2Dpro%3AgenerateContent", Some("gemini-pro")),
            (gemini, "/v1beta/models/a:b:generateContent", Some("a:b")),
            (gemini, "//v1beta//models/gemini-pro:countTokens", Some("gemini-pro")),
            (gemini, "/v1beta/./models/%2e/gemini-pro:countTokens", Some("gemini-pro")),
            (gemini, "/v1beta/models/other:x/../gemini-pro:countTokens", Some("gemini-pro")),
            (gemini, "/v1beta/models/other:x/%2e%2E/gemini-pro:countTokens", Some("gemini-pro")),
            (gemini, "/../../v1beta/models/gemini-pro:x", Some("gemini-pro")),
            (gemini, "/v1beta\\models\\gemini-pro:x", Some("gemini-pro")),
            (gemini, "/v1beta/MODELS/gemini-pro:x", Some("gemini-pro")),
            (gemini, "/v1beta/models/:generateContent", None),
            (gemini, "/v1beta/models/", None),
            (gemini, "/v1beta/models/gemini-pro/..", None),
            (gemini, "/v1beta/tunedModels/gemini-pro:x", None),
            (gemini, "/models/gemini-pro:x", None),
            (gemini, "", None),
            (azure, "/openai/deployments/gpt-4o/chat/completions", Some("gpt-4o")),
            (azure, "/OpenAI/Deployments/gpt-4o/chat/completions", Some("gpt-4o")),
            (azure, "/openai/deployments/Gpt-4o/chat/completions", Some("Gpt-4o")),
            (azure, "/openai/deployments/a/chat/../../b/chat", Some("b")),
            (azure, "/openai/deployments/a%2Fb/chat", Some("a/b")),
            (azure, "/openai/deployments/a%252Fb/chat", Some("a%2Fb")),
            (azure, "/openai/deployments/100%/chat", Some("100%")),
            (azure, "/openai/deployments/a:b/chat", Some("a:b")),
            (azure, "/openai/v1/chat/completions", None),
            ("/a/{b}/c", "/a/x/c/d", Some("x")),
            ("/a/{b}/c", "/a/x/d", None),
        ] {
            assert_eq!(found(pattern, path).as_deref(), name, "{pattern} in {path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_told_what_is_wrong_with_it() {
        for (text, says) in [
            ("models/{model}", "begins with a slash"),
            ("/models", "it has 0 names"),
            ("/{a}/{b}", "it has 2 names"),
            ("/models//{model}", "is empty"),
            ("/models/{model}/", "is empty"),
            ("/../{model}", "`.` or `..`"),
            ("/models/{}", "`{}` is no name"),
            ("/models/{Model}", "`{Model}` is no name"),
            ("/models/{model}:generate", "`{model}:generate` is no segment"),
            ("/m*/{model}", "`m*` is no segment"),
            ("/m%41/{model}", "percent-encoding"),
            ("/m/{model}?x", "`{model}?x` is no segment"),
            ("/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/{model}", "more than 16 segments"),
        ] {
            let error = text.parse::<PathPattern>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        for text in ["/*/models/{model}:*", "/openai/deployments/{deployment}/chat", "/ä/{a_b-1}"] {
            assert_eq!(text.parse::<PathPattern>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_parameter_is_found_however_it_is_written() {
        for (query, value) in [
            ("key=AIza", Some("AIza")),
            ("alt=sse&key=AIza&key=other", Some("AIza")),
            ("%6Bey=%41Iza", Some("AIza")),
            ("key=a+b%2B", Some("a b+")),
            ("key=a=b", Some("a=b")),
            ("KEY=AIza", None),
            ("key=", None),
            ("key", None),
            ("monkey=AIza", None),
            ("", None),
        ] {
            let found = parameter(query, "key").map(|value| String::from_utf8_lossy(&value).into_owned());
            assert_eq!(found.as_deref(), value, "{query}");
        }
    }

    /// A segment in which these bytes are percent-encoded, in either case.
    fn encoded(name: &[u8], choices: &[u8]) -> String {
        let choices = choices.iter().copied().chain(std::iter::repeat(0));
        name.iter().zip(choices).fold(String::new(), |text, (byte, choice)| match (choice % 3, byte) {
            (0, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~') => {
                text + &char::from(*byte).to_string()
            }
            (1, _) => format!("{text}%{byte:02x}"),
            _ => format!("{text}%{byte:02X}"),
        })
    }

    proptest! {
        #[test]
        fn no_path_and_no_pattern_makes_it_panic(
            path: String,
            near in "(/|//|\\.|%2e|%2F|%|:|\\\\|models|v1|[a-z]{1,3}|é){0,40}",
            pattern in "(/|\\*|\\{|\\}|[a-z]{1,3}|:\\*){0,12}",
        ) {
            let fixed: PathPattern = "/*/models/{model}:*".parse().unwrap();
            for pattern in [Some(fixed), pattern.parse().ok()].into_iter().flatten() {
                for path in [&path, &near] {
                    let found = pattern.find(path);
                    prop_assert!(found.is_none_or(|name| !name.is_empty() && name.len() <= path.len()));
                }
            }
            parameter(&path, "key");
            parameter(&near, "models");
        }

        #[test]
        fn a_name_stays_itself_however_it_is_written_and_no_other_becomes_it(
            name in prop::collection::vec(any::<u8>(), 1..12),
            choices: Vec<u8>,
            before in prop::sample::select(vec!["/", "//", "/./", "/x/../", "/%2e/", "/x/y/../%2E./", "\\"]),
            after in prop::sample::select(vec!["", "/", "/chat", "//chat/..", "/./"]),
        ) {
            prop_assume!(!matches!(&name[..], b"." | b".."));
            let azure: PathPattern = "/openai/deployments/{deployment}".parse().unwrap();
            let path = format!("/openai{before}deployments{before}{}{after}", encoded(&name, &choices));
            let found = azure.find(&path);
            prop_assert_eq!(found.as_deref(), Some(&name[..]), "{}", path);
            let gemini: PathPattern = "/*/models/{model}:*".parse().unwrap();
            let path = format!("/v1{before}models{before}{}:generate", encoded(&name, &choices));
            let found = gemini.find(&path);
            prop_assert_eq!(found.as_deref(), Some(&name[..]), "{}", path);
        }
    }
}
