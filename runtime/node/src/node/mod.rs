//! A whole node: its data directory, its parts wired together, its start and its end.
//!
//! [`Node::start`] is the library's way, for tests and `tidegate dev`; [`serve`] is the program's: it announces the
//! node, waits for a signal and drains.

mod data;
mod first_token;
mod keep;
mod metrics;
mod pages;
mod parts;
mod ready;
mod recent;
mod root;
mod running;
mod secret_keys;
mod serve;
mod start;

pub use data::DataDir;
pub use pages::keep_pages_small;
pub use ready::Readiness;
pub use running::RunningNode;
pub use serve::{log_to_stderr, serve};
pub use start::{Node, NodeOptions, RootFunction, StartError};
