//! From an upload to code that can be mapped and run.
//!
//! [`store`] keeps modules and artifacts, and measures modules ([`kept`]); [`compile_worker`] is the process that checks and
//! compiles; [`inspect`] reads what a component imports and exports, [`begin`] what memory it begins with; [`seal`] makes
//! sure that only what this node compiled is run.

mod begin;
pub mod compile_worker;
mod error;
mod inspect;
mod kept;
mod seal;
mod signature;
mod store;

pub use error::{Flaw, ModuleError};
pub(super) use store::ModuleStore;

use crate::{cluster::registry::World, ids::Digest};

/// What is known of an admitted module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleInfo {
    /// SHA-256 of the upload.
    pub digest: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// The world it speaks.
    pub world: World,
    /// Whether it is marked as safe to reuse.
    pub reuse_safe: bool,
}
