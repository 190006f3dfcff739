//! The registry on disk: one redb file, one durable transaction a command, and an immutable snapshot for readers.
//!
//! A command is applied to a copy of the state, the one record it changed is committed with the new revision, and only
//! then is the copy shown. A crash leaves the state before or after a command, never one in between. A write that fails
//! (a full disk) closes the file; the next command opens it anew and begins with what is in it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use redb::Database;
use tokio::sync::watch;

use super::{
    apply::Applied,
    audit::AuditRecord,
    file::{FORMAT, audit, make, note, read, store},
    state::{Command, Rejection, State},
};
use crate::ids::TenantId;

/// Why the registry could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    /// The state machine refused the command.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// There are as many of a thing as the node keeps.
    #[error("there are already {limit} {what} (setting {setting}); remove some, or raise it")]
    Full {
        /// Kind of thing.
        what: &'static str,
        /// How many are kept.
        limit: usize,
        /// The setting that changes it.
        setting: &'static str,
    },
    /// The file could not be read or written. Nothing changed.
    #[error("the registry's file: {0}")]
    Storage(Arc<redb::Error>),
    /// A record in the file can't be read.
    #[error("the registry's file holds a {table} record `{key}` that can't be read: {why}")]
    Record {
        /// Its table.
        table: &'static str,
        /// Its key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The file was written by another release.
    #[error("the registry's file has format {found}; this release reads format {FORMAT}")]
    Format {
        /// The format it has.
        found: u64,
    },
}

macro_rules! storage_errors {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for RegistryError {
            fn from(error: redb::$error) -> Self {
                Self::Storage(Arc::new(error.into()))
            }
        })*
    };
}
storage_errors!(DatabaseError, TransactionError, TableError, StorageError, CommitError, SetDurabilityError);

impl From<io::Error> for RegistryError {
    fn from(error: io::Error) -> Self {
        Self::Storage(Arc::new(error.into()))
    }
}

/// How many of each thing one tenant may have.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Functions (setting `max_functions`).
    pub functions: usize,
    /// Destinations (setting `max_destinations`).
    pub destinations: usize,
    /// Secrets (setting `max_secrets`).
    pub secrets: usize,
    /// Tokens (setting `max_tokens`).
    pub tokens: usize,
    /// What the audit trail keeps of all tenants (setting `audit_records`).
    pub audit: u64,
}

/// The registry of a node. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    path: PathBuf,
    // Held by one writer at a time, on a blocking thread. Nothing after a write failed: redb refuses every further one.
    database: Mutex<Option<Database>>,
    snapshot: ArcSwap<State>,
    revision: watch::Sender<u64>,
    bounds: Bounds,
}

impl Registry {
    /// Opens the registry in this file, or makes it.
    ///
    /// # Errors
    /// When the file can't be opened or read.
    pub fn open(path: &Path, bounds: Bounds) -> Result<Self, RegistryError> {
        if !path.try_exists()? {
            make(path)?;
        }
        let (database, state) = read(path)?;
        let (revision, _) = watch::channel(state.revision);
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            database: Mutex::new(Some(database)),
            snapshot: ArcSwap::from_pointee(state),
            revision,
            bounds,
        })))
    }

    /// The state now, without a lock. Hold it briefly; [`Registry::snapshot`] is for longer.
    pub fn state(&self) -> Guard<Arc<State>> {
        self.0.snapshot.load()
    }

    /// The state now, to keep.
    pub fn snapshot(&self) -> Arc<State> {
        self.0.snapshot.load_full()
    }

    /// Tells of every change: the registry's revision.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// Carries out a command durably: when this returns, it survives a crash. A caller that goes away does not stop it.
    ///
    /// # Errors
    /// When the command is refused, a bound is reached or the file can't be written; the state is then as it was.
    pub async fn write(&self, command: Command) -> Result<Applied, RegistryError> {
        self.off_thread(move |this| this.write_audited(command, None)).await
    }

    /// The same, with a record of it in the audit trail, where anything changes.
    ///
    /// # Errors
    /// As [`Registry::write`].
    pub async fn write_as(&self, command: Command, audit: AuditRecord) -> Result<Applied, RegistryError> {
        self.off_thread(move |this| this.write_audited(command, Some(&audit))).await
    }

    /// Writes something down in the audit trail that changes nothing here.
    ///
    /// # Errors
    /// When the file can't be written.
    pub async fn note(&self, audit: AuditRecord) -> Result<(), RegistryError> {
        self.off_thread(move |this| this.with_file(|database| note(database, &audit, this.0.bounds.audit))).await
    }

    /// The audit trail of a tenant, the newest first: at most `limit` records with numbers below `before`.
    ///
    /// # Errors
    /// When the file can't be read.
    pub async fn audit(&self, tenant: TenantId, before: u64, limit: usize) -> Result<Vec<AuditRecord>, RegistryError> {
        let read = move |this: &Self| {
            this.with_file(|database| audit(database, before, limit, |record| record.tenant == tenant))
        };
        self.off_thread(read).await
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Self) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || run(&this)).await {
            Ok(result) => result,
            Err(error) => Err(io::Error::other(format!("the writer ended: {error}")).into()),
        }
    }

    /// Runs something on the open file. After an error it stays closed, until somebody opens it anew.
    fn with_file<T>(&self, run: impl FnOnce(&Database) -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        let mut open = self.0.database.lock();
        let database = self.0.take(&mut open)?;
        let result = run(&database)?;
        *open = Some(database);
        Ok(result)
    }

    /// The same on the calling thread, for starts and tests.
    ///
    /// # Errors
    /// As [`Registry::write`].
    pub fn write_blocking(&self, command: Command) -> Result<Applied, RegistryError> {
        self.write_audited(command, None)
    }

    fn write_audited(&self, command: Command, audit: Option<&AuditRecord>) -> Result<Applied, RegistryError> {
        let inner = &*self.0;
        let mut open = inner.database.lock();
        let database = inner.take(&mut open)?;
        let mut next = State::clone(&inner.snapshot.load());
        let applied = inner.bounds.check(&next, &command).and_then(|()| Ok(next.apply(command)?));
        if let Ok(Applied { change: Some(change), .. }) = &applied {
            // On an error the file stays closed.
            store(&database, change, &next, audit.map(|record| (record, inner.bounds.audit)))?;
            inner.show(next);
        }
        *open = Some(database);
        applied
    }
}

impl Inner {
    /// The open file, out of its place; opened anew where a write had failed.
    fn take(&self, open: &mut Option<Database>) -> Result<Database, RegistryError> {
        match open.take() {
            Some(database) => Ok(database),
            None => {
                let (database, state) = read(&self.path)?;
                self.show(state);
                Ok(database)
            }
        }
    }

    fn show(&self, state: State) {
        let revision = state.revision;
        self.snapshot.store(Arc::new(state));
        self.revision.send_replace(revision);
    }
}

impl Bounds {
    fn check(&self, state: &State, command: &Command) -> Result<(), RegistryError> {
        let of = |tenant: &TenantId, other: &TenantId| tenant == other;
        let (what, limit, setting, count) = match command {
            Command::AddVersion { tenant, name, .. }
                if !state.functions.contains_key(&(tenant.clone(), name.clone())) =>
            {
                let count = state.functions.keys().filter(|(owner, _)| of(owner, tenant)).count();
                ("functions", self.functions, crate::settings::names::MAX_FUNCTIONS, count)
            }
            Command::PutDestination { tenant, name, .. }
                if !state.destinations.contains_key(&(tenant.clone(), name.clone())) =>
            {
                let count = state.destinations.keys().filter(|(owner, _)| of(owner, tenant)).count();
                ("destinations", self.destinations, crate::settings::names::MAX_DESTINATIONS, count)
            }
            Command::PutSecret { secret } if secret.follows == 0 => {
                let count = state.secrets.keys().filter(|(owner, _)| of(owner, &secret.tenant)).count();
                ("secrets", self.secrets, crate::settings::names::MAX_SECRETS, count)
            }
            Command::AddToken { token } if !state.tokens.contains_key(&token.id) => {
                let count = state.tokens.values().filter(|other| of(&other.tenant, &token.tenant)).count();
                ("tokens", self.tokens, crate::settings::names::MAX_TOKENS, count)
            }
            _ => return Ok(()),
        };
        if count >= limit {
            return Err(RegistryError::Full { what, limit, setting });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cluster::registry::file::META;
    use crate::cluster::registry::{DestinationConfig, FunctionConfig, VersionRecord, World};
    use crate::{ids::Digest, secrets::HandleSeed};

    const BOUNDS: Bounds = Bounds { functions: 2, destinations: 2, secrets: 2, tokens: 2, audit: 3 };

    fn put(name: &str) -> Command {
        let config = DestinationConfig { r#match: format!("https://{name}.example"), ..DestinationConfig::default() };
        Command::PutDestination { tenant: "t".into(), name: name.into(), config: config.into(), if_revision: None }
    }

    fn add_version(config: FunctionConfig) -> Command {
        let version = VersionRecord {
            number: 0,
            digest: Digest([7; 32]),
            size: 3,
            world: World::Http03,
            reuse_safe: true,
            config: Arc::new(config),
            created_ms: 5,
            message: Some("first".into()),
            handles: Some(HandleSeed::mint()),
        };
        Command::AddVersion {
            tenant: "t".into(),
            name: "f".into(),
            version,
            activate: true,
            if_revision: None,
            keep: 3,
        }
    }

    #[tokio::test]
    async fn the_audit_trail_keeps_what_changed_something_the_newest_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::open(&directory.path().join("registry.redb"), BOUNDS).unwrap();
        let by = |tenant: &str, target: &str| {
            AuditRecord::new(tenant.into(), ("tok", "ops"), "put", target.to_owned(), String::new())
        };
        let targets = async |registry: &Registry, tenant: &str, before, limit| {
            let found = registry.audit(tenant.into(), before, limit).await.unwrap();
            found.into_iter().map(|record| record.target).collect::<Vec<_>>()
        };
        assert!(targets(&registry, "t", u64::MAX, 9).await.is_empty());
        registry.write_as(put("a"), by("t", "destinations/a")).await.unwrap();
        let full = async |name: &str| registry.write_as(put(name), by("t", "refused")).await.is_err();
        registry.note(by("t", "flushed")).await.unwrap();
        registry.write_as(put("b"), by("other", "destinations/b")).await.unwrap();
        assert!(full("c").await, "there are as many as there may be");
        assert_eq!(targets(&registry, "t", u64::MAX, 9).await, ["flushed", "destinations/a"]);
        assert_eq!(targets(&registry, "t", 2, 9).await, ["destinations/a"]);
        assert_eq!(targets(&registry, "t", u64::MAX, 1).await, ["flushed"]);
        registry.note(by("t", "resumed")).await.unwrap();
        assert_eq!(targets(&registry, "t", u64::MAX, 9).await, ["resumed", "flushed"], "three of all are kept");
        drop(registry);
        let again = Registry::open(&directory.path().join("registry.redb"), BOUNDS).unwrap();
        assert_eq!(targets(&again, "t", u64::MAX, 9).await, ["resumed", "flushed"]);
    }

    #[test]
    fn numbers_of_a_deleted_function_are_remembered_beyond_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.redb");
        let registry = Registry::open(&path, BOUNDS).unwrap();
        registry.write_blocking(add_version(FunctionConfig::default())).unwrap();
        registry.write_blocking(add_version(FunctionConfig::default())).unwrap();
        let gone = Command::DeleteFunction { tenant: "t".into(), name: "f".into(), if_revision: None };
        registry.write_blocking(gone).unwrap();
        drop(registry);
        let registry = Registry::open(&path, BOUNDS).unwrap();
        registry.write_blocking(add_version(FunctionConfig::default())).unwrap();
        assert_eq!(registry.state().functions[&("t".into(), "f".into())].active, Some(3));
    }

    #[test]
    fn what_was_written_is_there_after_the_file_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.redb");
        let registry = Registry::open(&path, BOUNDS).unwrap();
        registry.write_blocking(put("a")).unwrap();
        registry.write_blocking(put("b")).unwrap();
        let mut config = FunctionConfig::default();
        config.unknown.insert("of_a_later_release".into(), serde_json::json!({"kept": true}));
        config.limits.memory = Some("64MiB".parse().unwrap());
        registry.write_blocking(add_version(config)).unwrap();
        let gone = Command::DeleteDestination { tenant: "t".into(), name: "a".into(), if_revision: None };
        registry.write_blocking(gone).unwrap();
        let before = registry.snapshot();
        drop(registry);
        let after = Registry::open(&path, BOUNDS).unwrap().snapshot();
        assert_eq!(before.functions, after.functions);
        assert_eq!(before.destinations, after.destinations);
        assert_eq!((before.revision, after.revision), (4, 4));
    }

    #[test]
    fn the_bound_is_named_with_its_setting_and_does_not_stop_changes_of_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::open(&directory.path().join("r"), BOUNDS).unwrap();
        registry.write_blocking(put("a")).unwrap();
        registry.write_blocking(put("b")).unwrap();
        let error = registry.write_blocking(put("c")).unwrap_err();
        assert!(error.to_string().contains("2 destinations (setting max_destinations)"), "{error}");
        registry.write_blocking(put("b")).unwrap();
    }

    #[test]
    fn a_making_that_was_cut_short_is_begun_anew_and_only_the_owner_reads_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.redb");
        fs::write(path.with_extension("unfinished"), [0; 4_096]).unwrap();
        Registry::open(&path, BOUNDS).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn after_a_write_that_failed_the_next_one_begins_with_what_is_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.redb");
        let registry = Registry::open(&path, BOUNDS).unwrap();
        registry.write_blocking(put("a")).unwrap();
        // What a failed write leaves: a closed file, with the change or without it.
        drop(registry.0.database.lock().take());
        Registry::open(&path, BOUNDS).unwrap().write_blocking(put("b")).unwrap();
        assert_eq!(registry.state().destinations.len(), 1);
        let mut watch = registry.watch();
        registry.write_blocking(put("c")).unwrap_err();
        assert_eq!((registry.state().destinations.len(), *watch.borrow_and_update()), (2, 2));
        registry.write_blocking(put("a")).unwrap();
    }

    #[test]
    fn a_damaged_file_is_an_error_and_never_a_panic() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.redb");
        let registry = Registry::open(&path, BOUNDS).unwrap();
        registry.write_blocking(put("a")).unwrap();
        drop(registry);
        let whole = fs::read(&path).unwrap();
        for step in 0..64 {
            let mut damaged = whole.clone();
            let at = step * whole.len() / 64;
            let end = (at + 512).min(damaged.len());
            damaged[at..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
            fs::write(&path, damaged).unwrap();
            if let Ok(registry) = Registry::open(&path, BOUNDS) {
                assert!(registry.state().destinations.len() <= 1);
            }
        }
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(Registry::open(&path, BOUNDS).is_err());
    }

    #[test]
    fn every_change_is_told_and_a_refusal_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::open(&directory.path().join("r"), BOUNDS).unwrap();
        let mut watch = registry.watch();
        registry.write_blocking(put("a")).unwrap();
        assert!(watch.has_changed().unwrap());
        assert_eq!(*watch.borrow_and_update(), 1);
        let gone = Command::DeleteDestination { tenant: "t".into(), name: "none".into(), if_revision: None };
        registry.write_blocking(gone).unwrap_err();
        assert!(!watch.has_changed().unwrap());
    }

    #[test]
    fn a_file_of_another_format_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r");
        drop(Registry::open(&path, BOUNDS).unwrap());
        let database = Database::open(&path).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(META).unwrap().insert("format", 2).unwrap();
        write.commit().unwrap();
        drop(database);
        let error = Registry::open(&path, BOUNDS).err().unwrap();
        assert!(error.to_string().contains("format 2"), "{error}");
    }
}
