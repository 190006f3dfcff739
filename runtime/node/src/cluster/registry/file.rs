//! What the registry's file holds, and how: tables of records, one transaction a change.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    apply::Change,
    audit::AuditRecord,
    secret::SecretRecord,
    state::{DestinationRecord, FunctionRecord, State, TokenRecord},
    store::RegistryError,
};
use crate::ids::TenantId;

// Keys are `tenant NUL name` (tokens: their id); values are JSON, so that a later release can add keys and an earlier
// one still reads.
const FUNCTIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("functions");
const DESTINATIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("destinations");
const SECRETS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("secrets");
const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");
const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Layout of the tables. A file with another number was written by a release that this one can't read.
pub(super) const FORMAT: u64 = 1;

fn key(tenant: &TenantId, name: &str) -> String {
    format!("{tenant}\0{name}")
}

/// Makes an empty registry. It gets its name when it is whole: redb takes no file whose making a crash cut short.
pub(super) fn make(path: &Path) -> Result<(), RegistryError> {
    let unfinished = path.with_extension("unfinished");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // Environments of functions are in it.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let database = Database::create(&unfinished)?;
    let write = database.begin_write()?;
    write.open_table(FUNCTIONS)?;
    write.open_table(DESTINATIONS)?;
    write.open_table(TOKENS)?;
    write.open_table(META)?.insert("format", FORMAT)?;
    write.commit()?;
    drop(database);
    fs::rename(&unfinished, path)?;
    // The name is durable only with its directory.
    Ok(File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?)
}

/// Opens the file, checks it and reads all of it: a damaged one is an error here and not a surprise later.
pub(super) fn read(path: &Path) -> Result<(Database, State), RegistryError> {
    let database = Database::builder().set_check_integrity_on_open(true).open(path)?;
    let state = load(&database)?;
    Ok((database, state))
}

fn load(database: &Database) -> Result<State, RegistryError> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let number = |key| Ok::<_, RegistryError>(meta.get(key)?.map(|value| value.value()).unwrap_or_default());
    match number("format")? {
        FORMAT => {}
        found => return Err(RegistryError::Format { found }),
    }
    let (revision, forgotten_number) = (number("revision")?, number("forgotten_number")?);
    let mut state = State { revision, forgotten_number, ..State::default() };
    match read.open_table(NUMBERS) {
        Ok(numbers) => {
            for entry in numbers.iter()? {
                let (key, highest) = entry?;
                if let Some((tenant, name)) = key.value().split_once('\0') {
                    Arc::make_mut(&mut state.numbers).insert((tenant.into(), name.into()), highest.value());
                }
            }
        }
        // Made with the first deletion.
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    for (_, function) in records::<FunctionRecord>(&read, FUNCTIONS, "function")? {
        state.functions.insert((function.tenant.clone(), function.name.clone()), Arc::new(function));
    }
    for (_, destination) in records::<DestinationRecord>(&read, DESTINATIONS, "destination")? {
        state.destinations.insert((destination.tenant.clone(), destination.name.clone()), Arc::new(destination));
    }
    for (_, secret) in records::<SecretRecord>(&read, SECRETS, "secret")? {
        state.secrets.insert((secret.tenant.clone(), secret.name.clone()), Arc::new(secret));
    }
    for (_, token) in records::<TokenRecord>(&read, TOKENS, "token")? {
        state.insert_token(Arc::new(token));
    }
    Ok(state)
}

fn records<T: DeserializeOwned>(
    read: &redb::ReadTransaction,
    table: TableDefinition<'_, &str, &[u8]>,
    name: &'static str,
) -> Result<Vec<(String, T)>, RegistryError> {
    let mut found = Vec::new();
    let table_of = match read.open_table(table) {
        Ok(table) => table,
        // Made with its first record, where the file is of an earlier release.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(found),
        Err(error) => return Err(error.into()),
    };
    for entry in table_of.iter()? {
        let (key, value) = entry?;
        let key = key.value().to_owned();
        match serde_json::from_slice(value.value()) {
            Ok(record) => found.push((key, record)),
            Err(error) => return Err(RegistryError::Record { table: name, key, why: error.to_string() }),
        }
    }
    Ok(found)
}

/// A transaction that is on the disk when it is committed.
fn begin(database: &Database) -> Result<WriteTransaction, RegistryError> {
    let mut write = database.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    // The values come from outside: with one phase a crash at a chosen moment would rest on a checksum alone.
    write.set_two_phase_commit(true);
    Ok(write)
}

/// Appends to the audit trail, and forgets its oldest beyond `keep`.
fn append(write: &WriteTransaction, record: &AuditRecord, keep: u64) -> Result<(), RegistryError> {
    let mut audit = write.open_table(AUDIT)?;
    let number = audit.last()?.map_or(1, |(number, _)| number.value().saturating_add(1));
    let value = json("audit", &number.to_string(), &AuditRecord { number, ..record.clone() })?;
    audit.insert(number, value.as_slice())?;
    while audit.len()? > keep {
        audit.pop_first()?;
    }
    Ok(())
}

/// Writes down something that changes no record.
pub(super) fn note(database: &Database, record: &AuditRecord, keep: u64) -> Result<(), RegistryError> {
    let write = begin(database)?;
    append(&write, record, keep)?;
    Ok(write.commit()?)
}

/// The newest of the audit trail that are `wanted`, at most `limit` of those with a number below `before`.
pub(super) fn audit(
    database: &Database,
    before: u64,
    limit: usize,
    wanted: impl Fn(&AuditRecord) -> bool,
) -> Result<Vec<AuditRecord>, RegistryError> {
    let read = database.begin_read()?;
    let table = match read.open_table(AUDIT) {
        Ok(table) => table,
        // Made with its first record.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for entry in table.range(..before)?.rev() {
        let (number, value) = entry?;
        let record: AuditRecord = serde_json::from_slice(value.value()).map_err(|error| RegistryError::Record {
            table: "audit",
            key: number.value().to_string(),
            why: error.to_string(),
        })?;
        if wanted(&record) {
            found.push(record);
            if found.len() >= limit {
                break;
            }
        }
    }
    Ok(found)
}

pub(super) fn store(
    database: &Database,
    change: &Change,
    state: &State,
    audit: Option<(&AuditRecord, u64)>,
) -> Result<(), RegistryError> {
    let write = begin(database)?;
    if let Some((record, keep)) = audit {
        append(&write, record, keep)?;
    }
    {
        match change {
            Change::Function { function, .. } => {
                let key = key(&function.tenant, function.name.as_str());
                write.open_table(FUNCTIONS)?.insert(key.as_str(), json("function", &key, &**function)?.as_slice())?;
            }
            Change::FunctionGone { tenant, name, highest, forgotten } => {
                let key_of = key(tenant, name.as_str());
                write.open_table(FUNCTIONS)?.remove(key_of.as_str())?;
                let mut numbers = write.open_table(NUMBERS)?;
                numbers.insert(key_of.as_str(), highest)?;
                if let Some((tenant, name)) = forgotten {
                    numbers.remove(key(tenant, name.as_str()).as_str())?;
                }
            }
            Change::Destination { destination, .. } => {
                let key = key(&destination.tenant, destination.name.as_str());
                let value = json("destination", &key, &**destination)?;
                write.open_table(DESTINATIONS)?.insert(key.as_str(), value.as_slice())?;
            }
            Change::DestinationGone(tenant, name) => {
                write.open_table(DESTINATIONS)?.remove(key(tenant, name.as_str()).as_str())?;
            }
            Change::Secret { secret, .. } => {
                let key = key(&secret.tenant, secret.name.as_str());
                let value = json("secret", &key, &**secret)?;
                write.open_table(SECRETS)?.insert(key.as_str(), value.as_slice())?;
            }
            Change::SecretGone(tenant, name) => {
                write.open_table(SECRETS)?.remove(key(tenant, name.as_str()).as_str())?;
            }
            Change::Token(token) => {
                let value = json("token", &token.id, &**token)?;
                write.open_table(TOKENS)?.insert(token.id.as_str(), value.as_slice())?;
            }
            Change::TokenGone(id) => {
                write.open_table(TOKENS)?.remove(id.as_str())?;
            }
        }
        let mut meta = write.open_table(META)?;
        meta.insert("revision", state.revision)?;
        meta.insert("forgotten_number", state.forgotten_number)?;
    }
    write.commit()?;
    Ok(())
}

fn json<T: Serialize>(table: &'static str, key: &str, value: &T) -> Result<Vec<u8>, RegistryError> {
    serde_json::to_vec(value).map_err(|error| RegistryError::Record {
        table,
        key: key.to_owned(),
        why: error.to_string(),
    })
}
