//! What must hold of the core for every input. Each target takes any bytes, reads them as what its module says, and
//! panics where something does not hold. `cargo xtask fuzz` tries inputs for as long as wanted; `tests/corpus.rs` tries
//! those that are kept, among them all that ever failed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a target says that something does not hold"
)]

mod actor;
mod bytes;
mod cache;
mod limits;
mod memory;
mod policy;
mod signals;
mod usage;

/// A function that panics where something does not hold of these bytes.
pub type Target = fn(&[u8]);

/// All targets, by the names of their modules and of their folders in `corpus`.
pub const TARGETS: [(&str, Target); 6] = [
    ("signals", signals::run),
    ("usage", usage::run),
    ("policy", policy::run),
    ("limits", limits::run),
    ("cache", cache::run),
    ("actor", actor::run),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}
