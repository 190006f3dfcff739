//! The registry: functions and their versions, destinations, secrets, tokens.
//!
//! A small state machine: a [`Command`] goes in, the next [`State`] comes out, and nothing else changes it. Reads are
//! lock-free on an immutable snapshot; writes are serialised, stored durably, then shown. Whoever replicates it only
//! has to agree on the order of commands.

mod apply;
mod audit;
mod config;
mod file;
mod route;
mod secret;
mod state;
mod steering;
mod store;
pub mod token;
mod validate;

pub use apply::{Applied, Change};
pub use audit::AuditRecord;
pub use config::{
    Auth, CacheConfig, ConfigError, DestinationConfig, EndpointConfig, FunctionConfig, FunctionLimits, Isolation,
    validate_name,
};
pub use route::{RouteHost, RoutePattern};
pub(crate) use secret::CREDENTIALS;
pub use secret::{Place, SecretBinding, SecretHead, SecretInput, SecretRecord, parse_secret, validate_secret_name};
pub use state::{
    Command, DestinationRecord, FunctionRecord, Rejection, Scope, State, TokenRecord, VersionNumber, VersionRecord,
    World,
};
pub use steering::{BrakeRecord, BrakeState, OverrideRecord, Signed, Steer, Steering};
pub use store::{Bounds, Registry, RegistryError};
pub(crate) use validate::read_policy;
pub use validate::{Ceilings, parse_destination, parse_function};

/// The wall clock as records keep it: milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
