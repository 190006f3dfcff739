//! What the control API needs of the guest host and of the door, and no more: so that its tests bring their own.

use std::{any::Any, sync::Arc};

use futures::future::BoxFuture;
use http::Uri;
use tempfile::TempPath;

use crate::{
    cluster::registry::{ConfigError, DestinationConfig, FunctionLimits, OverrideRecord, VersionRecord, World},
    ids::{Digest, FunctionName, TenantId},
    outbound::DestinationPage,
    problem::Problem,
};

/// An uploaded module on disk, not looked at yet. The file goes with it unless it is taken.
#[derive(Debug)]
pub struct Spooled {
    /// The file.
    pub path: TempPath,
}

/// A module that was examined, compiled and stored.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length, bytes.
    pub size: u64,
    /// World it speaks.
    pub world: World,
    /// Whether its SDK says that instances may be reused.
    pub reuse_safe: bool,
    /// What its deployer should know.
    pub warnings: Vec<String>,
}

/// Takes modules in.
pub trait Modules: Send + Sync + 'static {
    /// Examines, compiles and stores a module; when it returns, a version of it with these limits can be opened,
    /// after a crash too.
    fn admit<'a>(
        &'a self,
        tenant: &'a TenantId,
        module: Spooled,
        limits: &'a FunctionLimits,
    ) -> BoxFuture<'a, Result<Admitted, Problem>>;
}

/// A version that is open. Held until the change that lets it serve is shown; then the data listener holds it.
pub type Opened = Box<dyn Any + Send>;

/// Opens versions.
pub trait Versions: Send + Sync + 'static {
    /// Opens a version that is to serve, before the registry is told. Its number is the one that the registry will give.
    fn prepare(
        &self,
        tenant: TenantId,
        name: FunctionName,
        version: Arc<VersionRecord>,
    ) -> BoxFuture<'static, Result<Opened, Problem>>;
}

/// What leaves the node, as far as people configure and watch it.
pub trait Gate: Send + Sync + 'static {
    /// Whether a configuration means something.
    ///
    /// # Errors
    /// Names the key that does not.
    fn check(&self, config: &DestinationConfig) -> Result<(), ConfigError>;

    /// Destinations as they live, ordered by configured name or origin, at most `limit` after `after`.
    fn destinations(&self, tenant: &TenantId, after: Option<&str>, limit: usize) -> DestinationPage;

    /// Whether limits for a time mean something to a destination.
    ///
    /// # Errors
    /// Names the key that does not.
    fn check_override(&self, config: &DestinationConfig, limits: &OverrideRecord) -> Result<(), ConfigError>;

    /// Refuses all calls that wait for a destination, and says how many that were.
    fn flush(&self, tenant: &TenantId, name: &str) -> usize;

    /// Ends the pauses of a destination that its upstream asked for or its failures made.
    fn resume(&self, tenant: &TenantId, name: &str);

    /// Forgets the stored answers of a destination, or that to one URL; false where there is no such destination, or the
    /// URL is not one of its.
    ///
    /// # Errors
    /// When it can't be written down.
    fn purge(&self, tenant: &TenantId, name: &str, uri: Option<&Uri>) -> std::io::Result<bool>;
}
