//! A whole node: its data directory, its parts wired together, its start and its end.

mod data;
mod first_token;
mod ready;

pub use data::DataDir;
pub use ready::Readiness;
