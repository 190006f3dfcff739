//! Checks a configuration that a person hands in: every key known, every value of its form and within the node's
//! ceilings. What is in storage already is never checked again.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tidegate_core::{
    Flow, Policy,
    units::{Size, Span},
};

use super::{
    config::{CacheConfig, ConfigError, DestinationConfig, FunctionConfig, FunctionLimits},
    route::RoutePattern,
    secret::validate_secret_name,
};
use crate::{
    outbound::HostPattern,
    settings::{GuestSettings, names, nearest},
};

const FUNCTION_KEYS: &[&str] =
    &["env", "secrets", "allowed_hosts", "auth", "async", "isolation", "limits", "policy", "weight", "routes"];
const LIMIT_KEYS: &[&str] = &[
    "memory",
    "wall",
    "cpu",
    "outbound_calls",
    "concurrent_calls",
    "instances",
    "stream_idle",
    "stream_total",
    "log_bytes",
];
const DESTINATION_KEYS: &[&str] = &[
    "match",
    "profile",
    "split_by",
    "limits",
    "max_concurrency",
    "endpoints",
    "repeatable",
    "completions",
    "final_statuses",
    "final_codes",
    "errors",
    "keys",
    "ask_usage",
    "secret",
    "inject",
    "policy",
    "cache",
];
const CACHE_KEYS: &[&str] = &["enabled", "stale_if_error", "stale_while_revalidate", "ignore_headers"];

/// The most that a function's own limits may ask for on this node.
#[derive(Clone, Debug)]
pub struct Ceilings {
    memory: Size,
    wall: Span,
    cpu: Span,
    calls: u32,
    concurrent_calls: u32,
    instances: u32,
    stream_idle: Span,
    stream_total: Span,
    log_bytes: Size,
}

impl From<&GuestSettings> for Ceilings {
    fn from(settings: &GuestSettings) -> Self {
        Self {
            memory: settings.max_guest_memory,
            wall: settings.max_guest_wall,
            cpu: settings.max_guest_cpu,
            calls: settings.guest_calls,
            concurrent_calls: settings.guest_concurrent_calls,
            instances: settings.guest_instances,
            stream_idle: settings.guest_stream_idle,
            stream_total: settings.guest_stream_total,
            log_bytes: settings.guest_log_bytes,
        }
    }
}

/// Reads a function's configuration as a person wrote it.
///
/// # Errors
/// Names the first key that is not known, malformed or above the node's ceiling.
pub fn parse_function(value: Value, ceilings: &Ceilings) -> Result<FunctionConfig, ConfigError> {
    let object = object("", value)?;
    known_keys("", &object, FUNCTION_KEYS)?;
    if let Some(limits) = object.get("limits") {
        let limits = self::object("limits", limits.clone())?;
        known_keys("limits", &limits, LIMIT_KEYS)?;
        each_key::<FunctionLimits>("limits", &limits, None)?;
    }
    each_key::<FunctionConfig>("", &object, None)?;
    let mut config: FunctionConfig = whole(object)?;
    for name in config.env.keys() {
        let rest_fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if name.is_empty() || !rest_fits || name.starts_with(|first: char| first.is_ascii_digit()) {
            return wrong(&format!("env.{name}"), "a variable's name is made of letters, digits and _, no digit first");
        }
    }
    if let Some((name, _)) = config.env.iter().find(|(_, value)| value.contains('\0')) {
        return wrong(&format!("env.{name}"), "a value can't hold a NUL character");
    }
    if config.respond_async {
        return wrong(
            "async",
            "answers can't be fetched later yet: this release does not offer respond-async; leave it out",
        );
    }
    for (index, name) in config.secrets.iter().enumerate() {
        let key = format!("secrets[{index}]");
        validate_secret_name(name).or_else(|error| wrong(&key, format!("`{name}`: {}", error.why)))?;
        if config.env.contains_key(name) {
            return wrong(&key, format!("`{name}` is set in `env`, too: the guest has one variable of that name"));
        }
        if config.secrets.iter().take(index).any(|earlier| earlier == name) {
            return wrong(&key, format!("`{name}` is named twice"));
        }
    }
    if config.weight.is_some_and(|weight| weight == 0 || weight > Flow::MAX_WEIGHT) {
        return wrong("weight", format!("is 1 to {}", Flow::MAX_WEIGHT));
    }
    for (index, pattern) in config.allowed_hosts.iter().flatten().enumerate() {
        pattern
            .parse::<HostPattern>()
            .map(drop)
            .or_else(|error| wrong(&format!("allowed_hosts[{index}]"), error.to_string()))?;
    }
    for (index, route) in config.routes.iter_mut().enumerate() {
        match RoutePattern::parse(route) {
            Ok(pattern) => {
                if let Some(prefix) = pattern.is_behind() {
                    let why = format!(
                        "`{route}` can never be reached: `{prefix}` is the node's own on every host that no route names; \
                         write a host before it, such as `api.example.com{route}`, or another path"
                    );
                    return wrong(&format!("routes[{index}]"), why);
                }
                // Kept as it prints, so that two spellings of one route are seen to be the same.
                *route = pattern.to_string();
            }
            Err(why) => return wrong(&format!("routes[{index}]"), why),
        }
    }
    read_policy(&config.policy)?;
    within(&config.limits, ceilings)?;
    Ok(config)
}

/// Reads a destination's configuration as a person wrote it. What its limits and pattern mean is the door's to check.
///
/// # Errors
/// Names the first key that is not known or malformed.
pub fn parse_destination(value: Value) -> Result<DestinationConfig, ConfigError> {
    let object = object("", value)?;
    known_keys("", &object, DESTINATION_KEYS)?;
    if !object.contains_key("match") {
        return wrong("match", "is missing: the origin the destination stands for, such as https://api.openai.com");
    }
    if let Some(cache) = object.get("cache") {
        let cache = self::object("cache", cache.clone())?;
        known_keys("cache", &cache, CACHE_KEYS)?;
        each_key::<CacheConfig>("cache", &cache, None)?;
    }
    each_key::<DestinationConfig>("", &object, Some("match"))?;
    let config: DestinationConfig = whole(object)?;
    read_policy(&config.policy)?;
    Ok(config)
}

fn wrong<T>(key: &str, why: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError { key: key.to_owned(), why: why.into() })
}

fn dotted(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

fn object(key: &str, value: Value) -> Result<Map<String, Value>, ConfigError> {
    match value {
        Value::Object(map) => Ok(map),
        other => wrong(if key.is_empty() { "configuration" } else { key }, format!("must be an object, not {other}")),
    }
}

fn known_keys(prefix: &str, object: &Map<String, Value>, known: &[&str]) -> Result<(), ConfigError> {
    let Some(key) = object.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
    let hint = match nearest(key, known.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("known are {}", known.join(", ")),
    };
    wrong(&dotted(prefix, key), format!("is not a key of this object; {hint}"))
}

/// Reads each key by itself, so that an error can say which it was: through a flattened struct serde can't.
fn each_key<T: DeserializeOwned>(
    prefix: &str,
    object: &Map<String, Value>,
    required: Option<&str>,
) -> Result<(), ConfigError> {
    for (key, value) in object {
        let mut alone = Map::new();
        if let Some(required) = required
            && key != required
        {
            alone.insert(required.to_owned(), Value::String(String::new()));
        }
        alone.insert(key.clone(), value.clone());
        if let Err(error) = serde_path_to_error::deserialize::<_, T>(Value::Object(alone)) {
            // Where serde can't say it, the key at least.
            let error = ConfigError::within(prefix, &error);
            let key = dotted(prefix, key);
            return wrong(if error.key.starts_with(&key) { &error.key } else { &key }, error.why);
        }
    }
    Ok(())
}

fn whole<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, ConfigError> {
    serde_json::from_value(Value::Object(object)).or_else(|error| wrong("configuration", error.to_string()))
}

/// Reads a policy. Its own types say what it may hold.
///
/// # Errors
/// Names the member that is not known, malformed or out of bounds.
pub(crate) fn read_policy(stated: &Map<String, Value>) -> Result<Policy, ConfigError> {
    let known: Policy = serde_path_to_error::deserialize(Value::Object(stated.clone()))
        .map_err(|error| ConfigError::within("policy", &error))?;
    known.validate().or_else(|error| wrong(&dotted("policy", &error.member), error.problem))?;
    if known.idempotency_key.is_some() {
        let why = "is of one request: with one for all, the answer to the first would be that to every other. Requests state it \
                   themselves, as in `tidegate-policy: idempotency_key=\"order-42\"`";
        return wrong("policy.idempotency_key", why);
    }
    Ok(known)
}

fn within(limits: &FunctionLimits, ceilings: &Ceilings) -> Result<(), ConfigError> {
    fn check<T: PartialOrd + std::fmt::Display + Default>(
        key: &str,
        value: Option<T>,
        ceiling: T,
        setting: &str,
    ) -> Result<(), ConfigError> {
        match value {
            Some(value) if value > ceiling => wrong(
                &format!("limits.{key}"),
                format!("{value} is more than this node allows: at most {ceiling} (setting {setting})"),
            ),
            Some(value) if value == T::default() => {
                wrong(&format!("limits.{key}"), "must be more than nothing; leave it out for the node's own")
            }
            _ => Ok(()),
        }
    }
    check("memory", limits.memory, ceilings.memory, names::MAX_GUEST_MEMORY)?;
    check("wall", limits.wall, ceilings.wall, names::MAX_GUEST_WALL)?;
    check("cpu", limits.cpu, ceilings.cpu, names::MAX_GUEST_CPU)?;
    // A function may well be one that calls nobody.
    check("outbound_calls", limits.outbound_calls.filter(|calls| *calls > 0), ceilings.calls, names::GUEST_CALLS)?;
    check("concurrent_calls", limits.concurrent_calls, ceilings.concurrent_calls, names::GUEST_CONCURRENT_CALLS)?;
    check("instances", limits.instances, ceilings.instances, names::GUEST_INSTANCES)?;
    check("stream_idle", limits.stream_idle, ceilings.stream_idle, names::GUEST_STREAM_IDLE)?;
    check("stream_total", limits.stream_total, ceilings.stream_total, names::GUEST_STREAM_TOTAL)?;
    check("log_bytes", limits.log_bytes.filter(|size| size.get() > 0), ceilings.log_bytes, names::GUEST_LOG_BYTES)
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};
    use serde_json::json;

    use super::*;
    use crate::settings::Settings;

    fn ceilings() -> Ceilings {
        let command = Settings::augment_args(Command::new("serve"));
        let matches = command.try_get_matches_from(["serve"]).unwrap();
        Ceilings::from(&Settings::from_arg_matches(&matches).unwrap().guest)
    }

    #[test]
    fn the_example_of_the_manual_is_read_whole() {
        let config = parse_function(
            json!({"env": {"BASE_URL": "https://api.openai.com/v1"}, "allowed_hosts": ["api.openai.com"],
                "auth": "public", "async": false, "isolation": "function", "routes": ["API.example.com/*"],
                "limits": {"memory": "256MiB", "wall": "30s", "cpu": "5s", "outbound_calls": 1000, "concurrent_calls": 8, "instances": 10,
                "stream_idle": "1m", "stream_total": "10m", "log_bytes": "64KiB"}, "policy": {"deadline": "60s", "retries": 3}}),
            &ceilings(),
        )
        .unwrap();
        assert_eq!(config.routes, ["api.example.com/*"]);
        assert!(config.unknown.is_empty() && config.limits.unknown.is_empty());
    }

    #[test]
    fn a_wrong_configuration_is_refused_by_the_key_that_is_wrong() {
        for (config, key, says) in [
            (json!([]), "configuration", "must be an object"),
            (json!({"alowed_hosts": []}), "alowed_hosts", "did you mean `allowed_hosts`?"),
            (json!({"colour": 1}), "colour", "known are env, secrets"),
            (json!({"limits": {"memroy": "1MiB"}}), "limits.memroy", "did you mean `memory`?"),
            (json!({"limits": {"memory": "lots"}}), "limits.memory", "`lots` is not a size"),
            (json!({"limits": {"wall": 5}}), "limits.wall", "a duration as text"),
            (json!({"limits": {"wall": "0s"}}), "limits.wall", "more than nothing"),
            (json!({"limits": {"memory": "8GiB"}}), "limits.memory", "at most 1GiB (setting max_guest_memory)"),
            (json!({"limits": {"wall": "1h"}}), "limits.wall", "at most 15m (setting max_guest_wall)"),
            (json!({"limits": {"outbound_calls": 5000}}), "limits.outbound_calls", "(setting guest_calls)"),
            (json!({"limits": []}), "limits", "must be an object"),
            (json!({"auth": "everyone"}), "auth", "unknown variant"),
            (json!({"async": true}), "async", "does not offer respond-async"),
            (json!({"env": {"1A": ""}}), "env.1A", "letters, digits and _"),
            (json!({"env": {"A": 1}}), "env.A", "expected a string"),
            (json!({"secrets": ["A KEY"]}), "secrets[0]", "letters, digits and _"),
            (json!({"secrets": ["KEY", "KEY"]}), "secrets[1]", "named twice"),
            (json!({"secrets": ["KEY"], "env": {"KEY": ""}}), "secrets[0]", "is set in `env`, too"),
            (json!({"allowed_hosts": ["https://a.example/x"]}), "allowed_hosts[0]", "is no host"),
            (json!({"allowed_hosts": ["a.example", "a b"]}), "allowed_hosts[1]", "is no host"),
            (json!({"routes": ["api.example.com"]}), "routes[0]", "has no path"),
            (json!({"routes": ["/a", "/f/*"]}), "routes[1]", "`/f/` is the node's own"),
            (json!({"routes": ["/to/openai/*"]}), "routes[0]", "`/to/` is the node's own"),
            (json!({"routes": ["/readyz"]}), "routes[0]", "`/readyz` is the node's own"),
            (json!({"policy": {"retires": 3}}), "policy.retires", "unknown field `retires`"),
            (json!({"policy": {"retries": 300}}), "policy.retries", "over 20"),
            (json!({"policy": {"idempotency_key": "a"}}), "policy.idempotency_key", "of one request"),
            (json!({"policy": {"deadline": 5}}), "policy.deadline", "duration"),
            (json!({"policy": {"deadline": "-1s"}}), "policy.deadline", "`-1s` is not a duration"),
            (json!({"policy": {"retry_on": [503, "often"]}}), "policy.retry_on[1]", "often"),
        ] {
            let error = parse_function(config.clone(), &ceilings()).unwrap_err();
            assert_eq!(error.key, key, "{config}: {error}");
            assert!(error.why.contains(says), "{config}: {error}");
        }
    }

    #[test]
    fn a_destination_needs_a_match_and_known_keys() {
        parse_destination(json!({"match": "https://a.example", "max_concurrency": 4})).unwrap();
        for (config, key) in [
            (json!({}), "match"),
            (json!({"match": "https://a.example", "max_concurency": 4}), "max_concurency"),
            (json!({"match": "https://a.example", "max_concurrency": "x"}), "max_concurrency"),
        ] {
            assert_eq!(parse_destination(config).unwrap_err().key, key);
        }
    }

    #[test]
    fn the_lists_of_known_keys_are_the_keys_there_are() {
        // Every listed key is taken by the struct: none ends among the unknown ones.
        let all = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), Value::Null)).collect::<Map<_, _>>();
        let limits: FunctionLimits = serde_json::from_value(Value::Object(all(LIMIT_KEYS))).unwrap();
        assert!(limits.unknown.is_empty(), "{limits:?}");
        let function = json!({"env": {}, "secrets": [], "allowed_hosts": null, "auth": "token", "async": false,
            "isolation": null, "limits": {}, "policy": {}, "weight": null, "routes": []});
        assert!(FUNCTION_KEYS.iter().all(|key| function.get(key).is_some()));
        let function: FunctionConfig = serde_json::from_value(function).unwrap();
        assert!(function.unknown.is_empty(), "{function:?}");
        let destination = json!({"match": "", "profile": null, "split_by": [], "limits": [], "max_concurrency": null,
            "endpoints": [], "repeatable": null, "completions": [], "final_statuses": [], "final_codes": [],
            "errors": null, "keys": [], "ask_usage": null, "secret": null, "inject": null, "policy": {}, "cache": null});
        assert!(DESTINATION_KEYS.iter().all(|key| destination.get(key).is_some()));
        let destination: DestinationConfig = serde_json::from_value(destination).unwrap();
        assert!(destination.unknown.is_empty(), "{destination:?}");
        let cache =
            json!({"enabled": true, "stale_if_error": "1m", "stale_while_revalidate": null, "ignore_headers": []});
        assert!(CACHE_KEYS.iter().all(|key| cache.get(key).is_some()));
        let cache: CacheConfig = serde_json::from_value(cache).unwrap();
        assert!(cache.unknown.is_empty(), "{cache:?}");
    }
}
