//! The endpoints of a destination: several equal ways to it, and how a request is written for each.

use std::{
    collections::{BTreeMap, HashSet},
    num::NonZeroU16,
    sync::Arc,
};

use http::uri::PathAndQuery;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tidegate_core::{
    Effective, Flow, Limit,
    endpoint::{EndpointSettings, Mask, Ranks, Ways},
};

use super::{
    compile::{Injection, injection, read},
    hash_key,
};
use crate::{
    cluster::registry::{ConfigError, EndpointConfig},
    outbound::Origin,
};

/// One way to a destination.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// What core knows it by.
    pub(crate) id: u64,
    /// How it is shown.
    pub(crate) name: Arc<str>,
    pub(crate) region: Option<Box<str>>,
    pub(crate) origin: Origin,
    /// What programs' requests are given there, in the place of what the destination gives them.
    pub(crate) injection: Option<Injection>,
    /// What stands before each path.
    pub(super) base: Box<str>,
    /// What is taken off before that.
    pub(super) strip: Box<str>,
    /// What is added to each query, encoded.
    pub(super) query: Box<str>,
}

impl Endpoint {
    /// The path and query as this endpoint has them. `None` where they are the same.
    pub(crate) fn path(&self, asked: &PathAndQuery) -> Option<PathAndQuery> {
        if self.base.is_empty() && self.strip.is_empty() && self.query.is_empty() {
            return None;
        }
        let path = asked.path();
        let rest = self.stripped(path).unwrap_or(path);
        let query = [asked.query().unwrap_or_default(), &self.query];
        let query = query.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        let slash = if rest.starts_with('/') || (rest.is_empty() && !self.base.is_empty()) { "" } else { "/" };
        format!("{}{slash}{rest}{mark}{query}", self.base).parse().ok()
    }

    /// What is left of a path that has in front what is taken off.
    pub(super) fn stripped<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(&*self.strip).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Checks the endpoints of a destination. `template`: where secrets are put that do not say it.
///
/// # Errors
/// The first key that is wrong, with what would be right.
pub(super) fn compile(
    list: &[Value],
    home: &str,
    template: &str,
) -> Result<(Arc<[Endpoint]>, Vec<EndpointSettings>), ConfigError> {
    let mut names = HashSet::new();
    let (mut endpoints, mut settings) = (Vec::new(), Vec::new());
    for (index, value) in list.iter().enumerate() {
        let key = format!("endpoints[{index}]");
        let wrong = |field: &str, why: String| ConfigError { key: format!("{key}.{field}"), why };
        let config: EndpointConfig = read(&key, value.clone())?;
        let (origin, base) = url(&config.url).map_err(|why| wrong("url", why))?;
        let name: Arc<str> = config.name.unwrap_or_else(|| origin.authority().to_string()).into();
        if name.is_empty() || name.len() > 64 || name.contains(char::is_control) {
            return Err(wrong("name", "is 1 to 64 characters".into()));
        }
        if !names.insert(Arc::clone(&name)) {
            return Err(wrong("name", format!("`{name}` is another's: give each a name of its own")));
        }
        let strip = config.strip.unwrap_or_default();
        if !strip.is_empty() && (!strip.starts_with('/') || strip.ends_with('/')) {
            return Err(wrong("strip", format!("`{strip}` begins with a slash and does not end with one, as in /v1")));
        }
        let injection = injection(config.secret.as_deref(), config.inject.as_deref(), template, false)
            .map_err(|error| wrong(&error.key, error.why))?;
        let weight = config.weight.unwrap_or(1);
        let weight = NonZeroU16::new(weight).filter(|weight| weight.get() <= Flow::MAX_WEIGHT);
        let weight = weight.ok_or_else(|| wrong("weight", format!("is 1 to {}", Flow::MAX_WEIGHT)))?;
        let query = encoded(&config.query).into();
        let limits = config.limits.iter().enumerate();
        let limits = limits.map(|(at, limit)| read::<Limit>(&format!("{key}.limits[{at}]"), limit.clone()));
        let id = hash_key("endpoint", &name) as u64;
        settings.push(EndpointSettings {
            id,
            weight,
            home: config.region.as_deref() == Some(home),
            limits: limits.collect::<Result<_, _>>()?,
            max_concurrency: config.max_concurrency,
        });
        let (base, strip) = (base.into(), strip.into());
        let region = config.region.map(Into::into);
        endpoints.push(Endpoint { id, name, region, origin, injection, base, strip, query });
    }
    Ok((endpoints.into(), settings))
}

/// Parameters as they stand in a query.
pub(super) fn encoded(parameters: &BTreeMap<String, String>) -> String {
    let encode = |text: &String| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs = parameters.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Origin and base path of an endpoint's URL.
fn url(text: &str) -> Result<(Origin, String), String> {
    let example = || format!("`{text}` is no URL of an endpoint: write https://host, or https://host/base/path");
    let uri: http::Uri = text.parse().map_err(|_| example())?;
    let origin = Origin::of(&uri).map_err(|error| error.to_string())?;
    if uri.query().is_some() {
        return Err("what is added to each query stands in `query`".into());
    }
    Ok((origin, uri.path().trim_end_matches('/').to_owned()))
}

/// Which of the endpoints a call may take, and which it would rather. Nothing: its policy insists on regions in which
/// there is none; where none are configured calls leave from the node's own, `home`.
pub(super) fn ways(endpoints: &[Endpoint], home: &str, policy: &Effective) -> Option<Ways> {
    if policy.regions.is_empty() {
        return Some(Ways::ANY);
    }
    if endpoints.is_empty() {
        return (!policy.regions_only || policy.regions.iter().any(|region| region == home)).then_some(Ways::ANY);
    }
    let (mut wanted, mut preferred) = (Mask::NONE, Ranks::NONE);
    for (index, endpoint) in (0u8..).zip(endpoints) {
        let region = |wanted: &String| endpoint.region.as_deref() == Some(wanted);
        if let Some(rank) = policy.regions.iter().position(region) {
            wanted = wanted.with(index);
            preferred = preferred.with(index, u8::try_from(rank).unwrap_or(u8::MAX));
        }
    }
    match policy.regions_only {
        true if wanted == Mask::NONE => None,
        true => Some(Ways { allowed: wanted, preferred }),
        false => Some(Ways { allowed: Mask::ALL, preferred }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compiled(list: Value) -> Result<(Arc<[Endpoint]>, Vec<EndpointSettings>), String> {
        compile(list.as_array().unwrap(), "iad", "authorization: Bearer {}").map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_is_written_for_its_endpoint() {
        let azure = json!({"url": "https://x.openai.azure.com/openai/deployments/gpt/", "strip": "/v1",
            "query": {"api-version": "2024-10-21"}});
        let plain = json!({"url": "https://api.openai.com"});
        let (endpoints, _) = compiled(json!([azure, plain])).unwrap();
        for (asked, azure) in [
            ("/v1/chat/completions", "/openai/deployments/gpt/chat/completions?api%2Dversion=2024%2D10%2D21"),
            ("/v1/chat?x=%20", "/openai/deployments/gpt/chat?x=%20&api%2Dversion=2024%2D10%2D21"),
            ("/v1beta", "/openai/deployments/gpt/v1beta?api%2Dversion=2024%2D10%2D21"),
            ("/", "/openai/deployments/gpt/?api%2Dversion=2024%2D10%2D21"),
        ] {
            let asked: PathAndQuery = asked.parse().unwrap();
            assert_eq!(endpoints[0].path(&asked).unwrap(), azure, "{asked}");
            assert_eq!(endpoints[1].path(&asked), None);
        }
        assert_eq!(endpoints[0].origin.to_string(), "https://x.openai.azure.com");
        assert_eq!(&*endpoints[0].name, "x.openai.azure.com");
    }

    #[test]
    fn every_error_names_its_key() {
        for (endpoint, key) in [
            (json!({"name": "a"}), "url"),
            (json!({"url": "api.openai.com"}), "endpoints[0].url"),
            (json!({"url": "https://a?x=1"}), "endpoints[0].url"),
            (json!({"url": "https://a", "weight": 0}), "endpoints[0].weight"),
            (json!({"url": "https://a", "weight": 1001}), "endpoints[0].weight"),
            (json!({"url": "https://a", "strip": "v1"}), "endpoints[0].strip"),
            (json!({"url": "https://a", "limits": [{"quota": 5}]}), "endpoints[0].limits[0]"),
            (json!({"url": "https://a", "wieght": 1}), "wieght"),
            (json!({"url": "https://a", "secret": "a b"}), "endpoints[0].secret"),
            (json!({"url": "https://a", "inject": "api-key: {}"}), "endpoints[0].inject"),
            (json!({"url": "https://a", "secret": "A", "inject": "api-key"}), "endpoints[0].inject"),
        ] {
            let error = compiled(json!([endpoint])).unwrap_err();
            assert!(error.contains(key), "{endpoint}: {error}");
        }
        let error = compiled(json!([{"url": "https://a"}, {"url": "https://a"}])).unwrap_err();
        assert!(error.contains("endpoints[1].name"), "{error}");
    }

    #[test]
    fn regions_are_preferred_or_insisted_on() {
        let at = |region: &str| json!({"url": format!("https://{region}.example"), "region": region});
        let (endpoints, settings) = compiled(json!([at("iad"), at("lhr"), {"url": "https://any.example"}])).unwrap();
        assert_eq!(settings.iter().map(|it| it.home).collect::<Vec<_>>(), [true, false, false]);
        let of = |regions: &[&str], only: bool| {
            let regions = regions.iter().map(ToString::to_string).collect();
            ways(&endpoints, "iad", &Effective { regions, regions_only: only, ..Effective::default() })
        };
        assert_eq!(of(&[], true), Some(Ways::ANY));
        assert_eq!(of(&["lhr"], false), Some(Ways { allowed: Mask::ALL, preferred: Ranks::NONE.with(1, 0) }));
        assert_eq!(
            of(&["lhr", "iad", "nrt"], true),
            Some(Ways { allowed: Mask(3), preferred: Ranks::NONE.with(1, 0).with(0, 1) })
        );
        assert_eq!(of(&["nrt"], false), Some(Ways::ANY));
        assert_eq!(of(&["nrt"], true), None);
        for (regions, only, leaves) in [("lhr", true, false), ("lhr", false, true), ("iad", true, true)] {
            let policy = Effective { regions: [regions.into()].into(), regions_only: only, ..Effective::default() };
            assert_eq!(ways(&[], "iad", &policy), leaves.then_some(Ways::ANY), "{regions}, {only}");
        }
    }
}
