//! The registry: functions and their versions, destinations, tokens.
//!
//! A small state machine: a [`Command`] goes in, the next [`State`] comes out, and nothing else changes it. Reads are
//! lock-free on an immutable snapshot; writes are serialised, stored durably, then shown. Whoever replicates it only
//! has to agree on the order of commands.

mod config;
mod state;

pub use config::{Auth, ConfigError, DestinationConfig, FunctionConfig, FunctionLimits, Isolation, validate_name};
pub use state::{
    Command, DestinationRecord, FunctionRecord, Rejection, Scope, State, TokenRecord, VersionNumber, VersionRecord,
    World,
};
