//! The keys of secrets: what `secret_key` says, and the file that a node without it makes for itself.

use std::io;

use super::data::DataDir;
use crate::{
    cluster::registry::{Command, Registry, RegistryError, SecretRecord},
    secrets::{KeyError, Keyring},
    settings::{KeyText, names},
};

/// Name of the file in the data directory.
const FILE: &str = "secret-key";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretKeyError {
    /// A key of the setting is none.
    #[error("{setting} (TIDEGATE_SECRET_KEY): {0}", setting = names::SECRET_KEY)]
    Setting(KeyError),
    /// The file holds none.
    #[error(
        "the file {FILE} in the data directory: {0}; restore it, or name the key in {setting} (TIDEGATE_SECRET_KEY)",
        setting = names::SECRET_KEY
    )]
    File(KeyError),
    /// The file could not be read or written.
    #[error("the file {FILE} in the data directory: {0}")]
    Io(#[from] io::Error),
}

/// The keys of the setting, and behind them the one in the file where there is one. Without a setting one is made.
pub(super) fn load(data: &DataDir, setting: &[KeyText]) -> Result<Keyring, SecretKeyError> {
    let file = match std::fs::read_to_string(data.path(FILE)) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let stated = || setting.iter().map(KeyText::reveal);
    if setting.is_empty() {
        let text = match file {
            Some(text) => text,
            None => {
                let text: String = (0..4).map(|_| format!("{:016x}", rand::random::<u64>())).collect();
                data.write_private(FILE, format!("{text}\n").as_bytes())?;
                text
            }
        };
        return Keyring::new([text.as_str()]).map_err(SecretKeyError::File);
    }
    Keyring::new(stated()).map_err(SecretKeyError::Setting)?;
    match file {
        Some(text) => Keyring::new(stated().chain([text.as_str()])).map_err(SecretKeyError::File),
        None => Keyring::new(stated()).map_err(SecretKeyError::Setting),
    }
}

/// Says which secrets can't be opened, and seals those anew that were sealed with another key than the first, so that the
/// others can go.
pub(super) fn seal_anew(
    registry: &Registry,
    keys: &Keyring,
    data: &DataDir,
    is_set: bool,
) -> Result<(), RegistryError> {
    let state = registry.snapshot();
    let mut anew = 0;
    for secret in state.secrets.values() {
        match secret.open(keys) {
            Err(why) => {
                tracing::error!(secret = %secret.name, %why, "a secret can't be opened; calls that need it are refused")
            }
            Ok(_) if secret.is_sealed_with_first(keys) => {}
            Ok(value) => {
                let next = |secret: &SecretRecord| secret.next(secret.binding.clone()).seal(keys, &value);
                // There is a first key: this one was opened with another.
                if let Ok(secret) = next(secret) {
                    registry.write_blocking(Command::PutSecret { secret })?;
                    anew += 1;
                }
            }
        }
    }
    if anew > 0 {
        tracing::info!(secrets = anew, setting = names::SECRET_KEY, "secrets were sealed anew with the first key");
    }
    if is_set && data.path(FILE).exists() {
        let file = data.path(FILE);
        tracing::warn!(
            file = %file.display(), setting = names::SECRET_KEY,
            "the key that secrets were sealed with before is still beside them: remove the file, unless a secret needs it"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{
        cluster::registry::{Bounds, SecretBinding, SecretHead},
        secrets::{SecretValue, Unopened},
    };

    struct Place {
        _directory: tempfile::TempDir,
        data: DataDir,
        registry: Registry,
    }

    fn place() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let bounds = Bounds { functions: 9, destinations: 9, secrets: 9, tokens: 9, audit: 9 };
        let registry = Registry::open(&data.path("registry.redb"), bounds).unwrap();
        Place { _directory: directory, data, registry }
    }

    fn keys(texts: &[&str]) -> Vec<KeyText> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    const ONE: &str = "one key of more than 32 characters";
    const TWO: &str = "another key of more than 32 characters";
    const VALUE: &str = "sk-live-0123456789";

    impl Place {
        fn set(&self, keys: &Keyring) {
            let (tenant, binding) = ("default".into(), SecretBinding::default());
            let head = SecretHead { tenant, name: "A".into(), binding, follows: 0, set_ms: 0 };
            let secret = head.seal(keys, &SecretValue::new(VALUE.into()).unwrap()).unwrap();
            self.registry.write_blocking(Command::PutSecret { secret }).unwrap();
        }

        fn open(&self, keys: &Keyring) -> Result<SecretValue, Unopened> {
            self.registry.state().secrets.values().next().unwrap().open(keys)
        }

        /// Whether any file of the data directory holds this text.
        fn holds(&self, text: &str) -> bool {
            let files = std::fs::read_dir(self.data.root())
                .unwrap()
                .filter_map(|entry| std::fs::read(entry.unwrap().path()).ok());
            files.into_iter().any(|bytes| crate::secrets::position(&bytes, text.as_bytes()).is_some())
        }
    }

    #[test]
    fn without_a_setting_a_key_is_made_once_that_only_the_nodes_user_reads() {
        let place = place();
        let made = load(&place.data, &[]).unwrap();
        let file = place.data.path(FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        place.set(&made);
        assert_eq!(place.open(&load(&place.data, &[]).unwrap()).unwrap().reveal(), VALUE);
        std::fs::write(&file, "cut\n").unwrap();
        let error = load(&place.data, &[]).unwrap_err().to_string();
        assert!(error.contains("secret-key") && error.contains("TIDEGATE_SECRET_KEY"), "{error}");
    }

    #[test]
    fn a_data_directory_that_was_stolen_opens_nothing_where_the_key_is_a_setting() {
        let place = place();
        let set = load(&place.data, &keys(&[ONE])).unwrap();
        place.set(&set);
        assert!(!place.data.path(FILE).exists());
        assert!(!place.holds(VALUE) && !place.holds(ONE));
        // What a thief starts makes a key of its own, which opens nothing.
        let why = place.open(&load(&place.data, &[]).unwrap()).unwrap_err();
        assert!(why.to_string().contains("secret_key"), "{why}");
        assert_eq!(place.open(&load(&place.data, &keys(&[ONE])).unwrap()).unwrap().reveal(), VALUE);
    }

    #[test]
    fn a_new_key_in_front_seals_all_anew_and_the_old_one_can_go() {
        let place = place();
        place.set(&load(&place.data, &[]).unwrap());
        for setting in [&[ONE][..], &[TWO, ONE], &[TWO]] {
            let keys = load(&place.data, &keys(setting)).unwrap();
            seal_anew(&place.registry, &keys, &place.data, true).unwrap();
            assert_eq!(place.open(&keys).unwrap().reveal(), VALUE);
            assert!(place.registry.state().secrets.values().all(|secret| secret.is_sealed_with_first(&keys)));
            let _ = std::fs::remove_file(place.data.path(FILE));
        }
        let wrong = load(&place.data, &keys(&[ONE])).unwrap();
        seal_anew(&place.registry, &wrong, &place.data, true).unwrap();
        assert!(matches!(place.open(&wrong), Err(Unopened::OtherKey(_))), "a wrong key changes nothing");
    }

    #[test]
    fn a_short_key_is_refused_by_its_setting_and_not_shown() {
        let error = load(&place().data, &keys(&[ONE, "short and secret"])).unwrap_err().to_string();
        assert!(error.contains("secret_key (TIDEGATE_SECRET_KEY)") && !error.contains("short and"), "{error}");
    }
}
