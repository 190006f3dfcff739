//! The configuration objects of the API and of `tidegate.toml`, one shape for both.
//!
//! Unknown keys are errors where a person hands a configuration in, but are kept in storage: a node of the release
//! before must not lose what one of the next release wrote.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidegate_core::units::{Size, Span};

/// Who may invoke a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Bearers of a token with scope `invoke:NAME`.
    #[default]
    Token,
    /// Anyone.
    Public,
}

/// Whether an instance serves one request or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// A fresh instance for each request.
    Request,
    /// Instances are reused within the function; globals survive.
    Function,
}

/// Bounds of a function, within the node's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionLimits {
    /// Memory of one instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Time to the head of the answer, waiting at the gate not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall: Option<Span>,
    /// CPU time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Span>,
    /// Outbound calls of one invocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound_calls: Option<u32>,
    /// Outbound calls of one invocation that wait for the heads of their answers at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_calls: Option<u32>,
    /// Instances at once, all versions together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
    /// Time between two chunks of a streamed answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_idle: Option<Span>,
    /// Time a streamed answer may last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_total: Option<Span>,
    /// Log bytes of one invocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<Size>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Configuration of a function; with the module's digest it makes a version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionConfig {
    /// Environment of the guest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of secrets that are bound to the function.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Hosts it may send to: `api.openai.com`, `*.example.com`, `host:port`, `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_hosts: Option<Vec<String>>,
    /// Who may invoke it.
    #[serde(default)]
    pub auth: Auth,
    /// Whether a public function may be invoked with `Prefer: respond-async`.
    #[serde(default, rename = "async", skip_serializing_if = "std::ops::Not::not")]
    pub respond_async: bool,
    /// Whether instances are reused; absent: what suits the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Bounds.
    #[serde(default)]
    pub limits: FunctionLimits,
    /// How its outbound calls are made.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub policy: Map<String, Value>,
    /// Its share of a destination beside others that wait for it, 1 to 1,000; 1 unless stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// `host/path` patterns that invoke it, such as `api.example.com/v1/*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Configuration of a destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DestinationConfig {
    /// Origin or pattern it stands for: `https://api.openai.com`, `https://*.example.com`.
    pub r#match: String,
    /// Name of a profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What splits it into partitions: `header:NAME`, `query:NAME`, `path:/with/{name}`, `body:/json/pointer`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub split_by: Vec<String>,
    /// Limits; a call must pass all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Value>,
    /// Calls in flight at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// Several equal ways to it, see [`EndpointConfig`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Value>,
    /// `never`, `keyed` or `always`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeatable: Option<String>,
    /// Ends of the paths whose POSTs are completions: they may be repeated, and their errors have the API's shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completions: Option<Vec<String>>,
    /// Statuses of errors that no waiting changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_statuses: Option<Vec<Value>>,
    /// Codes and types of errors that no waiting changes; with a space, parts of their messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_codes: Option<Vec<String>>,
    /// The shape of errors to completions: `problem`, `openai`, `anthropic`, `google`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<String>,
    /// Where requests carry the key: `header:NAME`, `query:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
    /// Whether streams are asked for their usage, or the ends of the paths of those that are; absent: where the profile
    /// knows how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask_usage: Option<Value>,
    /// Secret that is put into requests through `/to`, in the place of the caller's own key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Where it is put: `authorization: Bearer {}`, `?key={}`; absent: where the profile's API takes its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inject: Option<String>,
    /// How calls to it are made.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub policy: Map<String, Value>,
    /// Whether its answers are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheConfig>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// How a destination's answers are stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheConfig {
    /// Whether they are.
    #[serde(default)]
    pub enabled: bool,
    /// How long they may be given stale where asking fails, if the upstream does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_if_error: Option<Span>,
    /// How long they may be given stale while they are asked for, if the upstream does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_while_revalidate: Option<Span>,
    /// Headers of requests that say nothing about who asks, such as `x-session-number`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore_headers: Vec<String>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// One of several equal ways to a destination: what is sent to the destination is sent there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Where it is: scheme, host, port, and what stands before each path.
    pub url: String,
    /// How it is shown; its host unless stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it stands, for `regions` of policies. Of the node's own region, it is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Its share of the calls among those that are about as fast, 1 to 1,000; 1 unless stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// What is taken off the front of each path before it is sent there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strip: Option<String>,
    /// What is added to each query.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// Secret that is put into requests through `/to` that go there, in the place of the destination's. It is bound to the
    /// destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Where it is put, as for the destination's; absent: where that is put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inject: Option<String>,
    /// Limits of its own, beside those of the destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Value>,
    /// Calls in flight there at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {why}")]
pub struct ConfigError {
    /// The key, with dots for nesting.
    pub key: String,
    /// What is wrong and what would be right.
    pub why: String,
}

impl ConfigError {
    /// What is wrong within a key, with the member that it is wrong with.
    pub(crate) fn within(key: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> Self {
        let member = error.path().to_string();
        let dot = if key.is_empty() || member.starts_with('[') { "" } else { "." };
        let key = if member == "." { key.to_owned() } else { format!("{key}{dot}{member}") };
        Self { key, why: error.inner().to_string() }
    }
}

/// Checks the form of a function's or destination's name.
///
/// # Errors
/// When it is not 1 to 63 of `a-z`, `0-9`, `-`, beginning with a letter and not ending with `-`.
pub fn validate_name(name: &str) -> Result<(), ConfigError> {
    let wrong = |why: &str| Err(ConfigError { key: "name".into(), why: format!("`{name}` {why}") });
    if name.is_empty() || name.len() > 63 {
        return wrong("must have 1 to 63 characters");
    }
    if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return wrong("may hold only a-z, 0-9 and -");
    }
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) || name.ends_with('-') {
        return wrong("must begin with a letter and not end with -");
    }
    Ok(())
}
