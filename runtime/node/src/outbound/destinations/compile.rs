//! From a destination's configuration to what calls follow, strictly: a key that would be ignored is an error.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tidegate_core::{Config, Limit, Policy, Repeatable, Settings, budget::Budget};

use super::partition::Splitter;
use crate::{
    cluster::registry::{ConfigError, DestinationConfig},
    outbound::guard::HostPattern,
    settings::OutboundSettings,
};

/// Splitters of one destination at most.
const SPLITTERS: usize = 4;
/// Profiles that are known; `generic` is the one that says nothing.
const PROFILES: &[&str] = &["generic"];

/// A destination's configuration, checked.
#[derive(Clone, Debug)]
pub struct CompiledDestination {
    pub(super) pattern: HostPattern,
    pub(super) split_by: Vec<Splitter>,
    pub(super) limits: Arc<Config>,
    pub(super) repeatable: Repeatable,
    pub(super) policy: Policy,
}

impl CompiledDestination {
    /// What it stands for.
    pub fn pattern(&self) -> &HostPattern {
        &self.pattern
    }
}

fn error(key: impl Into<String>, why: impl ToString) -> ConfigError {
    ConfigError { key: key.into(), why: why.to_string() }
}

/// Reads a JSON value as a core type; the error is core's own.
fn read<T: DeserializeOwned>(key: &str, value: Value) -> Result<T, ConfigError> {
    serde_json::from_value(value).map_err(|why| error(key, why))
}

/// Checks and compiles a destination's configuration as a person hands it in.
///
/// # Errors
/// The first key that is wrong or unknown, with what would be right.
pub fn compile(config: &DestinationConfig, settings: &OutboundSettings) -> Result<CompiledDestination, ConfigError> {
    if let Some(key) = config.unknown.keys().next() {
        let known = "match, profile, split_by, limits, max_concurrency, repeatable, policy";
        return Err(error(key, format!("is no key of a destination; there are {known}")));
    }
    compile_known(config, settings)
}

/// As [`compile`], for what is already stored: keys of a later release are left alone.
pub(super) fn compile_known(
    config: &DestinationConfig,
    settings: &OutboundSettings,
) -> Result<CompiledDestination, ConfigError> {
    let pattern: HostPattern = config.r#match.parse().map_err(|why| error("match", why))?;
    if pattern.scheme().is_none() {
        let why = format!("write the scheme too, such as \"https://{}\"", config.r#match);
        return Err(error("match", why));
    }
    if let Some(profile) = &config.profile
        && !PROFILES.contains(&profile.as_str())
    {
        return Err(error("profile", format!("`{profile}` is not known; there is {}", PROFILES.join(", "))));
    }
    if config.split_by.len() > SPLITTERS {
        return Err(error("split_by", format!("{} are too many, at most {SPLITTERS}", config.split_by.len())));
    }
    let split_by = config
        .split_by
        .iter()
        .enumerate()
        .map(|(index, text)| text.parse().map_err(|why: String| error(format!("split_by[{index}]"), why)))
        .collect::<Result<_, _>>()?;
    let limits = config
        .limits
        .iter()
        .enumerate()
        .map(|(index, value)| read::<Limit>(&format!("limits[{index}]"), value.clone()))
        .collect::<Result<_, _>>()?;
    let limits = Settings { limits, max_concurrency: config.max_concurrency, ..node_settings(settings) };
    let limits = Config::new(&limits).map_err(|wrong| error(wrong.key, wrong.problem))?;
    let repeatable = match &config.repeatable {
        None => Repeatable::default(),
        Some(text) => read("repeatable", Value::String(text.clone()))?,
    };
    let policy: Policy = read("policy", Value::Object(config.policy.clone()))?;
    policy.validate().map_err(|why| error(format!("policy.{}", why.member), why.problem))?;
    Ok(CompiledDestination { pattern, split_by, limits: Arc::new(limits), repeatable, policy })
}

/// What the node's settings say about every destination.
pub(super) fn node_settings(settings: &OutboundSettings) -> Settings {
    let bytes = tidegate_core::units::Size(settings.queue_bytes.get());
    Settings {
        queue: tidegate_core::shard::QueueBounds { calls: settings.queue_calls, bytes },
        retry_budget: Budget { share: f64::from(settings.retry_share) / 100.0, per_second: settings.retry_rate },
        max_pause: settings.max_pause.get(),
        believed_pause: settings.believed_pause.get(),
        ..Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::testing::settings;

    fn check(json: &str) -> Result<CompiledDestination, String> {
        let config = serde_json::from_str(json).map_err(|error| error.to_string())?;
        compile(&config, &settings(&[])).map_err(|error| error.to_string())
    }

    #[test]
    fn the_shape_of_the_design_is_taken() {
        let compiled = check(
            r#"{"match": "https://api.openai.com", "profile": "generic",
                "split_by": ["header:authorization", "body:/model"],
                "limits": [{"unit": "requests", "quota": 500, "per": "1m", "burst": 20}],
                "max_concurrency": 64, "repeatable": "always",
                "policy": {"mode": "hedge", "regions": ["iad", "lhr"], "deadline": "10m"}}"#,
        )
        .unwrap();
        assert_eq!(compiled.split_by.len(), 2);
        assert_eq!(compiled.repeatable, Repeatable::Always);
        assert!(check(r#"{"match": "https://*.example.com"}"#).is_ok());
    }

    #[test]
    fn every_error_names_its_key() {
        for (json, key) in [
            (r#"{"match": "api.openai.com"}"#, "`match`"),
            (r#"{"match": "https://a/b"}"#, "`match`"),
            (r#"{"match": "https://a", "profile": "openai"}"#, "`profile`"),
            (r#"{"match": "https://a", "limts": []}"#, "`limts`"),
            (r#"{"match": "https://a", "limits": [{"quota": 0, "per": "1s"}]}"#, "limits[0].quota"),
            (r#"{"match": "https://a", "limits": [{"quota": 5, "per": 1}]}"#, "limits[0]"),
            (r#"{"match": "https://a", "limits": [{"quota": 5, "per": "1s", "brust": 2}]}"#, "brust"),
            (r#"{"match": "https://a", "max_concurrency": 0}"#, "max_concurrency"),
            (r#"{"match": "https://a", "split_by": ["cookie"]}"#, "split_by[0]"),
            (r#"{"match": "https://a", "split_by": ["header:a b"]}"#, "split_by[0]"),
            (r#"{"match": "https://a", "split_by": ["body:model"]}"#, "split_by[0]"),
            (r#"{"match": "https://a", "repeatable": "sometimes"}"#, "`repeatable`"),
            (r#"{"match": "https://a", "policy": {"deadlin": "1s"}}"#, "deadlin"),
            (r#"{"match": "https://a", "policy": {"retries": 99}}"#, "policy.retries"),
        ] {
            let error = check(json).unwrap_err();
            assert!(error.contains(key), "{json}: {error}");
        }
    }
}
