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
mod tests {
    use super::*;
    use crate::cluster::registry::{DestinationConfig, FunctionConfig, World};

    fn version(routes: &[&str]) -> VersionRecord {
        VersionRecord {
            number: 0,
            digest: Digest([1; 32]),
            size: 10,
            world: World::Http02,
            reuse_safe: false,
            config: Arc::new(FunctionConfig {
                routes: routes.iter().map(|route| (*route).to_owned()).collect(),
                ..FunctionConfig::default()
            }),
            created_ms: 0,
            message: None,
            handles: None,
        }
    }

    fn add(name: &str, activate: bool, keep: usize) -> Command {
        add_routed(name, &[], activate, keep)
    }

    fn add_routed(name: &str, routes: &[&str], activate: bool, keep: usize) -> Command {
        Command::AddVersion {
            tenant: "t".into(),
            name: name.into(),
            version: version(routes),
            activate,
            if_revision: None,
            keep,
        }
    }

    fn activate(number: Option<u64>) -> Command {
        Command::Activate { tenant: "t".into(), name: "f".into(), version: number, if_revision: None }
    }

    fn put(name: &str, pattern: &str, if_revision: Option<u64>) -> Command {
        let config = Arc::new(DestinationConfig { r#match: pattern.into(), ..DestinationConfig::default() });
        Command::PutDestination { tenant: "t".into(), name: name.into(), config, if_revision }
    }

    #[test]
    fn one_origin_has_one_destination_however_it_is_spelt() {
        let mut state = State::default();
        state.apply(put("first", "https://dup.example", None)).unwrap();
        for spelling in
            ["https://dup.example", "https://dup.example/", "https://DUP.example:443", "HTTPS://dup.example."]
        {
            let Err(Rejection::Conflict(why)) = state.apply(put("second", spelling, None)) else {
                panic!("{spelling}")
            };
            assert!(why.contains("`first`") && why.contains("`https://dup.example`"), "{why}");
        }
        for other in
            ["http://dup.example", "https://dup.example:8443", "https://dup.example:*", "https://*.dup.example"]
        {
            state.apply(put(&other.len().to_string(), other, None)).unwrap();
        }
        // Its own spelling can change.
        state.apply(put("first", "https://DUP.example/", None)).unwrap();
        // What a later release has stored is compared letter by letter.
        state.apply(put("later", "https://no such thing", None)).unwrap();
        assert!(state.apply(put("again", "https://no such thing", None)).is_err());
        state.apply(put("again", "https://no such other", None)).unwrap();
    }

    fn shape(state: &State) -> (Option<u64>, Vec<u64>) {
        let function = &state.functions[&("t".into(), "f".into())];
        (function.active, function.versions.keys().copied().collect())
    }

    #[test]
    fn versions_are_kept_up_to_the_bound_and_never_the_active_one_dropped() {
        const ON: bool = true;
        const OFF: bool = false;
        // (commands as (activate, keep), active afterwards, versions afterwards)
        type Case = (&'static [(bool, usize)], Option<u64>, &'static [u64]);
        let table: &[Case] = &[
            (&[(ON, 2)], Some(1), &[1]),
            (&[(OFF, 2)], None, &[1]),
            (&[(ON, 2), (ON, 2), (ON, 2), (ON, 2)], Some(4), &[2, 3, 4]),
            (&[(ON, 2), (OFF, 2), (OFF, 2), (OFF, 2)], Some(1), &[1, 3, 4]),
            (&[(ON, 0), (OFF, 0)], Some(1), &[1, 2]),
            (&[(ON, 0), (OFF, 0), (OFF, 0)], Some(1), &[1, 3]),
            (&[(ON, 0), (ON, 0)], Some(2), &[2]),
        ];
        for (commands, active, versions) in table {
            let mut state = State::default();
            for (activate, keep) in *commands {
                state.apply(add("f", *activate, *keep)).unwrap();
            }
            assert_eq!(shape(&state), (*active, versions.to_vec()), "{commands:?}");
        }
    }

    #[test]
    fn a_rollback_goes_to_the_version_before_the_active_one_and_no_further_than_there_are() {
        let mut state = State::default();
        for _ in 0..3 {
            state.apply(add("f", true, 10)).unwrap();
        }
        state.apply(activate(None)).unwrap();
        assert_eq!(shape(&state).0, Some(2));
        state.apply(activate(Some(3))).unwrap();
        state.apply(activate(Some(1))).unwrap();
        assert_eq!(state.apply(activate(None)), Err(Rejection::NoOlderVersion { name: "f".into() }));
        let missing = Rejection::NotFound { what: "version", name: "f@9".into() };
        assert_eq!(state.apply(activate(Some(9))), Err(missing));
        let revision = state.revision;
        let applied = state.apply(activate(Some(1))).unwrap();
        assert_eq!(applied, Applied { revision, change: None }, "already active: nothing changes");
    }

    #[test]
    fn a_number_is_never_used_twice_not_even_by_a_function_that_was_deleted_and_made_again() {
        let mut state = State::default();
        let delete = |name: &str| Command::DeleteFunction { tenant: "t".into(), name: name.into(), if_revision: None };
        for _ in 0..3 {
            state.apply(add("f", true, 10)).unwrap();
        }
        let gone = state.apply(delete("f")).unwrap().change;
        assert!(matches!(gone, Some(Change::FunctionGone { highest: 3, forgotten: None, .. })), "{gone:?}");
        state.apply(add("f", true, 10)).unwrap();
        assert_eq!(shape(&state), (Some(4), vec![4]));
        state.apply(delete("f")).unwrap();
        // Far more are deleted than are remembered one by one.
        state.numbers = Arc::new((0..NUMBERS).map(|n| (("t".into(), format!("old-{n}").into()), 9)).collect());
        state.apply(add("g", true, 10)).unwrap();
        let gone = state.apply(delete("g")).unwrap().change;
        let forgotten = Some(("t".into(), "g".into()));
        assert!(matches!(&gone, Some(Change::FunctionGone { forgotten: f, .. }) if *f == forgotten), "{gone:?}");
        assert_eq!((state.numbers.len(), state.next_number(&"t".into(), &"g".into())), (NUMBERS, 2));
        assert_eq!(state.next_number(&"t".into(), &"old-7".into()), 10);
    }

    #[test]
    fn a_revision_seen_before_a_change_is_refused_and_survives_no_deletion() {
        let mut state = State::default();
        state.apply(put("d", "https://a.example", Some(0))).unwrap();
        let seen = state.destinations[&("t".into(), "d".into())].revision;
        state.apply(put("d", "https://b.example", Some(seen))).unwrap();
        let changed = state.apply(put("d", "https://c.example", Some(seen)));
        assert!(matches!(changed, Err(Rejection::Changed { expected, .. }) if expected == seen));
        let gone = Command::DeleteDestination { tenant: "t".into(), name: "d".into(), if_revision: None };
        state.apply(gone.clone()).unwrap();
        assert!(matches!(state.apply(gone), Err(Rejection::NotFound { .. })));
        state.apply(put("d", "https://a.example", None)).unwrap();
        assert!(state.destinations[&("t".into(), "d".into())].revision > seen + 1, "never the same tag twice");
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let mut state = State::default();
        state.apply(add_routed("f", &["api.example.com/*"], true, 3)).unwrap();
        state.apply(put("d", "https://a.example", None)).unwrap();
        let before = format!("{state:?}");
        let refused = [
            add_routed("g", &["api.example.com/*"], true, 3),
            put("e", "https://a.example", None),
            put("d", "https://a.example", Some(99)),
            Command::DeleteFunction { tenant: "other".into(), name: "f".into(), if_revision: None },
            Command::RevokeToken { tenant: "t".into(), id: "none".into() },
        ];
        for command in refused {
            assert!(state.apply(command.clone()).is_err(), "{command:?}");
            assert_eq!(format!("{state:?}"), before, "{command:?}");
        }
        state.apply(add_routed("g", &["api.example.com/*"], false, 3)).unwrap();
    }

    #[test]
    fn a_token_is_found_by_its_hash_until_it_is_revoked_and_a_new_one_takes_the_place_of_its_id() {
        let token = |hash: u8| TokenRecord {
            id: "admin".into(),
            tenant: "t".into(),
            label: String::new(),
            hash: Digest([hash; 32]),
            scopes: vec![Scope::Admin],
            created_ms: 0,
            weight: None,
        };
        let mut state = State::default();
        state.apply(Command::AddToken { token: token(1) }).unwrap();
        assert!(state.token(&Digest([1; 32])).is_some());
        state.apply(Command::AddToken { token: token(2) }).unwrap();
        assert!(state.token(&Digest([1; 32])).is_none());
        let revoke = |tenant: &str| Command::RevokeToken { tenant: tenant.into(), id: "admin".into() };
        assert!(state.apply(revoke("other")).is_err(), "another tenant's token");
        assert!(matches!(state.apply(revoke("t")), Err(Rejection::Conflict(_))), "nobody could make another one");
        state.apply(Command::AddToken { token: TokenRecord { id: "second".into(), ..token(3) } }).unwrap();
        state.apply(revoke("t")).unwrap();
        assert!(state.token(&Digest([2; 32])).is_none());
    }

    #[test]
    fn a_scope_covers_itself_its_star_and_everything_where_it_is_admin() {
        let scope = |text: &str| Scope::try_from(text.to_owned()).unwrap();
        for (held, needed, covered) in [
            ("admin", "deploy", true),
            ("admin", "invoke:f", true),
            ("deploy", "deploy", true),
            ("deploy", "admin", false),
            ("deploy", "invoke:f", false),
            ("invoke:f", "invoke:f", true),
            ("invoke:f", "invoke:g", false),
            ("invoke:*", "invoke:g", true),
            ("invoke:*", "to:g", false),
            ("to:openai", "to:openai", true),
        ] {
            assert_eq!(scope(held).covers(&scope(needed)), covered, "{held} {needed}");
        }
    }
}
