//! What a destination's configuration says about stored answers.

use http::{HeaderName, header};
use tidegate_core::cache::Stale;

use super::{api::Api, partition::Splitter};
use crate::{
    cluster::registry::{CREDENTIALS, CacheConfig, ConfigError},
    outbound::cache::{Caching, Scope},
};

/// The configuration, checked.
#[derive(Clone, Debug)]
pub(super) struct CompiledCache {
    stale: Stale,
    ignored: Box<[HeaderName]>,
}

impl CompiledCache {
    /// Checks it; nothing where answers are not to be stored.
    pub(super) fn new(config: &CacheConfig, api: &Api) -> Result<Option<Self>, ConfigError> {
        let ignored = |(index, name): (usize, &String)| ignored(index, name, api);
        let ignored: Result<Box<[_]>, _> = config.ignore_headers.iter().enumerate().map(ignored).collect();
        let stale = Stale {
            never: false,
            while_revalidate: config.stale_while_revalidate.map_or_else(Default::default, |span| span.get()),
            if_error: config.stale_if_error.map_or_else(Default::default, |span| span.get()),
        };
        Ok(Some(Self { stale, ignored: ignored? }).filter(|_| config.enabled))
    }

    /// That of a destination.
    pub(super) fn of(self, destination: u128, split_by: &[Splitter]) -> Caching {
        // Path and query are the answer's own anyway, and no request that has one stored has a body.
        let splits: Box<[_]> = split_by.iter().flat_map(Splitter::headers).cloned().collect();
        let Self { stale, ignored } = self;
        Caching { scope: Scope::of(destination, &splits, &ignored), stale, ignored, splits }
    }
}

fn ignored(index: usize, name: &str, api: &Api) -> Result<HeaderName, ConfigError> {
    let wrong = |why: String| ConfigError { key: format!("cache.ignore_headers[{index}]"), why };
    let name: HeaderName = name.parse().map_err(|_| wrong(format!("`{name}` is no name of a header")))?;
    let mut who = CREDENTIALS.iter().chain(api.key_headers()).chain([&header::COOKIE]);
    if who.any(|who| *who == name) {
        return Err(wrong(format!("`{name}` says who asks: answers are never shared across it")));
    }
    Ok(name)
}
