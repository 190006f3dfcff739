//! Where the value of each setting comes from.

use std::{collections::HashMap, fmt};

use clap::{ArgMatches, parser::ValueSource};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    #[default]
    Default,
    /// The file that `--config` names.
    File,
    /// A `TIDEGATE_*` variable.
    Variable,
    /// A flag.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Variable => "variable",
            Self::Flag => "flag",
        })
    }
}

/// The sources of all settings that somebody gave, by key.
#[derive(Clone, Debug, Default)]
pub struct Sources(HashMap<String, Source>);

impl Sources {
    /// Reads them from what clap made of the arguments. `in_file`: the keys of the file, whose values clap takes for
    /// defaults.
    pub fn of(matches: &ArgMatches, in_file: &[String]) -> Self {
        let source = |key: &str| match matches.value_source(key)? {
            ValueSource::CommandLine => Some(Source::Flag),
            ValueSource::EnvVariable => Some(Source::Variable),
            _ => in_file.iter().any(|known| known == key).then_some(Source::File),
        };
        let given = matches.ids().filter_map(|id| Some((id.as_str().to_owned(), source(id.as_str())?)));
        Self(given.collect())
    }

    /// Where the value of this key comes from.
    pub fn get(&self, key: &str) -> Source {
        self.0.get(key).copied().unwrap_or_default()
    }
}
