//! The transitions: what each command does to the state. Pure, so that every node that applies the same commands in
//! the same order holds the same registry.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    secret::SecretRecord,
    state::{
        Command, DestinationRecord, FunctionRecord, Rejection, Scope, State, TokenRecord, VersionNumber, VersionRecord,
    },
};
use crate::{
    ids::{DestinationName, Digest, FunctionName, SecretName, TenantId},
    outbound::HostPattern,
};

/// Deleted functions whose highest version number is remembered one by one (no setting: beyond it numbers only skip).
const NUMBERS: usize = 10_000;

/// What a command did.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The registry's revision afterwards.
    pub revision: u64,
    /// What changed; `None` where the state was already as asked.
    pub change: Option<Change>,
}

/// The one record that a command changed, as it is now.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A function was made or changed.
    Function {
        /// As it is now.
        function: Arc<FunctionRecord>,
        /// The version that was added, if one was.
        added: Option<VersionNumber>,
    },
    /// A function is gone.
    FunctionGone {
        /// Whose it was.
        tenant: TenantId,
        /// Its name.
        name: FunctionName,
        /// The highest number that its versions had: none after it gets that again.
        highest: VersionNumber,
        /// Another that was deleted earlier, and whose highest number is remembered only together with others'.
        forgotten: Option<(TenantId, FunctionName)>,
    },
    /// A destination was made or changed.
    Destination {
        /// As it is now.
        destination: Arc<DestinationRecord>,
        /// Whether there was none before.
        created: bool,
    },
    /// A destination is gone.
    DestinationGone(TenantId, DestinationName),
    /// A secret was made or changed.
    Secret {
        /// As it is now.
        secret: Arc<SecretRecord>,
        /// Whether there was none before.
        created: bool,
    },
    /// A secret is gone.
    SecretGone(TenantId, SecretName),
    /// A token was added.
    Token(Arc<TokenRecord>),
    /// A token is revoked.
    TokenGone(String),
}

impl State {
    /// Carries out a command, or refuses it and leaves the state as it was.
    ///
    /// # Errors
    /// When what the command speaks of is not there, changed meanwhile, or something else is in its way.
    pub fn apply(&mut self, command: Command) -> Result<Applied, Rejection> {
        let change = match command {
            Command::AddVersion { tenant, name, version, activate, if_revision, keep } => {
                Some(self.add_version(tenant, name, version, activate, if_revision, keep)?)
            }
            Command::Activate { tenant, name, version, if_revision } => {
                self.activate(tenant, name, version, if_revision)?
            }
            Command::DeleteFunction { tenant, name, if_revision } => {
                let key = (tenant, name);
                let function = self.functions.get(&key).ok_or_else(|| not_found("function", key.1.as_str()))?;
                check_revision(key.1.as_str(), function.revision, if_revision)?;
                let highest = self.next_number(&key.0, &key.1) - 1;
                self.functions.remove(&key);
                let forgotten = self.remember_number(&key, highest);
                Some(Change::FunctionGone { tenant: key.0, name: key.1, highest, forgotten })
            }
            Command::PutDestination { tenant, name, config, if_revision } => {
                let key = (tenant, name);
                let old = self.destinations.get(&key);
                check_revision(key.1.as_str(), old.map_or(0, |old| old.revision), if_revision)?;
                if let Some(other) = self.destination_with_match(&key, &config.r#match) {
                    return Err(Rejection::Conflict(format!(
                        "destination `{}` already stands for `{}`: change that one, or remove it first",
                        other.name, other.config.r#match
                    )));
                }
                let created = old.is_none();
                let steering = old.map(|old| old.steering.clone()).unwrap_or_default();
                let destination = Arc::new(DestinationRecord {
                    tenant: key.0.clone(),
                    name: key.1.clone(),
                    config,
                    steering,
                    revision: self.revision + 1,
                });
                self.destinations.insert(key, Arc::clone(&destination));
                Some(Change::Destination { destination, created })
            }
            Command::SteerDestination { tenant, name, steer } => {
                let key = (tenant, name);
                let old = self.destinations.get(&key).ok_or_else(|| not_found("destination", key.1.as_str()))?;
                let steering = old.steering.with(steer);
                if steering == old.steering {
                    None
                } else {
                    let destination = Arc::new(DestinationRecord { steering, ..DestinationRecord::clone(old) });
                    self.destinations.insert(key, Arc::clone(&destination));
                    Some(Change::Destination { destination, created: false })
                }
            }
            Command::DeleteDestination { tenant, name, if_revision } => {
                let key = (tenant, name);
                let old = self.destinations.get(&key).ok_or_else(|| not_found("destination", key.1.as_str()))?;
                check_revision(key.1.as_str(), old.revision, if_revision)?;
                self.destinations.remove(&key);
                Some(Change::DestinationGone(key.0, key.1))
            }
            Command::PutSecret { secret } => {
                let key = (secret.tenant.clone(), secret.name.clone());
                let old = self.secrets.get(&key).map(|old| old.revision);
                // What is sealed with the value says so, too.
                check_revision(key.1.as_str(), old.unwrap_or(0), Some(secret.follows))?;
                let secret = Arc::new(secret.at(self.revision + 1));
                self.secrets.insert(key, Arc::clone(&secret));
                Some(Change::Secret { secret, created: old.is_none() })
            }
            Command::DeleteSecret { tenant, name, if_revision } => {
                let key = (tenant, name);
                let old = self.secrets.get(&key).ok_or_else(|| not_found("secret", key.1.as_str()))?;
                check_revision(key.1.as_str(), old.revision, if_revision)?;
                self.secrets.remove(&key);
                Some(Change::SecretGone(key.0, key.1))
            }
            Command::AddToken { token } => {
                let token = Arc::new(token);
                if let Some(old) = self.tokens.get(&token.id) {
                    self.tokens_by_hash.remove(&old.hash);
                }
                self.insert_token(Arc::clone(&token));
                Some(Change::Token(token))
            }
            Command::RevokeToken { tenant, id } => {
                let old = self.tokens.get(&id).filter(|token| token.tenant == tenant);
                let old = old.ok_or_else(|| not_found("token", &id))?;
                let hash = old.hash;
                let may_all = |token: &TokenRecord| token.tenant == tenant && token.scopes.contains(&Scope::Admin);
                if may_all(old) && self.tokens.values().filter(|token| may_all(token)).count() == 1 {
                    return Err(Rejection::Conflict(format!(
                        "`{id}` is the last token with the scope admin; make another one first"
                    )));
                }
                self.tokens.remove(&id);
                self.tokens_by_hash.remove(&hash);
                Some(Change::TokenGone(id))
            }
        };
        if change.is_some() {
            self.revision += 1;
        }
        Ok(Applied { revision: self.revision, change })
    }

    /// The token with this hash.
    ///
    /// The presented token is hashed before it is looked up, so how long a lookup takes says nothing about any token.
    pub fn token(&self, hash: &Digest) -> Option<&Arc<TokenRecord>> {
        use subtle::ConstantTimeEq;
        self.tokens_by_hash.get(hash).filter(|token| bool::from(token.hash.0.ct_eq(&hash.0)))
    }

    pub(super) fn insert_token(&mut self, token: Arc<TokenRecord>) {
        self.tokens_by_hash.insert(token.hash, Arc::clone(&token));
        self.tokens.insert(token.id.clone(), token);
    }

    /// The number that the next version of this function gets. Numbers are never used twice, not even where a function
    /// was deleted and made again: `name@number` in somebody's URL or log means one version for ever.
    pub fn next_number(&self, tenant: &TenantId, name: &FunctionName) -> VersionNumber {
        let key = (tenant.clone(), name.clone());
        // The newest version is never dropped, so its number plus one was never used.
        let newest = self.functions.get(&key).and_then(|function| function.versions.last_key_value());
        let highest = newest.map(|(number, _)| *number).or_else(|| self.numbers.get(&key).copied());
        highest.unwrap_or(self.forgotten_number) + 1
    }

    /// Remembers a deleted function's highest number. Of too many, the one with the lowest is remembered only as part of
    /// the highest of all that were forgotten, from which functions that nothing is known of count on.
    fn remember_number(
        &mut self,
        key: &(TenantId, FunctionName),
        highest: VersionNumber,
    ) -> Option<(TenantId, FunctionName)> {
        let numbers = Arc::make_mut(&mut self.numbers);
        numbers.insert(key.clone(), highest);
        if numbers.len() <= NUMBERS {
            return None;
        }
        let (lowest, number) = numbers.iter().min_by_key(|(_, number)| **number)?;
        let (lowest, number) = (lowest.clone(), *number);
        numbers.remove(&lowest);
        self.forgotten_number = self.forgotten_number.max(number);
        Some(lowest)
    }

    fn add_version(
        &mut self,
        tenant: TenantId,
        name: FunctionName,
        mut version: VersionRecord,
        activate: bool,
        if_revision: Option<u64>,
        keep: usize,
    ) -> Result<Change, Rejection> {
        let key = (tenant, name);
        let old = self.functions.get(&key);
        check_revision(key.1.as_str(), old.map_or(0, |old| old.revision), if_revision)?;
        if activate {
            self.check_routes(&key, &version)?;
        }
        let mut versions: BTreeMap<_, _> = old.map(|old| old.versions.clone()).unwrap_or_default();
        let number = self.next_number(&key.0, &key.1);
        version.number = number;
        versions.insert(number, Arc::new(version));
        let active = if activate { Some(number) } else { old.and_then(|old| old.active) };
        retain_versions(&mut versions, active, keep);
        let function = Arc::new(FunctionRecord {
            tenant: key.0.clone(),
            name: key.1.clone(),
            active,
            versions,
            revision: self.revision + 1,
        });
        self.functions.insert(key, Arc::clone(&function));
        Ok(Change::Function { function, added: Some(number) })
    }

    fn activate(
        &mut self,
        tenant: TenantId,
        name: FunctionName,
        version: Option<VersionNumber>,
        if_revision: Option<u64>,
    ) -> Result<Option<Change>, Rejection> {
        let key = (tenant, name);
        let old = self.functions.get(&key).ok_or_else(|| not_found("function", key.1.as_str()))?;
        check_revision(key.1.as_str(), old.revision, if_revision)?;
        let number = match version {
            Some(number) => number,
            None => old.version_before().ok_or_else(|| Rejection::NoOlderVersion { name: key.1.to_string() })?,
        };
        let wanted = old.versions.get(&number).ok_or_else(|| not_found("version", &format!("{}@{number}", key.1)))?;
        if old.active == Some(number) {
            return Ok(None);
        }
        self.check_routes(&key, wanted)?;
        let function =
            FunctionRecord { active: Some(number), revision: self.revision + 1, ..FunctionRecord::clone(old) };
        let function = Arc::new(function);
        self.functions.insert(key, Arc::clone(&function));
        Ok(Some(Change::Function { function, added: None }))
    }

    /// Two functions that serve may not claim the same route: which one answers would be chance.
    fn check_routes(&self, key: &(TenantId, FunctionName), version: &VersionRecord) -> Result<(), Rejection> {
        for route in &version.config.routes {
            let taken = self.functions.iter().find(|(other, function)| {
                *other != key && function.active_version().is_some_and(|active| active.config.routes.contains(route))
            });
            if let Some((other, _)) = taken {
                return Err(Rejection::Conflict(format!("route `{route}` already belongs to function `{}`", other.1)));
            }
        }
        Ok(())
    }

    fn destination_with_match(
        &self,
        key: &(TenantId, DestinationName),
        pattern: &str,
    ) -> Option<&Arc<DestinationRecord>> {
        // What is not read any more is still what it was, letter by letter.
        let read = |text: &str| text.parse::<HostPattern>().map_err(|_| text.to_owned());
        let wanted = read(pattern);
        let of_tenant = self.destinations.iter().filter(|(other, _)| other.0 == key.0 && other.1 != key.1);
        of_tenant.map(|(_, destination)| destination).find(|destination| read(&destination.config.r#match) == wanted)
    }
}

/// Drops the oldest versions beyond `keep` and the active one, but never the newest.
fn retain_versions(
    versions: &mut BTreeMap<VersionNumber, Arc<VersionRecord>>,
    active: Option<VersionNumber>,
    keep: usize,
) {
    let newest = versions.last_key_value().map(|(number, _)| *number);
    while versions.len() > keep.saturating_add(1) {
        let oldest = versions.keys().copied().find(|number| Some(*number) != active && Some(*number) != newest);
        let Some(oldest) = oldest else { break };
        versions.remove(&oldest);
    }
}

fn not_found(what: &'static str, name: &str) -> Rejection {
    Rejection::NotFound { what, name: name.to_owned() }
}

/// `expected` 0 means that the caller insists on there being none yet.
fn check_revision(name: &str, is: u64, expected: Option<u64>) -> Result<(), Rejection> {
    match expected {
        Some(expected) if expected != is => Err(Rejection::Changed { name: name.to_owned(), is, expected }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
