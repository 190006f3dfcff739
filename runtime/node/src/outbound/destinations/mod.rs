//! Destinations: which one a request belongs to, what is configured for it, and which partition of it.
//!
//! A configured destination stands for an origin or a pattern; where none does, the origin itself is one. What splits a
//! destination into partitions is what its upstream limits by: a credential, a model.

mod api;
mod caching;
mod compile;
mod endpoints;
mod lead_back;
mod partition;
mod profiles;
mod table;
mod tokens;
mod view;

pub(crate) use api::Api;
pub(crate) use compile::Injection;
pub(crate) use compile::check_override;
pub use compile::{CompiledDestination, compile, injected, stands_for};
pub(crate) use endpoints::Endpoint;
pub(crate) use lead_back::{Requested, lead_back};
pub(crate) use partition::{Partition, hash_key};
pub use profiles::Profile;
pub(crate) use table::{Destination, Table};
pub use view::{DestinationPage, DestinationState, PartitionState};
