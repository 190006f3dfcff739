//! Stored answers: the flags that have a destination store them, and `tidegate destinations purge`.

use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};
use tidegate_core::units::Span;

use super::super::{
    api::{Api, segment},
    failure::{Exit, Failure},
    target::ClientArgs,
};

/// Flags of `put`.
#[derive(Args, Debug)]
pub(super) struct CacheFlags {
    /// Store its answers where the upstream lets them be stored, and give them again (RFC 9111)
    #[arg(long)]
    cache: bool,
    /// Time for which a stored answer may be given stale where asking fails, if the upstream does not say it
    #[arg(long, value_name = "DURATION", requires = "cache")]
    stale_if_error: Option<Span>,
    /// Time for which a stored answer may be given stale while it is asked for, if the upstream does not say it
    #[arg(long, value_name = "DURATION", requires = "cache")]
    stale_while_revalidate: Option<Span>,
    /// Header of requests that says nothing about who asks. Repeatable
    #[arg(long = "cache-ignore", value_name = "HEADER", value_delimiter = ',', requires = "cache")]
    ignored: Vec<String>,
}

impl CacheFlags {
    /// Lays them over a configuration.
    pub(super) fn apply(&self, config: &mut Map<String, Value>) {
        if !self.cache {
            return;
        }
        let cache = config.entry("cache").or_insert_with(|| json!({}));
        let Some(cache) = cache.as_object_mut() else { return };
        let mut set = |key: &str, value: Option<Value>| value.map(|value| cache.insert(key.to_owned(), value));
        set("enabled", Some(json!(true)));
        set("stale_if_error", self.stale_if_error.map(|span| json!(span)));
        set("stale_while_revalidate", self.stale_while_revalidate.map(|span| json!(span)));
        set("ignore_headers", (!self.ignored.is_empty()).then(|| json!(self.ignored)));
    }
}

/// Arguments of `purge`.
#[derive(Args, Debug)]
pub(super) struct Purge {
    /// The destination
    name: String,
    /// One URL of it, as it was asked for, such as https://api.example.com/v1/list?page=2. None: all of it
    #[arg(value_name = "URL")]
    one: Option<String>,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// Forgets stored answers.
pub(super) async fn purge(api: &Api, purge: &Purge) -> Result<Exit, Failure> {
    let name = &purge.name;
    let url = purge.one.as_deref().map(|url| format!("?url={}", segment(url))).unwrap_or_default();
    let path = format!("/v1/destinations/{}/cache{url}", segment(name));
    api.json(Method::DELETE, &path, None, &format!("purging `{name}`")).await?;
    if api.out.is_json() {
        api.out.value(&json!({"purged": name, "url": purge.one}))?;
    } else {
        let what = purge.one.as_deref().unwrap_or("all stored answers");
        api.out.line(format_args!("{name}: forgot {what}"))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn config(flags: &[&str]) -> Result<Value, String> {
        let command = CacheFlags::augment_args(Command::new("put"));
        let matches = command.try_get_matches_from(std::iter::once("put").chain(flags.iter().copied()));
        let flags =
            matches.and_then(|matches| CacheFlags::from_arg_matches(&matches)).map_err(|error| error.to_string())?;
        let mut config = Map::new();
        config.insert("cache".into(), json!({"enabled": false, "stale_if_error": "1m"}));
        flags.apply(&mut config);
        config.remove("cache").ok_or_else(|| "nothing".to_owned())
    }

    #[test]
    fn flags_win_over_the_file_and_say_nothing_where_there_are_none() {
        assert_eq!(config(&[]), Ok(json!({"enabled": false, "stale_if_error": "1m"})));
        assert_eq!(config(&["--cache"]), Ok(json!({"enabled": true, "stale_if_error": "1m"})));
        let all = ["--cache", "--stale-if-error", "1h", "--stale-while-revalidate", "5s", "--cache-ignore", "x-a,x-b"];
        let is = json!({"enabled": true, "stale_if_error": "1h", "stale_while_revalidate": "5s",
                        "ignore_headers": ["x-a", "x-b"]});
        assert_eq!(config(&all), Ok(is));
        assert!(config(&["--stale-if-error", "1h"]).unwrap_err().contains("--cache"));
    }
}
