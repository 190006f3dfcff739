//! What is known of the API behind a destination: its profile, and in the place of that what it says itself.

use http::{HeaderName, Method, Uri};
use serde_json::Value;
use tidegate_core::{Effective, Repeatable, signal::Finals, split::is_parameter};

use super::{
    compile::{error, read},
    profiles::Profile,
};
use crate::{
    cluster::registry::{ConfigError, DestinationConfig, Place},
    problem::Shape,
};

/// Entries of one list at most. No setting: no API has half as many.
const LISTED: usize = 64;
/// Bytes of one entry at most.
const ENTRY: usize = 128;

/// What calls to one destination follow because of what is behind it.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(super) profile: &'static Profile,
    repeatable: Option<Repeatable>,
    completions: Option<Box<[Box<str>]>>,
    final_statuses: Option<Box<[u16]>>,
    finals: Finals,
    shape: Option<Shape>,
    /// Where requests carry a key; known where the gate puts one in.
    pub(super) keys: Box<[Place]>,
    asks: Asks,
}

/// Which streams are asked for their usage.
#[derive(Clone, Debug)]
enum Asks {
    None,
    AsKnown,
    Of(Box<[Box<str>]>),
}

impl Api {
    /// As a profile has it.
    pub(super) fn of(profile: &'static Profile) -> Self {
        Self {
            profile,
            repeatable: None,
            completions: None,
            final_statuses: None,
            finals: Finals::known(profile.final_codes),
            shape: None,
            keys: Box::default(),
            asks: Asks::AsKnown,
        }
    }

    /// As a destination has it.
    ///
    /// # Errors
    /// The first key that is wrong, with what would be right.
    pub(super) fn compile(config: &DestinationConfig, profile: &'static Profile) -> Result<Self, ConfigError> {
        let mut api = Self::of(profile);
        let repeatable = config.repeatable.as_ref().map(|text| read("repeatable", Value::String(text.clone())));
        api.repeatable = repeatable.transpose()?;
        api.completions = config.completions.as_deref().map(|list| ends("completions", list)).transpose()?;
        if let Some(list) = &config.final_statuses {
            let status = |value: &Value| {
                let status = value.as_u64().and_then(|status| u16::try_from(status).ok());
                status
                    .filter(|status| (400..600).contains(status))
                    .ok_or("is the status of an error, a number from 400 to 599")
            };
            api.final_statuses = Some(each("final_statuses", list, status)?);
        }
        if let Some(list) = &config.final_codes {
            let fits = |code: &String| match code.chars().any(char::is_control) || !fits(code) {
                true => Err(format!(
                    "is a code or type of an error, or with a space a part of its message, 1 to {ENTRY} bytes"
                )),
                false => Ok(code.clone()),
            };
            let words: Box<[String]> = each("final_codes", list, fits)?;
            api.finals = Finals::own(words.iter().map(String::as_str));
        }
        if let Some(name) = &config.errors {
            let names = || Shape::ALL.map(Shape::name).join(", ");
            let unknown = || error("errors", format!("`{name}` is no shape of errors; there are {}", names()));
            api.shape = Some(Shape::named(name).ok_or_else(unknown)?);
        }
        let place = |text: &String| text.parse::<Place>();
        api.keys = match &config.keys {
            Some(list) => each("keys", list, place)?,
            None => profile.keys.iter().filter_map(|text| text.parse().ok()).collect(),
        };
        api.asks = match &config.ask_usage {
            None => Asks::AsKnown,
            Some(Value::Bool(false)) => Asks::None,
            Some(Value::Bool(true)) if profile.asks_usage.is_empty() => {
                let why = format!(
                    "the profile `{}` does not know which streams to ask: list the ends of their paths, such as \
                     \"/chat/completions\"",
                    profile.name
                );
                return Err(error("ask_usage", why));
            }
            Some(Value::Bool(true)) => Asks::AsKnown,
            Some(list) => Asks::Of(ends("ask_usage", &asked(list)?)?),
        };
        Ok(api)
    }

    /// Lays what is known over the node's defaults.
    pub(super) fn apply(&self, policy: &mut Effective) {
        self.profile.apply(policy);
    }

    fn is_completion(&self, method: &Method, path: &str) -> bool {
        *method == Method::POST
            && match &self.completions {
                Some(own) => ends_with_one(path, own),
                None => ends_with_one(path, self.profile.completions),
            }
    }

    /// Which requests may be sent twice.
    pub(super) fn repeatable(&self, method: &Method, path: &str) -> Repeatable {
        match self.repeatable {
            Some(own) => own,
            None if self.is_completion(method, path) => Repeatable::Always,
            None => self.profile.repeatable,
        }
    }

    /// The shape in which those who send such a request understand errors.
    pub(super) fn shape(&self, method: &Method, path: &str) -> Shape {
        let shape = self.shape.unwrap_or(self.profile.shape);
        if self.is_completion(method, path) { shape } else { Shape::Problem }
    }

    /// Whether no waiting changes an answer of this status.
    pub(super) fn is_final(&self, status: u16) -> bool {
        self.final_statuses.as_deref().unwrap_or(self.profile.final_statuses).contains(&status)
    }

    /// What in the body of an error no waiting changes.
    pub(super) fn finals(&self) -> &Finals {
        &self.finals
    }

    /// Whether a streamed answer to such a request says what it used only where it is asked.
    pub(super) fn asks(&self, method: &Method, uri: &Uri) -> bool {
        let known = match &self.asks {
            Asks::None => false,
            Asks::AsKnown => ends_with_one(uri.path(), self.profile.asks_usage),
            Asks::Of(own) => ends_with_one(uri.path(), own),
        };
        known && *method == Method::POST && self.profile.understands_question(uri)
    }

    /// Whether answers say how many tokens they used: what is asked for is read.
    pub(super) fn reads_usage(&self) -> bool {
        self.profile.reads_usage || matches!(self.asks, Asks::Of(_))
    }

    /// Where a key is put that the gate has: into the first place that carries one.
    pub(super) fn key_template(&self) -> String {
        match self.keys.first() {
            None => "authorization: Bearer {}".to_owned(),
            Some(Place::Header(name)) if *name == http::header::AUTHORIZATION => format!("{name}: Bearer {{}}"),
            Some(Place::Header(name)) => format!("{name}: {{}}"),
            Some(Place::Query(name)) => format!("?{name}={{}}"),
        }
    }

    /// Headers in which requests carry a key.
    pub(crate) fn key_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.keys.iter().filter_map(|place| match place {
            Place::Header(name) => Some(name),
            Place::Query(_) => None,
        })
    }

    /// A query without keys and without the parameter `also`.
    pub(crate) fn without_keys(&self, query: &str, also: Option<&str>) -> String {
        let is_key = |pair: &str| {
            let known = self.keys.iter().any(|place| matches!(place, Place::Query(name) if is_parameter(pair, name)));
            known || also.is_some_and(|name| is_parameter(pair, name))
        };
        query.split('&').filter(|pair| !pair.is_empty() && !is_key(pair)).collect::<Vec<_>>().join("&")
    }
}

fn ends_with_one(path: &str, ends: &[impl AsRef<str>]) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    ends.iter().any(|end| path.ends_with(end.as_ref()))
}

fn fits(text: &str) -> bool {
    (1..=ENTRY).contains(&text.len())
}

/// Checks each entry of a list, and how many there are.
fn each<T, U, E: ToString>(key: &str, list: &[T], check: impl Fn(&T) -> Result<U, E>) -> Result<Box<[U]>, ConfigError> {
    if list.len() > LISTED {
        return Err(error(key, format!("{} are too many, at most {LISTED}", list.len())));
    }
    let entries = list.iter().enumerate();
    entries.map(|(index, entry)| check(entry).map_err(|why| error(format!("{key}[{index}]"), why))).collect()
}

/// Ends of paths.
fn ends(key: &str, list: &[String]) -> Result<Box<[Box<str>]>, ConfigError> {
    each(key, list, |end| {
        match fits(end) && end.starts_with(['/', ':']) && end.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(end.as_str().into()),
            false => Err(format!(
                "`{end}` is no end of a path: it begins with a slash or a colon, as /chat/completions or :generateContent, \
             and has {ENTRY} bytes at most"
            )),
        }
    })
}

fn asked(list: &Value) -> Result<Vec<String>, ConfigError> {
    let texts = list.as_array().and_then(|list| list.iter().map(|end| end.as_str().map(str::to_owned)).collect());
    texts.ok_or_else(|| {
        error("ask_usage", "is true, false, or a list of ends of paths, such as [\"/chat/completions\"]")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn api(profile: &str, own: Value) -> Result<Api, String> {
        let mut config = own;
        config["match"] = json!("https://a");
        let config: DestinationConfig = serde_json::from_value(config).map_err(|error| error.to_string())?;
        Api::compile(&config, Profile::named(profile).unwrap()).map_err(|error| error.to_string())
    }

    fn known(profile: &str) -> Api {
        api(profile, json!({})).unwrap()
    }

    #[test]
    fn completions_may_be_repeated_and_nothing_else_that_is_not_idempotent() {
        for (profile, method, path, expected) in [
            ("openai", "POST", "/v1/chat/completions", Repeatable::Always),
            ("openai", "POST", "/openai/v1/responses/", Repeatable::Always),
            ("openai", "POST", "/v1/completions", Repeatable::Always),
            ("openai", "POST", "/v1/embeddings", Repeatable::Always),
            ("openai", "POST", "/v1/files", Repeatable::Keyed),
            ("openai", "POST", "/v1/responses/resp_1/cancel", Repeatable::Keyed),
            ("openai", "DELETE", "/v1/chat/completions", Repeatable::Keyed),
            ("openai", "POST", "/v1/messages", Repeatable::Keyed),
            ("azure-openai", "POST", "/openai/deployments/d/chat/completions", Repeatable::Always),
            ("anthropic", "POST", "/v1/messages", Repeatable::Always),
            ("anthropic", "POST", "/v1/messages/batches", Repeatable::Keyed),
            ("anthropic", "POST", "/v1/chat/completions", Repeatable::Always),
            ("openrouter", "POST", "/api/v1/chat/completions", Repeatable::Always),
            ("gemini", "POST", "/v1beta/models/g:streamGenerateContent", Repeatable::Always),
            ("gemini", "POST", "/v1beta/openai/chat/completions", Repeatable::Always),
            ("gemini", "POST", "/v1beta/cachedContents", Repeatable::Keyed),
            ("stripe", "POST", "/v1/payment_intents", Repeatable::Keyed),
            ("github", "POST", "/repos/a/b/issues", Repeatable::Never),
            ("generic", "POST", "/v1/chat/completions", Repeatable::Keyed),
        ] {
            assert_eq!(known(profile).repeatable(&method.parse().unwrap(), path), expected, "{method} {path}");
        }
    }

    #[test]
    fn keys_of_the_gate_go_where_the_service_takes_them() {
        for (profile, template) in [
            ("generic", "authorization: Bearer {}"),
            ("openai", "authorization: Bearer {}"),
            ("azure-openai", "api-key: {}"),
            ("anthropic", "x-api-key: {}"),
            ("gemini", "x-goog-api-key: {}"),
        ] {
            assert_eq!(known(profile).key_template(), template);
        }
        for (keys, template) in
            [(json!(["header:X-My-Key"]), "x-my-key: {}"), (json!(["query:key", "header:authorization"]), "?key={}")]
        {
            assert_eq!(api("openai", json!({"keys": keys})).unwrap().key_template(), template);
        }
    }

    #[test]
    fn what_a_destination_says_stands_in_the_place_of_what_its_profile_does() {
        let own = json!({"completions": [":ask"], "errors": "google", "final_statuses": [410], "repeatable": "never"});
        let own = api("anthropic", own).unwrap();
        assert_eq!(own.shape(&Method::POST, "/v1/x:ask"), Shape::Google);
        assert_eq!(own.shape(&Method::POST, "/v1/messages"), Shape::Problem);
        assert_eq!(own.repeatable(&Method::POST, "/v1/x:ask"), Repeatable::Never);
        assert!(own.is_final(410) && !own.is_final(402));
        assert!(known("anthropic").is_final(402));
        assert!(!api("anthropic", json!({"final_statuses": []})).unwrap().is_final(402));
        assert_eq!(
            api("generic", json!({"completions": ["/ask"]})).unwrap().repeatable(&Method::POST, "/ask"),
            Repeatable::Always
        );
    }

    #[test]
    fn streams_are_asked_where_the_service_understands_the_question() {
        let chat = "/v1/chat/completions";
        let azure = |rest: &str| format!("/openai/deployments/d/chat/completions{rest}");
        for (profile, own, uri, asks) in [
            ("openai", json!({}), chat.to_owned(), true),
            ("openai", json!({"ask_usage": false}), chat.to_owned(), false),
            ("openai", json!({}), "/v1/responses".to_owned(), false),
            ("openai", json!({"ask_usage": ["/ask"]}), chat.to_owned(), false),
            ("generic", json!({"ask_usage": ["/ask"]}), "/ask/".to_owned(), true),
            ("generic", json!({}), chat.to_owned(), false),
            ("openrouter", json!({}), chat.to_owned(), false),
            ("azure-openai", json!({}), azure("?api-version=2024-09-01-preview"), true),
            ("azure-openai", json!({}), azure("?x=1&api-version=2024-10-21"), true),
            ("azure-openai", json!({}), azure("?api-version=2024-08-01-preview"), false),
            ("azure-openai", json!({"ask_usage": true}), azure("?api-version=2023-05-15"), false),
            ("azure-openai", json!({}), azure("?api-version=latest"), false),
            ("azure-openai", json!({}), azure(""), false),
            ("azure-openai", json!({}), "/openai/v1/chat/completions".to_owned(), true),
            ("azure-openai", json!({}), "/openai/v1/chat/completions?api-version=preview".to_owned(), true),
        ] {
            let api = api(profile, own.clone()).unwrap();
            assert_eq!(api.asks(&Method::POST, &uri.parse().unwrap()), asks, "{profile} {own} {uri}");
            assert!(!api.asks(&Method::GET, &uri.parse().unwrap()));
        }
    }

    #[test]
    fn a_member_that_is_wrong_is_named_with_what_is_allowed() {
        let many: Vec<_> = (0..65).map(|_| "/a").collect();
        for (own, says) in [
            (
                json!({"final_statuses": [402, 200]}),
                "`final_statuses[1]`: is the status of an error, a number from 400 to 599",
            ),
            (json!({"final_statuses": ["402"]}), "`final_statuses[0]`: is the status"),
            (json!({"final_codes": [""]}), "`final_codes[0]`: is a code or type of an error"),
            (
                json!({"errors": "xml"}),
                "`errors`: `xml` is no shape of errors; there are problem, openai, anthropic, google",
            ),
            (json!({"keys": ["x-api-key"]}), "`keys[0]`: `x-api-key` is no place: write header:NAME or query:NAME"),
            (json!({"keys": ["header:host"]}), "`keys[0]`: the header `host` is the gate's"),
            (json!({"completions": ["completions"]}), "`completions[0]`: `completions` is no end of a path"),
            (json!({"completions": many}), "`completions`: 65 are too many, at most 64"),
            (json!({"ask_usage": "yes"}), "`ask_usage`: is true, false, or a list of ends of paths"),
            (json!({"ask_usage": ["ask"]}), "`ask_usage[0]`: `ask` is no end of a path"),
            (json!({"ask_usage": true}), "`ask_usage`: the profile `anthropic` does not know which streams to ask"),
            (json!({"repeatable": "sometimes"}), "`repeatable`"),
        ] {
            let error = api("anthropic", own.clone()).unwrap_err();
            assert!(error.contains(says), "{own}: {error}");
        }
    }
}
