//! Secrets: values that people hand in, and that come out only where a call leaves for an upstream.
//!
//! At rest a value is sealed ([`Keyring`]) in the record that says whom it may serve; in memory it is a [`SecretValue`],
//! which prints as nothing. A guest never has one: its environment holds a [`Handles`] entry, a text that means something
//! only to the door, only in calls of that version. What the door does with them is in `outbound::secrets`.

mod handle;
mod keyring;
mod value;

#[cfg(test)]
pub(crate) use handle::position;
pub use handle::{HandleSeed, Handles};
pub use keyring::{KeyError, Keyring, Sealed, Unopened};
pub use value::SecretValue;
