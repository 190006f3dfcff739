//! Which server a command talks to, and with which token.
//!
//! The first of these that there is: what the command line says, its variables, the profile it names, the default
//! profile, the `tidegate dev` that runs in this directory, the node at the usual place. A saved token goes only to the
//! server it was saved for.

use std::path::Path;

use clap::Args;
use url::Url;

use super::{
    failure::{Exit, Failure},
    profiles::{Profile, Profiles},
    running::{DEV_DATA, Running},
};

/// Where the control listener of a local node is unless told otherwise.
pub(super) const LOCAL_CONTROL: &str = "http://127.0.0.1:8081";
/// Where the data listener of a local node is unless told otherwise.
pub(super) const LOCAL_GATE: &str = "http://127.0.0.1:8080";

/// Flags of every command that talks to a server.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub(super) struct ClientArgs {
    /// Control listener. Default: the profile's, else http://127.0.0.1:8081
    #[arg(long, env = "TIDEGATE_URL", value_name = "URL", hide_env_values = true, value_parser = server_url)]
    pub(super) url: Option<Url>,
    /// Token. Default: the profile's, else of .tidegate/admin-token
    #[arg(long, env = "TIDEGATE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// Saved server (see `tidegate login`)
    #[arg(long, env = "TIDEGATE_PROFILE", value_name = "NAME", hide_env_values = true)]
    pub(super) profile: Option<String>,
    /// Say on stderr which server and token are used
    #[arg(short, long)]
    pub(super) verbose: bool,
}

/// Arguments of a command that needs nothing but a server.
#[derive(Args, Debug)]
pub(super) struct ClientOnly {
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// Arguments of a command about one thing.
#[derive(Args, Debug)]
pub(super) struct Named {
    /// Its name
    pub(super) name: String,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// A server and what to show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its control listener.
    pub(super) url: Url,
    /// The token.
    pub(super) token: Option<String>,
    /// Its data listener, if a profile says so.
    pub(super) gate: Option<Url>,
    /// Where URL and token come from, for `-v`.
    pub(super) from: String,
}

/// Reads a server's URL: http or https, with a host, without a query.
pub(super) fn server_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}; write it as http://127.0.0.1:8081"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("must begin with http:// or https:// and name a host".into());
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("must have neither user, query nor fragment".into());
    }
    Ok(url)
}

/// Finds the target.
pub(super) fn resolve(args: &ClientArgs, profiles: &Profiles, directory: &Path) -> Result<Target, Failure> {
    let parsed = |text: &str| {
        server_url(text).map_err(|why| Failure::new(Exit::Usage, format!("the profile's URL `{text}`: {why}")))
    };
    let chosen: Option<(String, &Profile)> = match (&args.profile, &args.url) {
        (Some(name), _) => Some((name.clone(), profiles.named(name)?)),
        (None, Some(url)) => profiles
            .profiles
            .iter()
            .find(|(_, profile)| Url::parse(&profile.url).is_ok_and(|saved| saved == *url))
            .map(|(name, profile)| (name.clone(), profile)),
        (None, None) => match &profiles.default {
            Some(name) => Some((name.clone(), profiles.named(name)?)),
            None => None,
        },
    };
    let dev = Running::find(&directory.join(DEV_DATA));
    let (url, url_from) = match (&args.url, &chosen, &dev) {
        (Some(url), ..) => (url.clone(), "--url or TIDEGATE_URL".to_owned()),
        (None, Some((name, profile)), _) => (parsed(&profile.url)?, format!("profile `{name}`")),
        (None, None, Some(dev)) => (parsed(&dev.control)?, "the `tidegate dev` of this directory".to_owned()),
        (None, None, None) => (parsed(LOCAL_CONTROL)?, "the default".to_owned()),
    };
    // A saved token goes only where it was saved for.
    let chosen = match chosen {
        Some((name, profile)) if parsed(&profile.url)?.origin() == url.origin() => Some((name, profile)),
        _ => None,
    };
    let dev = dev.filter(|dev| parsed(&dev.control).is_ok_and(|control| control.origin() == url.origin()));
    let local = |url: &Url| {
        if let Some(token) = dev.as_ref().and_then(|dev| dev.token.clone()) {
            return Some((token, format!("{DEV_DATA}/admin-token")));
        }
        let is_local = match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        let path = directory.join(".tidegate").join("admin-token");
        let token = is_local.then(|| std::fs::read_to_string(&path).ok()).flatten()?;
        Some((token.trim().to_owned(), ".tidegate/admin-token".to_owned()))
    };
    let saved = chosen.as_ref().and_then(|(name, profile)| Some((profile.token.clone()?, format!("profile `{name}`"))));
    let token = args.token.clone().map(|token| (token, "--token or TIDEGATE_TOKEN".to_owned())).or(saved);
    let token = token.or_else(|| local(&url));
    // The dev node is asked itself: it knows whether the function is at the root.
    let gate = chosen.as_ref().and_then(|(_, profile)| profile.gate.as_deref()).map(parsed).transpose()?;
    let token_from = token.as_ref().map_or("none", |(_, from)| from.as_str());
    let from = format!("server {url} (from {url_from}), token from: {token_from}");
    Ok(Target { url, token: token.map(|(token, _)| token), gate, from })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles() -> Profiles {
        let profile = |url: &str, token: &str| Profile { url: url.into(), token: Some(token.into()), gate: None };
        Profiles {
            default: Some("work".into()),
            profiles: [
                ("work".into(), profile("https://work.example", "work-token")),
                ("home".into(), profile("http://127.0.0.1:9000", "home-token")),
            ]
            .into(),
        }
    }

    fn local() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(".tidegate")).unwrap();
        std::fs::write(directory.path().join(".tidegate/admin-token"), "local-token\n").unwrap();
        directory
    }

    fn args(url: Option<&str>, token: Option<&str>, profile: Option<&str>) -> ClientArgs {
        ClientArgs {
            url: url.map(|url| server_url(url).unwrap()),
            token: token.map(str::to_owned),
            profile: profile.map(str::to_owned),
            ..ClientArgs::default()
        }
    }

    #[test]
    fn the_first_place_that_knows_wins() {
        let directory = local();
        let none = Profiles::default();
        for (args, profiles, url, token) in [
            (args(None, None, None), &none, "http://127.0.0.1:8081/", Some("local-token")),
            (args(None, None, None), &profiles(), "https://work.example/", Some("work-token")),
            (args(None, None, Some("home")), &profiles(), "http://127.0.0.1:9000/", Some("home-token")),
            (args(None, Some("mine"), Some("home")), &profiles(), "http://127.0.0.1:9000/", Some("mine")),
            (
                args(Some("http://127.0.0.1:9000"), None, None),
                &profiles(),
                "http://127.0.0.1:9000/",
                Some("home-token"),
            ),
            (args(Some("http://[::1]:1"), None, None), &profiles(), "http://[::1]:1/", Some("local-token")),
        ] {
            let target = resolve(&args, profiles, directory.path()).unwrap();
            assert_eq!((target.url.as_str(), target.token.as_deref()), (url, token));
        }
    }

    #[test]
    fn the_dev_node_of_this_directory_is_found_while_it_runs() {
        let directory = local();
        let data = directory.path().join(DEV_DATA);
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("admin-token"), "dev-token").unwrap();
        let dev =
            Running { control: "http://127.0.0.1:4001".into(), gate: "http://127.0.0.1:4000".into(), token: None };
        let runs = dev.announce(&data).unwrap();
        let find = |args: &ClientArgs| resolve(args, &Profiles::default(), directory.path()).unwrap();
        let target = find(&args(None, None, None));
        assert_eq!((target.url.as_str(), target.token.as_deref()), ("http://127.0.0.1:4001/", Some("dev-token")));
        assert_eq!(target.gate, None);
        assert_eq!(find(&args(Some(LOCAL_CONTROL), None, None)).token.as_deref(), Some("local-token"));
        drop(runs);
        assert_eq!(find(&args(None, None, None)).token.as_deref(), Some("local-token"));
    }

    #[test]
    fn a_saved_token_never_goes_to_another_server() {
        let directory = local();
        for args in [
            args(Some("https://elsewhere.example"), None, None),
            args(Some("https://evil.example"), None, Some("work")),
        ] {
            let target = resolve(&args, &profiles(), directory.path()).unwrap();
            assert_eq!(target.token, None, "{}", target.url);
        }
    }

    #[test]
    fn an_unknown_profile_is_an_error_that_lists_the_known() {
        let failure = resolve(&args(None, None, Some("hom")), &profiles(), Path::new("/")).unwrap_err();
        assert!(failure.what.contains("saved: home, work"), "{}", failure.what);
    }

    #[test]
    fn urls_that_would_leak_or_mislead_are_refused() {
        for text in ["ftp://x", "127.0.0.1:8081", "http://user:pw@x", "http://x/?a=b", "/v1"] {
            assert!(server_url(text).is_err(), "{text}");
        }
    }
}
