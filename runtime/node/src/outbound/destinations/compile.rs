//! From a destination's configuration to what calls follow, strictly: a key that would be ignored is an error.

use std::{sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tidegate_core::{Config, Limit, Policy, Settings, Time, budget::Budget, limit::Unit, shard::Brake};

use super::{
    api::Api,
    caching::CompiledCache,
    endpoints::{self, Endpoint, encoded},
    partition::{self, Splitter},
    profiles::{GENERIC, Profile},
};
use crate::{
    cluster::registry::{
        BrakeState, ConfigError, DestinationConfig, EndpointConfig, OverrideRecord, Place, Steering, now_ms,
        read_policy, validate_secret_name,
    },
    ids::SecretName,
    outbound::{guard::HostPattern, secrets::Template, shards},
    settings::OutboundSettings,
};

/// The secret of a destination or of one of its endpoints, and where it is put into requests of programs.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    pub(crate) secret: SecretName,
    pub(crate) template: Template,
}

/// Splitters of one destination at most. No setting: no API limits by as many.
const SPLITTERS: usize = 4;

/// A destination's configuration, checked.
#[derive(Clone, Debug)]
pub struct CompiledDestination {
    pub(super) pattern: HostPattern,
    pub(super) split_by: Vec<Splitter>,
    pub(super) limits: Arc<Config>,
    pub(super) policy: Policy,
    pub(super) api: Api,
    pub(super) endpoints: Arc<[Endpoint]>,
    pub(super) injection: Option<Injection>,
    /// All that its calls may be led to.
    pub(super) stands: Arc<str>,
    /// The quota of the narrowest limit in tokens: no estimate is more, so that none keeps a call out for ever.
    pub(super) token_quota: Option<u64>,
    pub(super) cache: Option<CompiledCache>,
}

impl CompiledDestination {
    /// What it stands for.
    pub fn pattern(&self) -> &HostPattern {
        &self.pattern
    }
}

pub(super) fn error(key: impl Into<String>, why: impl ToString) -> ConfigError {
    ConfigError { key: key.into(), why: why.to_string() }
}

/// Reads a JSON value as a core type; the error is core's own, and names the member.
pub(super) fn read<T: DeserializeOwned>(key: &str, value: Value) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(value).map_err(|why| ConfigError::within(key, &why))
}

/// Checks and compiles a destination's configuration as a person hands it in.
///
/// # Errors
/// The first key that is wrong or unknown, with what would be right.
pub fn compile(config: &DestinationConfig, settings: &OutboundSettings) -> Result<CompiledDestination, ConfigError> {
    if let Some(key) = config.unknown.keys().next() {
        let known = "match, profile, split_by, limits, max_concurrency, endpoints, repeatable, completions, \
                     final_statuses, final_codes, errors, keys, ask_usage, secret, inject, policy, cache";
        return Err(error(key, format!("is no key of a destination; there are {known}")));
    }
    if let Some(key) = config.cache.as_ref().and_then(|cache| cache.unknown.keys().next()) {
        let known = "enabled, stale_if_error, stale_while_revalidate, ignore_headers";
        return Err(error(format!("cache.{key}"), format!("is no key of `cache`; there are {known}")));
    }
    let compiled = compile_known(config, &Steering::default(), settings)?;
    tokens_are_counted(&compiled, &config.limits)?;
    Ok(compiled)
}

/// A limit in tokens means something only where somebody counts them.
fn tokens_are_counted(compiled: &CompiledDestination, limits: &[Value]) -> Result<(), ConfigError> {
    if compiled.token_quota.is_some() && !compiled.api.profile.estimates_tokens && compiled.policy.tokens.is_none() {
        let of_tokens = |limit: &Value| limit.get("unit").and_then(Value::as_str) == Some(Unit::Tokens.name());
        let index = limits.iter().position(of_tokens).unwrap_or_default();
        let why = "nothing counts the tokens of these calls, so the limit would hold nothing back: limit requests, choose \
                   a profile that estimates tokens (openai, anthropic, ...), or say in policy.tokens what a call costs";
        return Err(error(format!("limits[{index}].unit"), why));
    }
    Ok(())
}

/// As [`compile`], for what is already stored: keys of a later release are left alone. `steering`: what of it is in force.
pub(super) fn compile_known(
    config: &DestinationConfig,
    steering: &Steering,
    settings: &OutboundSettings,
) -> Result<CompiledDestination, ConfigError> {
    let pattern: HostPattern = config.r#match.parse().map_err(|why| error("match", why))?;
    if pattern.scheme().is_none() {
        let why = format!("write the scheme too, such as \"https://{}\"", config.r#match);
        return Err(error("match", why));
    }
    let profile = profile(config, &pattern)?;
    if config.split_by.len() > SPLITTERS {
        return Err(error("split_by", format!("{} are too many, at most {SPLITTERS}", config.split_by.len())));
    }
    let mut split_by: Vec<Splitter> = config
        .split_by
        .iter()
        .enumerate()
        .map(|(index, text)| text.parse().map_err(|why: String| error(format!("split_by[{index}]"), why)))
        .collect::<Result<_, _>>()?;
    // Limits are of each partition: whoever states some says what they are of.
    if split_by.is_empty() && config.limits.is_empty() && config.max_concurrency.is_none() {
        split_by = partition::of_profile(profile);
    }
    let api = Api::compile(config, profile)?;
    let template = config.inject.clone().unwrap_or_else(|| api.key_template());
    let own_secrets = config.endpoints.iter().any(|endpoint| endpoint.get("secret").is_some());
    let injection = injection(config.secret.as_deref(), config.inject.as_deref(), &template, own_secrets)?;
    let other = steering.limits.as_ref();
    let limits = read_limits(other.and_then(|other| other.limits.as_ref()).unwrap_or(&config.limits))?;
    let of_tokens = limits.iter().filter(|limit| limit.unit == Unit::Tokens);
    let token_quota = of_tokens.map(|limit| limit.quota).min();
    let (endpoints, ways) = endpoints::compile(&config.endpoints, &settings.region, &template)?;
    let max_concurrency = other.and_then(|other| other.max_concurrency).or(config.max_concurrency);
    let brake = brake(steering);
    let limits = Settings { limits, max_concurrency, endpoints: ways, brake, ..node_settings(settings) };
    let limits = Config::new(&limits).map_err(|wrong| error(wrong.key, wrong.problem))?;
    let policy = read_policy(&config.policy)?;
    let cache = config.cache.as_ref().map(|cache| CompiledCache::new(cache, &api)).transpose()?.flatten();
    let limits = Arc::new(limits);
    let stands = stands_for(config);
    Ok(CompiledDestination { pattern, split_by, limits, policy, api, endpoints, injection, stands, token_quota, cache })
}

fn profile(config: &DestinationConfig, pattern: &HostPattern) -> Result<&'static Profile, ConfigError> {
    match &config.profile {
        None => Ok(pattern.exact().map_or(&GENERIC, |origin| Profile::of(&origin))),
        Some(name) => Profile::named(name)
            .ok_or_else(|| error("profile", format!("`{name}` is not known; there are {}", Profile::names()))),
    }
}

/// Which secrets a configuration puts into requests of programs, and where; nothing where it means nothing.
pub fn injected(config: &DestinationConfig) -> Vec<(SecretName, Place)> {
    let read = || {
        let pattern: HostPattern = config.r#match.parse().ok()?;
        let api = Api::compile(config, profile(config, &pattern).ok()?).ok()?;
        let template = config.inject.clone().unwrap_or_else(|| api.key_template());
        let usual = injection(config.secret.as_deref(), config.inject.as_deref(), &template, true).ok()?;
        let (endpoints, _) = endpoints::compile(&config.endpoints, "", &template).ok()?;
        let own = endpoints.iter().filter_map(|endpoint| endpoint.injection.clone());
        Some(usual.into_iter().chain(own).map(|it| (it.secret, it.template.place())).collect())
    };
    read().unwrap_or_default()
}

/// Checks limits that are to hold for a time in the place of the configured ones.
///
/// # Errors
/// The first key that is wrong, with what would be right.
pub(crate) fn check_override(
    config: &DestinationConfig,
    limits: &OverrideRecord,
    settings: &OutboundSettings,
) -> Result<(), ConfigError> {
    let steering = Steering { brake: None, limits: Some(limits.clone()) };
    let compiled = compile_known(config, &steering, settings)?;
    tokens_are_counted(&compiled, limits.limits.as_deref().unwrap_or_default())
}

fn read_limits(limits: &[Value]) -> Result<Vec<Limit>, ConfigError> {
    let each = limits.iter().enumerate();
    each.map(|(index, value)| read(&format!("limits[{index}]"), value.clone())).collect()
}

/// The brake as the core knows it, on its clock.
fn brake(steering: &Steering) -> Brake {
    let Some(brake) = &steering.brake else { return Brake::Off };
    let left = |until: u64| Duration::from_millis(until.saturating_sub(now_ms()));
    let until = brake.until_ms.map_or(Time::NEVER, |until| shards::now() + left(until));
    match brake.state {
        BrakeState::Paused => Brake::Paused { until },
        BrakeState::Draining => Brake::Draining { until },
    }
}

/// All that calls to a destination may be led to: its pattern, and its endpoints with what they make of paths and queries.
/// What a secret is bound to.
pub fn stands_for(config: &DestinationConfig) -> Arc<str> {
    let text = &config.r#match;
    let mut stands = text.parse::<HostPattern>().map_or_else(|_| text.clone(), |pattern| pattern.to_string());
    for endpoint in &config.endpoints {
        stands.push_str(", ");
        match serde_json::from_value::<EndpointConfig>(endpoint.clone()) {
            Ok(endpoint) => stands.push_str(&leads_to(&endpoint)),
            // One of a later release: any change of it counts.
            Err(_) => stands.push_str(&endpoint.to_string()),
        }
    }
    stands.into()
}

/// Where an endpoint leads requests.
fn leads_to(endpoint: &EndpointConfig) -> String {
    let mut text = endpoint.url.clone();
    if let Some(strip) = endpoint.strip.as_deref().filter(|strip| !strip.is_empty()) {
        text.push_str(&format!(" without {strip}"));
    }
    if !endpoint.query.is_empty() {
        text.push_str(&format!(" with {}", encoded(&endpoint.query)));
    }
    text
}

/// What is put into requests, and where: as `inject` says, else as `usual` does. `elsewhere`: `inject` says it of other secrets,
/// too.
pub(super) fn injection(
    secret: Option<&str>,
    inject: Option<&str>,
    usual: &str,
    elsewhere: bool,
) -> Result<Option<Injection>, ConfigError> {
    let template = inject.unwrap_or(usual).parse().map_err(|why: String| error("inject", why))?;
    match secret {
        None if inject.is_some() && !elsewhere => {
            Err(error("inject", "says where a secret is put; name one in `secret`, too"))
        }
        None => Ok(None),
        Some(name) => {
            validate_secret_name(name).map_err(|wrong| error("secret", format!("`{name}`: {}", wrong.why)))?;
            Ok(Some(Injection { secret: name.into(), template }))
        }
    }
}

/// What the node's settings say about every destination.
pub(super) fn node_settings(settings: &OutboundSettings) -> Settings {
    let bytes = tidegate_core::units::Size(settings.queue_bytes.get());
    Settings {
        queue: tidegate_core::shard::QueueBounds { calls: settings.queue_calls, bytes },
        retry_budget: Budget {
            share: f64::from(settings.retry_share) / 100.0,
            per_second: settings.retry_rate,
            hedges: f64::from(settings.hedge_share) / 100.0,
        },
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
    fn a_destination_in_any_script_stands_for_its_ascii_form() {
        for name in ["https://bücher.example", "https://xn--bcher-kva.example", "https://BÜCHER.example:443"] {
            let exact = check(&format!(r#"{{"match": "{name}"}}"#)).unwrap().pattern.exact().unwrap();
            assert_eq!(exact.to_string(), "https://xn--bcher-kva.example", "{name}");
        }
    }

    #[test]
    fn the_shape_of_the_design_is_taken() {
        let compiled = check(
            r#"{"match": "https://api.openai.com", "profile": "openai",
                "split_by": ["header:authorization", "body:/model"],
                "limits": [{"unit": "requests", "quota": 500, "per": "1m", "burst": 20},
                           {"unit": "tokens", "quota": 90000, "per": "1m"}],
                "max_concurrency": 64,
                "policy": {"mode": "hedge", "regions": ["iad", "lhr"], "deadline": "10m"}}"#,
        )
        .unwrap();
        assert_eq!(compiled.split_by.len(), 2);
        assert_eq!((compiled.api.profile.name, compiled.token_quota), ("openai", Some(90_000)));
        let always = check(r#"{"match": "https://a", "repeatable": "always"}"#).unwrap();
        assert_eq!(always.api.repeatable(&http::Method::POST, "/"), tidegate_core::Repeatable::Always);
        assert!(check(r#"{"match": "https://*.example.com"}"#).is_ok());
    }

    #[test]
    fn a_secret_is_put_where_the_configuration_says_or_else_the_profile() {
        for (config, template) in [
            (r#""secret": "K""#, "authorization: Bearer {}"),
            (r#""secret": "K", "profile": "openai""#, "authorization: Bearer {}"),
            (r#""secret": "K", "profile": "anthropic""#, "x-api-key: {}"),
            (r#""secret": "K", "profile": "anthropic", "inject": "?key={}""#, "?key={}"),
            (r#""secret": "K", "profile": "anthropic", "keys": ["query:key"]"#, "?key={}"),
        ] {
            let compiled = check(&format!(r#"{{"match": "https://a", {config}}}"#)).unwrap();
            let injection = compiled.injection.unwrap();
            assert_eq!((injection.secret.as_str(), Ok(injection.template)), ("K", template.parse()), "{config}");
        }
    }

    #[test]
    fn a_secret_of_an_endpoint_is_put_where_it_says_or_else_where_the_destination_s_is() {
        for (destination, endpoint, template) in [
            (r#""profile": "anthropic""#, "", "x-api-key: {}"),
            (r#""profile": "anthropic", "inject": "?key={}""#, "", "?key={}"),
            (r#""secret": "K", "inject": "?key={}""#, r#", "inject": "api-key: {}""#, "api-key: {}"),
        ] {
            let endpoint = format!(r#"{{"url": "https://b", "secret": "OWN"{endpoint}}}"#);
            let compiled = check(&format!(r#"{{"match": "https://a", {destination}, "endpoints": [{endpoint}]}}"#));
            let injection = compiled.unwrap().endpoints[0].injection.clone().unwrap();
            assert_eq!((injection.secret.as_str(), Ok(injection.template)), ("OWN", template.parse()), "{destination}");
        }
    }

    #[test]
    fn what_a_configuration_stands_for_is_all_that_leads_its_requests() {
        let endpoint = r#"{"url": "https://b/base", "strip": "/v1", "query": {"a": "b c"}"#;
        let stands = |more: &str| {
            let config = format!(r#"{{"match": "https://a", "endpoints": [{endpoint}{more}}}]}}"#);
            stands_for(&serde_json::from_str(&config).unwrap()).to_string()
        };
        assert_eq!(stands(""), "https://a, https://b/base without /v1 with a=b%20c");
        assert_eq!(stands(r#", "name": "b", "weight": 3, "region": "iad", "secret": "K", "limits": []"#), stands(""));
        assert_eq!(stands_for(&serde_json::from_str(r#"{"match": "https://a"}"#).unwrap()), "https://a".into());
    }

    #[test]
    fn where_a_configuration_puts_secrets_is_known_from_it_alone() {
        let endpoints =
            r#""endpoints": [{"url": "https://b", "secret": "OWN", "inject": "?k={}"}, {"url": "https://c"}]"#;
        for (config, places) in [
            ("", vec![]),
            (r#""secret": "K""#, vec![("K", "header:authorization")]),
            (r#""secret": "K", "profile": "anthropic""#, vec![("K", "header:x-api-key")]),
            (r#""secret": "K", "keys": ["query:key"]"#, vec![("K", "query:key")]),
            (
                &format!(r#""secret": "K", "inject": "cookie: a={{}}", {endpoints}"#),
                vec![("K", "header:cookie"), ("OWN", "query:k")],
            ),
            (r#""secret": "K", "inject": "nowhere""#, vec![]),
        ] {
            let comma = if config.is_empty() { "" } else { ", " };
            let config = serde_json::from_str(&format!(r#"{{"match": "https://a"{comma}{config}}}"#)).unwrap();
            let injected: Vec<_> =
                injected(&config).into_iter().map(|(name, place)| (name.to_string(), place.to_string())).collect();
            let places: Vec<_> = places.into_iter().map(|(name, place)| (name.to_owned(), place.to_owned())).collect();
            assert_eq!(injected, places);
        }
    }

    #[test]
    fn a_limit_in_tokens_is_taken_only_where_something_counts_them() {
        let limits = r#""limits": [{"quota": 5, "per": "1s"}, {"unit": "tokens", "quota": 10, "per": "1m"}]"#;
        let error = check(&format!(r#"{{"match": "https://a", {limits}}}"#)).unwrap_err();
        for text in ["`limits[1].unit`", "limit requests", "policy.tokens"] {
            assert!(error.contains(text), "{error}");
        }
        for counted in [r#""profile": "anthropic""#, r#""policy": {"tokens": 3}"#] {
            let compiled = check(&format!(r#"{{"match": "https://a", {counted}, {limits}}}"#)).unwrap();
            assert_eq!(compiled.token_quota, Some(10));
        }
        // What is stored already stays in force.
        let config = serde_json::from_str(&format!(r#"{{"match": "https://a", {limits}}}"#)).unwrap();
        assert!(compile_known(&config, &Steering::default(), &settings(&[])).is_ok());
    }

    #[test]
    fn every_error_names_its_key() {
        for (json, key) in [
            (r#"{"match": "api.openai.com"}"#, "`match`"),
            (r#"{"match": "https://a/b"}"#, "`match`"),
            (r#"{"match": "https://a", "profile": "nobody"}"#, "there are generic, openai, azure-openai, anthropic"),
            (r#"{"match": "https://a", "limts": []}"#, "`limts`"),
            (r#"{"match": "https://a", "limits": [{"quota": 0, "per": "1s"}]}"#, "limits[0].quota"),
            (r#"{"match": "https://a", "limits": [{"quota": 5, "per": 1}]}"#, "`limits[0].per`"),
            (r#"{"match": "https://a", "limits": [{"quota": 5, "per": "-1s"}]}"#, "`limits[0].per`: `-1s` is not"),
            (r#"{"match": "https://a", "limits": [{"quota": 5}]}"#, "`limits[0]`: missing field `per`"),
            (r#"{"match": "https://a", "limits": [{"quota": 5, "per": "1s", "brust": 2}]}"#, "`limits[0].brust`"),
            (r#"{"match": "https://a", "endpoints": [{"url": "https://b", "weight": "x"}]}"#, "`endpoints[0].weight`"),
            (r#"{"match": "https://a", "max_concurrency": 0}"#, "max_concurrency"),
            (r#"{"match": "https://a", "split_by": ["cookie"]}"#, "split_by[0]"),
            (r#"{"match": "https://a", "split_by": ["header:a b"]}"#, "split_by[0]"),
            (r#"{"match": "https://a", "split_by": ["body:model"]}"#, "split_by[0]"),
            (r#"{"match": "https://a", "split_by": ["path:/a/b"]}"#, "split_by[0]"),
            (r#"{"match": "https://a", "errors": "xml"}"#, "`errors`"),
            (r#"{"match": "https://a", "secret": "A KEY"}"#, "`secret`"),
            (r#"{"match": "https://a", "secret": "KEY", "inject": "Bearer {}"}"#, "`inject`"),
            (r#"{"match": "https://a", "inject": "x-api-key: {}"}"#, "`inject`"),
            (r#"{"match": "https://a", "inject": "x-api-key: {}", "endpoints": [{"url": "https://b"}]}"#, "`inject`"),
            (r#"{"match": "https://a", "policy": {"deadlin": "1s"}}"#, "`policy.deadlin`"),
            (r#"{"match": "https://a", "policy": {"deadline": 20}}"#, "`policy.deadline`"),
            (r#"{"match": "https://a", "policy": {"retries": 99}}"#, "policy.retries"),
            (r#"{"match": "https://a", "cache": {"ttl": "1s"}}"#, "`cache.ttl`"),
            (r#"{"match": "https://a", "cache": {"ignore_headers": ["a b"]}}"#, "`cache.ignore_headers[0]`"),
            (r#"{"match": "https://a", "cache": {"ignore_headers": ["Cookie"]}}"#, "`cache.ignore_headers[0]`"),
            (r#"{"match": "https://a", "cache": {"ignore_headers": ["x", "X-Api-Key"]}}"#, "`cache.ignore_headers[1]`"),
            (
                r#"{"match": "https://a", "keys": ["header:x-who"], "cache": {"ignore_headers": ["x-who"]}}"#,
                "`cache.ignore_headers[0]`",
            ),
            (r#"{"match": "https://a", "policy": {"idempotency_key": "1"}}"#, "`policy.idempotency_key`"),
        ] {
            let error = check(json).unwrap_err();
            assert!(error.contains(key), "{json}: {error}");
        }
    }
}
