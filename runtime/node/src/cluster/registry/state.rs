//! What the registry holds and what can be asked of it: records, commands, reasons to refuse one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    config::{DestinationConfig, FunctionConfig},
    secret::SecretRecord,
    steering::{Steer, Steering},
};
use crate::{
    ids::{DestinationName, Digest, FunctionName, SecretName, TenantId},
    secrets::HandleSeed,
};

/// Number of a version within its function, from 1, never used twice.
pub type VersionNumber = u64;

/// Which world a module speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum World {
    /// Exports `wasi:http/incoming-handler@0.2.x`.
    #[serde(rename = "wasi:http@0.2")]
    Http02,
    /// Exports `wasi:http/handler@0.3.x`.
    #[serde(rename = "wasi:http@0.3")]
    Http03,
}

/// One immutable pair of module and configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Its number.
    pub number: VersionNumber,
    /// The module as it was uploaded.
    pub digest: Digest,
    /// Size of the module, bytes.
    pub size: u64,
    /// World the module speaks.
    pub world: World,
    /// Whether the module's SDK says that its instances may be reused.
    pub reuse_safe: bool,
    /// Its configuration.
    pub config: Arc<FunctionConfig>,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// What the deployer said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What its handles of secrets are derived from; nothing where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handles: Option<HandleSeed>,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name.
    pub name: FunctionName,
    /// The version that serves; none until one is activated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<VersionNumber>,
    /// Versions that are kept, by number.
    pub versions: BTreeMap<VersionNumber, Arc<VersionRecord>>,
    /// The registry's revision of its last change; the entity tag. Never the same for two states of a name, not even
    /// when it was deleted and made again.
    pub revision: u64,
}

impl FunctionRecord {
    /// The version that serves.
    pub fn active_version(&self) -> Option<&Arc<VersionRecord>> {
        self.active.and_then(|number| self.versions.get(&number))
    }

    /// The newest version that is older than the one that serves; the newest of all where none serves.
    pub fn version_before(&self) -> Option<VersionNumber> {
        let before = self.active.unwrap_or(VersionNumber::MAX);
        self.versions.range(..before).next_back().map(|(number, _)| *number)
    }
}

/// A configured destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DestinationRecord {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name.
    pub name: DestinationName,
    /// Its configuration.
    pub config: Arc<DestinationConfig>,
    /// What operators do to it beside that.
    #[serde(default, skip_serializing_if = "Steering::is_none")]
    pub steering: Steering,
    /// The registry's revision of the last change of its configuration; the entity tag.
    pub revision: u64,
}

/// What a token's bearer may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Scope {
    /// Everything, tokens included.
    Admin,
    /// Functions, destinations, secrets, logs.
    Deploy,
    /// Jobs.
    Jobs,
    /// Invoke a function; `*` for all.
    Invoke(String),
    /// Send through `/to` to a destination; `*` for all.
    To(String),
}

impl Scope {
    /// Whether whoever holds `self` may do what `needed` names.
    pub fn covers(&self, needed: &Scope) -> bool {
        let same = |held: &str, asked: &str| held == "*" || held == asked;
        match (self, needed) {
            (Self::Admin, _) | (Self::Deploy, Self::Deploy) | (Self::Jobs, Self::Jobs) => true,
            (Self::Invoke(held), Self::Invoke(asked)) | (Self::To(held), Self::To(asked)) => same(held, asked),
            _ => false,
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from(self.clone()))
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Admin => "admin".into(),
            Scope::Deploy => "deploy".into(),
            Scope::Jobs => "jobs".into(),
            Scope::Invoke(name) => format!("invoke:{name}"),
            Scope::To(name) => format!("to:{name}"),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "admin" => Ok(Self::Admin),
            None if text == "deploy" => Ok(Self::Deploy),
            None if text == "jobs" => Ok(Self::Jobs),
            Some(("invoke", name)) if !name.is_empty() => Ok(Self::Invoke(name.into())),
            Some(("to", name)) if !name.is_empty() => Ok(Self::To(name.into())),
            _ => Err(format!("`{text}` is no scope: write admin, deploy, jobs, invoke:NAME or to:DESTINATION")),
        }
    }
}

/// A token, without the token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its public id.
    pub id: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is for, in its maker's words.
    pub label: String,
    /// SHA-256 of the token. Tokens hold 256 random bits, so a plain hash can't be searched.
    pub hash: Digest,
    /// What its bearer may do.
    pub scopes: Vec<Scope>,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// Its bearer's share of what a destination takes, beside other tokens and functions; 1 where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
}

impl Command {
    /// What it changes, for people: `destinations/openai`.
    pub fn target(&self) -> String {
        match self {
            Self::AddVersion { name, .. } | Self::Activate { name, .. } | Self::DeleteFunction { name, .. } => {
                format!("functions/{name}")
            }
            Self::PutDestination { name, .. }
            | Self::SteerDestination { name, .. }
            | Self::DeleteDestination { name, .. } => format!("destinations/{name}"),
            Self::PutSecret { secret } => format!("secrets/{}", secret.name),
            Self::DeleteSecret { name, .. } => format!("secrets/{name}"),
            Self::AddToken { token } => format!("tokens/{}", token.id),
            Self::RevokeToken { id, .. } => format!("tokens/{id}"),
        }
    }
}

/// A change of the registry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Adds a version of a function and, if asked, lets it serve. The state assigns the number.
    AddVersion {
        /// Whose function.
        tenant: TenantId,
        /// Which function.
        name: FunctionName,
        /// The version; its number is ignored.
        version: VersionRecord,
        /// Whether it serves from now on.
        activate: bool,
        /// Entity tag the deployer saw, if it insists.
        if_revision: Option<u64>,
        /// Versions to keep besides the one that serves.
        keep: usize,
    },
    /// Lets another version serve.
    Activate {
        /// Whose function.
        tenant: TenantId,
        /// Which function.
        name: FunctionName,
        /// Which version; absent: the one before the active one.
        version: Option<VersionNumber>,
        /// Entity tag the caller saw, if it insists.
        if_revision: Option<u64>,
    },
    /// Removes a function and its versions.
    DeleteFunction {
        /// Whose function.
        tenant: TenantId,
        /// Which function.
        name: FunctionName,
        /// Entity tag the caller saw, if it insists.
        if_revision: Option<u64>,
    },
    /// Makes or changes a destination.
    PutDestination {
        /// Whose destination.
        tenant: TenantId,
        /// Its name.
        name: DestinationName,
        /// Its configuration.
        config: Arc<DestinationConfig>,
        /// Entity tag the caller saw, if it insists.
        if_revision: Option<u64>,
    },
    /// Changes what operators do to a destination.
    SteerDestination {
        /// Whose destination.
        tenant: TenantId,
        /// Its name.
        name: DestinationName,
        /// The change.
        steer: Steer,
    },
    /// Removes a destination.
    DeleteDestination {
        /// Whose destination.
        tenant: TenantId,
        /// Its name.
        name: DestinationName,
        /// Entity tag the caller saw, if it insists.
        if_revision: Option<u64>,
    },
    /// Makes a secret, or changes its value, whom it may serve, or both. It must follow the record that is there.
    PutSecret {
        /// The secret; its revision is ignored.
        secret: SecretRecord,
    },
    /// Removes a secret.
    DeleteSecret {
        /// Whose secret.
        tenant: TenantId,
        /// Its name.
        name: SecretName,
        /// Entity tag the caller saw, if it insists.
        if_revision: Option<u64>,
    },
    /// Adds a token.
    AddToken {
        /// The token.
        token: TokenRecord,
    },
    /// Revokes a token.
    RevokeToken {
        /// Whose token.
        tenant: TenantId,
        /// Its public id.
        id: String,
    },
}

/// Why a command was not carried out. The state is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// What it speaks of is not there.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It changed since the caller looked.
    #[error("`{name}` changed meanwhile: it is at revision {is}, not {expected}")]
    Changed {
        /// Its name.
        name: String,
        /// The revision it is at.
        is: u64,
        /// The revision the caller saw.
        expected: u64,
    },
    /// There is no older version to go back to.
    #[error("`{name}` keeps no version older than the one that serves")]
    NoOlderVersion {
        /// The function.
        name: String,
    },
    /// Something else of that name or match is in the way.
    #[error("{0}")]
    Conflict(String),
}

/// Everything in the registry. Cheap to clone: records are shared.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Functions by tenant and name.
    pub functions: BTreeMap<(TenantId, FunctionName), Arc<FunctionRecord>>,
    /// Destinations by tenant and name.
    pub destinations: BTreeMap<(TenantId, DestinationName), Arc<DestinationRecord>>,
    /// Secrets by tenant and name.
    pub secrets: BTreeMap<(TenantId, SecretName), Arc<SecretRecord>>,
    /// Tokens by id.
    pub tokens: BTreeMap<String, Arc<TokenRecord>>,
    /// The same tokens by hash.
    pub(super) tokens_by_hash: HashMap<Digest, Arc<TokenRecord>>,
    /// The highest number that a deleted function's versions had, for those deleted last.
    pub(super) numbers: Arc<BTreeMap<(TenantId, FunctionName), VersionNumber>>,
    /// The same for all that are in `numbers` no more.
    pub(super) forgotten_number: VersionNumber,
    /// Rises with every command that changed something.
    pub revision: u64,
}
