//! Saved servers: `profiles.toml` in the configuration directory, readable by its owner alone.

use std::{
    collections::BTreeMap,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::failure::{Exit, Failure};

/// One saved server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Profile {
    /// Its control listener.
    pub(super) url: String,
    /// The token to show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    /// Its data listener, where that can't be told from the control listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gate: Option<String>,
}

/// All saved servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Profiles {
    /// The one that counts where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) default: Option<String>,
    /// By name.
    #[serde(default)]
    pub(super) profiles: BTreeMap<String, Profile>,
}

/// Where profiles are kept: `$XDG_CONFIG_HOME/tidegate`, else `~/.config/tidegate`.
pub(super) fn path() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("tidegate").join("profiles.toml"))
        .ok_or_else(|| Failure::new(Exit::Usage, "neither XDG_CONFIG_HOME nor HOME names a directory for profiles"))
}

impl Profiles {
    /// Reads the file; none is an empty one.
    pub(super) fn load(path: &Path) -> Result<Self, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::new(Exit::Usage, format!("{}: {error}", path.display()))),
        };
        toml::from_str(&text).map_err(|error| {
            // The parser's own text would show the line, and with it a token.
            let line = error.span().map(|span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
            let place = line.map(|line| format!(" line {line}")).unwrap_or_default();
            Failure::new(Exit::Usage, format!("{}{place}: {}", path.display(), error.message()))
                .next("correct the file, or remove it and run `tidegate login` again")
        })
    }

    /// Writes the file in one step, with mode 0600, into a directory of mode 0700 if it has to be made.
    pub(super) fn save(&self, path: &Path) -> Result<(), Failure> {
        let wrong = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
        let text = toml::to_string(self).map_err(|error| wrong(&error))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| wrong(&error))?;
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(|error| wrong(&error))?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(|error| wrong(&error))?;
        file.write_all(text.as_bytes()).map_err(|error| wrong(&error))?;
        file.as_file().sync_all().map_err(|error| wrong(&error))?;
        file.persist(path).map_err(|error| wrong(&error.error))?;
        Ok(())
    }

    /// The profile of this name.
    pub(super) fn named(&self, name: &str) -> Result<&Profile, Failure> {
        self.profiles.get(name).ok_or_else(|| {
            let known: Vec<_> = self.profiles.keys().map(String::as_str).collect();
            let known =
                if known.is_empty() { "none is saved".to_owned() } else { format!("saved: {}", known.join(", ")) };
            Failure::new(Exit::Usage, format!("there is no profile `{name}` ({known})"))
                .next(format!("`tidegate login URL --profile {name}` saves one"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Profiles {
        let profile = Profile { url: "https://gate.example:8081".into(), token: Some("tg_secret".into()), gate: None };
        Profiles { default: Some("default".into()), profiles: [("default".into(), profile)].into() }
    }

    #[test]
    fn a_saved_file_is_for_its_owner_alone_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tidegate/profiles.toml");
        sample().save(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(Profiles::load(&path).unwrap(), sample());
    }

    #[test]
    fn a_broken_file_is_reported_by_its_line_and_never_shows_the_token() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("profiles.toml");
        std::fs::write(&path, "[profiles.default]\nurl = \"x\"\ntoken = tg_secret\n").unwrap();
        let failure = Profiles::load(&path).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.what.contains("line 3") && !failure.what.contains("tg_secret"), "{}", failure.what);
    }

    #[test]
    fn no_file_is_no_profile() {
        let nowhere = Path::new("/nonexistent/profiles.toml");
        assert_eq!(Profiles::load(nowhere).unwrap(), Profiles::default());
        assert!(Profiles::default().named("x").unwrap_err().next.unwrap().contains("tidegate login"));
    }
}
