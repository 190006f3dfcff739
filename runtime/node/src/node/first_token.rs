//! The first token: what `TIDEGATE_ADMIN_TOKEN` says, else one that is made and left in a private file.

use std::io;

use super::data::DataDir;
use crate::{
    cluster::registry::{Command, Registry, RegistryError, Scope, token},
    ids::TenantId,
};

/// Name of the file in the data directory.
pub(super) const FILE: &str = "admin-token";

/// Where the first token came from.
#[derive(Debug)]
pub(super) enum FirstToken {
    /// The setting.
    Setting(String),
    /// A file of an earlier start.
    Kept(String),
    /// Made now and written to the file.
    Made(String),
    /// Somebody holds an admin token that is in no file of ours.
    Elsewhere,
}

impl FirstToken {
    /// The token, where it is known.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Setting(text) | Self::Kept(text) | Self::Made(text) => Some(text),
            Self::Elsewhere => None,
        }
    }
}

/// Why there is no first token.
#[derive(Debug, thiserror::Error)]
pub(super) enum FirstTokenError {
    /// The registry refused it.
    #[error("the admin token could not be stored: {0}")]
    Registry(#[from] RegistryError),
    /// The file could not be read or written.
    #[error("the file {FILE} in the data directory: {0}")]
    File(#[from] io::Error),
}

/// Sees to it that somebody can use the control API.
pub(super) fn ensure(
    registry: &Registry,
    data: &DataDir,
    setting: Option<&str>,
) -> Result<FirstToken, FirstTokenError> {
    let tenant = TenantId::default_tenant();
    let add = |text: &str| {
        let state = registry.state();
        let known = state.token(&token::hash(text)).is_some_and(|token| token.scopes.contains(&Scope::Admin));
        if !known {
            let label = "first token".to_owned();
            let record = token::record(Some(token::FIRST_TOKEN), tenant.clone(), label, vec![Scope::Admin], text);
            registry.write_blocking(Command::AddToken { token: record })?;
        }
        Ok::<_, RegistryError>(())
    };
    if let Some(text) = setting.map(str::trim).filter(|text| !text.is_empty()) {
        if text.len() < 16 {
            tracing::warn!("the token in TIDEGATE_ADMIN_TOKEN is short; anyone who guesses it owns this node");
        }
        add(text)?;
        return Ok(FirstToken::Setting(text.to_owned()));
    }
    let file = match std::fs::read_to_string(data.path(FILE)) {
        Ok(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let someone_may = registry.state().tokens.values().any(|token| token.scopes.contains(&Scope::Admin));
    match file {
        // The file outlives its token when that was revoked or replaced by the setting; it opens nothing then.
        Some(text) if registry.state().token(&token::hash(&text)).is_some() => Ok(FirstToken::Kept(text)),
        _ if someone_may => Ok(FirstToken::Elsewhere),
        _ => {
            // The file first: a crash in between leaves a file that opens nothing and is written anew.
            let text = token::mint();
            data.write_private(FILE, format!("{text}\n").as_bytes())?;
            add(&text)?;
            Ok(FirstToken::Made(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::registry::Bounds;

    struct Place {
        directory: tempfile::TempDir,
        data: DataDir,
        registry: Registry,
    }

    fn place() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let bounds = Bounds { functions: 9, destinations: 9, secrets: 9, tokens: 9, audit: 9 };
        let registry = Registry::open(&data.path("registry.redb"), bounds).unwrap();
        Place { directory, data, registry }
    }

    fn opens(place: &Place, text: &str) -> bool {
        place.registry.state().token(&token::hash(text)).is_some()
    }

    #[test]
    fn without_a_setting_one_is_made_once_and_found_again() {
        let place = place();
        let first = ensure(&place.registry, &place.data, None).unwrap();
        let FirstToken::Made(text) = first else { panic!("{first:?}") };
        assert!(opens(&place, &text));
        let again = ensure(&place.registry, &place.data, None).unwrap();
        assert!(matches!(&again, FirstToken::Kept(kept) if *kept == text), "{again:?}");
        let file = std::fs::read(place.directory.path().join("registry.redb")).unwrap();
        let secret = text.trim_start_matches("tg_").as_bytes();
        assert!(!file.windows(secret.len()).any(|window| window == secret), "not stored in clear");
    }

    #[test]
    fn the_setting_works_on_every_start_and_a_new_one_takes_the_place_of_the_old() {
        let place = place();
        for text in ["a-token-of-someone", "a-token-of-someone", "another-token-of-them"] {
            ensure(&place.registry, &place.data, Some(text)).unwrap();
            assert!(opens(&place, text));
        }
        assert!(!opens(&place, "a-token-of-someone"));
        assert_eq!(place.registry.state().tokens.len(), 1);
        let without = ensure(&place.registry, &place.data, None).unwrap();
        assert!(matches!(without, FirstToken::Elsewhere), "{without:?}");
    }

    #[test]
    fn a_file_whose_token_opens_nothing_is_written_anew() {
        let place = place();
        place.data.write_private(FILE, b"tg_of_a_crash\n").unwrap();
        let FirstToken::Made(text) = ensure(&place.registry, &place.data, None).unwrap() else { panic!() };
        assert!(opens(&place, &text));
        assert!(!opens(&place, "tg_of_a_crash"));
    }
}
